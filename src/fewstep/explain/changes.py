"""What changed between the params that made a file and those of now."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from fewstep.codedigest import VERSIONED, parts_of

_DIGEST = re.compile(r"[0-9a-f]{16}|[0-9a-f]{64}")
_CODE = re.compile(r"[0-9a-f]{16}")
_LONGEST = 60
_ABSENT = object()

PartsOf = Callable[[str], Mapping[str, Mapping[str, str]] | None]
UNKNOWN = "which part is unknown (no note of the code that made it)"


def compare(
    old: Iterable[str], new: Iterable[str], names: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """What differs, in words.

    Args:
        old: params that only the recorded job has, as Snakemake records them (`repr`).
        new: params that only the present job has.
        names: name of each present param.

    Yields:
        ("setting", "key.path: old → new"), ("default", "key.path, by default value")
        for a key that this release adds, and ("code", "module.function"). A changed
        digest whose code nobody noted is ("code", UNKNOWN).
    """
    before, after = list(map(_value, old)), [(names.get(n, ""), _value(n)) for n in new]
    for name, value in after:
        match = _partner(value, before)
        if match is not _ABSENT:
            before.remove(match)
        yield from differences(name, match, value)
    for value in before:
        yield from differences("", value, _ABSENT)


def differences(path: str, old: Any, new: Any) -> Iterator[tuple[str, str]]:
    """Compare two values key by key; `path` leads to them."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            pair = old.get(key, _ABSENT), new.get(key, _ABSENT)
            if pair[0] != pair[1]:
                # The one JSON value of a stage needs no name.
                inner = key if path in ("", "spec") else f"{path}.{key}"
                yield from differences(inner, *pair)
    elif _is_code(path, old, new):
        for name in changed_parts(old, new):
            yield "code", name
    elif _is(old, _DIGEST) and _is(new, _DIGEST):
        yield "setting", f"{path}: other content"
    elif old is _ABSENT and _is_default(path, new):
        yield "default", f"{path}, by default {_text(new)}"
    else:
        yield "setting", f"{path or 'option'}: {_text(old)} → {_text(new)}"


def changed_parts(old: str, new: str, known: PartsOf = parts_of) -> list[str]:
    """Functions, classes and names that differ between two code digests.

    Returns:
        Dotted names without `fewstep.`, sorted; `[UNKNOWN]` without notes of both.
    """
    before, after = known(old), known(new)
    if before is None or after is None:
        return [UNKNOWN]
    found = []
    for module in sorted(before.keys() | after.keys()):
        one, other = before.get(module), after.get(module)
        if one != other:
            found += _within(module.removeprefix("fewstep."), one, other)
    return found or [UNKNOWN]


def _within(
    module: str, old: Mapping[str, str] | None, new: Mapping[str, str] | None
) -> list[str]:
    """What differs in one module."""
    if old is None or new is None:
        return [f"{module} ({'new' if old is None else 'no longer used'})"]
    if module in VERSIONED:
        return [f"{module} {old.get('')} → {new.get('')}"]
    names = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    kinds = {name: _kind(name, old, new) for name in names}
    found = [f"{module}.{name}{kinds[name]}" for name in names if name]
    if "" in names and not found:
        found = [f"{module} (imports or other statements)"]
    return found or [f"{module} (order of its statements)"]


def _kind(name: str, old: Mapping[str, str], new: Mapping[str, str]) -> str:
    if name in old and name in new:
        return ""
    return " (new)" if name in new else " (removed)"


def _value(text: str) -> Any:
    """A recorded param: a value, or what a JSON text in it says."""
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
    if isinstance(value, str) and value.startswith("{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _partner(value: Any, others: list[Any]) -> Any:
    """The recorded param that is most like a present one."""
    if isinstance(value, dict):
        same = [one for one in others if isinstance(one, dict)]
        return max(same, key=lambda one: len(one.keys() & value), default=_ABSENT)
    alike = [
        one
        for one in others
        if type(one) is type(value) and _is(one, _CODE) == _is(value, _CODE)
    ]
    return alike[0] if alike else _ABSENT


def _is(value: Any, pattern: re.Pattern[str]) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_code(path: str, old: Any, new: Any) -> bool:
    return path.endswith("code") and _is(old, _CODE) and _is(new, _CODE)


def _is_default(path: str, value: Any) -> bool:
    """Whether a key has this value where nobody sets it."""
    key = path.rpartition(".")[2]
    return value in (None, [], {}, "") or value in _defaults().get(key, ())


@cache
def _defaults() -> Mapping[str, list[Any]]:
    """Key -> its defaults in all parts of the configuration, as JSON has them."""
    from pydantic_core import to_jsonable_python

    from fewstep.config import tree
    from fewstep.config.base import Spec

    assert issubclass(tree.Config, Spec)  # with it all other parts are loaded
    found: dict[str, list[Any]] = {}
    kinds = [Spec]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        for name, field in kind.model_fields.items():
            if not field.is_required():
                value = field.get_default(call_default_factory=True)
                known = found.setdefault(field.alias or name, [])
                known.append(to_jsonable_python(value, by_alias=True))
    return found


def _text(value: Any) -> str:
    """A value on one line, cut where it is long."""
    if value is _ABSENT:
        return "not set"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
