"""YAML that remembers where each key stands.

The scalars are those of YAML 1.2 (core schema), not the older rules of PyYAML: `1e-4`
is a number, `no` and `10:30` are text. Keys are always text (`8: ...` is the key "8"),
and a key given twice is an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from fewstep.errors import UserError

KeyPath = tuple[str | int, ...]
"""Keys and list positions from the root: ("experiments", "afhq", "seeds", 0)."""

_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"
_CORE_SCHEMA = {
    "null": (r"~|null|Null|NULL|", "~nN\0"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan",
        "-+.0123456789",
    ),
    "merge": (r"<<", "<"),
}


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML's parser (in C where it has one) with the resolvers of YAML 1.2."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[Any]]] = {}


for _name, (_pattern, _first) in _CORE_SCHEMA.items():
    # "\0" stands for the empty scalar, which PyYAML looks up under "".
    _Loader.add_implicit_resolver(
        _TAG + _name,
        re.compile(rf"(?:{_pattern})\Z"),
        ["" if char == "\0" else char for char in _first],
    )


@dataclass(frozen=True)
class Document:
    """A YAML file: its value, and the place of everything in it."""

    path: str
    value: Any
    root: yaml.Node | None

    def position(self, path: KeyPath) -> tuple[int, int]:
        """Line and column (from 1) of the key or item at `path`.

        The nearest enclosing key stands in for what the file does not hold.
        """
        node, line, column = self.root, 1, 1
        for step in path:
            found = _child(node, step)
            if found is None:
                break
            mark, node = found
            line, column = mark.line + 1, mark.column + 1
        return line, column

    def holds(self, path: KeyPath) -> bool:
        """Whether the file itself has something at `path`."""
        node = self.root
        for step in path:
            found = _child(node, step)
            if found is None:
                return False
            node = found[1]
        return True

    def where(self, path: KeyPath) -> str:
        """`config.yaml:31 experiments.afhq.model.patch_size`."""
        return f"{self.path}:{self.position(path)[0]} {dotted(path)}".rstrip()


def dotted(path: KeyPath) -> str:
    """A key path as people write it: `experiments.afhq.seeds[0]`."""
    parts = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in path]
    return "".join(parts).removeprefix(".")


def read(path: str | Path) -> Document:
    """Read one YAML file.

    Raises:
        UserError: for a missing or unreadable file, invalid YAML, a tab in the
            indentation or a key given twice; names file, line and column.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError("file not found", where=str(path)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read ({error})", where=str(path)) from error
    return parse(text, str(path))


def parse(text: str, path: str = "<text>") -> Document:
    """Read YAML from a string; `path` names it in errors. Raises as `read`."""
    _refuse_tabs(text, path)
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else path
        context = f" ({error.context}" if error.context else ""
        if context:
            begun = error.context_mark
            context += f" from line {begun.line + 1})" if begun else ")"
        raise UserError(
            f"not valid YAML: {error.problem}{context}", where=place
        ) from error
    except yaml.YAMLError as error:
        raise UserError(f"not valid YAML: {error}", where=path) from error
    value = None if root is None else _Builder(path).build(root, ())
    return Document(path, value, root)


def _refuse_tabs(text: str, path: str) -> None:
    """A tab in the indentation, which YAML forbids and editors do not show."""
    for number, line in enumerate(text.splitlines(), 1):
        indent = line[: len(line) - len(line.lstrip())]
        if "\t" in indent and line.strip():
            raise UserError(
                "a tab in the indentation",
                where=f"{path}:{number}:{indent.index(chr(9)) + 1}",
                expected="spaces",
            )


def _child(node: yaml.Node | None, step: str | int) -> tuple[Any, yaml.Node] | None:
    """Mark and value node of one step down."""
    if isinstance(node, yaml.MappingNode):
        for key, value in _pairs(node):
            if key.value == step:
                return key.start_mark, value
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
        for item in node.value[step : step + 1]:
            return item.start_mark, item
    return None


def _pairs(node: yaml.MappingNode) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """Key and value nodes: the mapping's own, then those that `<<` brings in."""
    merged: list[yaml.Node] = []
    for key, value in node.value:
        if key.tag == _MERGE:
            merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
        else:
            yield key, value
    for other in merged:
        if isinstance(other, yaml.MappingNode):
            yield from _pairs(other)


class _Builder:
    """Turns nodes into values, and refuses what a configuration has no use for."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.open: set[int] = set()  # nodes being built: an alias to one never ends

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if id(node) in self.open:
            raise self._error("an alias that contains itself", node, path)
        self.open.add(id(node))
        value = (
            self._mapping(node, path)
            if isinstance(node, yaml.MappingNode)
            else [self.build(item, (*path, i)) for i, item in enumerate(node.value)]
        )
        self.open.remove(id(node))
        return value

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        self._check_keys(node, path)
        result: dict[str, Any] = {}
        for key, value in _pairs(node):
            if key.value not in result:
                result[key.value] = self.build(value, (*path, key.value))
        return result

    def _check_keys(self, node: yaml.MappingNode, path: KeyPath) -> None:
        seen: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._error("a key that is not a plain name", key, path)
            if key.tag == _MERGE and not _is_merge(value):
                raise self._error("'<<' without a mapping to merge", key, path)
            line = key.start_mark.line + 1
            if key.value in seen:
                raise self._error(
                    f"key '{key.value}' is given twice (first in line "
                    f"{seen[key.value]})",
                    key,
                    (*path, key.value),
                )
            seen[key.value] = line

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        kind, text = node.tag.removeprefix(_TAG), str(node.value)
        try:
            match kind:
                case "str":
                    return text
                case "null":
                    return None
                case "bool":
                    return {"true": True, "false": False}[text.lower()]
                case "int":
                    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
                    return int(text, base)
                case "float":
                    return _float(text)
        except (KeyError, ValueError) as error:
            raise self._error(f"{text!r} is no {kind}", node, path) from error
        raise self._error(f"the tag {node.tag!r} has no meaning here", node, path)

    def _error(self, what: str, node: yaml.Node, path: KeyPath) -> UserError:
        mark = node.start_mark
        place = f"{self.path}:{mark.line + 1}:{mark.column + 1} {dotted(path)}"
        return UserError(what, where=place.rstrip())


def _is_merge(node: yaml.Node) -> bool:
    """Whether `<<` may take this: a mapping or a list of mappings."""
    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
    return all(isinstance(item, yaml.MappingNode) for item in nodes)


def _float(text: str) -> float:
    lowered = text.lower()
    if lowered.endswith(".inf"):
        return -math.inf if lowered.startswith("-") else math.inf
    return math.nan if lowered == ".nan" else float(text)


def merged(base: Any, over: Any) -> Any:
    """`base` with the mappings in `over` laid over it, key by key, at any depth."""
    if not (isinstance(base, Mapping) and isinstance(over, Mapping)):
        return over
    result = dict(base)
    for key, value in over.items():
        result[key] = merged(base[key], value) if key in base else value
    return result
