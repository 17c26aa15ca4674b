"""Straightness: stored paths, the meter, golden numbers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fewstep.seqrf.segments import Segments, steps_by_segment, time_grid
from fewstep.seqrf.straightness import (
    StraightnessMeter,
    gaps,
    sequential_gaps,
    weighted_sum,
)


def _path(segments: Segments, steps: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    grid, _ = time_grid(segments, steps)
    return torch.randn(steps + 1, 2, 3, 2, 2, generator=generator), grid


def _by_hand(path: Tensor, times: Tensor, corners: list[int]) -> list[float]:
    """S_seq by the definition, in plain loops; S where [0, M] are the corners."""
    values = []
    points, t = path.double().flatten(2), times.double().tolist()
    for b in range(points.shape[1]):
        total = 0.0
        for first, last in pairwise(corners):
            for m in range(first, last):
                h = t[m] - t[m + 1]
                for c in range(points.shape[2]):
                    chord = points[last, b, c] - points[first, b, c]
                    slope = (points[m + 1, b, c] - points[m, b, c]) / h
                    total += h * float(chord / (t[first] - t[last]) - slope) ** 2
        values.append(total)
    return values


def _corners(segments: Segments, steps: int) -> list[int]:
    corners = [0]
    for count in steps_by_segment(segments, steps):
        corners.append(corners[-1] + count)
    return corners


def test_both_follow_the_definition() -> None:
    """S and S_seq of stored paths equal the definition in plain loops."""
    segments = Segments((1.0, 0.7, 0.2, 0.0))
    path, times = _path(segments, 8, 0)
    plain = weighted_sum(gaps(path, times), times)
    sequential = weighted_sum(sequential_gaps(path, times, segments), times)
    assert plain.tolist() == pytest.approx(_by_hand(path, times, [0, 8]), rel=1e-6)
    expected = _by_hand(path, times, _corners(segments, 8))
    assert sequential.tolist() == pytest.approx(expected, rel=1e-6)


@given(k=st.integers(1, 5), extra=st.integers(0, 8), seed=st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_the_meter_needs_no_path(k: int, extra: int, seed: int) -> None:
    """The running sums give what the formulas on the stored path give."""
    segments = Segments.uniform(k)
    path, times = _path(segments, k + extra, seed)
    meter = StraightnessMeter(path[0])
    ends = _corners(segments, k + extra)[1:]
    for m in range(k + extra):
        meter.add(path[m], path[m + 1], float(times[m] - times[m + 1]))
        if m + 1 in ends:
            i = ends.index(m + 1)
            meter.leave(path[m + 1], segments.start(i) - segments.end(i))
    plain, sequential = meter.result()
    # Both are differences of energies, whose rounding (float32 times) they keep.
    steps = path.double().diff(dim=0).flatten(2).square().sum(2)
    energy = (steps / times.double().diff().abs()[:, None]).sum(0)
    rounding = 1e-6 * float(energy.max())
    whole = weighted_sum(gaps(path, times), times)
    assert torch.allclose(plain, whole, rtol=1e-5, atol=rounding)
    stored = weighted_sum(sequential_gaps(path, times, segments), times)
    assert torch.allclose(sequential, stored, rtol=1e-4, atol=rounding)


def test_the_meter_counts_only_steps_that_were_taken() -> None:
    """Rejected steps, even with NaN, and samples not in work change nothing."""
    start = torch.zeros(3, 1, 1, 1)
    meter = StraightnessMeter(start)
    half = torch.full((2, 1, 1, 1), 0.5)
    meter.add(
        start[:2],
        torch.tensor([3.0, float("nan")]).reshape(2, 1, 1, 1),
        torch.tensor([1.0, 0.5]),
        rows=torch.tensor([0, 2]),
        counts=torch.tensor([True, False]),
    )
    meter.add(start[:2], half, 0.5, rows=torch.tensor([1, 2]))
    meter.add(half, half, 0.5, rows=torch.tensor([1, 2]))
    meter.leave(torch.tensor([3.0, 0.5, 0.5]).reshape(3, 1, 1, 1), 1.0)
    plain, sequential = meter.result()
    assert plain.tolist() == sequential.tolist() == [0.0, 0.25, 0.25]


def test_a_straight_path_has_none() -> None:
    """Points on a line give zero; a bend at an edge counts in S only."""
    segments = Segments.uniform(2)
    times, _ = time_grid(segments, 6)
    line = times.reshape(-1, 1, 1, 1, 1) * torch.ones(7, 1, 1, 2, 2)
    assert gaps(line, times).max() < 1e-10
    bent = line.clone()
    bent[4:] = bent[3] - 2 * (line[3] - line[4:])
    assert sequential_gaps(bent, times, segments).max() < 1e-10
    assert weighted_sum(gaps(bent, times), times)[0] == pytest.approx(1.0, rel=1e-5)


def test_a_path_must_visit_the_edges() -> None:
    """S_seq of a path that jumps over an edge is refused."""
    path, times = _path(Segments.uniform(1), 3, 0)
    with pytest.raises(ValueError, match=r"no point .* edge 0.5"):
        sequential_gaps(path, times, Segments.uniform(2))


@pytest.mark.parametrize(
    "name",
    ["euler_k1_N4", "euler_k3_N7", "euler_adaptive_k3_N6", "heunref_k2_N4"],
)
def test_gaps_of_each_step_are_the_released_ones(golden_seqrf: Any, name: str) -> None:
    """The released brackets by step are met on our stored trajectory."""
    from fewstep.seqrf import NCSNpp
    from fewstep.seqrf.integration import integrate

    case = golden_seqrf(f"seqrf_{name}")
    config = case["config"]
    net = NCSNpp.from_flat_config(config)
    net.load_state_dict(case["state_dict"])
    index = config.get("adaptive_index")
    segments = Segments.of(
        config["reflow_t"], [1 - i / index[-1] for i in index] if index else None
    )
    result = integrate(
        net.eval(),
        case["noise"],
        solver="heun_released" if "heun" in name else "euler",
        steps=config["n_steps"],
        segments=segments,
        time_factor="released",
        return_trajectory=True,
    )
    assert result.trajectory is not None and result.times is not None
    by_step = gaps(result.trajectory, result.times).mean(1)
    sequential = sequential_gaps(result.trajectory, result.times, segments).mean(1)
    expected = case["straightness_by_t"].double()
    assert torch.allclose(by_step, expected, rtol=1e-4)
    expected = case["seq_straightness_by_t"].double()
    assert torch.allclose(sequential, expected, rtol=1e-4, atol=1e-5)
