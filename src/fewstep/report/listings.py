"""Lists for the terminal: published numbers beside ours, failures, what is not made."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fewstep.report.headline import NONE, number, plus_minus, seconds_text
from fewstep.report.records import said
from fewstep.report.terminal import STYLES, new_table
from fewstep.results import FailedCell
from fewstep.results.comparisons import SECONDS
from fewstep.results.export import is_number, words

NAMES = {
    "fid": "FID",
    "isc": "IS",
    "precision": "precision",
    "recall": "recall",
    "seconds_per_image": "time",
    "seconds_batch1": "time, batch 1",
}
"""What a reader calls the quantities of the table `published`."""


def published_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Published numbers beside ours, a line each, with verdict and reason.

    Args:
        rows: of the table `published`.
    """
    table = new_table("published, and ours beside it", "time: of one image")
    for name in ("cell", "", "ours", "published", "verdict"):
        table.add_column(name, overflow="fold", no_wrap=name != "verdict")
    last = ""
    for row in rows:
        cell = f"{row['experiment']}_{row['sampler']}"
        table.add_row(
            "" if cell == last else cell,
            NAMES[row["quantity"]],
            ours(row),
            theirs(row),
            Text(row["verdict"], style=STYLES.get(row["verdict"], ""))
            + Text(f": {row['reason']}"),
        )
        last = cell
    return table


def ours(row: Mapping[str, Any]) -> str:
    """Our value of a row of the table `published`, with its spread over seeds."""
    if row["quantity"] in SECONDS:
        return seconds_text(row["ours"])
    return plus_minus(row["ours"], row["sd"])


def theirs(row: Mapping[str, Any]) -> str:
    """The published value of such a row."""
    if row["quantity"] in SECONDS:
        return seconds_text(row["published"])
    return number(row["published"])


def failed_table(
    cells: Sequence[FailedCell], left: Container[tuple[str, str]] = ()
) -> Table:
    """Cells without a score: which job failed, with what words, and its log.

    Args:
        cells: their seeds.
        left: cells that no command tries again.
    """
    lost = [cell.cell in left for cell in cells]
    again = "the same command tries them again"
    if any(lost):
        again = "" if all(lost) else f"{again}, but not those that are left over"
    table = new_table("failed", again)
    for name in ("cell", "seeds", "status", "why", "log"):
        table.add_column(name, overflow="fold")
    seeds: dict[tuple[str, str, str], list[str]] = {}
    for cell in cells:
        name = "_".join(cell.cell)
        seeds.setdefault((name, said(cell), cell.log or NONE), []).append(
            str(cell.seed)
        )
    for (name, why, log), own in seeds.items():
        table.add_row(name, " ".join(own), Text("failed", style="red"), why, log)
    return table


def left_table(cells: Mapping[tuple[str, str], str]) -> Table:
    """Cells whose rows nothing renews, and why."""
    caption = "drop their rows: fewstep results --forget CELL"
    table = new_table("left over", caption)
    table.min_width = len(caption)  # a command is copied whole
    table.add_column("why", no_wrap=True)
    table.add_column("cells", overflow="fold")
    own: dict[str, list[str]] = {}
    for cell, why in cells.items():
        own.setdefault(why, []).append("_".join(cell))
    for why, names in own.items():
        table.add_row(why, ", ".join(names))
    return table


def missing_table(cells: Sequence[tuple[str, str]]) -> Table:
    """Cells that were not made yet: a line an experiment."""
    command = "make one: snakemake --profile local results/EXPERIMENT_SAMPLER_fid.json"
    table = new_table("not made yet", command)
    table.min_width = len(command)  # a command in pieces cannot be copied
    table.add_column("experiment", no_wrap=True)
    table.add_column("samplers", overflow="fold")
    samplers: dict[str, list[str]] = {}
    for experiment, sampler in cells:
        samplers.setdefault(experiment, []).append(sampler)
    for experiment, own in samplers.items():
        table.add_row(experiment, ", ".join(own))
    return table


def answer_table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], width: int
) -> RenderableType:
    """The rows of a query, one below the other; or each as a list where too wide.

    Args:
        columns: their names.
        rows: values, null as None.
        width: columns of the terminal.
    """
    cells = [[words(value) for value in row] for row in rows]
    widest = [
        max(len(name), *(len(row[i]) for row in cells)) if cells else len(name)
        for i, name in enumerate(columns)
    ]
    if sum(widest) + len(widest) > width:
        return Group(*(_listed(columns, row) for row in cells))
    table = new_table("", "")
    for i, name in enumerate(columns):
        right = bool(rows) and all(r[i] is None or is_number(r[i]) for r in rows)
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for row in cells:
        table.add_row(*map(Text, row))
    # Not its caption: that would be folded where the table is narrow.
    return Group(table, Text(f"{len(rows)} row{'' if len(rows) == 1 else 's'}"))


def _listed(columns: Sequence[str], row: Sequence[str]) -> Table:
    """One row, a line a column."""
    table = new_table("", "")
    table.add_column("column", no_wrap=True)
    table.add_column("value", overflow="fold")
    for name, value in zip(columns, row, strict=True):
        table.add_row(name, Text(value))
    return table
