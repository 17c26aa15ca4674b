"""Cells whose evaluation could not be made: rows with the status `failed`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fewstep.provenance import utc_now
from fewstep.results.columns import Row
from fewstep.results.comparisons import PUBLISHED
from fewstep.results.evaluations import EVALUATIONS
from fewstep.results.parquet import pick, read_rows
from fewstep.results.store import Change, upsert
from fewstep.results.verdicts import NOT_COMPARABLE

_CELL = ("experiment", "sampler")
_WITHOUT = {
    **dict.fromkeys(("ours", "sd", "difference", "hardware")),
    "seeds": 0,
    "verdict": NOT_COMPARABLE,
    "reason": "ours failed",
}
"""What a row of the table `published` says of a cell that failed."""


@dataclass(frozen=True)
class FailedCell:
    """One seed of an experiment's sampler that has no score, and why.

    Args:
        experiment, sampler, system: the cell.
        seed: one of its sampling seeds.
        metric: the score it was to give: fid, or frechet on other features.
        n: images that were to be scored.
        job: the job that failed, e.g. `sample afhq/gsj, seed 1`.
        error: what went wrong; several lines become one.
        log: that job's log, if it has one.
    """

    experiment: str
    sampler: str
    system: str
    seed: int
    metric: str
    n: int
    job: str
    error: str
    log: str | None = None

    @property
    def cell(self) -> tuple[str, str]:
        """Experiment and sampler."""
        return self.experiment, self.sampler


def by_cell(failures: Iterable[FailedCell]) -> dict[tuple[str, str], list[FailedCell]]:
    """The seeds of each cell."""
    found: dict[tuple[str, str], list[FailedCell]] = {}
    for one in failures:
        found.setdefault(one.cell, []).append(one)
    return found


def file_failures(table: Path, cells: Sequence[FailedCell]) -> Change:
    """Put failed cells into the table of evaluations, in place of all their rows.

    The next evaluation of a cell replaces them in turn.

    Args:
        table: `results/tables/evaluations.parquet`.
        cells: all seeds of each cell.

    Raises:
        ValueError: for a cell that does not fit, or a seed that stands twice.
        UserError: for a table that cannot be read, or that stays locked.
    """
    now = utc_now()
    rows = [
        EVALUATIONS.new_row(
            **{**asdict(cell), "error": " ".join(cell.error.split()) or "failed"},
            status="failed",
            created_utc=now,
        )
        for cell in cells
    ]
    change = upsert(table, rows, replace=_CELL)
    beside = table.with_stem(PUBLISHED.name)
    if beside.exists():
        names = {pick(row, _CELL) for row in rows}
        own = [r for r in read_rows(beside, PUBLISHED) if pick(r, _CELL) in names]
        upsert(beside, [{**row, **_WITHOUT} for row in own])
    return change


def failed_cells(table: Path) -> list[FailedCell]:
    """The failed cells that no newer result replaced, by experiment and sampler.

    Args:
        table: `results/tables/evaluations.parquet`; without it there are none.
    """
    if not table.exists():
        return []
    return [failed_cell(r) for r in read_rows(table, EVALUATIONS) if is_failed(r)]


def failed_since(table: Path) -> dict[tuple[str, str], str]:
    """When each failed cell failed, UTC, by (experiment, sampler)."""
    rows = read_rows(table, EVALUATIONS) if table.exists() else []
    return {
        (row["experiment"], row["sampler"]): row["created_utc"]
        for row in rows
        if is_failed(row)
    }


def is_failed(row: Row) -> bool:
    """Whether a row of the table of evaluations has no score."""
    return bool(row["status"] == "failed")


def failed_cell(row: Row) -> FailedCell:
    """A failed row as a cell."""
    names = ("experiment", "sampler", "system", "seed", "metric", "n", "error", "log")
    return FailedCell(**{name: row[name] for name in names}, job=row["job"] or "")


def predates(rows: Sequence[Row], evaluated_utc: str | None, failed: str) -> bool:
    """Whether an evaluation was made before its cell failed.

    Args:
        rows: the evaluation's rows; they know when their samples were drawn.
        evaluated_utc: when the evaluation was made; older files do not say.
        failed: when the cell failed, UTC.
    """
    made: Any = evaluated_utc or max(row["created_utc"] for row in rows)
    return bool(made < failed)
