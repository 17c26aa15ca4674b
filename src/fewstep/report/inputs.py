"""What a report is made from, read and checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fewstep.errors import UserError
from fewstep.files import read_json
from fewstep.report.missing import Missing
from fewstep.results import EVALUATIONS, PUBLISHED, FailedCell, Table, summarize
from fewstep.results.parquet import by_key, pick

Summary = Mapping[str, Any]
Kind = Literal["grid", "trace", "beside", "moving"]
TEMPLATES = Path(__file__).resolve().parents[3] / "workflow" / "report"


@dataclass(frozen=True)
class Picture:
    """A picture of an experiment that another stage made.

    Args:
        path: a PNG file.
        caption: one sentence.
        kind: "grid" (side by side with other grids), "trace" (full width), "beside"
            (all samplers of the experiment, full width) or "moving" (an animation).
        sampler: the sampler that it shows, if one.
    """

    path: Path
    caption: str
    kind: Kind = "grid"
    sampler: str = ""


@dataclass(frozen=True)
class Inputs:
    """Everything a report shows; a file that is not there is listed as missing.

    Args:
        jsons: the evaluations, `results/{experiment}_{sampler}_fid.json`.
        tables: Parquet files by table name (blocks, strategies, convergence, training,
            timing, straightness, trajectories), one or several each; the evaluations
            come from `jsons`.
        pictures: pictures by experiment.
        tokenizers: `results/tokenizers/{name}-reconstruction.json` of the experiments'
            tokenizers; the picture lies beside each, as `.png`.
        missing: what could not be made, and why: {"afhq": "checkpoint is absent"}.
        absent: cells that were asked for and are not there.
        failures: seeds of cells that failed, with no newer result.
        title: the page's title.
        command: the command that makes the page.
        templates: folder of the page's template, style and captions.
    """

    jsons: Sequence[Path]
    tables: Mapping[str, Path | Sequence[Path]] = field(default_factory=dict)
    pictures: Mapping[str, Sequence[Picture]] = field(default_factory=dict)
    tokenizers: Sequence[Path] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    absent: Sequence[Missing] = ()
    failures: Sequence[FailedCell] = ()
    title: str = "fewstep results"
    command: str = "snakemake --profile local report"
    templates: Path = TEMPLATES


def load_evaluation(path: str | Path) -> dict[str, Any]:
    """One evaluation's JSON, as `fewstep.results.summarize` gives it.

    Columns that an older file lacks become null. Other keys beside the known ones, such
    as `assumed` (settings that the publication left open), are kept.

    Raises:
        UserError: for a missing or broken file, a row that does not fit, of the
            evaluation or of what was published, or a mean that is not that of the rows.
    """
    content = read_json(path)
    again = "delete it and run again"
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
        raise UserError("not an evaluation: no rows", where=str(path), do=again)
    try:
        found = summarize(_complete(EVALUATIONS, content["rows"]))
        beside = _beside(content, found)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"not an evaluation: {error}", where=str(path), do=again
        ) from error
    for name, value in found.items():
        if name != "rows" and name in content and not _same(content[name], value):
            raise UserError(
                f"{name} is {content[name]!r}, but its rows say {value!r}",
                where=str(path),
                do=again,
            )
    return {**content, **found, **beside}


def _complete(table: Table, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows with null in the columns that an older file lacks."""
    blank = dict.fromkeys(table.names)
    return [{**blank, **row} for row in rows]


def _beside(
    content: Mapping[str, Any], found: Mapping[str, Any]
) -> dict[str, list[dict[str, Any]]]:
    """Rows of the table `published`, checked; nothing of a file that knows none.

    Raises:
        ValueError: for a row that does not fit, stands twice or is of another cell.
    """
    name = PUBLISHED.name
    if name not in content:
        return {}
    rows = [PUBLISHED.check(r) for r in _complete(PUBLISHED, content[name] or ())]
    by_key(rows, PUBLISHED.key)
    cell = ("experiment", "sampler")
    for row in rows:
        if pick(row, cell) != pick(found, cell):
            raise ValueError(f"{name}: a row of {'_'.join(pick(row, cell))}")
    return {name: rows}


def _same(stated: Any, value: Any) -> bool:
    if isinstance(stated, float | int) and isinstance(value, float):
        return math.isclose(stated, value, rel_tol=1e-9, abs_tol=1e-9)
    return bool(stated == value)
