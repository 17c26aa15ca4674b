"""The numbers behind the charts, as tables that unfold under them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from fewstep.plots import Cost, score_costs
from fewstep.report.headline import NONE, error_text, number, plus_minus, seconds_text
from fewstep.results.flows import WHOLE


@dataclass(frozen=True)
class Numbers:
    """A table of texts: its header, and rows as long."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def cost_numbers(frame: pd.DataFrame, cost: Cost) -> Numbers:
    """Of `score_cost_chart`: a line a sampler."""
    head = "time an image" if cost == "seconds" else "network calls"
    rows = [
        (
            row["model"],
            row["sampler"],
            seconds_text(row["cost"]) if cost == "seconds" else _whole(row["cost"]),
            plus_minus(row["score"], None if pd.isna(row["sd"]) else row["sd"]),
        )
        for row in score_costs(frame, cost).to_dict("records")
    ]
    return Numbers(("experiment", "sampler", head, "score"), tuple(rows))


def timing_numbers(frame: pd.DataFrame) -> Numbers:
    """Of `timing_chart`: a line a sampler and batch."""
    rows = [
        (
            str(row["sampler"]),
            str(row["batch"]),
            seconds_text(row["seconds_per_image"]),
            NONE if pd.isna(row["ratio"]) else f"{row['ratio']:.2f}×",
            NONE if pd.isna(row["baseline"]) else str(row["baseline"]),
        )
        for row in frame.sort_values(["sampler", "batch"]).to_dict("records")
    ]
    header = ("sampler", "batch", "time an image", "speed-up", "over")
    return Numbers(header, tuple(rows))


def block_numbers(frame: pd.DataFrame) -> Numbers:
    """Of `block_chart`: a line a block."""
    rows = [
        (
            str(row["block"]),
            *(_cell(row[name]) for name in ("crm", "crm_percent", "igm_z")),
            _cell(row["igm_zeros"]),
            "yes" if row["tough"] else "no",
        )
        for row in frame.sort_values("block").to_dict("records")
    ]
    header = ("block", "CRM", "CRM, %", "IGM from z", "IGM from zeros", "tough")
    return Numbers(header, tuple(rows))


def straightness_numbers(frame: pd.DataFrame) -> Numbers:
    """Of `straightness_chart`: a line a model."""
    whole = frame[frame["point"] == WHOLE]
    rows = [
        (
            str(row["experiment"]),
            str(row["sampler"]),
            _cell(row["straightness"]),
            _cell(row["seq_straightness"]),
        )
        for row in whole.to_dict("records")
    ]
    header = ("model", "sampler", "the whole path", "within segments")
    return Numbers(header, tuple(rows))


def convergence_numbers(frame: pd.DataFrame) -> Numbers:
    """Of `convergence_chart`: a line a block and start, the error after some steps."""
    last = int(frame["iteration"].max())
    shown = [count for count in _ITERATIONS if count < last] + [last]
    rows = []
    for (block, start), own in frame.groupby(["block", "start"], sort=True):
        errors = dict(zip(own["iteration"], own["error_max"], strict=True))
        cells = [_error(errors.get(count)) for count in shown]
        rows.append((str(block), str(start), *cells))
    return Numbers(("block", "start", *map(str, shown)), tuple(rows))


_ITERATIONS: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def _cell(value: float | None) -> str:
    return NONE if value is None or pd.isna(value) else number(float(value))


def _error(value: float | None) -> str:
    if value is None or pd.isna(value):
        return NONE
    return "∞" if value == float("inf") else error_text(float(value))


def _whole(value: float) -> str:
    return f"{value:,.1f}".removesuffix(".0")
