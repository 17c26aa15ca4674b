"""Reflow pairs: both ends of a teacher's path through one time segment (SeqRF)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewstep.errors import UserError
from fewstep.seqrf.ode import ErrorNorm, Solution, rk45
from fewstep.seqrf.segments import (
    LABEL_SCALE,
    TAU_SPAN,
    Segments,
    TimeFactor,
    to_tau,
)

Net = Callable[[Tensor, Tensor, int | Tensor | None], Tensor]
"""(x (B, C, H, W), label (B,), index) to a velocity (B, C, H, W)."""


class NotFiniteError(UserError):
    """A teacher's velocity was not finite.

    Attributes:
        rows: which samples of the batch.
    """

    def __init__(self, rows: list[int], count: int) -> None:
        self.rows = rows
        shown = ", ".join(map(str, rows[:5])) + (", …" if len(rows) > 5 else "")
        super().__init__(
            f"the teacher's velocity is not finite for {len(rows)} of {count} samples "
            f"(rows {shown})",
            do="check the checkpoint and its precision",
        )


@dataclass(frozen=True)
class Pairs:
    """Reflow pairs of a batch, in model space.

    Attributes:
        x0: clean ends (B, C, H, W), where the teacher arrives; not clipped.
        x1: noisy ends (B, C, H, W), where it starts.
        t0: times of the clean ends (B,) float32.
        t1: times of the noisy ends (B,) float32, above t0.
        nfe: sequential network calls.
        nfe_per_sample: network evaluations of each sample (B,) int64.
    """

    x0: Tensor
    x1: Tensor
    t0: Tensor
    t1: Tensor
    nfe: int
    nfe_per_sample: Tensor


def noisy_end(data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """(1 - t) data + t noise, with t (B,): where a segment starts.

    Data and noise are independent: a segment never sees the end of the one before.
    """
    t = t.to(data.dtype).reshape(-1, *([1] * (data.dim() - 1)))
    return (1 - t) * data + t * noise


@torch.no_grad()
def reflow_pairs(
    net: Net,
    data: Tensor,
    noise: Tensor,
    *,
    segment: int | Tensor,
    segments: int = 1,
    tol: float = 1e-4,
    error_norm: ErrorNorm = "sample",
    edges: Iterable[float] | None = None,
    time_factor: TimeFactor = "released",
    max_steps: int = 1000,
) -> Pairs:
    """Pairs (x0, x1) of one segment, or of a segment for each sample.

    x1 is the mixture of data and noise at the segment's noisy end; from there
    dx/dtau = v(x, 999 tau, head) is integrated to its clean end (SeqRF).

    Args:
        net: the teacher; a module works in evaluation mode here. One with
            `net.segments` = k > 1 heads uses head `segment`, else head 0 is used.
        data: images in model space (B, C, H, W).
        noise: standard normal, same shape.
        segment: number 0..k-1 (0: noise side), or one a sample (B,) (`sample` only).
        segments: k.
        tol: rtol and atol of Dormand-Prince 5(4).
        error_norm: "sample": own steps for each sample, so that a pair does not depend
            on the others; "batch": as released (NFE of SciPy's RK45).
        edges: k + 1 times, descending from 1 to 0; default equal segments.
        time_factor: length of the whole path. "released": 0.999, right for teachers of
            RectifiedFlow, whose velocity is dx/dtau; "exact": 1, for networks trained
            on dx/d(1 - t), as k-SeqRF students and our own base flows are.
        max_steps: attempts of the solver before it gives up.

    Raises:
        UserError: if the solver gets nowhere with this tolerance; as `NotFiniteError`
            if the network's output is not finite; for a net of other segments.
        ValueError: for segments out of range, shapes that differ, unknown options.
    """
    division = Segments.of(segments, edges)
    index = _index(segment, data, noise, division.k, error_norm)
    edge = torch.tensor(division.edges, dtype=torch.float64, device=data.device)
    t1, t0 = edge[index], edge[index + 1]
    x1 = noisy_end(data, noise, t1)
    several = _has_heads(net, division.k)
    head = (index if isinstance(segment, Tensor) else segment) if several else 0
    teacher = _Teacher(net, head, _slope_factor(time_factor), torch.zeros_like(t1) > 0)
    with _evaluating(net):
        done = _solve(teacher, x1, t1, t0, tol, error_norm, max_steps)
    x0 = done.y.to(x1.dtype)
    return Pairs(x0, x1, t0.float(), t1.float(), done.nfe, done.nfe_per_sample)


def _solve(
    teacher: _Teacher,
    x1: Tensor,
    t1: Tensor,
    t0: Tensor,
    tol: float,
    error_norm: ErrorNorm,
    max_steps: int,
) -> Solution:
    """Integrate in tau from t1 to t0, each (B,)."""
    start, end = to_tau(t1), to_tau(t0)
    if error_norm == "batch":  # one interval for all
        start, end = start[0], end[0]
    try:
        return rk45(
            teacher,
            x1,
            start,
            end,
            rtol=tol,
            atol=tol,
            error_norm=error_norm,
            max_steps=max_steps,
            describe=_describe,
        )
    except UserError as error:
        rows = teacher.bad.nonzero()[:, 0].tolist()
        if rows:
            raise NotFiniteError(rows, len(x1)) from error
        raise


def _index(
    segment: int | Tensor, data: Tensor, noise: Tensor, k: int, error_norm: ErrorNorm
) -> Tensor:
    """The segment of each sample (B,) int64, checked."""
    count = len(data)
    if data.shape != noise.shape or not count:
        raise ValueError(f"data {tuple(data.shape)}, noise {tuple(noise.shape)}")
    if not isinstance(segment, Tensor):
        segment = torch.full((count,), segment)
    elif error_norm == "batch":
        raise ValueError("one step size for the batch needs one segment for the batch")
    if segment.shape != (count,) or segment.is_floating_point():
        raise ValueError(f"segments {tuple(segment.shape)}: expected {count} integers")
    if not 0 <= int(segment.min()) <= int(segment.max()) < k:
        raise ValueError(f"segments {segment.tolist()}: expected 0 to {k - 1}")
    return segment.long().to(data.device)


def _has_heads(net: Net, k: int) -> bool:
    """Whether the teacher has a head a segment; one head serves all of them."""
    heads = int(getattr(net, "segments", 1))
    if heads not in (1, k):
        raise UserError(
            f"the teacher has {heads} segments, the pairs have {k}",
            expected=f"a teacher of 1 or {k}",
            do="make pairs of its segments, or take the base flow as teacher",
        )
    return heads > 1


def _slope_factor(time_factor: TimeFactor) -> float:
    """dx/dtau per unit of the network's output."""
    if time_factor not in ("exact", "released"):
        raise ValueError(f"time factor {time_factor!r}: expected exact or released")
    return 1.0 if time_factor == "released" else 1 / TAU_SPAN


@contextmanager
def _evaluating(net: Net) -> Iterator[None]:
    """Evaluation mode inside, what it was before afterwards."""
    if not isinstance(net, nn.Module) or not net.training:
        yield
        return
    net.eval()
    try:
        yield
    finally:
        net.train()


def _describe(tau: float) -> str:
    return f"t = {1 - (tau - to_tau(1.0)) / TAU_SPAN:.6g}"


@dataclass
class _Teacher:
    """The network as a field in tau; remembers who met a value that is not finite."""

    net: Net
    head: int | Tensor  # one for all, or one for each of the batch
    factor: float
    bad: Tensor

    def __call__(self, tau: Tensor, x: Tensor, rows: Tensor) -> Tensor:
        label = (tau * LABEL_SCALE).to(torch.float32)
        head = self.head[rows] if isinstance(self.head, Tensor) else self.head
        velocity = self.net(x.float(), label, head)
        # Kept on the device: asking here would halt it at every evaluation.
        self.bad[rows] |= ~velocity.isfinite().flatten(1).all(dim=1)
        return velocity * self.factor if self.factor != 1.0 else velocity
