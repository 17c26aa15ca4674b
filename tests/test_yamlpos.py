"""YAML 1.2 with places: values, lines, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewstep.errors import UserError
from fewstep.yamlpos import merged, parse

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text("abc_-.: #'\"[]{}<>|~0123xyz", max_size=8),
)
JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abc<-0", min_size=1, max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(JSON)
def test_json_is_yaml(value: Any) -> None:
    """Any JSON text reads as the value that was written (YAML 1.2 contains JSON)."""
    assert parse(json.dumps({"k": value})).value == {"k": value}


def test_scalars_are_those_of_yaml_1_2() -> None:
    """Numbers in scientific notation are numbers; `no`, times and dates are text."""
    text = "a: 1e-4\nb: no\nc: 10:30\nd: 2026-01-01\ne: 0x1f\nf: ~\n8: .5\ng: 1_0\n"
    assert parse(text).value == {
        "a": 1e-4,
        "b": "no",
        "c": "10:30",
        "d": "2026-01-01",
        "e": 31,
        "f": None,
        "8": 0.5,
        "g": "1_0",
    }


def test_merge_keys_and_places() -> None:
    """`<<` takes over keys that are not given, which keep the line they stand in."""
    document = parse("a: &a\n  x: 1\n  y: 2\nb:\n  <<: *a\n  y: 3\n", "c.yaml")
    assert document.value["b"] == {"y": 3, "x": 1}
    assert document.where(("b", "x")) == "c.yaml:2 b.x"
    assert document.where(("b", "y")) == "c.yaml:6 b.y"
    assert document.where(("b", "gone")) == "c.yaml:4 b.gone"


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object:os.system x",
        "&a [*a]",
        "? [1]\n: 2",
        "a: 'x",
        "a: 1\n---\nb: 2",
        "a: \0",
        "<<: 3",
        "a: !!int x",
        "a: *gone",
        "@",
    ],
)
def test_odd_yaml_is_refused(text: str) -> None:
    """Tags, endless aliases, several documents and the like are one clear line."""
    with pytest.raises(UserError, match=r"c\.yaml:?"):
        parse(text, "c.yaml")


def test_merged_is_deep() -> None:
    """Mappings are merged at every depth; all else is replaced."""
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 1}
    assert merged(base, {"a": {"c": [3]}, "d": {"e": 2}}) == {
        "a": {"b": 1, "c": [3]},
        "d": {"e": 2},
    }
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": 1}
