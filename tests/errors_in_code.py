"""Every message of a user's error that the library's code can raise, by reading it."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "fewstep"
RAISED = ("UserError", "DownloadError", "PreemptedError")
GAP = "…"
"""What stands for a value in a message."""
NOT_USERS = {"results/docs.py", "codedigest.py", "_syntax.py", "standins/__init__.py"}
"""Modules whose errors only developers of fewstep meet."""

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Message:
    """A message and where it is written."""

    text: str
    where: str


@dataclass(frozen=True)
class _Place:
    """An expression, and the function around it."""

    node: ast.expr
    function: _Function | None
    module: str


@cache
def messages() -> tuple[Message, ...]:
    """All messages, values in them as `…`."""
    modules = {
        str(path.relative_to(SOURCE)): ast.parse(path.read_text())
        for path in sorted(SOURCE.rglob("*.py"))
    }
    calls = defaultdict(list)
    for module, tree in modules.items():
        if module not in NOT_USERS:
            for call, function in _calls(tree, None):
                calls[_name(call.func)].append((call, function, module))
    found: dict[Message, None] = {}
    for name in RAISED:
        for call, function, module in calls[name]:
            # A call without arguments raises what another one has made.
            if call.args:
                place = _Place(call.args[0], function, module)
                for text in _texts(place, calls, 0):
                    line = f"{module}:{call.lineno}"
                    found[Message(_plain(text), line)] = None
    return tuple(one for one in found if says_something(one.text))


def says_something(text: str) -> bool:
    """Whether four or more letters and digits of a message are always the same."""
    return len(re.findall("[A-Za-z0-9]", text)) > 3


def _plain(text: str) -> str:
    """One line; values side by side are one."""
    return re.sub(r"…(?:\s*…)+", GAP, " ".join(text.split()))


def _calls(
    node: ast.AST, function: _Function | None
) -> Iterator[tuple[ast.Call, _Function | None]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield child, function
        inner = child if isinstance(child, _Function) else function
        yield from _calls(child, inner)


def _name(node: ast.expr) -> str:
    return ast.unparse(node).rpartition(".")[2]


def _texts(place: _Place, calls: dict[str, list], depth: int) -> list[str]:  # type: ignore[type-arg]
    """What an expression can say."""
    node = place.node
    if depth > 4:
        return [GAP]
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.JoinedStr):
        return _joined([_part(v, place, calls, depth) for v in node.values])
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        both = [
            _Place(n, place.function, place.module) for n in (node.left, node.right)
        ]
        return _joined([_texts(one, calls, depth + 1) for one in both])
    if isinstance(node, ast.IfExp):
        both = [
            _Place(n, place.function, place.module) for n in (node.body, node.orelse)
        ]
        return [text for one in both for text in _texts(one, calls, depth + 1)]
    if isinstance(node, ast.Name) and place.function is not None:
        return _variable(node.id, place, calls, depth)
    return [GAP]


def _part(value: ast.expr, place: _Place, calls: dict[str, list], depth: int):  # type: ignore[no-untyped-def,type-arg]
    if isinstance(value, ast.FormattedValue):
        inner = value.value
        if isinstance(inner, ast.IfExp | ast.JoinedStr):
            return _texts(_Place(inner, place.function, place.module), calls, depth + 1)
        return [GAP]
    return _texts(_Place(value, place.function, place.module), calls, depth + 1)


def _joined(parts: list[list[str]]) -> list[str]:
    texts = [""]
    for part in parts:
        texts = [before + after for before in texts for after in part]
    return texts


def _variable(
    name: str, place: _Place, calls: dict[str, list], depth: int
) -> list[str]:  # type: ignore[type-arg]
    """What a variable can hold: what it is set to, or what callers give."""
    function = place.function
    assert function is not None
    values = [
        one.value
        for one in ast.walk(function)
        if isinstance(one, ast.Assign | ast.AugAssign)
        for target in (one.targets if isinstance(one, ast.Assign) else [one.target])
        if isinstance(target, ast.Name)
        and target.id == name
        and not isinstance(one, ast.AugAssign)
    ]
    if values:
        places = [_Place(value, function, place.module) for value in values]
        return [text for one in places for text in _texts(one, calls, depth + 1)]
    names = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
    if name not in names:
        return [GAP]
    at = names.index(name) - (names[0] in ("self", "cls"))
    given = [
        (
            keyed.get(name) or (call.args[at] if at < len(call.args) else None),
            inside,
            module,
        )
        for call, inside, module in calls[function.name]
        if module == place.module or not function.name.startswith("_")
        for keyed in [{k.arg: k.value for k in call.keywords}]
    ]
    places = [_Place(node, inside, module) for node, inside, module in given if node]
    return [text for one in places for text in _texts(one, calls, depth + 1)] or [GAP]
