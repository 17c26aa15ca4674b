"""Cells that failed: rows of their own, until a newer result replaces them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fewstep.files import write_json
from fewstep.results import (
    EVALUATIONS,
    FailedCell,
    compare,
    failed_cells,
    file_failures,
    read_rows,
    summarize,
    upsert,
)
from fewstep.stages import report
from tests import results_samples as samples

GOLDEN = Path(__file__).parent / "golden" / "results" / "evaluations-v3.parquet"
CELL = ("experiment", "sampler")
FAILED = FailedCell(
    experiment="demo",
    sampler="auto",
    system="tarflow",
    seed=0,
    metric="frechet",
    n=500,
    job="sample demo/auto, seed 0",
    error="the disk is full",
    log="logs/demo/auto/sample.log",
)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shared table with three samplers' evaluations, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    path = Path("results/tables/evaluations.parquet")
    upsert(path, samples.evaluations())
    return path


def statuses(path: Path) -> dict[tuple[str, int], str]:
    """Status of each row by sampler and seed."""
    rows = read_rows(path, EVALUATIONS)
    return {(row["sampler"], row["seed"]): row["status"] for row in rows}


def test_a_failure_replaces_all_rows_of_its_cell(table: Path) -> None:
    """A cell that failed has no older score beside it; other cells keep theirs."""
    change = file_failures(table, [FAILED])
    assert (change.replaced, change.removed, change.total) == (1, 2, 7)
    assert statuses(table)["auto", 0] == "failed"
    assert ("auto", 1) not in statuses(table)
    assert statuses(table)["for", 2] == "ok"
    assert failed_cells(table) == [FAILED]


def test_a_newer_result_replaces_the_failure(table: Path) -> None:
    """An evaluation of the same cell leaves nothing of its failure."""
    file_failures(table, [FAILED, replace(FAILED, seed=7)])
    own = [row for row in samples.evaluations() if row["sampler"] == "auto"]
    upsert(table, own, replace=CELL)
    assert failed_cells(table) == []
    assert set(statuses(table).values()) == {"ok"}


def test_a_failure_is_one_line(table: Path) -> None:
    """Several lines of an error become one, and none is still said to have failed."""
    cells = [
        replace(FAILED, error="first\n  second\n"),
        replace(FAILED, seed=1, error="  "),
    ]
    file_failures(table, cells)
    assert [cell.error for cell in failed_cells(table)] == ["first second", "failed"]


@pytest.mark.parametrize(
    ("change", "words"),
    [({"metric": "is"}, "metric"), ({"n": 0}, "'n'"), ({"seed": -1}, "seed")],
)
def test_a_failure_that_is_no_cell_is_refused(
    table: Path, change: dict[str, Any], words: str
) -> None:
    """What cannot be a cell is named, and the table stays."""
    with pytest.raises(ValueError, match=words):
        file_failures(table, [replace(FAILED, **change)])
    assert failed_cells(table) == []


@pytest.mark.parametrize("column", ["labels", "protocol", "extractor"])
def test_only_a_failed_row_may_lack_the_way_of_scoring(column: str) -> None:
    """A score without its protocol is refused; a failure never had one."""
    row = samples.evaluation("for", 0, 10.0)
    with pytest.raises(ValueError, match=f"{column!r} must not be null"):
        EVALUATIONS.check({**row, column: None})
    lost = {column: None, "frechet": None, "status": "failed", "error": "no"}
    assert EVALUATIONS.check({**row, **lost})[column] is None


def test_without_a_table_nothing_has_failed(tmp_path: Path) -> None:
    """Before the first run there is no table, and no failed cell."""
    assert failed_cells(tmp_path / "evaluations.parquet") == []


def evaluated(sampler: str, when: str | None) -> None:
    """The JSON of a sampler's evaluation, made at a time; None: an older file."""
    own = [row for row in samples.evaluations() if row["sampler"] == sampler]
    more = {} if when is None else {"evaluated_utc": when}
    write_json(Path(f"results/demo_{sampler}_fid.json"), {**summarize(own), **more})


@pytest.mark.parametrize(
    ("when", "status"),
    [
        (None, "failed"),
        ("2026-11-22T00:00:00Z", "failed"),
        ("2999-01-01T00:00:00Z", "ok"),
    ],
)
def test_tables_bring_no_score_back_that_predates_a_failure(
    table: Path, when: str | None, status: str
) -> None:
    """An evaluation's JSON counts again only when it was made after the failure."""
    file_failures(table, [FAILED])
    evaluated("auto", when)
    evaluated("for", when)
    report.file_rows({"experiments": {"demo": ["for", "auto"]}})
    assert statuses(table)["auto", 0] == status
    assert statuses(table)["for", 0] == "ok"


def test_a_failed_cell_has_no_verdict_left(table: Path) -> None:
    """What was published stays beside a failed cell; our number and verdict go."""
    rows = [samples.published(seed, 13.7) for seed in range(3)]
    upsert(table, rows)
    said = {"value": 13.73, "n": 50_000, "sd": None, "source": "s", "table": "t"}
    rest = {"hardware": "", "unit": "", "note": ""}
    beside = table.with_stem("published")
    upsert(beside, compare(rows, {**said, **rest}))
    file_failures(
        table, [replace(FAILED, experiment="afhq", sampler="gsj", metric="fid")]
    )
    (row,) = read_rows(beside, report.PUBLISHED)
    assert (row["published"], row["ours"], row["seeds"]) == (13.73, None, 0)
    assert (row["verdict"], row["reason"]) == ("not comparable", "ours failed")


def test_a_table_of_an_earlier_fewstep_is_read_and_filed_into(tmp_path: Path) -> None:
    """A file of schema version 3, as it was left, keeps its rows and takes failures."""
    path = tmp_path / "evaluations.parquet"
    shutil.copyfile(GOLDEN, path)
    before = read_rows(path, EVALUATIONS)
    assert [row["seed"] for row in before] == [0, 1, 2]
    assert {row["status"] for row in before} == {"ok"}
    assert {row["job"] for row in before} == {None}
    assert before[0]["frechet"] == pytest.approx(4.794292, abs=1e-6)
    file_failures(path, [FAILED])
    assert read_rows(path, EVALUATIONS)[1:] == before
    assert failed_cells(path) == [FAILED]
