"""SeqRF-Ada's intervals: the released program's numbers, a plain reference, errors."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fewstep.errors import UserError
from fewstep.seqrf.adaptive import adaptive_edges, edges_of_costs, segment_costs
from fewstep.seqrf.segments import Segments


def walk(steps: int, seed: int = 0, batch: int = 2) -> Tensor:
    """A random trajectory (steps + 1, batch, 3, 2) with a drift."""
    generator = torch.Generator().manual_seed(seed)
    moves = torch.randn(steps + 1, batch, 3, 2, generator=generator) + 1
    return moves.cumsum(dim=0)


def plain_cost(trajectory: Tensor, i: int, j: int) -> float:
    """A segment's cost as the sheet says it, by loops."""
    x = trajectory.double().numpy()
    mean_move = (x[j] - x[i]) / (j - i)
    gaps = [(x[s + 1] - x[s] - mean_move) ** 2 for s in range(i, j)]
    per_sample = np.array([gap.reshape(len(gap), -1).sum(axis=1) for gap in gaps])
    return float((j - i) * per_sample.mean())


def plain_best(trajectory: Tensor, k: int, shortest: int = 1) -> tuple[float, Any]:
    """The cheapest path among all of them."""
    steps = len(trajectory) - 1
    paths = [
        (0, *inner, steps) for inner in itertools.combinations(range(1, steps), k - 1)
    ]
    fitting = [p for p in paths if min(np.diff(p)) >= shortest]
    costs = [
        sum(plain_cost(trajectory, i, j) for i, j in itertools.pairwise(path))
        for path in fitting
    ]
    return min(zip(costs, fitting, strict=True))


@pytest.mark.parametrize("name", ["adaptive_dp_n24", "adaptive_dp_n40"])
def test_paths_match_the_golden_numbers(golden_seqrf: Any, name: str) -> None:
    """Paths equal the released program's exactly, costs to 1e-6, for every k."""
    case = golden_seqrf(name)
    gap = case["config"]["minimum_distance"]
    for k, path in list(enumerate(case["paths"]))[1:]:
        edges = adaptive_edges(case["trajectory"], k, minimum_gap=gap)
        assert list(edges.path) == path
        # The released list of distances is one behind the list of paths.
        assert edges.cost == pytest.approx(case["distance_as_returned"][k - 1], 1e-6)


def test_costs_match_the_golden_map(golden_seqrf: Any) -> None:
    """Each segment's cost is (j - i) times the released mean gap."""
    case = golden_seqrf("adaptive_dp_n24")
    released = case["mean_gap_map"].numpy()
    costs = segment_costs(case["trajectory"])
    for i, j in zip(*np.nonzero(np.isfinite(released)), strict=True):
        if i < j:
            assert costs[i, j] == pytest.approx((j - i) * released[i, j], 1e-5, 1e-12)


def test_costs_match_the_plain_sum() -> None:
    """The fast form equals the sum of squared gaps, and i >= j is no segment."""
    trajectory = walk(9, batch=3)
    costs = segment_costs(trajectory)
    for i, j in itertools.product(range(10), range(10)):
        if i < j:
            assert costs[i, j] == pytest.approx(plain_cost(trajectory, i, j), 1e-9)
        else:
            assert costs[i, j] == np.inf


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trajectory taken in small pieces has the same costs."""
    trajectory = walk(8)
    whole = segment_costs(trajectory)
    monkeypatch.setattr("fewstep.seqrf.adaptive._CHUNK_BYTES", 100.0)
    np.testing.assert_allclose(segment_costs(trajectory), whole, rtol=1e-12)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 999),
    steps=st.integers(3, 8),
    gap=st.sampled_from([0.01, 0.25]),
    data=st.data(),
)
def test_the_path_is_the_cheapest_of_all(
    seed: int, steps: int, gap: float, data: st.DataObject
) -> None:
    """Dynamic programming finds what trying every path finds, the gap kept."""
    shortest = max(1, int(np.ceil(gap * steps)))
    k = data.draw(st.integers(1, steps // shortest))
    trajectory = walk(steps, seed)
    edges = adaptive_edges(trajectory, k, minimum_gap=gap)
    cost, path = plain_best(trajectory, k, shortest)
    assert edges.cost == pytest.approx(cost, rel=1e-9, abs=1e-12)
    assert edges.path == path


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), steps=st.integers(1, 30))
def test_more_segments_never_cost_more(seed: int, steps: int) -> None:
    """Cost falls with k to 0, and edges descend strictly from 1 to 0."""
    costs = segment_costs(walk(steps, seed))
    every = [edges_of_costs(costs, k) for k in range(1, steps + 1)]
    for k, edges in enumerate(every, start=1):
        assert len(edges) == len(edges.path) == k + 1
        assert Segments(edges).k == k
        assert tuple(edges) == tuple(1 - step / steps for step in edges.path)
    for few, more in itertools.pairwise(every):
        assert more.cost <= few.cost
    assert every[-1].cost == 0


def test_a_straight_trajectory_costs_nothing() -> None:
    """Samples on straight lines at constant speed cost 0 for every k."""
    start, move = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    share = torch.linspace(0, 1, 51, dtype=torch.float64)[:, None, None, None]
    trajectory = 100 * start + share * move
    for k in (1, 2, 7):
        assert adaptive_edges(trajectory, k).cost < 1e-20


def test_the_corner_of_a_bent_path_is_an_edge() -> None:
    """A path of two straight pieces is cut exactly where it bends."""
    speeds = torch.cat([torch.ones(13), torch.full((27,), 4.0)])
    trajectory = torch.cat([torch.zeros(1), speeds.cumsum(0)])[:, None, None]
    edges = adaptive_edges(trajectory, 2)
    assert edges.path == (0, 13, 40)
    assert edges == (1.0, 1 - 13 / 40, 0.0)


def test_edges_survive_copies_and_pickles() -> None:
    """Path and cost stay with the edges."""
    edges = adaptive_edges(walk(6), 3)
    for other in (copy.deepcopy(edges), pickle.loads(pickle.dumps(edges))):
        assert other == edges
        assert (other.path, other.cost) == (edges.path, edges.cost)


@pytest.mark.parametrize(("segments", "gap"), [(9, 0.01), (3, 0.5)])
def test_too_many_segments(segments: int, gap: float) -> None:
    """More segments than fit into the steps is one clear line."""
    with pytest.raises(UserError, match=r"do not fit .* 8 steps.*at most"):
        adaptive_edges(walk(8), segments, minimum_gap=gap)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("step", [0, 4])
def test_a_trajectory_that_is_not_finite(step: int, value: float) -> None:
    """One bad state is an error that says which."""
    trajectory = walk(8)
    trajectory[step, 1, 0, 0] = value
    with pytest.raises(UserError, match=rf"not finite at step {step} \(1 of 9 states"):
        adaptive_edges(trajectory, 2)


def test_misuse() -> None:
    """Arguments that make no sense are a ValueError."""
    with pytest.raises(ValueError, match="at least 1"):
        adaptive_edges(walk(8), 0)
    with pytest.raises(ValueError, match="minimum gap"):
        adaptive_edges(walk(8), 2, minimum_gap=-0.1)
    for shape in [(1, 2, 3), (5,), (5, 0, 3)]:
        with pytest.raises(ValueError, match="expected"):
            segment_costs(torch.zeros(shape))
