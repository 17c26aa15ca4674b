"""The headline as plain values: one record a cell, for CSV, JSON and Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fewstep.report.headline import (
    NONE,
    Headline,
    headlines,
    known,
    median,
    number,
    seconds_text,
)
from fewstep.report.inputs import Summary
from fewstep.results import FailedCell
from fewstep.results.failures import by_cell

COLUMNS = (
    "experiment",
    "sampler",
    "system",
    "status",
    "metric",
    "score",
    "sd",
    "seeds",
    "n",
    "published",
    "difference",
    "verdict",
    "reason",
    "seconds_per_image",
    "batch",
    "speedup",
    "baseline",
    "error_to_exact",
    "nfe",
    "steps",
    "strategy",
    "hardware",
    "protocol",
    "error",
    "note",
)
"""Columns of a record; null where nothing is known."""

Record = dict[str, Any]


def rows_by_cell(
    rows: Iterable[dict[str, Any]],
) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Rows of a table by experiment and sampler."""
    cells: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        cells.setdefault((row["experiment"], row["sampler"]), []).append(row)
    return cells


def records(
    summaries: Sequence[Summary],
    failed: Sequence[FailedCell] = (),
    missing: Sequence[tuple[str, str]] = (),
    left: Mapping[tuple[str, str], str] | None = None,
) -> list[Record]:
    """One record an evaluation, then one a failed cell, then one a missing cell.

    Args:
        summaries: the evaluations, in the order of the lines.
        failed: seeds of cells that failed.
        missing: cells that were not made yet.
        left: cells that nothing will renew, and why: their note.
    """
    cells = {(s["experiment"], s["sampler"]): s for s in summaries}
    found = [
        _record(cells[line.experiment, line.sampler], line)
        for line in headlines(summaries)
    ]
    found += [_failed(own) for own in by_cell(failed).values()]
    found += [
        _complete(experiment=experiment, sampler=sampler, status="not made yet")
        for experiment, sampler in missing
    ]
    notes = left or {}
    return [
        {**one, "note": notes.get((one["experiment"], one["sampler"]))} for one in found
    ]


BRIEF = (
    "cell",
    "score",
    "sd",
    "n",
    "seeds",
    "published",
    "verdict",
    "time",
    "speed-up",
    "over",
    "batch",
)
"""Columns of a table that a person reads."""


def brief(found: Sequence[Record]) -> list[list[str]]:
    """Records as such a table, in the columns `BRIEF`."""
    return [_brief(record) for record in found]


def _brief(record: Record) -> list[str]:
    score, ratio = record["score"], record["speedup"]
    why = record["reason"] if record["verdict"] else record["error"]
    status = record["verdict"] or record["status"]
    said = f"{status}: {why}" if why else status
    counts = (record["n"], record["seeds"])
    n, seeds = (NONE if count is None else f"{count:,}" for count in counts)
    return [
        f"{record['experiment']}_{record['sampler']}",
        number(score),
        number(record["sd"], score),
        n,
        seeds,
        number(record["published"]),
        f"{said} ({record['note']})" if record["note"] else said,
        seconds_text(record["seconds_per_image"]),
        NONE if ratio is None else f"{ratio:.2f}×",
        record["baseline"] or NONE,
        NONE if record["batch"] is None else str(record["batch"]),
    ]


def _record(summary: Summary, line: Headline) -> Record:
    good = [row for row in summary["rows"] if row["status"] == "ok"]
    published = median(good, "published_value")
    mean = summary["mean"]
    both = mean is not None and published is not None
    return _complete(
        **{k: summary[k] for k in ("experiment", "sampler", "system", "metric", "n")},
        status="ok" if good else "failed",
        score=mean,
        sd=summary["sd"],
        seeds=len(good),
        published=published,
        difference=mean - published if both else None,
        verdict=None if line.verdict == NONE else line.verdict,
        reason=line.reason or None,
        batch=_one(good, "timing_batch"),
        **{name: median(good, name) for name in ("seconds_per_image", "speedup")},
        **{name: median(good, name) for name in ("error_to_exact", "nfe", "steps")},
        **{name: _one(good, name) for name in ("baseline", "strategy", "hardware")},
        protocol=summary["protocol"],
        error=line.failed or None,
    )


def _one(rows: Sequence[Any], column: str) -> Any:
    """A column's value, the seeds' different ones side by side."""
    found = list(dict.fromkeys(known(rows, column)))
    if len(found) > 1:
        return " | ".join(map(str, found))
    return found[0] if found else None


def _failed(seeds: Sequence[FailedCell]) -> Record:
    first = seeds[0]
    names = ("experiment", "sampler", "system", "metric", "n")
    return _complete(
        **{name: getattr(first, name) for name in names},
        status="failed",
        seeds=0,
        error="; ".join(dict.fromkeys(said(cell) for cell in seeds)),
    )


def said(cell: FailedCell) -> str:
    """Which job of a cell failed, and why."""
    return f"{cell.job}: {cell.error}" if cell.job else cell.error


def _complete(**values: Any) -> Record:
    return {name: values.get(name) for name in COLUMNS}
