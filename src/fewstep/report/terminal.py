"""The headline in the terminal, at the end of `make demo`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from fewstep.report.headline import NONE, Headline, headlines
from fewstep.report.inputs import load_evaluation

_STYLES: dict[str, str] = {"matches": "green", "better": "green", "worse": "red"}


def terminal_table(jsons: Iterable[str | Path]) -> Table:
    """One line a sampler: score, time, speed-up, error, strategy and verdict.

    Columns in which nothing is known are left out.

    Raises:
        UserError: for an evaluation that is missing or broken.
    """
    lines = headlines([load_evaluation(path) for path in jsons])
    names = " and ".join(dict.fromkeys(line.metric for line in lines))
    partners = {line.partner for line in lines if line.partner != NONE}
    batches = {line.batch for line in lines if line.batch != NONE}
    one = len(partners) == 1
    table = Table(
        title=f"score: {names}, lower is better",
        caption=_caption(lines, partners if one else set(), batches),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    columns = {
        "experiment": [line.experiment for line in lines],
        "sampler": [line.sampler for line in lines],
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
        whole = name in ("sampler", "score", "batch", "time", "error")
        table.add_column(name, overflow="fold", no_wrap=whole)
    for cells in zip(*shown.values(), strict=True):
        table.add_row(*(Text(cell, style=_style(cell)) for cell in cells))
    return table


def _published(line: Headline) -> str:
    return NONE if line.published == NONE else f"{line.published}: {line.verdict}"


def _style(cell: str) -> str:
    return _STYLES.get(cell.rpartition(": ")[2], "")


def _caption(lines: list[Headline], partners: set[str], batches: set[str]) -> str:
    """What the columns leave unsaid: the baseline, its batch, and what failed."""
    said = ["time: sampling one image"]
    where = f"batch {next(iter(batches))}" if len(batches) == 1 else "the same batch"
    said += [f"speed: over “{name}” at {where}" for name in partners]
    said = ["; ".join(said)]
    said += [
        f"{line.experiment}_{line.sampler} failed: {line.failed}"
        for line in lines
        if line.failed
    ]
    return "\n".join(said)
