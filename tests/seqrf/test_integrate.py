"""Sampling: golden numbers, time factor, heads, NFE, trajectories, mistakes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fewstep.errors import UserError
from fewstep.seqrf import NCSNpp
from fewstep.seqrf.integration import Integration, integrate
from fewstep.seqrf.segments import Segments, to_label, to_tau
from fewstep.seqrf.straightness import gaps, sequential_gaps, weighted_sum

FIXED = [
    "seqrf_euler_k1_N4",
    "seqrf_euler_k3_N7",
    "seqrf_euler_church_k2_N6",
    "seqrf_euler_adaptive_k3_N6",
    "seqrf_heunref_k2_N4",
    "rf_euler_N1",
    "rf_euler_N5",
    "rf_euler_church_N4",
]
ADAPTIVE = ["seqrf_rk45_k1_tol1e-4", "seqrf_rk45_k3_tol1e-3", "rf_rk45_tol1e-5"]
NORMS = ["sample", "batch"]


def _net(case: dict[str, Any]) -> NCSNpp:
    net = NCSNpp.from_flat_config(case["config"])
    net.load_state_dict(case["state_dict"])
    return net.eval()


def _farthest(result: Integration, samples: Tensor) -> float:
    return float((result.samples - samples).abs().max() / samples.abs().max())


def _label_to_t(label: Tensor) -> Tensor:
    return 1 - (label.double() / 999 - 0.001) / 0.999


def _noise(batch: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, 2, 2, generator=torch.Generator().manual_seed(seed))


class Straight:
    """A student of reflow: in each segment, a constant velocity (its own by head)."""

    def __init__(self, k: int, heads: int | None = None) -> None:
        if heads is not None:
            self.segments = heads
        self.speeds = torch.arange(1.0, k + 1)
        self.seen: list[tuple[int, float]] = []
        self.images = 0

    def __call__(self, x: Tensor, label: Tensor, index: int) -> Tensor:
        assert x.dtype == label.dtype == torch.float32
        assert isinstance(index, int) and not torch.is_grad_enabled()
        assert label.shape == (len(x),) and label.min() > 0.998 and label.max() < 999.1
        self.seen.append((index, float(label[0])))
        self.images += len(x)
        return torch.ones_like(x) * self.speeds[index]


def _growing(x: Tensor, label: Tensor, index: int) -> Tensor:
    """dx/d(1 - t) = x (1 + cos 6 s) with s = 1 - t: a curve with a closed form."""
    s = 1 - _label_to_t(label)
    return x * (1 + torch.cos(6 * s)).float()[:, None, None, None]


def _grown(noise: Tensor, t: float) -> Tensor:
    s = 1 - t
    return noise * math.exp(s + math.sin(6 * s) / 6)


# Golden numbers.


@pytest.mark.parametrize("name", FIXED)
def test_fixed_steps_reproduce_the_released_samplers(
    golden_seqrf: Any, name: str
) -> None:
    """Samples, NFE and straightness of SeqRF's and RectifiedFlow's fixed steps."""
    case = golden_seqrf(name)
    config, index = case["config"], case["config"].get("adaptive_index")
    result = integrate(
        _net(case),
        case["noise"],
        solver="heun_released" if "heun" in name else "euler",
        steps=config["n_steps"],
        segments=config["training.reflow_t"],
        edges=[1 - i / index[-1] for i in index] if index else None,
        time_factor="exact" if name.startswith("rf_") else "released",
        return_trajectory=True,
    )
    assert _farthest(result, case["samples"]) < 5e-5
    assert result.nfe == case["nfe"] == result.calls
    if "straightness" in case:
        for mine, theirs in (
            (result.straightness, case["straightness"]),
            (result.seq_straightness, case["seq_straightness"]),
        ):
            assert mine == pytest.approx(theirs, rel=1e-4)
        assert result.times is not None
        assert result.times.tolist() == pytest.approx(config["time_grid"], abs=1e-6)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_batch_norm_reproduces_the_released_rk45(golden_seqrf: Any, name: str) -> None:
    """NFE of every segment is exact; samples, accepted times and S are met."""
    case = golden_seqrf(name)
    config = case["config"]
    result = integrate(
        _net(case),
        case["noise"],
        solver="rk45",
        tol=config.get("rtol") or config["tol"],
        segments=config["training.reflow_t"],
        time_factor="released",
        error_norm="batch",
        return_trajectory=True,
    )
    assert result.nfe == result.calls == case["nfe"]
    assert result.nfe_per_sample.tolist() == [case["nfe"]] * len(case["noise"])
    assert _farthest(result, case["samples"]) < 2e-4
    if "segment_ends" in case:
        assert result.nfe_by_segment == tuple(config["nfe_by_segment"])
        # Rounding in the network moves a step of k1 by 0.4 %, and S with it.
        loose = 1e-3 if "k1" in name else 1e-5
        assert result.straightness == pytest.approx(case["straightness"], rel=loose)
        assert result.times is not None and result.trajectory is not None
        times = [config["spans"][0][0]]
        for part in config["t_by_segment"]:
            times += part[1:]
        mine = to_tau(result.times)
        assert mine.tolist() == pytest.approx(times, abs=3e-3)
        for (_, end), state in zip(config["spans"], case["segment_ends"], strict=True):
            place = int((mine - end).abs().argmin())
            bound = 2e-4 * state.abs().max()
            assert (result.trajectory[place] - state).abs().max() < bound


@pytest.mark.parametrize("name", ADAPTIVE)
def test_own_steps_reach_the_same_samples_with_fewer_calls(
    golden_seqrf: Any, name: str
) -> None:
    """Per-sample control stays within the tolerance of a precise solution."""
    case = golden_seqrf(name)
    config, net = case["config"], _net(case)
    common = {"segments": config["training.reflow_t"], "time_factor": "released"}
    tol = config.get("rtol") or config["tol"]
    mine = integrate(net, case["noise"], tol=tol, **common)
    precise = integrate(net, case["noise"], tol=1e-7, error_norm="batch", **common)
    error = (mine.samples - precise.samples).square().mean().sqrt()
    assert float(error) < 20 * tol
    assert mine.calls < case["nfe"] and mine.nfe <= mine.calls


# The two time factors.


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("solver", ["euler", "heun", "heun_released", "rk45"])
def test_exact_arrives_and_released_stops_short(solver: Any, k: int) -> None:
    """A straight student is inverted exactly; 0.999 of the way as released."""
    noise, way = _noise(), sum(range(1, k + 1)) / k
    budget: dict[str, Any] = {"tol": 1e-4} if solver == "rk45" else {"steps": 2 * k}
    for factor, share in (("exact", 1.0), ("released", 0.999)):
        result = integrate(
            Straight(k, k), noise, solver=solver, segments=k, time_factor=factor,
            **budget,
        )  # fmt: skip
        moved = result.samples - noise
        assert torch.allclose(moved, torch.full_like(moved, share * way), atol=2e-6)
        assert result.seq_straightness == pytest.approx(0, abs=2e-5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("k", [1, 4])
def test_rk45_follows_a_closed_form(norm: Any, k: int) -> None:
    """A curved path is met to the tolerance at the end and at the times asked for."""
    noise = _noise()
    at = [0.0, 0.9, 1.0, 0.5, 0.33]
    result = integrate(_growing, noise, tol=1e-6, segments=k, error_norm=norm, at=at)
    assert (result.samples - _grown(noise, 0.0)).abs().max() < 1e-4
    assert result.times is not None and result.trajectory is not None
    assert result.times.tolist() == sorted(at, reverse=True)
    assert result.trajectory.dtype == result.samples.dtype == torch.float32
    for t, state in zip(result.times.tolist(), result.trajectory, strict=True):
        assert (state - _grown(noise, t)).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("solver", "order"), [("euler", 1), ("heun", 2), ("heun_released", 1)]
)
def test_fixed_steps_converge_with_their_order(solver: Any, order: int) -> None:
    """The error of a whole sampler with segments falls as the solver's order says."""
    noise = torch.ones(1, 1, 1, 1)
    errors = [
        float((integrate(_growing, noise, solver=solver, steps=n, segments=2).samples
               - _grown(noise, 0.0)).abs())
        for n in (48, 96)
    ]  # fmt: skip
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.3)


# Heads and labels.


@pytest.mark.parametrize("solver", ["euler", "heun", "rk45"])
def test_each_segment_has_its_head_and_its_labels(solver: Any) -> None:
    """Head i sees labels between the ends of segment i; a lone head sees all."""
    segments = Segments((1.0, 0.6, 0.1, 0.0))
    budget: dict[str, Any] = {"tol": 1e-4} if solver == "rk45" else {"steps": 7}
    for heads in (None, 3, 1):
        net = Straight(3, heads)
        integrate(net, _noise(), solver=solver, edges=segments.edges, **budget)
        indices = [index for index, _ in net.seen]
        assert indices == sorted(indices)
        assert set(indices) == ({0} if heads == 1 else {0, 1, 2})
        for index, label in net.seen if heads != 1 else []:
            low, high = to_label(segments.start(index)), to_label(segments.end(index))
            assert low - 1e-3 <= label <= high + 1e-3
        if solver == "euler":
            grid = [1, 1 - 0.4 / 3, 1 - 0.8 / 3, 0.6, 0.35, 0.1, 0.05]
            labels = [label for _, label in net.seen]
            assert labels == pytest.approx([to_label(t) for t in grid], rel=1e-5)


def test_a_network_with_other_heads_is_refused() -> None:
    """Three heads cannot serve two segments: one line that names both numbers."""
    with pytest.raises(UserError, match="3 heads, the sampler 2 segments; expected"):
        integrate(Straight(3, 3), _noise(), solver="euler", steps=4, segments=2)


# Counting.


@pytest.mark.parametrize(
    ("solver", "per_step"), [("euler", 1), ("heun", 2), ("heun_released", 2)]
)
def test_fixed_steps_count_their_calls(solver: Any, per_step: int) -> None:
    """NFE in total, by segment and by sample are what a counting network saw."""
    net = Straight(3, 3)
    result = integrate(net, _noise(5), solver=solver, steps=7, segments=3)
    assert result.nfe == result.calls == len(net.seen) == 7 * per_step
    assert result.nfe_by_segment == tuple(per_step * n for n in (3, 2, 2))
    assert result.nfe_per_sample.tolist() == [7 * per_step] * 5


@pytest.mark.parametrize("norm", NORMS)
def test_rk45_counts_its_calls(norm: Any) -> None:
    """Calls and images are what the network saw; the mean NFE is images over batch."""
    calls, images = 0, 0

    def net(x: Tensor, label: Tensor, index: int) -> Tensor:
        nonlocal calls, images
        calls, images = calls + 1, images + len(x)
        return _growing(torch.sin(x), label, index)

    noise = _noise(5) * torch.tensor([0.01, 0.1, 1, 10, 100]).reshape(5, 1, 1, 1)
    result = integrate(net, noise, tol=1e-5, segments=2, error_norm=norm)
    assert result.calls == calls and int(result.nfe_per_sample.sum()) == images
    assert result.nfe == pytest.approx(images / 5)
    assert sum(result.nfe_by_segment) == pytest.approx(result.nfe)
    assert (result.nfe < result.calls) == (norm == "sample")


def test_later_segments_begin_with_the_last_step() -> None:
    """Own steps spend 13 calls on a first straight segment and 7 on each later one."""
    result = integrate(Straight(4, 4), _noise(), tol=1e-4, segments=4)
    assert result.nfe_by_segment == (13, 7, 7, 7)


@given(chosen=st.lists(st.integers(0, 5), min_size=1, max_size=5, unique=True))
@settings(max_examples=10, deadline=None)
def test_a_sample_does_not_depend_on_its_batch(chosen: list[int]) -> None:
    """Samples, NFE and straightness of an image are those it has in another batch."""

    def net(x: Tensor, label: Tensor, index: int) -> Tensor:
        return _growing(torch.sin(2 * x), label, index)

    noise = _noise(6) * torch.tensor([0.01, 0.1, 1, 2, 5, 20]).reshape(6, 1, 1, 1)
    whole = integrate(net, noise, tol=1e-4, segments=3)
    part = integrate(net, noise[chosen], tol=1e-4, segments=3)
    assert torch.equal(whole.nfe_per_sample[chosen], part.nfe_per_sample)
    assert torch.allclose(whole.samples[chosen], part.samples, rtol=1e-5, atol=1e-6)
    for name in ("straightness_per_sample", "seq_straightness_per_sample"):
        expected = getattr(whole, name)[chosen]
        assert torch.allclose(getattr(part, name), expected, rtol=1e-3, atol=1e-6)


# Straightness and trajectories.


def test_straightness_of_bent_segments() -> None:
    """Speeds 1 and 2 in two halves: S = 12 x 0.25 an image of 12 values, S_seq = 0."""
    for solver, budget in (("euler", {"steps": 8}), ("rk45", {"tol": 1e-5})):
        result = integrate(
            Straight(2, 2), _noise(), solver=solver, segments=2, **budget
        )
        assert result.straightness == pytest.approx(12 * 0.25, rel=1e-5)
        assert result.seq_straightness == pytest.approx(0, abs=1e-5)
        assert result.straightness_per_sample.shape == (4,)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("factor", ["exact", "released"])
def test_straightness_of_rk45_is_that_of_its_points(norm: Any, factor: Any) -> None:
    """With rejected steps too: S and S_seq are those of the points that were kept."""

    def net(x: Tensor, label: Tensor, index: int) -> Tensor:
        return _growing(torch.sin(3 * x), label, index)

    segments, noise = Segments.uniform(2), 5 * _noise(1)
    result = integrate(
        net,
        noise,
        tol=1e-4,
        segments=segments,
        error_norm=norm,
        time_factor=factor,
        return_trajectory=True,
    )
    states, times = result.trajectory, result.times
    assert states is not None and times is not None
    rejected = (result.nfe - 2 * (2 if norm == "batch" else 1)) / 6 > len(times) - 1
    assert rejected
    times = times.flatten()
    unit = to_tau(times) if factor == "released" else times
    plain = float(weighted_sum(gaps(states, unit), unit))
    sequential = float(weighted_sum(sequential_gaps(states, times, segments), times))
    assert result.straightness == pytest.approx(plain, rel=1e-5)
    # In tau the slopes are those in t over 0.999, and so is the sum.
    shorter = 0.999 if factor == "released" else 1.0
    assert result.seq_straightness == pytest.approx(sequential / shorter, rel=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_kept_points_run_from_noise_to_sample(norm: Any) -> None:
    """Times descend from 1 to 0 through the edges; states lie on the path."""
    noise = _noise() * torch.tensor([0.1, 1, 10, 50]).reshape(4, 1, 1, 1)
    result = integrate(
        _growing, noise, tol=1e-6, segments=3, error_norm=norm, return_trajectory=True
    )
    states, times = result.trajectory, result.times
    assert states is not None and times is not None
    assert times.shape == (states.shape[:2] if norm == "sample" else states.shape[:1])
    times = times if norm == "sample" else times[:, None].expand(-1, 4)
    assert (times[0] == 1).all() and times[-1].abs().max() < 1e-12
    assert (times.diff(dim=0) <= 0).all()
    for edge in (1 / 3, 2 / 3):
        assert ((times - edge).abs().amin(0) < 1e-9).all()
    assert torch.equal(states[0], noise) and torch.equal(states[-1], result.samples)
    for i in range(4):
        for time, state in zip(times[:, i].tolist(), states[:, i], strict=True):
            exact = _grown(noise[i], time)
            assert (state - exact).abs().max() < 1e-4 * exact.abs().max()


def test_fixed_steps_keep_their_points() -> None:
    """An Euler trajectory has steps + 1 points from noise to sample, times shared."""
    noise = _noise()
    result = integrate(
        _growing, noise, solver="euler", steps=6, segments=2, return_trajectory=True
    )
    assert result.trajectory is not None and result.times is not None
    assert result.trajectory.shape == (7, *noise.shape)
    assert result.times.tolist() == pytest.approx([1 - i / 6 for i in range(7)])
    assert torch.equal(result.trajectory[0], noise)
    assert torch.equal(result.trajectory[-1], result.samples)
    plain = integrate(_growing, noise, solver="euler", steps=6, segments=2)
    assert plain.trajectory is None and torch.equal(plain.samples, result.samples)


# Mistakes.


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"solver": "euler"}, "expected steps and no tol"),
        ({"solver": "heun", "steps": 4, "tol": 1e-3}, "expected steps and no tol"),
        ({"solver": "rk45"}, "expected tol and no steps"),
        ({"solver": "rk45", "tol": 1e-3, "steps": 4}, "expected tol and no steps"),
        ({"solver": "rk45", "tol": -1.0}, "tolerance -1.0; expected a positive"),
        ({"solver": "rk45", "tol": math.nan}, "expected a positive"),
        ({"solver": "midpoint", "steps": 4}, "no solver is called 'midpoint'"),
        ({"solver": "euler", "steps": 2, "segments": 3}, "2 steps for 3 segments"),
        ({"solver": "euler", "steps": 2, "at": [0.5]}, "expected rk45"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: dict[str, Any], what: str
) -> None:
    """Each contradiction is one line that says what was expected."""
    with pytest.raises(UserError, match=what) as error:
        integrate(_growing, _noise(), **options)
    assert "\n" not in str(error.value)


def test_times_outside_are_refused() -> None:
    """A state at a time outside of [0, 1] does not exist."""
    with pytest.raises(ValueError, match=r"t = 1\.5"):
        integrate(_growing, _noise(), tol=1e-3, at=[1.5])


@pytest.mark.parametrize("factor", ["exact", "released"])
def test_a_network_that_breaks_is_named_with_its_time(factor: Any) -> None:
    """A NaN from the network below t = 0.4 ends RK45 in one line with that time."""

    def net(x: Tensor, label: Tensor, index: int) -> Tensor:
        broken = _label_to_t(label) < 0.4
        return torch.where(broken[:, None, None, None], torch.nan, x)

    with pytest.raises(UserError, match=r"not finite at t = 0\.[45]\d* with rtol 0.01"):
        integrate(net, _noise(), tol=1e-2, segments=2, time_factor=factor)


def test_gradients_are_not_kept() -> None:
    """Sampling runs without gradients even if the network's weights want them."""
    weight = torch.ones((), requires_grad=True)
    result = integrate(lambda x, label, index: x * weight, _noise(), tol=1e-3)
    assert not result.samples.requires_grad
