"""How far a sampler's path bends (SeqRF's straightness), stored or on the way.

Points x_0 .. x_M at times with steps h_m, slopes d_m = (x_{m+1} - x_m) / h_m:

    S     = sum_m h_m |(x_M - x_0) - d_m|^2
    S_seq = sum_m h_m |(X_{r+1} - X_r) / L_r - d_m|^2

with X_r the states at the segment edges, L_r the segment's length and |.|^2 the sum
over C, H, W. Multiplied out, neither needs the path: with the energy
E = sum_m |x_{m+1} - x_m|^2 / h_m and H = sum_m h_m,

    S = E + (H - 2) |x_M - x_0|^2        S_seq = E - sum_r |X_{r+1} - X_r|^2 / L_r.

Everything is float64. The released program's S_seq of RK45 takes the wrong segment for
the steps after the first one; here it is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from fewstep.seqrf.segments import Segments


def _squared(y: Tensor) -> Tensor:
    """Sum of squares of each sample, (B,)."""
    return y.flatten(1).square().sum(1)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared distance of each sample, (B,) float64."""
    return _squared(b.double() - a.double())


def _slopes(states: Tensor, h: Sequence[float]) -> Iterator[Tensor]:
    """d_m of every step, float64; never the whole path at once in that precision."""
    before = states[0].double()
    for state, step in zip(states[1:], h, strict=True):
        after = state.double()
        yield (after - before) / step
        before = after


def gaps(states: Tensor, times: Tensor) -> Tensor:
    """|(x_M - x_0) - d_m|^2 of every step.

    Args:
        states: (M + 1, B, ...).
        times: (M + 1,), monotonic, in either direction.

    Returns:
        (M, B) float64.
    """
    h = times.double().diff().abs().tolist()
    whole = states[-1].double() - states[0].double()
    return torch.stack([_squared(whole - slope) for slope in _slopes(states, h)])


def sequential_gaps(states: Tensor, times: Tensor, segments: Segments) -> Tensor:
    """|(X_{r+1} - X_r) / L_r - d_m|^2 of every step.

    Args:
        states: (M + 1, B, ...).
        times: (M + 1,), descending from 1 to 0 and through all inner edges.
        segments: the segments.

    Returns:
        (M, B) float64.

    Raises:
        ValueError: if no point lies at an edge.
    """
    times = times.double()
    corners = []
    for edge in segments.edges:
        near = (times - edge).abs()
        if near.min() > 1e-6:
            raise ValueError(f"no point of the path lies at the edge {edge}")
        corners.append(int(near.argmin()))
    parts = []
    for i, (a, b) in enumerate(pairwise(corners)):
        length = segments.start(i) - segments.end(i)
        chord = (states[b].double() - states[a].double()) / length
        h = times[a : b + 1].diff().abs().tolist()
        slopes = _slopes(states[a : b + 1], h)
        parts += [_squared(chord - slope) for slope in slopes]
    return torch.stack(parts)


def weighted_sum(gap: Tensor, times: Tensor) -> Tensor:
    """Straightness of each sample: sum_m h_m gap_m.

    Args:
        gap: (M, B), from `gaps` or `sequential_gaps`.
        times: (M + 1,).

    Returns:
        (B,) float64.
    """
    return times.double().diff().abs() @ gap.double()


class StraightnessMeter:
    """Straightness of a path that is not kept, each sample with its own steps.

    Args:
        start: states (B, ...) before the first step.
    """

    def __init__(self, start: Tensor) -> None:
        self._start = self._corner = start
        zero = torch.zeros(len(start), dtype=torch.float64, device=start.device)
        self._energy, self._chords, self._span = zero, zero.clone(), 0.0

    def add(
        self,
        before: Tensor,
        after: Tensor,
        h: float | Tensor,
        *,
        rows: Tensor | None = None,
        counts: Tensor | None = None,
    ) -> None:
        """Count a step.

        Args:
            before, after: states (n, ...).
            h: length of the step, or (n,).
            rows: which samples they are, (n,); default all.
            counts: (n,) bool, which of them took the step; default all.
        """
        energy = _distance(before, after) / h
        if counts is not None:
            energy = torch.where(counts, energy, 0.0)
        if rows is None:
            self._energy = self._energy + energy
        else:
            self._energy = self._energy.index_add(0, rows, energy)

    def leave(self, state: Tensor, length: float) -> None:
        """Count the end of a segment.

        Args:
            state: states (B, ...) there.
            length: of the segment, in the unit of the steps.
        """
        self._chords = self._chords + _distance(self._corner, state) / length
        self._corner = state
        self._span += length

    def result(self) -> tuple[Tensor, Tensor]:
        """S and S_seq of each sample at the end of the last segment, (B,) float64."""
        whole = _distance(self._start, self._corner)
        plain = self._energy + (self._span - 2.0) * whole
        # Rounding must not make a straight path negative.
        return plain.clamp(min=0.0), (self._energy - self._chords).clamp(min=0.0)
