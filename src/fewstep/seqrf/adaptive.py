"""SeqRF-Ada's time segments: the cheapest division of a trajectory, by a DP over steps.

A segment's cost is how far the steps in it are from the one straight step that a
student takes instead. The program that made the released intervals is public, the
intervals are not; this is its rule, computed in a faster exact form.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewstep.errors import UserError

MINIMUM_GAP = 0.01
"""Shortest segment allowed, as a share of the path."""

_CHUNK_BYTES = 16e6  # of float64 states; a few copies of them are alive at once


class Edges(tuple[float, ...]):
    """The k + 1 edges of k segments, descending from 1 (noise) to 0 (data).

    Attributes:
        path: step numbers of the edges, ascending from 0 to n; edge = 1 - step / n.
        cost: sum of the segments' costs.
    """

    path: tuple[int, ...]
    cost: float

    def __new__(cls, path: Iterable[int], cost: float) -> Edges:
        steps = tuple(int(step) for step in path)
        edges = super().__new__(cls, (1.0 - step / steps[-1] for step in steps))
        edges.path, edges.cost = steps, float(cost)
        return edges

    def __getnewargs__(self) -> tuple[tuple[int, ...], float]:
        return self.path, self.cost


def adaptive_edges(
    trajectory: Tensor, segments: int, *, minimum_gap: float = MINIMUM_GAP
) -> Edges:
    """The k segments in which a trajectory is straightest (SeqRF-Ada).

    Args:
        trajectory: states (n + 1, B, ...) of a batch at n + 1 equally spaced times,
            noise first (the released intervals: 500 Euler steps, 128 samples).
        segments: k.
        minimum_gap: shortest segment as a share of the path, in [0, 1].

    Raises:
        UserError: for a trajectory that is not finite, or too short for k segments.
        ValueError: as `edges_of_costs`, or for a trajectory without steps or samples.
    """
    return edges_of_costs(segment_costs(trajectory), segments, minimum_gap=minimum_gap)


def segment_costs(trajectory: Tensor) -> NDArray[np.float64]:
    """Cost of every possible segment; needed once for any number of segments.

    Being means over the batch, the costs of several batches give those of all of them:
    the mean, weighted by their sizes.

    With δ_s = x_{s+1} - x_s, the cost of the segment from step i to j is the batch mean
    of Σ_{i≤s<j} ‖δ_s - (x_j - x_i)/(j - i)‖², which is
    Σ ‖δ_s‖² - ‖x_j - x_i‖²/(j - i): prefix sums and one matrix of distances.

    Args:
        trajectory: states (n + 1, B, ...).

    Returns:
        (n + 1, n + 1): [i, j] for i < j, infinity elsewhere.

    Raises:
        UserError: if a state is not finite.
        ValueError: if there are no steps or no samples.
    """
    points = len(trajectory)
    if trajectory.ndim < 2 or points < 2 or trajectory[0].numel() == 0:
        raise ValueError(
            f"trajectory {tuple(trajectory.shape)}: expected (n + 1, B, …)"
        )
    batch = trajectory.shape[1]
    flat = trajectory.reshape(points, -1)  # a view, of a part of a batch too
    lengths = torch.zeros(points - 1, dtype=torch.float64)
    gram = torch.zeros(points, points, dtype=torch.float64)
    _check_finite(flat)
    for part in torch.split(flat, max(1, int(_CHUNK_BYTES / (8 * points))), dim=1):
        # A straight line taken off changes no cost, and then little cancels below.
        x = _without_chord(part.double())
        lengths += x.diff(dim=0).square().sum(dim=1).cpu()
        gram += (x @ x.T).cpu()
    return _combine(lengths.numpy() / batch, gram.numpy() / batch)


def _without_chord(x: Tensor) -> Tensor:
    """States (n + 1, D) minus the straight line from the first to the last."""
    share = torch.linspace(0, 1, len(x), dtype=x.dtype, device=x.device)[:, None]
    return x - torch.lerp(x[:1], x[-1:], share)


def _check_finite(states: Tensor) -> None:
    bad = [i for i, state in enumerate(states) if not bool(state.isfinite().all())]
    if bad:
        raise UserError(
            f"the trajectory is not finite at step {bad[0]}"
            f" ({len(bad)} of {len(states)} states)",
            expected="finite states",
            do="check the teacher's weights and draw the trajectory again",
        )


def _combine(
    lengths: NDArray[np.float64], gram: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Costs from ‖δ_s‖² (n,) and the Gram matrix of the states (n + 1, n + 1)."""
    points = len(gram)
    total = np.concatenate([[0.0], lengths.cumsum()])
    squares = gram.diagonal()
    distances = squares[:, None] + squares[None, :] - 2 * gram
    step = np.arange(points)
    gaps = step[None, :] - step[:, None]
    costs = total[None, :] - total[:, None] - distances / np.maximum(gaps, 1)
    # A segment of one step costs nothing by definition; rounding must not say less.
    costs[gaps == 1] = 0.0
    return np.where(gaps > 0, np.maximum(costs, 0.0), np.inf)


def edges_of_costs(
    costs: NDArray[np.float64], segments: int, *, minimum_gap: float = MINIMUM_GAP
) -> Edges:
    """The cheapest path of exactly k segments from the first step to the last.

    Args:
        costs: (n + 1, n + 1), as from `segment_costs`.
        segments: k.
        minimum_gap: shortest segment as a share of the path, in [0, 1]; rounded up to
            whole steps.

    Raises:
        UserError: if k segments of the shortest length do not fit into n steps.
        ValueError: if k is less than 1 or `minimum_gap` out of range.
    """
    if segments < 1:
        raise ValueError(f"{segments} segments: expected at least 1")
    if not 0 <= minimum_gap <= 1:
        raise ValueError(f"minimum gap {minimum_gap}: expected 0 to 1")
    steps = len(costs) - 1
    shortest = max(1, math.ceil(minimum_gap * steps))
    if segments * shortest > steps:
        raise UserError(
            f"{segments} segments of at least {shortest} steps do not fit into a "
            f"trajectory of {steps} steps",
            expected=f"at most {steps // shortest} segments",
            do="ask for fewer segments or draw the trajectory with more steps",
        )
    step = np.arange(steps + 1)
    allowed = step[None, :] - step[:, None] >= shortest
    costs = np.where(allowed, costs, np.inf)
    best, came_from = costs[0], []  # cheapest path to each step, and its last edge
    for _ in range(segments - 1):
        through = best[:, None] + costs
        came_from.append(through.argmin(axis=0))
        best = through.min(axis=0)
    path = [steps]
    for previous in reversed(came_from):
        path.append(int(previous[path[-1]]))
    return Edges([0, *reversed(path)], best[steps])
