"""Time segments: edges, indices, grids."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.errors import UserError
from fewstep.seqrf.segments import (
    Segments,
    steps_by_segment,
    time_grid,
    to_label,
    to_tau,
)

PLACES = range(8)


def _segments(case: dict[str, Any]) -> Segments:
    index = case["adaptive_index"]
    if not index:
        return Segments.uniform(case["reflow_t"])
    return Segments(tuple(1 - i / index[-1] for i in index))


@pytest.mark.parametrize("place", PLACES)
def test_grids_are_the_released_ones(golden_seqrf: Any, place: int) -> None:
    """Edges, steps, float32 grid and step segments of every golden case are met."""
    case = golden_seqrf("time_grids")["cases"][place]
    segments = _segments(case)
    grid, index = time_grid(segments, case["n_steps"])
    assert segments.edges == pytest.approx(case["edges"], abs=1e-12)
    assert (
        list(steps_by_segment(segments, case["n_steps"])) == case["steps_per_segment"]
    )
    assert grid.dtype == torch.float32 and index.dtype == torch.int64
    assert torch.allclose(grid, case["time_grid"], rtol=0, atol=1e-6)
    assert torch.equal(index, case["step_segment"])


@pytest.mark.parametrize("place", PLACES)
def test_times_find_the_released_segment(golden_seqrf: Any, place: int) -> None:
    """Every golden probe that is not on an edge gets the released index."""
    case = golden_seqrf("time_grids")["cases"][place]
    probe, edges = case["probe_t"], torch.tensor(case["edges"])
    inside = ((probe[:, None] - edges).abs() > 1e-6).all(1)
    index = _segments(case).index(probe)
    assert inside.sum() > 30
    assert torch.equal(index[inside], case["probe_segment"][inside])


def test_labels_are_the_released_ones(golden_seqrf: Any) -> None:
    """The network's time input equals the golden one, for tensors and for floats."""
    case = golden_seqrf("time_grids")
    assert torch.allclose(to_label(case["label_t"]), case["label"], rtol=1e-6)
    for t, label in zip(case["label_t"].tolist(), case["label"].tolist(), strict=True):
        assert to_label(t) == pytest.approx(label, rel=1e-6)
    assert to_tau(1.0) == pytest.approx(0.001) and to_tau(0.0) == pytest.approx(1.0)


@pytest.mark.parametrize("edges", [(1, 0.75, 0.5, 0.25, 0), (1, 0.5, 0.25, 0)])
def test_an_edge_belongs_to_the_data_side(edges: tuple[float, ...]) -> None:
    """A time on an inner edge is in the later segment; t = 0 is in the last one."""
    segments = Segments(edges)
    expected = [*range(segments.k), segments.k - 1]
    assert segments.index(torch.tensor(edges)).tolist() == expected


@given(
    cuts=st.lists(st.integers(1, 499), max_size=11, unique=True),
    k=st.integers(1, 16),
)
@settings(max_examples=40, deadline=None)
def test_pairs_find_their_segment_by_the_middle(cuts: list[int], k: int) -> None:
    """The midpoint of a segment, of any edges in float32, gives that segment."""
    edges = (1.0, *(cut / 500 for cut in sorted(cuts, reverse=True)), 0.0)
    for segments in (Segments(edges), Segments.uniform(k)):
        sides = torch.tensor(segments.edges)
        index = segments.midpoint_index(sides[1:], sides[:-1])
        assert index.tolist() == list(range(segments.k))


@given(k=st.integers(1, 12), extra=st.integers(0, 40))
@settings(max_examples=40, deadline=None)
def test_a_grid_visits_every_edge(k: int, extra: int) -> None:
    """A grid has its number of steps, descends, and stops at all edges."""
    segments = Segments.uniform(k)
    grid, index = time_grid(segments, k + extra)
    counts = steps_by_segment(segments, k + extra)
    assert len(grid) == k + extra + 1 and len(index) == k + extra == sum(counts)
    assert (grid.diff() < 0).all() and max(counts) - min(counts) <= 1
    place = 0
    for i, count in enumerate(counts):
        assert float(grid[place]) == pytest.approx(segments.start(i), abs=1e-7)
        place += count
        assert float(grid[place]) == pytest.approx(segments.end(i), abs=1e-7)


@pytest.mark.parametrize(
    ("edges", "what"),
    [
        ((1.0,), "at least two"),
        ((1.0, 0.5, 0.5, 0.0), "strictly descending"),
        ((0.0, 0.5, 1.0), "strictly descending"),
        ((1.0, float("nan"), 0.0), "strictly descending"),
        ((0.9, 0.5, 0.0), "the first 1"),
        ((1.0, 0.5, 0.1), "the last 0"),
    ],
)
def test_other_edges_are_refused(edges: tuple[float, ...], what: str) -> None:
    """Edges that do not descend from 1 to 0 are an error that says so."""
    with pytest.raises(ValueError, match=what):
        Segments(edges)


def test_segments_come_from_a_number_or_edges() -> None:
    """`Segments.of` takes numbers, lists, tensors and segments, not contradictions."""
    three = Segments.of(3)
    assert three == Segments.uniform(3) and Segments.of(three) is three
    assert Segments.of(1, [1, 0.25, 0]).edges == (1.0, 0.25, 0.0)
    stored = torch.tensor(three.edges)
    assert Segments.of(3, stored).same(three) and Segments.of(3, stored).is_uniform
    assert Segments.of(three, stored) is three
    with pytest.raises(ValueError, match="make 2"):
        Segments.of(3, [1, 0.25, 0])
    with pytest.raises(ValueError, match="two different"):
        Segments.of(three, [1, 0.25, 0])
    with pytest.raises(ValueError, match="at least 1"):
        Segments.of(0)


def test_fewer_steps_than_segments_are_refused() -> None:
    """A sampler with fewer steps than segments is a user's mistake, in one line."""
    with pytest.raises(UserError, match="3 steps for 4 segments; expected at least 4"):
        time_grid(Segments.uniform(4), 3)
