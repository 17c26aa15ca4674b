"""The tables of flows that an ODE solver follows: straightness and trajectories.

Time is 1 at the noise and 0 at the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep.results.columns import Row, Table, integer, number, text
from fewstep.results.common import EXPERIMENT, ORIGIN, SAMPLER

WHOLE = -1
"""The `point` of the row that speaks of the whole path."""

_SEGMENTS = (
    integer("segments", "segments of the flow, k", required=True, minimum=1),
    text("edges", "their edges from 1 to 0, e.g. `1 0.5 0`", required=True),
)


def _check_straightness(row: Row) -> None:
    """A step has its time, the whole path none."""
    if (row["point"] == WHOLE) != (row["t"] is None):
        raise ValueError("column 't' is null for the whole path (point -1) alone")


STRAIGHTNESS = Table(
    name="straightness",
    description="How straight a flow's paths are, step by step and as a whole "
    "(SeqRF paper); 0: straight and evenly fast.",
    columns=(
        EXPERIMENT,
        SAMPLER,
        integer(
            "point", "step from the noise; -1: whole path", required=True, minimum=WHOLE
        ),
        number("t", "time at the step's start: 1 noise, 0 data; null: whole path"),
        number("dt", "the step's length in time; whole path: their sum", required=True),
        number(
            "straightness",
            "squared distance of the step's velocity to the path's mean velocity, "
            "summed over pixels, mean over paths; whole path: sum over steps, "
            "weighted by dt",
            required=True,
        ),
        number(
            "seq_straightness",
            "the same to the mean velocity of the step's segment",
            required=True,
        ),
        *_SEGMENTS,
        text("solver", "euler, heun, heun_released or rk45", required=True),
        integer("steps", "steps of a solver with fixed steps", minimum=1),
        number("tol", "tolerance of an adaptive solver"),
        number("nfe", "network evaluations of the whole path", required=True),
        integer("n", "paths behind the mean", required=True, minimum=1),
        integer("seed", "seed of their noise", required=True),
        *ORIGIN,
    ),
    key=("experiment", "sampler", "point"),
    rule=_check_straightness,
)

TRAJECTORIES = Table(
    name="trajectories",
    description="The way of single pixels from noise to image. Pixels and samples are "
    "the same ones for every model, and sample i starts from the same noise.",
    columns=(
        EXPERIMENT,
        SAMPLER,
        integer("sample", "number of the sample", required=True),
        integer(
            "pixel",
            "its place: (channel × height + row) × width + column",
            required=True,
        ),
        integer("point", "number of the state, 0 the noise", required=True),
        number("t", "time of the state: 1 noise, 0 data", required=True),
        number("value", "the pixel, in the model's units", required=True, minimum=None),
        *_SEGMENTS,
        *ORIGIN,
    ),
    key=("experiment", "sampler", "sample", "pixel", "point"),
)


def straightness_rows(
    times: ArrayLike,
    straightness: ArrayLike,
    seq_straightness: ArrayLike,
    *,
    edges: Sequence[float],
    totals: tuple[float, float] | None = None,
    **common: Any,
) -> list[dict[str, Any]]:
    """Rows of the table `straightness` of one sampler: each step, and the whole path.

    Args:
        times: (M + 1,) from 1 to 0.
        straightness: (M,) of each step.
        seq_straightness: (M,) likewise, within segments.
        edges: the segments' edges, 1 to 0.
        totals: of the whole path; by default the sums over steps, weighted by length.
        common: the other columns, the same in every row.
    """
    moments = np.asarray(times, dtype=np.float64)
    lengths = moments[:-1] - moments[1:]
    whole, parts = (np.asarray(x, np.float64) for x in (straightness, seq_straightness))
    if not len(lengths) == len(whole) == len(parts):
        raise ValueError(f"{len(lengths)} steps, {len(whole)} and {len(parts)} values")
    if totals is None:
        totals = (float(lengths @ whole), float(lengths @ parts))
    same = {"segments": len(edges) - 1, "edges": edges_text(edges), **common}
    steps = [
        (m, float(moments[m]), float(lengths[m]), float(whole[m]), float(parts[m]))
        for m in range(len(lengths))
    ]
    return [
        STRAIGHTNESS.new_row(
            point=point, t=t, dt=dt, straightness=one, seq_straightness=other, **same
        )
        for point, t, dt, one, other in [
            (WHOLE, None, float(lengths.sum()), *totals),
            *steps,
        ]
    ]


def trajectory_rows(
    times: ArrayLike,
    states: ArrayLike,
    *,
    edges: Sequence[float],
    samples: int = 4,
    pixels: int = 16,
    **common: Any,
) -> list[dict[str, Any]]:
    """Rows of the table `trajectories` of one sampler.

    Args:
        times: (M + 1,) from 1 to 0.
        states: (M + 1, B, C, H, W) of samples 0 … B - 1.
        edges: the segments' edges, 1 to 0.
        samples: the first so many are kept.
        pixels: so many, spread over the image, the same ones for every model.
        common: the other columns, the same in every row.
    """
    path = np.asarray(states, dtype=np.float64)
    moments = np.asarray(times, dtype=np.float64)
    if len(moments) != len(path):
        raise ValueError(f"{len(moments)} times for {len(path)} states")
    path = path.reshape(*path.shape[:2], -1)
    same = {"segments": len(edges) - 1, "edges": edges_text(edges), **common}
    return [
        TRAJECTORIES.new_row(
            sample=sample,
            pixel=int(pixel),
            point=point,
            t=float(t),
            value=float(path[point, sample, pixel]),
            **same,
        )
        for sample in range(min(samples, path.shape[1]))
        for pixel in _spread(path.shape[2], pixels)
        for point, t in enumerate(moments)
    ]


def _spread(size: int, count: int) -> NDArray[np.int64]:
    """At most `count` places of `size`: multiples of the golden ratio lie evenly."""
    fractions = np.arange(1, count + 1) * 0.6180339887498949 % 1.0
    return np.unique((fractions * size).astype(np.int64))


def edges_text(edges: Sequence[float]) -> str:
    """Edges as the tables write them."""
    return " ".join(f"{float(edge):.6g}" for edge in edges)


def edges_of(text: str) -> list[float]:
    """The edges that a table's text says."""
    return [float(edge) for edge in text.split()]
