"""Problems in a configuration, and how pydantic's errors become one clear line."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from fewstep.config.base import ADDRESS_PATTERN, NAME_PATTERN
from fewstep.yamlpos import KeyPath

_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
}
_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
_PATTERNS = {
    NAME_PATTERN: "a name of small letters, digits, '.' and '-', without underscore",
    r"^[0-9a-f]{64}$": "64 hexadecimal digits",
    ADDRESS_PATTERN: "an address with http:// or https:// and without '@', '?' and "
    "'#': it is shown in logs, so no password and no signature",
}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, at one key."""

    path: KeyPath
    what: str
    expected: str = ""
    do: str = ""


def unknown(
    path: KeyPath, kind: str, name: str, known: Iterable[str], of: str = ""
) -> Problem:
    """A name that does not exist; suggests the nearest one that does."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.55)
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    what = f"unknown {kind} '{name}'"
    if near:
        return Problem(path, what, f"'{near[0]}' (the nearest {kind}){of}")
    return Problem(path, what, f"one of {shown}{of}" if names else f"no {kind}{of}")


def distinct(path: KeyPath, values: Sequence[int]) -> Iterator[Problem]:
    """There must be a number, and none twice: two equal seeds are one measurement."""
    if not values:
        yield Problem(path, "an empty list", "at least one number")
    for value, count in Counter(values).items():
        if count > 1:
            yield Problem(path, f"{value} is given {count} times", "distinct numbers")


def from_pydantic(
    error: ValidationError, value: Any, schema: Mapping[str, Any]
) -> list[Problem]:
    """Pydantic's errors as problems.

    Args:
        error: what pydantic raised.
        value: the value that it was given.
        schema: JSON schema of the type, which knows the valid keys.
    """
    details = error.errors(include_url=False)
    paths = [_real_path(detail["loc"], value) for detail in details]
    unknown_keys = [
        path
        for detail, path in zip(details, paths, strict=True)
        if detail["type"] == "extra_forbidden"
    ]
    problems = []
    for detail, path in zip(details, paths, strict=True):
        if detail["type"] == "missing" and _misspelt(path, unknown_keys):
            continue  # told by the unknown key, with its line
        problems.append(_problem(dict(detail), path, value, schema))
    return problems


def _problem(
    detail: dict[str, Any], path: KeyPath, value: Any, schema: Mapping[str, Any]
) -> Problem:
    kind, context = detail["type"], detail.get("ctx", {})
    shown = show(detail["input"])
    if kind == "missing":
        about = _schema_at(schema, path, value).get("description", "")
        return _missing(path, _sentence(about))
    if kind == "extra_forbidden":
        keys = _keys_at(schema, path[:-1], value)
        return unknown(path, "key", str(path[-1]), keys)
    if kind == "literal_error":
        choices = _choices(_schema_at(schema, path, value))
        if isinstance(detail["input"], str):
            return unknown(path, "choice", detail["input"], choices)
        return Problem(path, f"found {shown}", f"one of {', '.join(choices)}")
    if kind == "union_tag_invalid":
        key = context["discriminator"].strip("'")
        tags = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        return unknown((*path, key), "choice", str(context["tag"]), tags)
    if kind == "union_tag_not_found":
        key = context["discriminator"].strip("'")
        return Problem(path, f"key '{key}' is missing")
    if kind == "string_pattern_mismatch":
        return _mismatch(path, context["pattern"], shown)
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return Problem(path, f"{shown} is out of range", f"{words} {context[name]:g}")
    if kind in ("too_short", "too_long"):
        return _wrong_length(kind, path, context)
    return Problem(path, f"found {shown}", _KINDS.get(kind, detail["msg"]))


def _mismatch(path: KeyPath, pattern: str, shown: str) -> Problem:
    if pattern == ADDRESS_PATTERN:
        shown = "what may not stand there"  # a password, or a signature
    return Problem(
        path, f"found {shown}", _PATTERNS.get(pattern, f"text like {pattern}")
    )


def _missing(path: KeyPath, about: str) -> Problem:
    *parent, key = path
    if isinstance(key, int):
        return Problem(tuple(parent), "the list is too short", f"{key + 1} entries")
    return Problem(tuple(parent), f"key '{key}' is missing", f"{key}: {about}")


def _wrong_length(kind: str, path: KeyPath, context: Mapping[str, Any]) -> Problem:
    words, key = ("at least", "min") if kind == "too_short" else ("at most", "max")
    found = f"found {context['actual_length']} entries"
    return Problem(path, found, f"{words} {context[key + '_length']}")


def show(value: Any) -> str:
    """A value with its kind, short enough for one line."""
    match value:
        case None:
            return "nothing"
        case bool():
            return f"the truth value {str(value).lower()}"
        case str():
            return f"the text '{value if len(value) < 50 else value[:47] + '…'}'"
        case int() | float():
            return f"the number {value}"
        case Mapping():
            return "a mapping"
        case Sequence():
            return "a list"
    return repr(value)


def _misspelt(missing: KeyPath, unknown_keys: Sequence[KeyPath]) -> bool:
    """Whether an unknown key beside the missing one looks like it."""
    beside = [str(path[-1]) for path in unknown_keys if path[:-1] == missing[:-1]]
    return bool(difflib.get_close_matches(str(missing[-1]), beside, cutoff=0.55))


def _real_path(location: tuple[int | str, ...], value: Any) -> KeyPath:
    """Pydantic's location without union tags and without its "[key]" mark."""
    path: list[int | str] = []
    steps = [step for step in location if step != "[key]"]
    for position, step in enumerate(steps):
        last = position == len(steps) - 1
        if isinstance(value, Mapping):
            if step not in value and not last:
                continue  # the tag of a union
            if step in value or not str(step).startswith("<"):
                path.append(step)
            value = value.get(step)
        elif isinstance(value, Sequence) and isinstance(step, int):
            path.append(step)
            value = value[step] if step < len(value) else None
    return tuple(path)


def _schema_at(schema: Mapping[str, Any], path: KeyPath, value: Any) -> dict[str, Any]:
    """The JSON schema of what stands at `path`; {} where there is none."""
    here = _followed(schema, schema, value)
    for step in path:
        inner: Any = here.get("properties", {}).get(step)
        if inner is None:
            pattern = here.get("patternProperties", {})
            inner = here.get("items") or next(iter(pattern.values()), None)
            inner = inner or here.get("additionalProperties")
        if not isinstance(inner, Mapping):
            return {}
        value = _item(value, step)
        # A reference has no description; the property that holds it may have one.
        about = {k: v for k, v in inner.items() if k == "description"}
        here = {**_followed(inner, schema, value), **about}
    return here


def _item(value: Any, step: str | int) -> Any:
    if isinstance(value, Mapping):
        return value.get(step)
    if isinstance(value, list) and isinstance(step, int) and step < len(value):
        return value[step]
    return None


def _followed(
    here: Mapping[str, Any], schema: Mapping[str, Any], value: Any
) -> dict[str, Any]:
    """`here` with references followed and the branch of a union chosen by `value`."""
    if "$ref" in here:
        return _followed(schema["$defs"][here["$ref"].split("/")[-1]], schema, value)
    branches = here.get("oneOf") or here.get("anyOf")
    if not branches:
        return dict(here)
    found = [_followed(branch, schema, value) for branch in branches]
    return max(found, key=lambda branch: _likeness(branch, value))


def _likeness(branch: Mapping[str, Any], value: Any) -> tuple[bool, int]:
    """How well a branch fits: its constants agree, and it knows many of the keys."""
    properties = branch.get("properties", {})
    if not isinstance(value, Mapping):
        return branch.get("type") not in (None, "null", "object"), 0
    constants = {key: p["const"] for key, p in properties.items() if "const" in p}
    agree = all(value.get(key) == const for key, const in constants.items())
    return bool(properties) and agree, len(properties.keys() & value.keys())


def _keys_at(schema: Mapping[str, Any], path: KeyPath, value: Any) -> list[str]:
    return list(_schema_at(schema, path, value).get("properties", {}))


def _choices(schema: Mapping[str, Any]) -> list[str]:
    if "const" in schema:
        return [str(schema["const"])]
    return [str(choice) for choice in schema.get("enum", [])]


def _sentence(text: str) -> str:
    """The first sentence, on one line, without its full stop."""
    return " ".join(text.split()).split(". ")[0].rstrip(".")
