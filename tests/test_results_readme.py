"""README's tables: made from docs/numbers and config.yaml, and from nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fewstep.errors import UserError
from fewstep.files import read_json
from fewstep.report import readme
from fewstep.results import (
    EVALUATIONS,
    PUBLISHED,
    STRAIGHTNESS,
    TIMING,
    Table,
    compare,
    summarize,
)
from fewstep.results.export import read_csv, table_csv
from tests import results_samples as samples

ROOT = Path(__file__).parents[1]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout's README, numbers and configuration, to change."""
    shutil.copyfile(ROOT / "README.md", tmp_path / "README.md")
    shutil.copytree(ROOT / readme.NUMBERS, tmp_path / readme.NUMBERS)
    shutil.copyfile(ROOT / "config.yaml", tmp_path / "config.yaml")
    (tmp_path / "workflow").mkdir()
    shutil.copyfile(ROOT / "workflow/assets.yaml", tmp_path / "workflow/assets.yaml")
    return tmp_path


def test_readme_shows_the_numbers_of_the_repository() -> None:
    """Its tables are those that docs/numbers and config.yaml give."""
    readme.check(ROOT)


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        (EVALUATIONS, samples.evaluations),
        (TIMING, samples.timing),
        (STRAIGHTNESS, samples.straightness),
    ],
    ids=["evaluations", "timing", "straightness"],
)
def test_rows_come_back_from_csv_exactly(
    tmp_path: Path, table: Table, rows: Callable[[], list[dict[str, Any]]]
) -> None:
    """Every digit, null, flag and integer of a row is the one that was written."""
    path = tmp_path / "rows.csv"
    path.write_text(table_csv(table, rows()))
    found = read_csv(path, table)
    assert found == rows()
    for row, other in zip(found, rows(), strict=True):
        assert [type(v) for v in row.values()] == [type(v) for v in other.values()]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("experiment,what\ndemo,1\n", "what"),
        ("experiment,sampler,batch\ndemo,for,many\n", "many"),
        ("experiment\ndemo\n", "must not be null|missing"),
    ],
)
def test_a_csv_of_another_table_is_refused(
    tmp_path: Path, content: str, words: str
) -> None:
    """Unknown columns, wrong types and missing values are one line with the file."""
    path = tmp_path / "timing.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        read_csv(path, TIMING)
    assert str(path) in str(caught.value)
    with pytest.raises(UserError, match="file not found"):
        read_csv(tmp_path / "none.csv", TIMING)


def test_another_number_is_a_drift(root: Path) -> None:
    """A changed score fails the check, with what to run, until README is renewed."""
    path = root / readme.NUMBERS / "evaluations.csv"
    rows = read_csv(path, EVALUATIONS)
    rows = [{**row, "frechet": row["frechet"] + 1} for row in rows]
    path.write_text(table_csv(EVALUATIONS, rows))
    with pytest.raises(UserError, match=r"run python -m fewstep.results --fix"):
        readme.check(root)
    before = (root / "README.md").read_text()
    assert readme.fix(root)
    readme.check(root)
    assert not readme.fix(root)
    after = (root / "README.md").read_text()
    assert after != before
    # What stands between the tables is nobody's but the author's.
    assert after.partition("<!-- begin:")[0] == before.partition("<!-- begin:")[0]


def test_an_edited_table_is_a_drift(root: Path) -> None:
    """A number that somebody typed into README is found."""
    path = root / "README.md"
    path.write_text(path.read_text().replace("| 13.73 |", "| 13.37 |"))
    with pytest.raises(UserError, match="not those of docs/numbers"):
        readme.check(root)


def test_a_lost_marker_is_named(root: Path) -> None:
    """README without one of its markers cannot be renewed."""
    path = root / "README.md"
    path.write_text(path.read_text().replace("<!-- end: demo-par -->", ""))
    with pytest.raises(UserError, match="begin: demo-par"):
        readme.fix(root)


def test_every_published_cell_stands_in_readme(root: Path) -> None:
    """With its number as printed, and as not run while we have none."""
    (root / readme.NUMBERS / "published.csv").write_text(table_csv(PUBLISHED, []))
    lines = readme.blocks(root)["published"].splitlines()
    gsj = next(line for line in lines if "`afhq_gsj`" in line)
    assert "[7-8-32-10] | 13.73 | – | 20.54 min for 50,000 images, 8 x A800" in gsj
    par = next(line for line in lines if "`par-xl-4x_cfg`" in line)
    assert "| 2.61 | 259.2, 0.82, 0.56 | 4.94 s an image, one A100, batch 1 |" in par
    assert all(line.endswith("| not run |") for line in lines[2:])
    assert sum("not verified" in line for line in lines) > 1


def test_our_number_stands_beside_the_published_one(root: Path) -> None:
    """A cell that was made shows score, spread, verdict, reason and time."""
    rows = [samples.published(seed, 13.6 + seed / 10) for seed in range(3)]
    said = {**samples.SAID, "others": {"isc": 9.0}}
    made = compare([{**row, "isc": 8.0} for row in rows], said)
    path = root / readme.NUMBERS / "published.csv"
    path.write_text(table_csv(PUBLISHED, made))
    line = next(
        line
        for line in readme.blocks(root)["published"].splitlines()
        if "`afhq_gsj`" in line
    )
    assert line.endswith(
        "| 13.70 ± 0.10: matches (differs by −0.03, band ±0.27); IS 8.00 ± 0.00"
        " (worse); time 26.2 ms (not comparable) |"
    )


def test_numbers_are_kept_with_their_origin(root: Path) -> None:
    """The demo's rows are written exactly, with date, commit and machine."""
    rows = samples.evaluations()
    summaries = [
        summarize([row for row in rows if row["sampler"] == sampler])
        for sampler in ("for", "gsj", "auto")
    ]
    others = [{**row, "experiment": "other"} for row in samples.timing()]
    readme.keep(
        summaries,
        [*samples.timing(), *others],
        pd.DataFrame(samples.straightness()),
        [],
        root,
    )
    folder = root / readme.NUMBERS
    assert read_csv(folder / "evaluations.csv", EVALUATIONS) == rows
    assert read_csv(folder / "timing.csv", TIMING) == samples.timing()
    assert read_csv(folder / "straightness.csv", STRAIGHTNESS) == []
    origin = read_json(folder / "origin.json")
    assert origin["made"] == samples.NOW
    assert origin["hardware"] == ["Test CPU"]
    said = readme.blocks(root)["demo-origin"]
    assert "`make demo` of 2026-11-21, commit `0123456`,\non Test CPU with 2" in said
    assert "2 threads a job, 2 where the clock runs" in said


def test_flows_keep_the_straightness_that_is_shown(root: Path) -> None:
    """Of many steps the whole path of the finest solver is enough for README."""
    rows = samples.flow_evaluations()
    cells = dict.fromkeys((row["experiment"], row["sampler"]) for row in rows)
    summaries = [
        summarize([r for r in rows if (r["experiment"], r["sampler"]) == cell])
        for cell in cells
    ]
    measured = pd.DataFrame(samples.straightness())
    readme.keep(summaries, [], measured, [], root)
    kept = read_csv(root / readme.NUMBERS / "straightness.csv", STRAIGHTNESS)
    assert {row["sampler"] for row in kept} == {"rk45"}
    assert {row["point"] for row in kept} == {-1}
    whole = measured[(measured["point"] == -1) & (measured["sampler"] == "rk45")]
    assert [row["seq_straightness"] for row in kept] == list(whole["seq_straightness"])
    assert "bend" in readme.blocks(root)["demo-seqrf"]
