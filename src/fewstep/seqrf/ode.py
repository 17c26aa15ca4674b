"""The adaptive solver of ordinary differential equations, for batches on one device.

`rk45` is the Dormand-Prince 5(4) pair with a step size for each sample or for the whole
batch. It knows nothing of images, noise or segments: times are in the variable of the
field, and may run up or down. `fewstep.seqrf.fixed_steps` has the other solvers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NoReturn

import torch
from torch import Tensor

from fewstep.device.questions import ask
from fewstep.errors import UserError
from fewstep.seqrf import dormand_prince as pair
from fewstep.seqrf.watchers import Dense, OnStep, Record, Step

Field = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(t (n,) float64, y (n, ...), rows (n,) int64) to dy/dt (n, ...): the samples in work
and which of the batch they are. Any float dtype may come back."""

ErrorNorm = Literal["sample", "batch"]
"""`sample`: own steps, acceptance and NFE for each sample. `batch`: one step size by
the RMS error over the batch, as SciPy's RK45 on the batch flattened to a vector."""

FirstStep = float | Tensor | Literal["probe"] | None
"""Size of the first step: one for all or (B,), never longer than the interval; "probe"
spends an evaluation on finding it, as SciPy does. None: "probe" for `batch`, for
`sample` a third of the interval."""

FIRST_STEP = 1 / 3
"""Share of the interval that the first step of `sample` takes."""


@dataclass
class Solution:
    """What an adaptive solver gives.

    Attributes:
        y: final states (B, ...), in the solver's dtype.
        nfe: sequential evaluations of the field for the batch.
        nfe_per_sample: evaluations that each sample took part in, (B,) int64.
        accepted, rejected: steps of each sample, (B,) int64.
        next_step: size of the step that would have come next, (B,) float64.
        dense: states at the times asked for (M, B, ...), else None.
        times: after each attempt, the time that each sample stood at (M + 1, B)
            float64, if recorded; a sample that did not move repeats its time.
        states: their states (M + 1, B, ...), if recorded.
    """

    y: Tensor
    nfe: int
    nfe_per_sample: Tensor
    accepted: Tensor
    rejected: Tensor
    next_step: Tensor
    dense: Tensor | None = None
    times: Tensor | None = None
    states: Tensor | None = None


def _plain_time(t: float) -> str:
    return f"t = {t:.6g}"


@dataclass(frozen=True)
class _Options:
    rtol: float
    atol: float
    max_steps: int
    describe: Callable[[float], str]


@dataclass
class _Work:
    """Samples that have not arrived, with a step size each (a batch counts as one).

    A sample is stuck once its step was too short to make progress, and astray if its
    error was no number then.
    """

    rows: Tensor
    t: Tensor
    end: Tensor
    h: Tensor  # unsigned
    y: Tensor
    slope: Tensor
    after_rejection: Tensor = field(init=False)
    stuck: Tensor = field(init=False)
    astray: Tensor = field(init=False)
    accepted: Tensor = field(init=False)

    def __post_init__(self) -> None:
        for name in ("after_rejection", "stuck", "astray"):
            setattr(self, name, torch.zeros_like(self.t, dtype=torch.bool))
        self.accepted = torch.zeros_like(self.t, dtype=torch.int64)

    def keep(self, which: Tensor) -> None:
        for name, value in vars(self).items():
            setattr(self, name, value[which])


def _shortest(t: Tensor, end: Tensor) -> Tensor:
    """Ten spacings of floats at t: a shorter step makes no progress."""
    ahead = torch.nextafter(t, torch.copysign(torch.full_like(t, torch.inf), end - t))
    return 10 * (ahead - t).abs()


def _targets(work: _Work) -> Tensor:
    """Where the next attempt goes (n,): never beyond the end."""
    shortest = _shortest(work.t, work.end)
    h = torch.where(work.after_rejection, work.h, torch.maximum(work.h, shortest))
    towards = (work.end - work.t).sign()
    target = work.t + h * towards
    return torch.where((target - work.end) * towards > 0, work.end, target)


def _attempt(evaluate: pair.Evaluate, work: _Work, options: _Options) -> Step:
    """Try one step of every sample in work and move those whose error is small."""
    target = _targets(work)
    h = target - work.t
    new, slopes = pair.step(evaluate, work.t, work.y, work.slope, h)
    ratio = pair.error_ratio(slopes, work.y, new, h, options.rtol, options.atol)
    good = ratio < 1
    step = Step(work.rows, good, work.t, target, work.y, new, slopes)
    wide = good.reshape(-1, *([1] * (new.dim() - 1)))
    work.y = torch.where(wide, new, work.y)
    work.slope = torch.where(wide, slopes[-1], work.slope)
    work.t = torch.where(good, target, work.t)
    work.h = h.abs() * pair.step_factor(ratio, work.after_rejection)
    work.after_rejection = ~good
    short = work.after_rejection & (work.h < _shortest(work.t, work.end))
    work.stuck, work.astray = (
        work.stuck | short,
        work.astray | short & ~ratio.isfinite(),
    )
    work.accepted = work.accepted + good
    return step


def _news(work: _Work) -> Callable[[], bool]:
    """Whether the next attempt may bring a sample to its end, or one is stuck."""
    return ask(((_targets(work) == work.end) | work.stuck).any())


def _check(work: _Work, options: _Options) -> None:
    """Refuse steps too short to make progress (one line for the user)."""
    if work.stuck.any():
        what = "the step size has fallen to nothing"
        if work.astray.any():
            what = "the velocity is not finite"
        _refuse(what, work.t[work.stuck], options)


def _refuse(what: str, t: Tensor, options: _Options) -> NoReturn:
    do = "raise the tolerance"
    if "finite" in what:
        do = "check the checkpoint and its precision, or raise the tolerance"
    raise UserError(
        f"{what} at {options.describe(float(t[0]))} "
        f"with rtol {options.rtol:g} and atol {options.atol:g}",
        where="rk45",
        do=do,
    )


@dataclass
class _Ledger:
    """What is known of the samples that have arrived (a batch counts as one)."""

    y: Tensor
    nfe: Tensor
    accepted: Tensor
    rejected: Tensor
    next_step: Tensor

    @classmethod
    def empty(cls, y: Tensor) -> _Ledger:
        counts = torch.zeros(3, len(y), dtype=torch.int64, device=y.device)
        nfe, accepted, rejected = counts
        return cls(y.clone(), nfe, accepted, rejected, nfe.double())

    def book(self, work: _Work, arrived: Tensor, attempts: int, nfe: int) -> None:
        rows, accepted = work.rows[arrived], work.accepted[arrived]
        self.y[rows] = work.y[arrived]
        self.nfe[rows] = nfe
        self.accepted[rows] = accepted
        self.rejected[rows] = attempts - accepted
        self.next_step[rows] = work.h[arrived]


def _interval(
    t0: float | Tensor, t1: float | Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """Start and end of each sample, (G,) float64."""
    sides = []
    for side in (t0, t1):
        time = torch.as_tensor(side, dtype=torch.float64).to(y.device)
        if time.dim() > 1 or (time.dim() == 1 and len(time) != len(y)):
            raise ValueError(f"times {tuple(time.shape)} for {len(y)} samples")
        sides.append(time.expand(len(y)))
    if (sides[0] == sides[1]).any():
        raise ValueError("an interval of no length")
    return sides[0], sides[1]


def _first_steps(
    wanted: FirstStep,
    evaluate: pair.Evaluate,
    work: _Work,
    options: _Options,
) -> Tensor:
    """First step sizes (G,), not longer than the interval."""
    span = work.end - work.t
    if isinstance(wanted, str):
        tolerances = (options.rtol, options.atol)
        return pair.first_step(evaluate, work.t, work.y, work.slope, span, *tolerances)
    if wanted is None:
        return span.abs() * FIRST_STEP
    return torch.minimum(torch.as_tensor(wanted).to(span), span.abs())


def _run(
    call: Field,
    y: Tensor,
    interval: tuple[Tensor, Tensor],
    first_step: FirstStep,
    options: _Options,
    observe: OnStep,
) -> tuple[_Ledger, int]:
    """Bring every sample to its end; also gives the sequential evaluations.

    The host sends an attempt before it takes the answer of what that may bring: where
    it brings no sample to its end, the device never waits for the host.
    """
    start, end = interval
    rows = torch.arange(len(y), device=y.device)
    slope = call(start, y, rows).to(y.dtype)
    if not slope.isfinite().all():
        _refuse("the velocity is not finite", start, options)
    work = _Work(rows, start, end, end, y, slope)

    def evaluate(t: Tensor, y: Tensor) -> Tensor:
        return call(t, y, work.rows).to(y.dtype)

    work.h = _first_steps(first_step, evaluate, work, options)
    ledger, attempts = _Ledger.empty(y), 0
    before = 2 if isinstance(first_step, str) else 1
    nfe, coming = before, _news(work)
    while len(work.rows):
        if attempts == options.max_steps:
            _check(work, options)
            _refuse(f"{attempts} steps and not at the end", work.t, options)
        observe(_attempt(evaluate, work, options))
        attempts += 1
        nfe = before + attempts * pair.CALLS_PER_STEP
        if coming():
            _check(work, options)
            arrived = work.t == work.end
            ledger.book(work, arrived, attempts, nfe)
            work.keep(~arrived)
        coming = _news(work)
    return ledger, nfe


def _one_step_size(field: Field, everyone: Tensor) -> Field:
    """The field of a batch that counts as one sample: states (1, B, ...)."""

    def call(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        del rows
        return field(t.expand(len(everyone)), y[0], everyone)[None]

    return call


def _watch(watchers: list[OnStep], everyone: Tensor | None) -> OnStep:
    """One listener for all; `everyone` opens steps of a batch that is one sample."""

    def observe(step: Step) -> None:
        if watchers and everyone is not None:
            step = step.of_batch(everyone)
        for watcher in watchers:
            watcher(step)

    return observe


def rk45(
    field: Field,
    y0: Tensor,
    t0: float | Tensor,
    t1: float | Tensor,
    *,
    rtol: float,
    atol: float,
    error_norm: ErrorNorm = "sample",
    first_step: FirstStep = None,
    max_steps: int = 1000,
    dense: Tensor | None = None,
    record: bool = False,
    on_step: OnStep | None = None,
    describe: Callable[[float], str] = _plain_time,
) -> Solution:
    """Integrate dy/dt = field(t, y) from t0 to t1 by Dormand-Prince 5(4).

    Args:
        field: see `Field`.
        y0: states (B, ...); their dtype is that of the state (`batch`: float64).
        t0, t1: interval in either direction; tensors (B,) for one each (`sample`).
        rtol, atol: allowed error of a step, atol + rtol |y|, RMS over components.
        error_norm: see `ErrorNorm`.
        first_step: see `FirstStep`.
        max_steps: attempts before giving up.
        dense: times (M,) or (B, M) in the interval at which states are wanted.
        record: keep all accepted points (memory: points x batch).
        on_step: called after each attempt.
        describe: how an error names a time.

    Raises:
        UserError: if a step size falls to nothing, the field is not finite, or
            `max_steps` do not suffice; it names the tolerance and the time.
        ValueError: for an empty interval or dense times outside of it.
    """
    shared, everyone = error_norm == "batch", torch.arange(len(y0), device=y0.device)
    y = y0.double() if shared else y0
    interval = _interval(t0, t1, y[:1] if shared else y)
    wanted = None if dense is None else Dense.begin(dense, y, *interval)
    log = Record([interval[0].expand(len(y))], [y]) if record else None
    watchers: list[OnStep] = [watch.add for watch in (wanted, log) if watch]
    if on_step is not None:
        watchers.append(on_step)
    run = _run(
        _one_step_size(field, everyone) if shared else field,
        y[None] if shared else y,
        interval,
        "probe" if shared and first_step is None else first_step,
        _Options(rtol, atol, max_steps, describe),
        _watch(watchers, everyone if shared else None),
    )
    return _solution(run, len(y), shared, wanted, log)


def _solution(
    run: tuple[_Ledger, int],
    n: int,
    shared: bool,
    wanted: Dense | None,
    log: Record | None,
) -> Solution:
    ledger, nfe = run
    return Solution(
        y=ledger.y[0] if shared else ledger.y,
        nfe=nfe,
        nfe_per_sample=ledger.nfe.expand(n),
        accepted=ledger.accepted.expand(n),
        rejected=ledger.rejected.expand(n),
        next_step=ledger.next_step.expand(n),
        dense=None if wanted is None else wanted.states.transpose(0, 1),
        times=None if log is None else torch.stack(log.times),
        states=None if log is None else torch.stack(log.states),
    )
