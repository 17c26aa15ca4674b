"""Time and its segments: the one place that says what t is and which way it runs.

* t = 1 is noise, t = 0 is data; sampling goes down from 1 to 0.
* tau = 0.001 + 0.999 (1 - t) is the time of RectifiedFlow, which goes up.
* The network is given the label 999 tau (0.999 to 999, never rounded).
* A velocity points at the data: v = dx / d(1 - t), about data - noise.
* Segment 0 is on the noise side; edges descend from 1 to 0.

Sources: SeqRF (arXiv 2402.06461) and RectifiedFlow (arXiv 2209.03003), as released.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeVar

import torch
from torch import Tensor

from fewstep.errors import UserError

TAU_MIN = 0.001
"""tau at t = 1, where a teacher starts from pure noise."""
TAU_SPAN = 0.999
"""Length of the whole path in tau."""
LABEL_SCALE = 999.0
"""Network time input per unit of tau."""

_SAME_EDGE = 1e-6  # edges pass through float32 files

Time = TypeVar("Time", float, Tensor)

TimeFactor = Literal["exact", "released"]
"""Length of the whole path: 1 in t, or 0.999 in tau, which RectifiedFlow trains in."""


def to_tau(t: Time) -> Time:
    """RectifiedFlow's time tau of t in [0, 1]; float or tensor, elementwise."""
    return (1.0 - t) * TAU_SPAN + TAU_MIN


def to_label(t: Time) -> Time:
    """The network's time input of t in [0, 1]; float or tensor, elementwise."""
    return to_tau(t) * LABEL_SCALE


@dataclass(frozen=True)
class Segments:
    """A division of [0, 1] into k time segments.

    Args:
        edges: k + 1 times, strictly descending from 1 to 0; segment i runs from
            `edges[i]` (noise side) to `edges[i + 1]`.

    Raises:
        ValueError: for any other edges.
    """

    edges: tuple[float, ...]

    def __post_init__(self) -> None:
        edges = tuple(float(edge) for edge in self.edges)
        object.__setattr__(self, "edges", edges)
        if len(edges) < 2:
            raise ValueError(f"edges {edges}: expected at least two")
        # Written so that a NaN fails too.
        if not all(a > b for a, b in pairwise(edges)):
            raise ValueError(f"edges {edges}: expected strictly descending times")
        if edges[0] != 1.0 or edges[-1] != 0.0:
            raise ValueError(f"edges {edges}: expected the first 1 and the last 0")

    @classmethod
    def uniform(cls, k: int) -> Segments:
        """The k segments of equal length.

        Raises:
            ValueError: if k is less than 1.
        """
        if k < 1:
            raise ValueError(f"{k} segments: expected at least 1")
        return cls(tuple(1.0 - i / k for i in range(k + 1)))

    @classmethod
    def of(
        cls, segments: int | Segments = 1, edges: Iterable[float] | None = None
    ) -> Segments:
        """Segments from a number, or from edges where they are given.

        Args:
            segments: their number (1 says nothing about edges), or the segments.
            edges: descending times of any sort (list, tensor), or None for equal ones.

        Raises:
            ValueError: if the edges are wrong or their number is another one.
        """
        if isinstance(segments, Segments):
            if edges is not None and not segments.same(cls.of(1, edges)):
                raise ValueError("two different lists of edges")
            return segments
        if edges is None:
            return cls.uniform(segments)
        given = cls(tuple(float(edge) for edge in edges))
        if segments not in (1, given.k):
            raise ValueError(
                f"{segments} segments, but the edges {given.edges} make {given.k}"
            )
        return given

    @property
    def k(self) -> int:
        """Number of segments."""
        return len(self.edges) - 1

    @property
    def is_uniform(self) -> bool:
        """Whether all segments have the same length (to float32 accuracy)."""
        return self.same(Segments.uniform(self.k))

    def same(self, other: Segments) -> bool:
        """Whether both have the same edges, to float32 accuracy."""
        return self.k == other.k and all(
            math.isclose(a, b, rel_tol=0.0, abs_tol=_SAME_EDGE)
            for a, b in zip(self.edges, other.edges, strict=True)
        )

    def start(self, i: int) -> float:
        """Time at which sampling enters segment i (its noise side)."""
        return self.edges[:-1][i]

    def end(self, i: int) -> float:
        """Time at which sampling leaves segment i (its data side)."""
        return self.edges[1:][i]

    def index(self, t: Tensor) -> Tensor:
        """Segment of each time, in float32 as the released program computes it.

        A time on an inner edge belongs to the segment on the data side, up to float
        jitter: index pairs by `midpoint_index`. (The released rule for segments of
        unequal length gives 0 for t = 0; here t = 0 is in the last segment.)

        Args:
            t: times in [0, 1], any shape.

        Returns:
            int64, same shape, in 0..k-1.
        """
        t = t.float()
        if self.is_uniform:
            index = ((1.0 - t) * self.k).long()
        else:
            index = torch.zeros_like(t, dtype=torch.long)
            for edge in self.edges[1:-1]:
                index += t <= edge
        return index.clamp(0, self.k - 1)

    def midpoint_index(self, t0: Tensor, t1: Tensor) -> Tensor:
        """Segment that holds the middle of each [t0, t1] (what training indexes by).

        Args:
            t0: times of the clean ends, any shape.
            t1: times of the noisy ends, same shape.

        Returns:
            int64, same shape.
        """
        return self.index((t0.float() + t1.float()) / 2)


def steps_by_segment(segments: Segments, steps: int) -> tuple[int, ...]:
    """Steps of each segment: equal numbers, the first ones one more where not.

    Raises:
        UserError: if there are fewer steps than segments.
    """
    if steps < segments.k:
        raise UserError(
            f"{steps} steps for {segments.k} segments",
            expected=f"at least {segments.k}, one a segment",
            do="ask for more steps",
        )
    size, rest = divmod(steps, segments.k)
    return tuple(size + (i < rest) for i in range(segments.k))


def time_grid(segments: Segments, steps: int) -> tuple[Tensor, Tensor]:
    """Times and segments of a fixed-step sampler; steps are equal inside a segment.

    Args:
        segments: k segments.
        steps: total number of steps N, at least k.

    Returns:
        grid (N + 1,) float32 descending from 1 to 0, and the segment of each step (N,)
        int64.

    Raises:
        UserError: if there are fewer steps than segments.
    """
    grid, index = [torch.ones(1)], []
    for i, count in enumerate(steps_by_segment(segments, steps)):
        inside = torch.linspace(segments.start(i), segments.end(i), count + 1)
        grid.append(inside[1:])
        index.append(torch.full((count,), i))
    return torch.cat(grid), torch.cat(index)
