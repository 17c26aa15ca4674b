"""What the site needs beyond Markdown: equations as MathML, links that stay inside.

GitHub draws `$…$` and fences called `math` itself, and follows links to files of the
repository. A site without a network has neither: equations become MathML here, which
browsers draw without a script, and a link to a file that is no page becomes its name.
"""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

_EQUATION = re.compile(
    r'<(span|div) class="arithmatex">\s*\\([(\[])(.*?)\\[)\]]\s*</\1>', re.S
)
_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s#]+)(#[^)\s]*)?\)")
_CODE = re.compile(r"^ *(`{3,}).*?^ *\1 *$|`[^`\n]+`", re.M | re.S)


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Links to files outside docs/ become the files' names."""
    docs = Path(config.docs_dir)
    folder = Path(page.file.abs_src_path).parent

    def named(match: re.Match[str]) -> str:
        words, target = match[1], match[2]
        path = folder / target
        if re.match(r"[a-z]+:", target) or path.resolve().is_relative_to(docs):
            return match[0]
        if not path.exists():
            raise PluginError(f"{page.file.src_path}: no file {target}")
        name = posixpath.relpath(path.resolve(), docs.parent)
        return f"{words} (`{name}`)" if name not in words else words

    return _outside_code(markdown, lambda text: _LINK.sub(named, text))


def on_page_content(content: str, *, page: Any, **_: Any) -> str:
    """Every equation becomes MathML."""

    def drawn(match: re.Match[str]) -> str:
        display = "block" if match[2] == "[" else "inline"
        latex = html.unescape(match[3]).strip()
        equation = convert(latex, display=display)
        if "\\" in equation:  # a command that is not known is left as it stands
            raise PluginError(f"{page.file.src_path}: not an equation: {latex}")
        return equation

    return _EQUATION.sub(drawn, content)


def _outside_code(markdown: str, change: Any) -> str:
    """A change of everything but code."""
    parts, end = [], 0
    for code in _CODE.finditer(markdown):
        parts += [change(markdown[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, change(markdown[end:])])
