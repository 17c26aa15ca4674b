"""Solvers: closed forms, orders, other programs as oracles, errors, accounting."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fewstep.errors import UserError
from fewstep.seqrf import dormand_prince as pair
from fewstep.seqrf import ode
from fewstep.seqrf.fixed_steps import FIXED_STEPS
from fewstep.seqrf.ode import Field, Solution, rk45
from fewstep.seqrf.watchers import Step

NORMS = ["sample", "batch"]


def _mixed(seed: int, width: int = 3) -> Callable[[Tensor, Tensor], Tensor]:
    """A smooth field without closed form: tanh(A y) cos(3 t) of every sample."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return lambda t, y: (
        torch.tanh(y @ matrix.T.to(y.dtype)) * torch.cos(3 * t).to(y)[:, None]
    )


def _states(batch: int, width: int = 3, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, width, generator=generator, dtype=torch.float64)


class Counted:
    """A field that counts its calls and the samples in them."""

    def __init__(self, slope: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.slope, self.calls, self.rows = slope, 0, []

    def __call__(self, t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        assert t.dtype == torch.float64 and len(t) == len(y) == len(rows)
        self.calls += 1
        self.rows += rows.tolist()
        return self.slope(t, y)


def _solve(
    slope: Callable[[Tensor, Tensor], Tensor], *args: Any, tol: float, **options: Any
) -> Solution:
    return rk45(lambda t, y, _: slope(t, y), *args, rtol=tol, atol=tol, **options)


def _harmonic(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[:, 1], -y[:, 0]], 1)


def _rotated(y: Tensor, angle: float | Tensor) -> Tensor:
    angle = torch.as_tensor(angle, dtype=y.dtype)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack(
        [y[:, 0] * cos + y[:, 1] * sin, y[:, 1] * cos - y[:, 0] * sin], 1
    )


# Order of convergence: y' = y cos t has the solution y0 exp(sin t - sin t0).


def _order(error: Callable[[int], float], steps: int) -> float:
    return math.log2(error(steps) / error(2 * steps))


@pytest.mark.parametrize(
    ("name", "order"), [("euler", 1), ("heun", 2), ("heun_released", 1)]
)
@pytest.mark.parametrize(("start", "end"), [(0.0, 2.0), (1.5, -1.0)])
def test_fixed_steps_have_their_order(
    name: str, order: int, start: float, end: float
) -> None:
    """Halving the step divides the error by 2 (Euler, released Heun) or 4 (Heun)."""
    method, calls = FIXED_STEPS[name]
    used = 0

    def slope(t: float, y: Tensor) -> Tensor:
        nonlocal used
        used += 1
        return y * math.cos(t)

    def error(steps: int) -> float:
        nonlocal used
        used = 0
        y = torch.ones(1, 1, dtype=torch.float64)
        times = np.linspace(start, end, steps + 1).tolist()
        for t, after in pairwise(times):
            y = method(slope, t, after, y)
        assert used == calls * steps
        return abs(float(y) - math.exp(math.sin(end) - math.sin(start)))

    assert _order(error, 128) == pytest.approx(order, abs=0.15)


def test_dormand_prince_has_order_five_and_its_interpolant_four() -> None:
    """With fixed steps: error of a step's end h^5 in total, inside the step h^4."""

    def evaluate(t: Tensor, y: Tensor) -> Tensor:
        return y * torch.cos(t)[:, None]

    def errors(steps: int) -> tuple[float, float]:
        y, t = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1).double()
        h, worst = torch.full_like(t, 2 / steps), 0.0
        for _ in range(steps):
            new, slopes = pair.step(evaluate, t, y, evaluate(t, y), h)
            for place in (0.2, 0.5, 0.7):
                theta = torch.full_like(t, place)
                inside = pair.interpolate(y, new, slopes, h, theta)
                exact = math.exp(math.sin(float(t) + place * float(h)))
                worst = max(worst, abs(float(inside) - exact))
            t, y = t + h, new
        return abs(float(y) - math.exp(math.sin(2))), worst

    assert _order(lambda n: errors(n)[0], 16) == pytest.approx(5, abs=0.4)
    assert _order(lambda n: errors(n)[1], 16) >= 3.8


def test_the_error_estimate_has_order_five() -> None:
    """The difference of both formulas shrinks by 32 when the step is halved."""
    y, t = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1).double()

    def error(steps: int) -> float:
        h = torch.full_like(t, 1 / steps)
        slope = y * torch.cos(t)
        new, slopes = pair.step(lambda t, y: y * torch.cos(t), t, y, slope, h)
        return float(pair.error_ratio(slopes, y, new, h, 0.0, 1.0))

    assert _order(error, 16) == pytest.approx(5, abs=0.3)


# Closed forms.


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("end", [3.0, -3.0])
@pytest.mark.parametrize("tol", [1e-4, 1e-8])
def test_harmonic_motion(norm: str, end: float, tol: float) -> None:
    """A rotation is followed to the tolerance in both directions of time."""
    y = _states(4, 2)
    solution = _solve(_harmonic, y, 0.0, end, tol=tol, error_norm=norm)
    assert (solution.y - _rotated(y, end)).abs().max() < 20 * tol


@pytest.mark.parametrize("norm", NORMS)
def test_linear_growth_and_decay(norm: str) -> None:
    """y' = a y with a of both signs is followed, with states of image shape."""
    rate = torch.tensor([-2.0, 0.0, 1.5]).double().reshape(3, 1, 1, 1)
    y = torch.ones(3, 2, 4, 4).double()
    solution = (
        _solve(
            lambda t, y: rate[: len(y)] * y, y, 0.0, 1.0, tol=1e-9, error_norm="batch"
        )
        if norm == "batch"
        else rk45(lambda t, y, rows: rate[rows] * y, y, 0.0, 1.0, rtol=1e-9, atol=1e-9)
    )
    assert (solution.y / rate.exp() - 1).abs().max() < 1e-7


def test_a_straight_line_is_exact_and_cheap() -> None:
    """A constant velocity: 13 calls with a third as first step, 7 with a whole one."""
    speed = _states(5)
    y = _states(5, seed=2)
    for first, nfe in ((None, 13), (10.0, 7), ("probe", None)):
        solution = rk45(
            lambda t, y, rows: speed[rows], y, 1.0, 0.25, rtol=1e-5, atol=1e-5,
            first_step=first,
        )  # fmt: skip
        assert (solution.y - (y - 0.75 * speed)).abs().max() < 1e-12
        assert nfe is None or solution.nfe == nfe
        assert (solution.rejected == 0).all()


def test_a_first_step_of_nothing_is_stretched() -> None:
    """A first step below the spacing of floats becomes the shortest that moves."""
    y = _states(2, 2)
    solution = _solve(_harmonic, y, 1.0, 2.0, tol=1e-6, first_step=1e-300)
    assert (solution.y - _rotated(y, 1.0)).abs().max() < 1e-5


def test_scipy_needs_32_calls_for_a_line_from_zero() -> None:
    """Batch norm pays for SciPy's careful first step: 2 + 6 x 5 calls, as the sheet."""
    zero = torch.zeros(1, 3)
    solution = _solve(
        lambda t, y: torch.ones_like(y), zero, 0.0, 1.0, tol=1e-4, error_norm="batch"
    )
    assert solution.nfe == 32 and (solution.y - 1).abs().max() < 1e-14


# Other programs.


@given(
    seed=st.integers(0, 9999),
    exponent=st.floats(-9, -1),
    start=st.floats(-1, 1),
    length=st.floats(0.1, 2),
    sign=st.sampled_from([1, -1]),
)
@settings(max_examples=25, deadline=None)
def test_batch_norm_is_scipy(
    seed: int, exponent: float, start: float, length: float, sign: int
) -> None:
    """NFE, accepted times, values and dense output equal those of SciPy's RK45."""
    slope, y, tol = _mixed(seed), _states(4, seed=seed), 10.0**exponent
    end = start + sign * length

    def flat(t: float, vector: np.ndarray) -> np.ndarray:
        state = torch.from_numpy(vector.copy()).reshape(y.shape)
        return (
            slope(torch.full((len(y),), t, dtype=torch.float64), state).numpy().ravel()
        )

    theirs = solve_ivp(
        flat, (start, end), y.numpy().ravel(), rtol=tol, atol=tol, dense_output=True
    )
    at = torch.linspace(start, end, 7, dtype=torch.float64)
    ours = _solve(
        slope, y, start, end, tol=tol, error_norm="batch", record=True, dense=at
    )
    assert ours.nfe == theirs.nfev == int(ours.nfe_per_sample[0])
    assert ours.nfe == 2 + 6 * int(ours.accepted[0] + ours.rejected[0])
    assert ours.times is not None and ours.dense is not None
    np.testing.assert_allclose(ours.times[:, 0], theirs.t, rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours.y.flatten(), theirs.y[:, -1], rtol=0, atol=1e-8)
    expected = theirs.sol(at.numpy()).T.reshape(7, *y.shape)
    np.testing.assert_allclose(ours.dense, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("speed", [0.0, 1e-9, 1e-3])
@pytest.mark.parametrize("size", [0.0, 1e-9, 1.0])
@pytest.mark.parametrize("length", [1e-7, 1.0])
def test_first_steps_are_those_of_scipy(
    speed: float, size: float, length: float
) -> None:
    """Still, slow and tiny states, and short intervals, begin as SciPy begins."""
    y = torch.full((2, 3), size, dtype=torch.float64)
    theirs = solve_ivp(
        lambda t, y: speed + 0 * y, (0.0, length), y.numpy().ravel(), rtol=1e-3,
        atol=1e-3,
    )  # fmt: skip
    ours = _solve(
        lambda t, y: speed + 0 * y, y, 0.0, length, tol=1e-3, error_norm="batch",
        record=True,
    )  # fmt: skip
    assert ours.nfe == theirs.nfev and ours.times is not None
    np.testing.assert_allclose(ours.times[:, 0], theirs.t, rtol=1e-9)


def test_batch_norm_computes_the_state_in_float64() -> None:
    """A float32 field gives the NFE of SciPy on the same float32 field."""
    slope, y = _mixed(3), _states(4).float()

    def flat(t: float, vector: np.ndarray) -> np.ndarray:
        state = torch.from_numpy(vector).float().reshape(y.shape)
        return slope(torch.full((4,), t), state).double().numpy().ravel()

    theirs = solve_ivp(flat, (0.0, 1.0), y.numpy().ravel(), rtol=1e-4, atol=1e-4)
    ours = _solve(
        lambda t, y: slope(t.float(), y.float()), y, 0.0, 1.0, tol=1e-4,
        error_norm="batch",
    )  # fmt: skip
    assert ours.y.dtype == torch.float64 and ours.nfe == theirs.nfev
    assert np.abs(ours.y.numpy().ravel() - theirs.y[:, -1]).max() < 1e-6


@pytest.mark.parametrize("norm", NORMS)
def test_values_agree_with_torchdiffeq(norm: str) -> None:
    """torchdiffeq's dopri5 at a small tolerance reaches the same states."""
    from torchdiffeq import odeint

    slope, y = _mixed(5), _states(6)
    times = torch.tensor([0.0, 1.5]).double()
    theirs = odeint(
        lambda t, y: slope(t.expand(len(y)), y), y, times, rtol=1e-9, atol=1e-9
    )[-1]
    ours = _solve(slope, y, 0.0, 1.5, tol=1e-9, error_norm=norm)
    assert (ours.y - theirs).abs().max() < 1e-7


def test_own_steps_agree_with_torchode() -> None:
    """torchode, with a step size for each sample too, gives the same values."""
    import torchode

    slope, y = _mixed(6), _states(6) * torch.tensor([0.1, 1, 1, 2, 3, 4])[:, None]
    at = torch.linspace(0, 1.5, 5, dtype=torch.float64)
    term = torchode.ODETerm(slope)
    adjoint = torchode.AutoDiffAdjoint(
        torchode.Dopri5(term=term),
        torchode.IntegralController(atol=1e-8, rtol=1e-8, term=term),
    )
    problem = torchode.InitialValueProblem(y0=y, t_eval=at.expand(6, -1))
    theirs = adjoint.solve(problem)
    ours = _solve(slope, y, 0.0, 1.5, tol=1e-8, dense=at)
    assert ours.dense is not None
    assert (ours.y - theirs.ys[:, -1]).abs().max() < 1e-6
    inside = (ours.dense.transpose(0, 1) - theirs.ys).abs().max()
    assert inside < 1e-5  # the interpolants are of lower order than the steps
    steps = ours.accepted + ours.rejected
    assert (steps - theirs.stats["n_steps"]).abs().max() <= 5


# Each sample on its own.


@given(
    seed=st.integers(0, 9999),
    chosen=st.lists(st.integers(0, 5), min_size=1, max_size=5, unique=True),
    exponent=st.floats(-8, -2),
)
@settings(max_examples=25, deadline=None)
def test_a_sample_does_not_depend_on_its_batch(
    seed: int, chosen: list[int], exponent: float
) -> None:
    """Values, NFE, steps and dense output of a sample are those it has elsewhere."""
    slope, tol = _mixed(seed), 10.0**exponent
    y = _states(6, seed=seed) * torch.tensor([0.01, 0.1, 1, 1, 3, 9])[:, None]
    at = torch.linspace(0, 1.5, 4, dtype=torch.float64)
    whole = _solve(slope, y, 0.0, 1.5, tol=tol, dense=at)
    part = _solve(slope, y[chosen], 0.0, 1.5, tol=tol, dense=at)
    assert torch.equal(whole.nfe_per_sample[chosen], part.nfe_per_sample)
    assert torch.equal(whole.accepted[chosen], part.accepted)
    assert torch.allclose(whole.y[chosen], part.y, rtol=1e-9, atol=1e-12)
    assert whole.dense is not None and part.dense is not None
    assert torch.allclose(whole.dense[:, chosen], part.dense, rtol=1e-9, atol=1e-12)


def test_calls_are_counted_and_finished_samples_leave() -> None:
    """NFE equals what a counting field saw: in calls, and in rows of each sample."""
    counted = Counted(_mixed(7))
    y = _states(6) * torch.tensor([0.01, 0.1, 1, 1, 3, 9])[:, None]
    solution = rk45(counted, y, 0.0, 3.0, rtol=1e-5, atol=1e-5)
    seen = torch.tensor(counted.rows).bincount(minlength=6)
    assert torch.equal(solution.nfe_per_sample, seen)
    assert len(set(seen.tolist())) > 1
    assert solution.nfe == counted.calls == int(seen.max())
    assert torch.equal(seen, 1 + 6 * (solution.accepted + solution.rejected))
    counted = Counted(_mixed(7))
    solution = rk45(counted, y, 0.0, 3.0, rtol=1e-5, atol=1e-5, error_norm="batch")
    assert solution.nfe == counted.calls
    assert solution.nfe_per_sample.tolist() == [counted.calls] * 6


class Scalars(TorchDispatchMode):
    """Counts the values that the host asks tensors for."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("norm", NORMS)
def test_the_host_is_an_attempt_ahead_of_the_answers(
    norm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One question an attempt, answered once the next is sent; more where one ends."""
    calls: list[None] = []
    answers: list[tuple[int, bool]] = []

    def field(t: Tensor, y: Tensor, _: Tensor) -> Tensor:
        calls.append(None)
        return _mixed(7)(t, y)

    def ask(flag: Tensor) -> Callable[[], bool]:
        before = len(calls)

        def answer() -> bool:
            answers.append((len(calls) - before, bool(flag)))
            return answers[-1][1]

        return answer

    monkeypatch.setattr(ode, "ask", ask)
    y = _states(6) * torch.tensor([0.01, 0.1, 1, 1, 3, 9])[:, None]
    with Scalars() as scalars:
        done = rk45(field, y, 0.0, 3.0, rtol=1e-5, atol=1e-5, error_norm=norm)
    attempts = int((done.accepted + done.rejected).max())
    ends = len(set(done.nfe_per_sample.tolist()))
    assert {sent for sent, _ in answers} == {6}
    assert len(answers) == attempts
    assert sum(value for _, value in answers) >= ends
    asked = sum(1 + value for _, value in answers)
    assert scalars.count - asked == 2  # before the first attempt


def test_every_sample_may_have_its_interval() -> None:
    """Intervals of any place, length and direction in one batch."""
    y = _states(3, 2)
    start, end = torch.tensor([0.0, 1.0, 5.0]), torch.tensor([2.0, 1.5, 3.0])
    at = torch.stack([start, (start + end) / 2, end], 1)
    solution = _solve(_harmonic, y, start, end, tol=1e-9, dense=at)
    assert solution.dense is not None
    for i, angle in enumerate((end - start).tolist()):
        for m, share in enumerate((0, 0.5, 1)):
            expected = _rotated(y[i : i + 1], share * angle)[0]
            assert (solution.dense[m, i] - expected).abs().max() < 1e-7
        assert (solution.y[i] - solution.dense[2, i]).abs().max() < 1e-9


def test_float32_states_stay_float32() -> None:
    """Own steps keep the dtype of the state whatever the field gives back."""
    y = _states(4, 2).float()
    solution = _solve(
        lambda t, y: _harmonic(t, y).bfloat16().double(), y, 0.0, 1.0, tol=1e-1
    )
    assert solution.y.dtype == torch.float32
    exact = _solve(_harmonic, y, 0.0, 1.0, tol=1e-5)
    assert (exact.y - _rotated(y, 1.0)).abs().max() < 1e-4


# Where the path is wanted.


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("end", [4.0, -4.0])
def test_dense_output_follows_the_closed_form(norm: str, end: float) -> None:
    """States at any times, in any order, both ends included, to the tolerance."""
    y = _states(3, 2)
    at = end * torch.tensor([0.5, 0.0, 1.0, 0.31, 0.999, 0.02]).double()
    solution = _solve(_harmonic, y, 0.0, end, tol=1e-8, error_norm=norm, dense=at)
    assert solution.dense is not None and solution.dense.shape == (6, 3, 2)
    for state, angle in zip(solution.dense, at, strict=True):
        assert (state - _rotated(y, angle)).abs().max() < 2e-6
    assert torch.equal(solution.dense[1], y)
    assert (solution.dense[2] - solution.y).abs().max() < 1e-12


@pytest.mark.parametrize("norm", NORMS)
def test_recorded_points_lie_on_the_path(norm: str) -> None:
    """Recorded times run from start to end; every state is where it should be."""
    y = _states(3, 2) * torch.tensor([0.01, 1.0, 50.0])[:, None]
    solution = _solve(_harmonic, y, 1.0, 4.0, tol=1e-7, error_norm=norm, record=True)
    times, states = solution.times, solution.states
    assert times is not None and states is not None
    assert (times[0] == 1).all() and (times[-1] == 4).all()
    assert (times.diff(dim=0) >= 0).all()
    moved = (times.diff(dim=0) > 0).sum(0)
    assert torch.equal(moved, solution.accepted)
    assert torch.equal(states[0], y) and torch.equal(states[-1], solution.y)
    for time, state in zip(times, states, strict=True):
        for i in range(3):
            exact = _rotated(y[i : i + 1], float(time[i]) - 1)[0]
            assert (state[i] - exact).abs().max() < 1e-5


@pytest.mark.parametrize("norm", NORMS)
def test_every_attempt_is_told(norm: str) -> None:
    """`on_step` sees the accepted and the rejected steps of each sample."""
    seen = torch.zeros(4, 2, dtype=torch.int64)

    def watch(step: Step) -> None:
        for row, good in zip(step.rows.tolist(), step.accepted.tolist(), strict=True):
            seen[row, int(not good)] += 1

    solution = _solve(
        _mixed(8), 5 * _states(4), 0.0, 4.0, tol=1e-6, error_norm=norm, on_step=watch
    )
    assert torch.equal(seen, torch.stack([solution.accepted, solution.rejected], 1))
    assert seen[:, 1].sum() > 0


# Errors.


def _bursting(t: Tensor, y: Tensor) -> Tensor:
    return y.square()


@pytest.mark.parametrize("norm", NORMS)
def test_no_progress_is_one_clear_line(norm: str) -> None:
    """A solution that blows up at t = 1 stops there and names the tolerance."""
    with pytest.raises(UserError) as error:
        _solve(_bursting, torch.ones(2, 3).double(), 0.0, 2.0, tol=1e-3,
               error_norm=norm)  # fmt: skip
    message = str(error.value)
    assert "the step size has fallen to nothing at t = " in message
    assert "rtol 0.001 and atol 0.001; raise the tolerance" in message
    assert "\n" not in message
    place = re.search(r"t = (\S+)", message)
    assert place is not None and float(place[1]) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("place", [0.0, 0.5])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_field_that_is_not_finite_is_refused(
    norm: str, place: float, value: float
) -> None:
    """NaN and infinite velocities are named with the time that was reached."""

    def slope(t: Tensor, y: Tensor) -> Tensor:
        return torch.where((t >= place)[:, None], value, -y)

    with pytest.raises(UserError, match=r"velocity is not finite at t = (0 |0\.[45])"):
        _solve(slope, _states(3), 0.0, 1.0, tol=1e-4, error_norm=norm)


@pytest.mark.parametrize("norm", NORMS)
def test_one_bad_sample_is_enough(norm: str) -> None:
    """A field that fails for one sample of many is an error, not a silent NaN."""
    field: Field = lambda t, y, rows: torch.where(  # noqa: E731
        ((rows == 2) & (t > 0.3))[:, None], torch.nan, -y
    )
    with pytest.raises(UserError, match="not finite"):
        rk45(field, _states(3), 0.0, 1.0, rtol=1e-4, atol=1e-4, error_norm=norm)


@pytest.mark.parametrize("norm", NORMS)
def test_too_many_steps_are_refused(norm: str) -> None:
    """A tolerance that needs more than `max_steps` attempts ends in one line."""
    with pytest.raises(UserError, match=r"5 steps and not at the end at s: 0\.\d+ "):
        _solve(
            _harmonic,
            _states(3, 2),
            0.0,
            9.0,
            tol=1e-9,
            error_norm=norm,
            max_steps=5,
            describe=lambda s: f"s: {s:.3f}",
        )


def test_intervals_and_times_are_checked() -> None:
    """Empty intervals, times outside and times of another batch are errors."""
    y = _states(3)
    with pytest.raises(ValueError, match="no length"):
        _solve(_mixed(0), y, 0.5, 0.5, tol=1e-3)
    with pytest.raises(ValueError, match="outside"):
        _solve(_mixed(0), y, 1.0, 0.5, tol=1e-3, dense=torch.tensor([0.4]))
    with pytest.raises(ValueError, match="3 samples"):
        _solve(_mixed(0), y, torch.zeros(2), 1.0, tol=1e-3)
    with pytest.raises(ValueError, match="1 samples"):
        _solve(_mixed(0), y, torch.zeros(3), 1.0, tol=1e-3, error_norm="batch")
