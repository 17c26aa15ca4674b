"""What the pages of the documentation hold: code blocks and commands."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md"),
    *sorted((ROOT / "docs").glob("*.md")),
]
PROGRAMS = ("snakemake", "fewstep", "make", "python", ".venv/bin/python")
"""What a block of commands begins with."""

_PLACEHOLDER = re.compile(r"(?<![A-Za-z-])(KEY|[A-Z]{4,})|[{}…]|\.\.\.")


@dataclass(frozen=True)
class Command:
    """A command as it stands on a page.

    Attributes:
        page: file name of the page.
        words: program and arguments.
    """

    page: str
    words: tuple[str, ...]

    @property
    def program(self) -> str:
        """What is called."""
        return self.words[0]

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


def is_placeholder(word: str) -> bool:
    """Whether a word stands for others, such as `EXPERIMENT_SAMPLER_fid.json`."""
    return bool(_PLACEHOLDER.search(word))


def blocks(page: Path, language: str) -> list[str]:
    """Fenced code blocks of a language, their indentation removed."""
    found = []
    pattern = rf"^( *)```{language}\n(.*?)^ *```"
    for indent, text in re.findall(pattern, page.read_text(), re.M | re.S):
        found.append(re.sub(rf"^{indent}", "", text, flags=re.M))
    return found


def without_fences(text: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^( *)(`{3,}).*?^ *\2 *$", "", text, flags=re.M | re.S)


def indented_blocks(page: Path) -> list[str]:
    """Blocks of code that are told by their indentation."""
    found = re.findall(
        r"(?:(?<=\n\n)|\A)((?: {4,}\S.*\n)+)", without_fences(page.read_text()) + "\n"
    )
    return [re.sub(r"^ {4}", "", block, flags=re.M) for block in found]


def command_blocks(page: Path) -> list[str]:
    """Blocks with a command of ours in them; all of their lines are commands then."""
    fenced = [text for kind in ("bash", "sh") for text in blocks(page, kind)]
    shown = [
        block
        for block in indented_blocks(page)
        if any(line.split(" ")[0] in PROGRAMS for line in block.splitlines())
    ]
    return fenced + shown


def inline_commands(page: Path) -> list[str]:
    """Commands in a line of text."""
    spans = re.findall(r"(?<!`)`([^`]+)`(?!`)", without_fences(page.read_text()))
    found = (" ".join(span.split()) for span in spans)
    ours = re.compile(r"(snakemake|fewstep|make) [-\w]|python -m ")
    return [text for text in found if ours.match(text)]


def inline_targets(page: Path) -> list[str]:
    """Evaluations that a text names by their files."""
    found = re.findall(r"`(results/[^`\s]+_fid\.json)`", page.read_text())
    return [one for one in found if not is_placeholder(one) and "*" not in one]


def commands(page: Path) -> list[Command]:
    """All commands of a page, in its order; comments are left out."""
    lines = []
    for block in command_blocks(page):
        joined = re.sub(r"\\?\n +", " ", block)
        lines += [line for line in joined.splitlines() if line.strip()]
    lines += inline_commands(page)
    return [
        Command(page.name, tuple(words))
        for line in lines
        for words in _parts(shlex.split(line, comments=True))
    ]


def _parts(words: list[str]) -> list[list[str]]:
    """The commands of a line, which `&&` joins; settings before a command are cut."""
    found: list[list[str]] = [[]]
    for word in words:
        if word == "&&":
            found.append([])
        elif found[-1] or not re.match(r"[A-Z_]+=", word):
            found[-1].append(word)
    return [part for part in found if part]
