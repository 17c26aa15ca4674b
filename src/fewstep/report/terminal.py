"""Tables for the terminal: the headline, published numbers beside ours, failures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fewstep.report.flows import Cell, FlowTable, Model, flow_models, flow_tables
from fewstep.report.headline import NONE, Headline, headlines
from fewstep.report.inputs import Summary, load_evaluation
from fewstep.report.par import TokenLine, TokenTable, token_tables
from fewstep.results import STRAIGHTNESS
from fewstep.results.store import read

STYLES: dict[str, str] = {"matches": "green", "better": "green", "worse": "red"}
_MOST_SAMPLERS = 6
"""More samplers than these do not fit beside each other into 80 columns."""
_NO_RATIO = "times of two rows give no ratio"
"""They are of different jobs, hours or machines apart."""


def terminal_table(
    jsons: Iterable[str | Path], straightness: Iterable[str | Path] = ()
) -> RenderableType:
    """One line a sampler: score, time, speed-up, error, strategy and verdict.

    Flows that may be compared stand in a table of their own, models by samplers, where
    that fits; models that draw tokens in parallel, by their n, in another. Columns in
    which nothing is known are left out.

    Args:
        jsons: the evaluations.
        straightness: Parquet files of that table; without them it is that of the
            samplers' own steps.

    Raises:
        UserError: for an evaluation that is missing or broken.
    """
    summaries = [load_evaluation(path) for path in jsons]
    parts = [read(path, STRAIGHTNESS) for path in straightness]
    measured = pd.concat(parts, ignore_index=True) if parts else None
    return spaced(terminal_tables(summaries, measured) or [_lines([])])


def terminal_tables(
    summaries: Sequence[Summary], measured: pd.DataFrame | None = None
) -> list[Table]:
    """The same tables, one by one, from evaluations and rows of `straightness`."""
    lines = headlines(summaries)
    tables = flow_tables(summaries, measured)
    found = [table for table in tables if len(table.samplers) <= _MOST_SAMPLERS]
    apart = {
        (model.name, sampler)
        for table in found
        for model in table.models
        for sampler in table.samplers
    }
    tokens = token_tables(summaries)
    apart |= {line.cell for table in tokens for line in table.lines}
    rest = [line for line in lines if (line.experiment, line.sampler) not in apart]
    flows = set(flow_models(summaries))
    kinds = (
        [line for line in rest if line.experiment not in flows],
        [line for line in rest if line.experiment in flows],
    )
    failed = [line for line in lines if line not in rest and line.failed]
    return [
        *(_lines(kind) for kind in kinds if kind),
        *(_flows(table, failed) for table in found),
        *(_tokens(table) for table in tokens),
    ]


def spaced(tables: Sequence[RenderableType]) -> RenderableType:
    """Several tables with a line between them, or the one."""
    if len(tables) == 1:
        return tables[0]
    return Group(*(part for table in tables for part in (table, Text())))


def new_table(title: str, caption: str) -> Table:
    """An empty table in the style of all."""
    return Table(
        title=title,
        caption=caption,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )


def _lines(lines: list[Headline]) -> Table:
    """One line a sampler."""
    names = " and ".join(dict.fromkeys(line.metric for line in lines))
    partners = {line.partner for line in lines if line.partner != NONE}
    batches = {line.batch for line in lines if line.batch != NONE}
    one = len(partners) == 1
    table = new_table(
        f"score: {names}, lower is better",
        _caption(lines, partners if one else set(), batches),
    )
    columns = {
        "experiment": [line.experiment for line in lines],
        "sampler": [line.sampler for line in lines],
        "NFE": [line.nfe for line in lines],
        "score": [line.score for line in lines],
        "batch": [line.batch if len(batches) > 1 else NONE for line in lines],
        "time": [line.seconds for line in lines],
        "speed": [line.speed if one else line.speed_words for line in lines],
        "error": [line.error for line in lines],
        "strategy": [line.strategy for line in lines],
        "published": [_published(line) for line in lines],
    }
    shown = {name: cells for name, cells in columns.items() if set(cells) != {NONE}}
    for name in shown:
        whole = name in (
            "experiment",
            "sampler",
            "NFE",
            "score",
            "batch",
            "time",
            "error",
        )
        table.add_column(name, overflow="fold", no_wrap=whole)
    for cells in zip(*shown.values(), strict=True):
        table.add_row(*(Text(cell, style=_style(cell)) for cell in cells))
    return table


def _flows(flow: FlowTable, failed: list[Headline]) -> Table:
    """Models by sampler; the best of each sampler is bold."""
    said = ["NFE: network evaluations of one image"]
    if flow.straight_by:
        said.append(
            f"bend: deviation from straight within segments, by {flow.straight_by}"
        )
    own = {model.name for model in flow.models}
    said += [_failure(line) for line in failed if line.experiment in own]
    table = new_table(
        f"score: {flow.metric}, {flow.samples}, lower is better", "\n".join(said)
    )
    table.add_column("model", overflow="fold")
    for name, nfe in zip(flow.samplers, flow.nfe, strict=True):
        table.add_column(f"{name}\nNFE {nfe}" if nfe else f"{name}\n", justify="right")
    if flow.straight_by:
        table.add_column("bend\n", justify="right")
    for model in flow.models:
        cells = [_cell(cell) for cell in model.cells]
        table.add_row(model.name, *cells, *([_bend(model)] if flow.straight_by else []))
    return table


def _tokens(tokens: TokenTable) -> Table:
    """One line a cell: n, steps, score, time of one image, best rate, speed-ups."""
    lines = tokens.lines
    table = new_table(
        f"score: {tokens.metric}, {tokens.samples}, lower is better",
        _tokens_caption(tokens),
    )
    several = len({line.line.sampler for line in lines}) > 1
    columns = {
        "experiment": [line.line.experiment for line in lines],
        "sampler": [line.line.sampler if several else NONE for line in lines],
        "n": [NONE if line.group is None else str(line.group) for line in lines],
        "steps": [line.steps_text for line in lines],
        "score": [line.line.score for line in lines],
        "class": [line.agreement_short for line in lines],
        "time": [line.seconds_text for line in lines],
        "speed": [line.speed(1) for line in lines],
        "img/s": [_rate(line) for line in lines],
        "speed ": [_best_speed(line) for line in lines],
        "published": [_published(line.line) for line in lines],
    }
    for name, cells in columns.items():
        if set(cells) != {NONE}:
            table.add_column(name, overflow="fold", no_wrap=name != "published")
    shown = [cells for cells in columns.values() if set(cells) != {NONE}]
    for row in zip(*shown, strict=True):
        table.add_row(*(Text(cell, style=_style(cell)) for cell in row))
    return table


def _rate(line: TokenLine) -> str:
    """The best rate, and the batch that gave it."""
    return NONE if line.batch is None else f"{line.rate_text} @{line.batch}"


def _best_speed(line: TokenLine) -> str:
    """At batch 1 it stands beside the time already."""
    return NONE if line.batch == 1 else line.speed(line.batch)


def _tokens_caption(tokens: TokenTable) -> str:
    said = ["n: tokens drawn in one step; 1: LlamaGen, which speed is over, in one job"]
    if tokens.classes:
        said.append("class: images taken for the class asked for")
    said.append(f"time: one image at batch 1; @: best batch; {_NO_RATIO}")
    return "\n".join(
        [*said, *(_failure(one.line) for one in tokens.lines if one.line.failed)]
    )


def _bend(model: Model) -> str:
    """Measured along other paths it is not comparable, so it is left out."""
    return NONE if model.straight_by else model.seq_straightness


def _cell(cell: Cell) -> Text:
    if cell.failed:
        return Text("failed", style="red")
    words = _short(cell.mean, cell.sd) + (f"\nNFE {cell.nfe}" if cell.nfe else "")
    return Text(words, style="bold" if cell.best else "")


def _short(mean: float | None, sd: float | None) -> str:
    """Three digits of a mean, and its deviation to the same place."""
    if mean is None:
        return NONE
    digits = max(0, 2 - math.floor(math.log10(abs(mean)))) if mean else 2
    spread = "" if sd is None else f"±{sd:.{digits}f}"
    return f"{mean:.{digits}f}{spread}"


def _published(line: Headline) -> str:
    if line.published == NONE:
        return f"{line.unverified}: not verified" if line.unverified else NONE
    return f"{line.published}: {line.verdict}"


def _style(cell: str) -> str:
    return STYLES.get(cell.rpartition(": ")[2], "")


def _failure(line: Headline) -> str:
    return f"{line.experiment}_{line.sampler} failed: {line.failed}"


def _caption(lines: list[Headline], partners: set[str], batches: set[str]) -> str:
    """What the columns leave unsaid: the baseline, its batch, and what failed."""
    said = ["time: sampling one image"]
    if any(line.nfe != NONE for line in lines):
        said.append("NFE: network evaluations of it")
    where = f"batch {next(iter(batches))}" if len(batches) == 1 else "the same batch"
    said += [f"speed: over “{name}” at {where}" for name in partners]
    said = ["; ".join(said)]
    if any(line.partner != NONE for line in lines):
        said.append(f"speed: in one job with its partner; {_NO_RATIO}")
    said += [_failure(line) for line in lines if line.failed]
    return "\n".join(said)
