"""What `fewstep explain` makes of changed params, and how it groups and says it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fewstep.errors import UserError
from fewstep.explain import explain
from fewstep.explain.changes import UNKNOWN, changed_parts, compare
from fewstep.explain.grouping import Planned, Reason, group
from fewstep.explain.text import show

OLD, NEW = "0123456789abcdef", "fedcba9876543210"


def told(old: list[object], new: dict[str, object]) -> list[tuple[str, str]]:
    """What `compare` says of params as Snakemake records them."""
    names = {repr(value): name for name, value in new.items()}
    return list(compare(map(repr, old), map(repr, new.values()), names))


def test_settings_are_named_by_their_path() -> None:
    """Inside the JSON of a stage: key path, old and new value; equal keys are quiet."""
    old = json.dumps({"n": 5, "sampling": {"batch": 8, "labels": "iid"}, "seeds": [0]})
    new = json.dumps({"n": 5, "sampling": {"batch": 9, "tol": None}, "seeds": [0, 1]})
    assert told([old], {"spec": new}) == [
        ("setting", "sampling.batch: 8 → 9"),
        ("setting", "sampling.labels: iid → not set"),
        ("default", "sampling.tol, by default null"),
        ("setting", "seeds: [0] → [0, 1]"),
    ]


def test_a_setting_of_a_new_release_is_no_change_of_the_user() -> None:
    """What has its default is said to be new; another value is the user's."""
    old = {"asset": {"path": "x"}, "sampling": {}}
    asset = {"path": "x", "mirrors": [], "trained_by": None}
    new = {"asset": asset, "sampling": {"nan_policy": "fail", "precision": "bf16"}}
    found = told([json.dumps(old)], {"spec": json.dumps(new)})
    assert found == [
        ("default", "asset.mirrors, by default []"),
        ("default", "asset.trained_by, by default null"),
        ("default", "sampling.nan_policy, by default fail"),
        ("setting", "sampling.precision: not set → bf16"),
    ]
    reasons = tuple(Reason(kind, what) for kind, what in found)
    lines = show(group([], [Planned("asset", "fetch x", ("x",), reasons)])).splitlines()
    assert lines[1] == "  new setting: asset.mirrors, by default []"
    assert lines[4] == "  setting changed: sampling.precision: not set → bf16"


@pytest.mark.parametrize(
    ("path", "what"), [("nope.yaml", "file not found"), (".", "a folder")]
)
def test_a_configuration_that_is_not_there_is_named(
    path: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its path, before Snakemake looks for it."""
    (tmp_path / "Snakefile").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as raised:
        explain([], configfile=Path(path))
    assert (raised.value.where, raised.value.what) == (path, what)


def test_options_beside_the_settings_are_named_too() -> None:
    """Params that are no JSON go by their name; one that is gone has none."""
    assert told(["a.npz", 3], {"weights": "b.npz"}) == [
        ("setting", "weights: a.npz → b.npz"),
        ("setting", "option: 3 → not set"),
    ]


def test_long_values_are_cut_and_contents_are_no_text() -> None:
    """A hash of a file says that its content is another one."""
    old, new = json.dumps({"look": "0" * 64}), json.dumps({"look": "1" * 64})
    assert told([old], {"spec": new}) == [("setting", "look: other content")]
    ((_, text),) = told(["x" * 100], {"model": "y"})
    assert "…" in text
    assert len(text) < 90


def test_a_digest_nobody_noted_is_unknown() -> None:
    """Of code all that can be said is that it changed."""
    old, new = json.dumps({"code": OLD}), json.dumps({"code": NEW})
    assert told([old], {"spec": new}) == [("code", UNKNOWN)]
    assert told([OLD], {"code": NEW}) == [("code", UNKNOWN)]


@pytest.mark.parametrize(
    ("before", "after", "names"),
    [
        ({"fewstep.a": {"f": "1"}}, {"fewstep.a": {"f": "2"}}, ["a.f"]),
        (
            {"fewstep.a": {"f": "1"}},
            {"fewstep.a": {"g": "1"}},
            ["a.f (removed)", "a.g (new)"],
        ),
        (
            {"fewstep.a": {"": "1"}},
            {"fewstep.a": {"": "2"}},
            ["a (imports or other statements)"],
        ),
        ({}, {"fewstep.b.c": {"f": "1"}}, ["b.c (new)"]),
        ({"fewstep.b.c": {"f": "1"}}, {}, ["b.c (no longer used)"]),
        ({"torch": {"": "2.12"}}, {"torch": {"": "2.13"}}, ["torch 2.12 → 2.13"]),
    ],
)
def test_changed_parts(
    before: dict[str, dict[str, str]],
    after: dict[str, dict[str, str]],
    names: list[str],
) -> None:
    """Functions by module; modules that came or went; versions of libraries."""
    assert changed_parts(OLD, NEW, {OLD: before, NEW: after}.get) == names


def test_equal_reasons_are_one_group() -> None:
    """Forty jobs of one rule with one reason are one line with three of them."""
    jobs = [
        Planned(
            "sample",
            f"seed {i}",
            (f"{i}.json",),
            (Reason("missing", "", (f"{i}.json",)),),
        )
        for i in range(40)
    ]
    other = Planned(
        "score", "score", ("s.json",), (Reason("upstream", "sample", ("0.json",)),)
    )
    found = group(["demo"], [*jobs, other])
    assert [len(own.jobs) for own in found.groups] == [40, 1]
    assert show(found).splitlines() == [
        "sample (40 jobs): seed 0; seed 1; seed 2 and 37 more",
        "  not there yet: 0.json, 1.json, 2.json and 37 more",
        "",
        "score",
        "  because sample runs: 0.json",
        "",
        "in all: 41 jobs for demo: sample 40, score 1",
    ]


def test_many_changed_functions_are_counted() -> None:
    """The text names three of them; the JSON has all."""
    names = ", ".join(f"metrics.f{i}" for i in range(9))
    job = Planned("score", "score a/b", ("s.json",), (Reason("code", names),))
    found = group(["a_b"], [job])
    line = "  code changed: metrics.f0, metrics.f1, metrics.f2 and 6 more"
    assert line in show(found).splitlines()
    assert found.as_json()["groups"][0]["reasons"][0]["what"] == names


def test_nothing_to_do() -> None:
    """Without jobs one line says so, and the JSON has a count of 0."""
    found = group([], [])
    assert show(found) == "nothing to do for all published cells"
    assert found.as_json()["jobs"] == 0
