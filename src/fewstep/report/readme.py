"""README's tables: made from docs/numbers and config.yaml, between markers.

`docs/numbers` holds the rows of the demo's run, and of published cells that were made,
as CSV; `fewstep results --readme` puts them there.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from fewstep.config import load_config
from fewstep.config.spine import PublishedSpec
from fewstep.errors import UserError
from fewstep.files import read_json, write_bytes, write_json
from fewstep.report.flows import flow_tables
from fewstep.report.headline import NONE, number
from fewstep.report.listings import NAMES, ours
from fewstep.report.records import rows_by_cell
from fewstep.report.terminal import terminal_tables
from fewstep.results import (
    EVALUATIONS,
    PUBLISHED,
    STRAIGHTNESS,
    TIMING,
    Table,
    summarize,
)
from fewstep.results.comparisons import SCORES, SECONDS
from fewstep.results.export import markdown_text, read_csv, table_csv
from fewstep.results.flows import WHOLE

ROOT = Path(__file__).resolve().parents[3]
NUMBERS = Path("docs/numbers")
README = Path("README.md")
_KEPT = (EVALUATIONS, TIMING, STRAIGHTNESS, PUBLISHED)
_ORIGIN = ("commit", "dirty", "hardware", "threads", "torch", "python")
_BLOCK = r"(<!-- begin: {} -->\n).*?(<!-- end: {} -->)"
_AGAIN = "run python -m fewstep.results --fix"

Rows = list[dict[str, Any]]
Cell = tuple[str, str]


def keep(
    summaries: Sequence[Mapping[str, Any]],
    timing: Rows,
    straightness: pd.DataFrame | None,
    published: Rows,
    root: Path = ROOT,
) -> list[Path]:
    """Write the numbers behind README's tables to docs/numbers; returns the files.

    Args:
        summaries: the demo's evaluations.
        timing: rows of that table; those of other cells are left out.
        straightness: rows of that table; what README does not show is left out.
        published: rows of that table, of any cell.
        root: a checkout of fewstep.
    """
    rows = [row for summary in summaries for row in summary["rows"]]
    cells = {(row["experiment"], row["sampler"]) for row in rows}
    found: dict[Table, Rows] = {
        EVALUATIONS: rows,
        TIMING: [row for row in timing if (row["experiment"], row["sampler"]) in cells],
        STRAIGHTNESS: _shown_straightness(summaries, straightness),
        PUBLISHED: published,
    }
    folder = root / NUMBERS
    for table in _KEPT:
        text = table_csv(table, (table.check(row) for row in found[table]))
        write_bytes(folder / f"{table.name}.csv", text.encode())
    origin: dict[str, Any] = {
        "command": "make demo",
        "made": max(row["created_utc"] for row in rows),
    }
    for name in _ORIGIN:
        origin[name] = _several(rows, name)
    origin["timing_threads"] = _several(found[TIMING], "threads")
    write_json(folder / "origin.json", origin)
    return [*(folder / f"{table.name}.csv" for table in _KEPT), folder / "origin.json"]


def _shown_straightness(
    summaries: Sequence[Mapping[str, Any]], measured: pd.DataFrame | None
) -> Rows:
    """Of each flow the whole path along which README tells the straightness."""
    if measured is None:
        return []
    by = {table.straight_by for table in flow_tables(summaries, measured)}
    flows = {summary["experiment"] for summary in summaries}
    rows = measured.astype(object).where(measured.notna(), None).to_dict("records")
    return [
        {str(name): value for name, value in row.items()}
        for row in rows
        if row["point"] == WHOLE and row["sampler"] in by and row["experiment"] in flows
    ]


def _several(rows: Rows, column: str) -> list[Any]:
    """A column's different values."""
    return sorted({row[column] for row in rows if row[column] is not None}, key=str)


def blocks(root: Path = ROOT) -> dict[str, str]:
    """The text between each pair of README's markers, by name.

    Raises:
        UserError: for numbers or a configuration that cannot be read.
    """
    folder = root / NUMBERS
    rows = {table: read_csv(folder / f"{table.name}.csv", table) for table in _KEPT}
    summaries = list(_summaries(rows[EVALUATIONS], rows[TIMING]))
    straight = pd.DataFrame(rows[STRAIGHTNESS]) if rows[STRAIGHTNESS] else None
    return {
        **{
            f"demo-{system}": _demo(summaries, system, straight)
            for system in ("tarflow", "seqrf", "par")
        },
        "demo-origin": _origin(read_json(folder / "origin.json")),
        "published": _published(root, rows[PUBLISHED]),
    }


def text(current: str, found: Mapping[str, str], where: str = str(README)) -> str:
    """A page with what stands between its markers replaced.

    Raises:
        UserError: for a marker that it lacks.
    """
    for name, block in found.items():
        pattern = re.compile(_BLOCK.format(name, name), re.S)
        current, count = pattern.subn(_between(block), current)
        if count != 1:
            raise UserError(f"has no '<!-- begin: {name} -->' and end", where=where)
    return current


def _between(block: str) -> Callable[[re.Match[str]], str]:
    """A function, for a block's backslashes mean themselves."""
    return lambda found: f"{found[1]}\n{block}\n{found[2]}"


def check(root: Path = ROOT) -> None:
    """Complain when README's tables are not those of the numbers.

    Raises:
        UserError: when they differ.
    """
    current = (root / README).read_text(encoding="utf-8")
    if text(current, blocks(root)) != current:
        raise UserError(
            "its tables are not those of docs/numbers", where=str(README), do=_AGAIN
        )


def fix(root: Path = ROOT) -> bool:
    """Renew README's tables where they differ; whether they did."""
    current = (root / README).read_text(encoding="utf-8")
    new = text(current, blocks(root))
    if new == current:
        return False
    write_bytes(root / README, new.encode())
    return True


def _summaries(rows: Rows, timing: Rows) -> Iterator[dict[str, Any]]:
    """Evaluations as their JSON has them, in the rows' order."""
    clocks = rows_by_cell(timing)
    for cell, own in rows_by_cell(rows).items():
        clock = clocks.get(cell, [])
        yield {**summarize(own), "timing": clock}


def _demo(
    summaries: Sequence[Mapping[str, Any]], system: str, straight: pd.DataFrame | None
) -> str:
    """A system's table, as the terminal prints it."""
    own = [summary for summary in summaries if summary["system"] == system]
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    for table in terminal_tables(own, straight):
        console.print(table)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    lines = [line.rstrip() for line in printed.rstrip().splitlines()]
    return "\n".join(["```", *lines, "```", ""])


def _origin(origin: Mapping[str, Any]) -> str:
    commits = " and ".join(f"`{commit[:7]}`" for commit in origin["commit"])
    changed = ", with changes" if True in origin["dirty"] else ""
    threads, timed = (
        " or ".join(map(str, origin[name])) for name in ("threads", "timing_threads")
    )
    clocks = f", {timed} where the clock runs" if timed else ""
    return (
        f"These are the numbers of a `{origin['command']}` of {origin['made'][:10]}, "
        f"commit {commits}{changed},\non {' and '.join(origin['hardware'])} with "
        f"{threads} thread{'' if threads == '1' else 's'} a job{clocks}.\n"
        "Their rows are in [docs/numbers](docs/numbers).\n"
    )


def _published(root: Path, rows: Rows) -> str:
    """Each published cell with a number, then the tables that could not be verified."""
    config = load_config(root / "config.yaml", assets=root / "workflow/assets.yaml")
    by_cell: dict[Cell, dict[str, Any]] = {}
    for row in rows:
        own_rows = by_cell.setdefault((row["experiment"], row["sampler"]), {})
        own_rows[row["quantity"]] = row
    lines, unverified = [], dict[str, list[str]]()
    for name, own in config.experiments.items():
        for sampler, spec in own.samplers.items():
            published, made = spec.published, by_cell.get((name, sampler), {})
            if published is None:
                continue
            if published.value is None and not made:
                label = f"{published.source}, {published.table}"
                unverified.setdefault(label, []).append(f"{name}_{sampler}")
                continue
            model = _model(own.description, getattr(spec, "strategy", None))
            cell = [f"`{name}_{sampler}`", model]
            lines.append([*cell, *_theirs(published), *_made(made)])
    head = ("cell", "model", "published FID", "IS, precision, recall", "time", "ours")
    for label, cells in unverified.items():
        counted = f"{len(cells)} cell{'' if len(cells) == 1 else 's'}"
        lines.append([counted, label, "not verified", NONE, NONE, "not run"])
    return markdown_text(head, lines)


def _theirs(published: PublishedSpec) -> list[str]:
    """Published score, further scores and time, in words."""
    others, scores = published.others, NONE
    if others is not None:
        digits = {"isc": ".1f", "precision": ".2f", "recall": ".2f"}
        given = {name: getattr(others, name) for name in SCORES}
        scores = ", ".join(
            NONE if given[name] is None else format(given[name], digits[name])
            for name in SCORES
        )
    time = NONE
    if published.seconds is not None:
        time = f"{published.seconds / 60:.2f} min for {published.n:,} images"
    elif published.seconds_batch1 is not None:
        time = f"{published.seconds_batch1:.2f} s an image"
    on = f", {published.hardware}" if published.hardware and time != NONE else ""
    value = "not verified" if published.value is None else number(published.value)
    return [value, scores, time + on]


def _model(description: str, strategy: str | None) -> str:
    """A model with the plan that inverts it, if it is a flow with one."""
    plan = "For" if strategy == "for" else strategy
    return f"{description}, {plan}" if plan else description


def _made(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Our numbers of a cell with the verdict and its reason."""
    if not found:
        return ["not run"]
    fid = found["fid"]
    said = [f"{ours(fid)}: {fid['verdict']} ({fid['reason']})"]
    said += [
        f"{NAMES[name]} {ours(found[name])} ({found[name]['verdict']})"
        for name in (*SCORES, *SECONDS)
        if name in found
    ]
    return ["; ".join(said)]
