"""From noise to images along a learned velocity, segment by segment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from fewstep.device import mark_step
from fewstep.errors import UserError
from fewstep.seqrf.fixed_steps import FIXED_STEPS
from fewstep.seqrf.ode import ErrorNorm, Solution, rk45
from fewstep.seqrf.segments import (
    LABEL_SCALE,
    TAU_MIN,
    TAU_SPAN,
    Segments,
    TimeFactor,
    steps_by_segment,
    time_grid,
    to_label,
    to_tau,
)
from fewstep.seqrf.straightness import StraightnessMeter
from fewstep.seqrf.watchers import Step

Solver = Literal["euler", "heun", "heun_released", "rk45"]

Net = Callable[[Tensor, Tensor, int], Tensor]
"""(x (B, C, H, W), label (B,), head) to the velocity (B, C, H, W), data - noise."""


PATH_BYTES = 0.5e9
"""Memory of a batch's trajectories."""
_LEAST_POINTS = 64  # a network's activations and RK45's slopes weigh as much


def path_batches(count: int, points: int, values: int) -> Iterator[list[int]]:
    """The samples 0 … count - 1 in batches whose trajectories fit into memory.

    Args:
        count: number of samples.
        points: states of a trajectory, float32.
        values: numbers in a state, C * H * W.

    Yields:
        Numbers of samples: as many as `PATH_BYTES` hold, at least one.
    """
    size = max(1, int(PATH_BYTES / (4 * max(points, _LEAST_POINTS) * values)))
    for first in range(0, count, size):
        yield list(range(first, min(first + size, count)))


@dataclass
class Integration:
    """What sampling gives.

    Attributes:
        samples: (B, C, H, W), model space, not clipped.
        nfe: network evaluations of an image, mean over the batch.
        calls: sequential network calls for the batch.
        nfe_by_segment: as `nfe`, for each segment.
        nfe_per_sample: (B,) int64.
        straightness, seq_straightness: S and S_seq, mean over the batch
            (`fewstep.seqrf.straightness`).
        straightness_per_sample, seq_straightness_per_sample: (B,) float64.
        trajectory: states (M + 1, B, C, H, W), if asked for.
        times: their t, descending (M + 1,) float64; (M + 1, B) where each sample
            has its own: one that waits for others repeats its time and state.
    """

    samples: Tensor
    nfe: float
    calls: int
    nfe_by_segment: tuple[float, ...]
    nfe_per_sample: Tensor
    straightness: float
    seq_straightness: float
    straightness_per_sample: Tensor
    seq_straightness_per_sample: Tensor
    trajectory: Tensor | None = None
    times: Tensor | None = None


@torch.no_grad()
def integrate(
    net: Net,
    noise: Tensor,
    *,
    solver: Solver = "rk45",
    steps: int | None = None,
    tol: float | None = None,
    segments: int | Segments = 1,
    edges: Iterable[float] | None = None,
    time_factor: TimeFactor = "exact",
    error_norm: ErrorNorm = "sample",
    return_trajectory: bool = False,
    at: Sequence[float] | None = None,
    max_steps: int = 1000,
) -> Integration:
    """Draw samples by following the velocity from t = 1 to t = 0.

    `time_factor="exact"` moves by v over a path of length 1 in t: right for students
    of reflow, whose targets are displacement per unit of t, and what RectifiedFlow's
    Euler sampler does. "released" shortens the path to 0.999: Euler and Heun multiply
    their steps by it, RK45 works in tau from 0.001 to 1. That is right for a teacher
    trained in tau (RectifiedFlow's RK45) and reproduces the released SeqRF.

    Args:
        net: the network; its attribute `segments` (number of heads), if it has one,
            must be 1 or the number of segments.
        noise: (B, C, H, W) at t = 1.
        solver: `rk45` needs `tol`, the others `steps`. `heun_released` is not Heun's
            method: see `fewstep.seqrf.fixed_steps`.
        steps: total number of steps over all segments.
        tol: relative and absolute tolerance.
        segments, edges: equal segments by their number, or by edges from 1 to 0.
        time_factor: see above.
        error_norm: of `rk45`, see `fewstep.seqrf.ode.ErrorNorm`.
        return_trajectory: keep the points of the path.
        at: keep the states at these t instead (`rk45`: its dense output), in
            descending order.
        max_steps: attempts of `rk45` in a segment before it gives up.

    Raises:
        UserError: if options do not fit each other or the network, or if `rk45` gets
            nowhere.
        ValueError: for edges that do not descend from 1 to 0.
    """
    parts = Segments.of(segments, edges)
    _check(net, parts, solver, steps, tol, at)
    if solver == "rk45":
        adaptive = _Adaptive(net, parts, float(tol or 0.0), error_norm, max_steps)
        return adaptive.run(noise, time_factor, return_trajectory, at)
    factor = TAU_SPAN if time_factor == "released" else 1.0
    return _fixed(net, noise, parts, solver, steps or 0, factor, return_trajectory)


def _check(
    net: Net,
    segments: Segments,
    solver: str,
    steps: int | None,
    tol: float | None,
    at: Sequence[float] | None,
) -> None:
    """Refuse what cannot be meant, in one line."""
    if solver != "rk45" and solver not in FIXED_STEPS:
        names = ", ".join([*FIXED_STEPS, "rk45"])
        raise UserError(f"no solver is called {solver!r}", expected=names)
    adaptive = solver == "rk45"
    if (steps is None) != adaptive or (tol is None) == adaptive:
        wanted = "tol and no steps" if adaptive else "steps and no tol"
        raise UserError(
            f"solver {solver} with steps={steps} and tol={tol}", expected=wanted
        )
    if tol is not None and not tol > 0:
        raise UserError(f"tolerance {tol}", expected="a positive number")
    if at is not None and not adaptive:
        raise UserError(f"states at given times from {solver}", expected="rk45")
    heads = getattr(net, "segments", None)
    if heads not in (None, 1, segments.k):
        raise UserError(
            f"the network has {heads} heads, the sampler {segments.k} segments",
            expected="as many heads as segments, or one head",
            do="take the k of the checkpoint",
        )


def _head(net: Net, segment: int) -> int:
    return 0 if getattr(net, "segments", None) == 1 else segment


def _result(
    samples: Tensor,
    calls: int,
    nfe: Sequence[Tensor],
    meter: StraightnessMeter,
    trajectory: Tensor | None,
    times: Tensor | None,
) -> Integration:
    """Gather the numbers; `nfe` holds (B,) for each segment."""
    straight, sequential = meter.result()
    total = torch.stack(list(nfe)).sum(0)
    return Integration(
        samples=samples,
        nfe=float(total.double().mean()),
        calls=calls,
        nfe_by_segment=tuple(float(part.double().mean()) for part in nfe),
        nfe_per_sample=total,
        straightness=float(straight.mean()),
        seq_straightness=float(sequential.mean()),
        straightness_per_sample=straight,
        seq_straightness_per_sample=sequential,
        trajectory=trajectory,
        times=times,
    )


def _fixed(
    net: Net,
    noise: Tensor,
    segments: Segments,
    solver: str,
    steps: int,
    factor: float,
    keep: bool,
) -> Integration:
    """Fixed steps, in t, state float32."""
    method, calls = FIXED_STEPS[solver]
    grid, index = time_grid(segments, steps)
    times, heads = grid.tolist(), index.tolist()
    x = noise.float()
    meter = StraightnessMeter(x)
    # Filled on the way: a list to be stacked would be the path twice.
    path = x.new_empty(steps + 1, *x.shape) if keep else None
    if path is not None:
        path[0] = x
    for m, segment in enumerate(heads):

        def slope(t: float, x: Tensor, head: int = _head(net, segment)) -> Tensor:
            label = torch.full((len(x),), to_label(t), device=x.device)
            return -factor * net(x, label, head).float()

        new = method(slope, times[m], times[m + 1], x)
        meter.add(x, new, times[m] - times[m + 1])
        x = new
        if path is not None:
            path[m + 1] = x
        mark_step(x.device)
        if m + 1 == steps or heads[m + 1] != segment:
            meter.leave(x, segments.start(segment) - segments.end(segment))
    counts = [calls * count for count in steps_by_segment(segments, steps)]
    each = torch.ones(len(x), dtype=torch.int64, device=x.device)
    return _result(
        x,
        calls * steps,
        [each * count for count in counts],
        meter,
        path,
        grid.double() if keep else None,
    )


@dataclass(frozen=True)
class _Clock:
    """The variable in which RK45 works: s = 1 - t, or tau as released."""

    released: bool

    def of(self, t: float) -> float:
        return to_tau(t) if self.released else 1.0 - t

    def label(self, s: Tensor) -> Tensor:
        return (s * LABEL_SCALE if self.released else to_label(1.0 - s)).float()

    def back(self, s: Any) -> Any:
        """The t of a number or tensor."""
        return 1.0 - ((s - TAU_MIN) / TAU_SPAN if self.released else s)


@dataclass(frozen=True)
class _Adaptive:
    """Dormand-Prince through all segments."""

    net: Net
    segments: Segments
    tol: float
    error_norm: ErrorNorm
    max_steps: int

    def run(
        self,
        noise: Tensor,
        time_factor: TimeFactor,
        keep: bool,
        at: Sequence[float] | None,
    ) -> Integration:
        clock = _Clock(time_factor == "released")
        y = noise.float()
        meter = StraightnessMeter(y)
        parts: list[Solution] = []
        wanted = self._by_segment(at)
        for i in range(self.segments.k):
            first = None
            if parts and self.error_norm == "sample":
                first = parts[-1].next_step  # no evaluation is spent on finding it
            dense = None if at is None else [clock.of(t) for t in wanted[i]]
            part = self._segment(i, y, clock, meter, first, keep and at is None, dense)
            parts.append(part)
            y = part.y
            length = clock.of(self.segments.end(i)) - clock.of(self.segments.start(i))
            meter.leave(y, length)
        trajectory, times = None, None
        if at is not None:
            found = [part.dense for part in parts if part.dense is not None]
            times = torch.tensor(sorted(at, reverse=True), dtype=torch.float64)
            if found:
                whole = found[0] if len(found) == 1 else torch.cat(found)
                trajectory = whole.to(noise.dtype)
        elif keep:
            trajectory, times = _joined(parts, clock, self.error_norm)
        calls = sum(part.nfe for part in parts)
        nfe = [part.nfe_per_sample for part in parts]
        return _result(y.to(noise.dtype), calls, nfe, meter, trajectory, times)

    def _segment(
        self,
        i: int,
        y: Tensor,
        clock: _Clock,
        meter: StraightnessMeter,
        first: Tensor | None,
        record: bool,
        dense: list[float] | None,
    ) -> Solution:
        head = _head(self.net, i)

        def field(s: Tensor, x: Tensor, rows: Tensor) -> Tensor:
            del rows
            return self.net(x.float(), clock.label(s), head)

        def measure(step: Step) -> None:
            h = (step.end - step.t).abs()
            meter.add(step.y, step.new, h, rows=step.rows, counts=step.accepted)

        return rk45(
            field,
            y,
            clock.of(self.segments.start(i)),
            clock.of(self.segments.end(i)),
            rtol=self.tol,
            atol=self.tol,
            error_norm=self.error_norm,
            first_step=first,
            max_steps=self.max_steps,
            dense=None if not dense else torch.tensor(dense, dtype=torch.float64),
            record=record,
            on_step=measure,
            describe=lambda s: f"t = {clock.back(s):.6g}",
        )

    def _by_segment(self, at: Sequence[float] | None) -> list[list[float]]:
        """The wanted times of each segment; one on an edge goes to the noise side."""
        wanted: list[list[float]] = [[] for _ in range(self.segments.k)]
        for t in sorted(at or (), reverse=True):
            if not 0 <= t <= 1:
                raise ValueError(f"t = {t}: expected a time from 0 to 1")
            i = next(i for i in range(self.segments.k) if t >= self.segments.end(i))
            wanted[i].append(t)
        return wanted


def _joined(
    parts: Sequence[Solution], clock: _Clock, error_norm: ErrorNorm
) -> tuple[Tensor, Tensor]:
    """Recorded points of all segments, float32, and their t."""
    states, times = [], []
    for number, part in enumerate(parts):
        if part.states is None or part.times is None:
            raise ValueError("a segment was not recorded")
        skip = 0 if number == 0 else 1  # the end of the segment before
        states.append(part.states[skip:].float())
        times.append(clock.back(part.times[skip:]))
    shared = torch.cat(times)
    return torch.cat(states), shared[:, 0] if error_norm == "batch" else shared
