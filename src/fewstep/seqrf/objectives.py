"""What a flow is trained on: straight lines between an image and noise, or a pair.

Time t is 0 at the data and 1 at the noise (`fewstep.seqrf.segments`); u in [0, 1] is
the place on the line of one pair, 0 at its clean end and 1 at its noisy end.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fewstep import noise
from fewstep.data import Dataset, epoch_order, holdout_split
from fewstep.errors import UserError
from fewstep.images import to_model_range
from fewstep.seqrf.segments import Segments, to_label

if TYPE_CHECKING:
    from fewstep.seqrf.model import NCSNpp

Reduction = Literal["sum_half", "mean"]
Kind = Literal["reflow", "distill", "step_distill"]

_VALIDATION_BATCH = 250
_SAME_TIME = 1e-5  # edges that went through float32 files

PairArrays = tuple[
    NDArray[np.float32],
    NDArray[np.float32],
    NDArray[np.float32],
    NDArray[np.float32],
    NDArray[np.integer],
]
"""x0, x1 (B, C, H, W), t0, t1, segment (B,)."""


class Pairs(Protocol):
    """Reflow pairs, such as `fewstep.seqrf.pairs.PairData`."""

    def __len__(self) -> int:
        """Number of pairs."""

    def batch(self, indices: NDArray[np.int64]) -> PairArrays:
        """x0, x1, t0, t1 and segment of the pairs at `indices`, in this order."""


class FlowBatch(NamedTuple):
    """Lines to train on.

    Attributes:
        x0: clean ends (B, C, H, W) in model space.
        x1: noisy ends (B, C, H, W).
        t0: times of the clean ends (B,).
        t1: times of the noisy ends (B,), t0 < t1.
        u: places on the lines (B,), 0 = clean end, 1 = noisy end.
        head: heads (B,) int64.
    """

    x0: Tensor
    x1: Tensor
    t0: Tensor
    t1: Tensor
    u: Tensor
    head: Tensor


def interpolate(start: Tensor, end: Tensor, u: Tensor) -> Tensor:
    """(1 - u) start + u end; `u` (B,), the others (B, ...)."""
    u = _like(u, start)
    return (1 - u) * start + u * end


def target_velocity(x0: Tensor, x1: Tensor, t0: Tensor, t1: Tensor) -> Tensor:
    """(x0 - x1) / (t1 - t0): the velocity towards the data on a straight line.

    Args:
        x0: clean ends (B, C, H, W).
        x1: noisy ends (B, C, H, W).
        t0, t1: their times (B,), t0 < t1.
    """
    return (x0 - x1) / _like(t1 - t0, x0)


def flow_matching_loss(
    predicted: Tensor, target: Tensor, reduction: Reduction = "sum_half"
) -> Tensor:
    """Squared error of velocities (B, C, H, W), averaged over the batch; in float32.

    Args:
        predicted, target: velocities.
        reduction: over one example's C·H·W numbers: "sum_half" is half their sum (the
            SeqRF program), "mean" is their mean (the RectifiedFlow program).

    Raises:
        ValueError: for an unknown reduction.
    """
    squared = (predicted.float() - target.float()).square()
    if reduction == "mean":
        return squared.mean()
    if reduction == "sum_half":
        return 0.5 * squared.flatten(1).sum(1).mean()
    raise ValueError(f"unknown reduction {reduction!r}: sum_half or mean")


def flow_loss(
    model: nn.Module, batch: FlowBatch, device: torch.device, reduction: Reduction
) -> Tensor:
    """Flow-matching loss of a batch on the CPU, computed on `device`, a scalar."""
    x0, x1, t0, t1, u, head = (part.to(device, non_blocking=True) for part in batch)
    label = to_label(interpolate(t0, t1, u))
    predicted = model(interpolate(x0, x1, u), label, head)
    return flow_matching_loss(predicted, target_velocity(x0, x1, t0, t1), reduction)


class _Visits:
    """Which examples a step sees: every epoch each one once, in a new order.

    What is left over at the end of an epoch, less than a batch, is not used in it.

    Args:
        count: number of examples.
        batch: examples a step.
        seed: of the orders and of the held-out part.
        validation: examples that are held out.
        what: name of the examples in messages.
    """

    def __init__(
        self, count: int, batch: int, seed: int, validation: int, what: str
    ) -> None:
        if not 0 <= validation < count:
            raise UserError(
                f"{validation} of {count} {what} are to be held out",
                expected="at least 0 and fewer than there are",
            )
        self.batch, self.seed = batch, seed
        self.train, self.held_out = holdout_split(count, seed, validation / count)
        if batch > len(self.train):
            raise UserError(
                f"batch {batch} is larger than {len(self.train)} training {what}",
                do="lower train.batch or make more",
            )
        self.per_epoch = len(self.train) // batch

    def of(self, step: int, start: int, stop: int) -> tuple[NDArray[np.int64], range]:
        """Examples start..stop-1 of `step`'s batch and their positions in the run."""
        epoch, place = divmod(step, self.per_epoch)
        order = _order(len(self.train), self.seed, epoch)
        first = place * self.batch
        position = step * self.batch
        return (
            self.train[order[first + start : first + stop]],
            range(position + start, position + stop),
        )


@lru_cache(maxsize=2)
def _order(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """`epoch_order`, kept for the epoch: a million pairs take it over 10 ms."""
    return epoch_order(n, seed, epoch)


class _FlowObjective:
    """What both objectives share: the loss, and the same loss on held-out examples."""

    def __init__(self, model: NCSNpp, visits: _Visits, reduction: Reduction) -> None:
        if reduction not in ("sum_half", "mean"):
            raise ValueError(f"unknown reduction {reduction!r}: sum_half or mean")
        self.model: nn.Module = model
        self.visits, self.reduction = visits, reduction
        self.per_epoch = visits.per_epoch

    def batch(self, step: int, start: int, stop: int) -> FlowBatch:
        """Lines start..stop-1 of the batch of `step`; see `Objective.batch`."""
        index, positions = self.visits.of(step, start, stop)
        return self.lines(index, positions, "train")

    def lines(
        self, index: NDArray[np.int64], draws: Sequence[int], purpose: str
    ) -> FlowBatch:
        """Lines of the examples at `index`; the j-th draws from the stream draws[j]."""
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: FlowBatch, device: torch.device) -> Tensor:
        """Flow-matching loss of a batch, a scalar."""
        return flow_loss(model, batch, device, self.reduction)

    def validate(self, model: nn.Module, device: torch.device) -> float | None:
        """Loss on the held-out examples, with the same draws each time, or None."""
        held_out, total = self.visits.held_out, 0.0
        size = min(_VALIDATION_BATCH, self.visits.batch)
        for start in range(0, len(held_out), size):
            index = held_out[start : start + size]
            batch = self.lines(index, range(start, start + len(index)), "validate")
            total += float(self.loss(model, batch, device)) * len(index)
        return total / len(held_out) if len(held_out) else None


class BaseFlowObjective(_FlowObjective):
    """Rectified flow from data: lines between images and noise (1-RF).

    Args:
        model: the network; its `centered` says how images enter it, and with more than
            one head the head is that of the time in equal segments.
        dataset: images.
        batch: examples a step over all processes.
        seed: of order, flips, times and noise.
        flip: mirror half of the images.
        validation: images held out of training (0 = none).
        reduction: see `flow_matching_loss`.

    Raises:
        UserError: for a batch larger than the training images.
    """

    def __init__(
        self,
        model: NCSNpp,
        dataset: Dataset,
        *,
        batch: int,
        seed: int = 0,
        flip: bool = False,
        validation: int = 0,
        reduction: Reduction = "sum_half",
    ) -> None:
        visits = _Visits(len(dataset), batch, seed, validation, "images")
        super().__init__(model, visits, reduction)
        self.dataset, self.seed, self.flip = dataset, seed, flip
        self.centered, self.segments = model.centered, Segments.uniform(model.segments)

    def lines(
        self, index: NDArray[np.int64], draws: Sequence[int], purpose: str
    ) -> FlowBatch:
        """Lines from images (u = 0) to noise (u = 1), at u = t ~ U(0, 1)."""
        raw = torch.from_numpy(self.dataset.batch(index)[0])
        x0 = to_model_range(raw) if self.centered else raw.float() / 255
        x1 = np.empty(x0.shape, dtype=np.float32)
        u = np.empty(len(x0), dtype=np.float32)
        mirrored = np.zeros(len(x0), dtype=bool)
        for row, number in enumerate(draws):
            stream = noise.stream(self.seed, purpose, number)
            u[row] = stream.random(dtype=np.float32)
            mirrored[row] = self.flip and stream.random() < 0.5
            stream.standard_normal(dtype=np.float32, out=x1[row])
        flipped = torch.from_numpy(mirrored)
        x0[flipped] = x0[flipped].flip(3)
        t = torch.from_numpy(u)
        zeros, ones = torch.zeros_like(t), torch.ones_like(t)
        return FlowBatch(
            x0, torch.from_numpy(x1), zeros, ones, t, self.segments.index(t)
        )


class ReflowObjective(_FlowObjective):
    """Straight lines between the ends of reflow pairs (k-SeqRF, distillation).

    Args:
        model: the student, with one head a segment.
        pairs: both ends of segments of the teacher's trajectories.
        batch: pairs a step over all processes.
        segments: the segments that the pairs span.
        seed: of order and u.
        kind: places on the line that are trained on: "reflow" u ~ U(0, 1); "distill"
            u = 1, the noisy end alone, for one step a segment; "step_distill" u = j/n,
            j uniform on 1..n, for n Euler steps a segment (on pairs of one segment
            this is RectifiedFlow's k-step distillation).
        steps_per_segment: the n of "step_distill".
        validation: pairs held out of training (0 = none).
        reduction: see `flow_matching_loss`.

    Raises:
        UserError: for a batch larger than the training pairs, another number of
            segments than heads, and, in `batch`, pairs of other segments.
        ValueError: for an unknown kind or fewer than one step.
    """

    def __init__(
        self,
        model: NCSNpp,
        pairs: Pairs,
        *,
        batch: int,
        segments: Segments,
        seed: int = 0,
        kind: Kind = "reflow",
        steps_per_segment: int = 1,
        validation: int = 0,
        reduction: Reduction = "sum_half",
    ) -> None:
        if kind not in ("reflow", "distill", "step_distill") or steps_per_segment < 1:
            raise ValueError(f"kind {kind!r}, steps_per_segment {steps_per_segment}")
        if model.segments != segments.k:
            raise UserError(
                f"{model.segments} heads of the model, {segments.k} segments of pairs",
                expected="one head a segment",
            )
        visits = _Visits(len(pairs), batch, seed, validation, "pairs")
        super().__init__(model, visits, reduction)
        self.pairs, self.segments, self.seed = pairs, segments, seed
        self.kind, self.steps_per_segment = kind, steps_per_segment

    def lines(
        self, index: NDArray[np.int64], draws: Sequence[int], purpose: str
    ) -> FlowBatch:
        """The pairs at `index`, each with its u."""
        x0, x1, t0, t1 = (torch.from_numpy(end) for end in self.pairs.batch(index)[:4])
        # By the middle, as an end lies in two segments.
        head = self.segments.midpoint_index(t0, t1)
        edges = torch.tensor(self.segments.edges)
        off = torch.maximum((edges[head] - t1).abs(), (edges[head + 1] - t0).abs())
        if bool((off > _SAME_TIME).any()):
            row = int(off.argmax())
            raise UserError(
                f"pair {index[row]} spans t = {t1[row]:.4g} to {t0[row]:.4g}",
                expected=f"one of the segments with edges {self.segments.edges}",
                do="train with the edges that the pairs were made with",
            )
        u = np.array([self._place(purpose, number) for number in draws], np.float32)
        return FlowBatch(x0, x1, t0, t1, torch.from_numpy(u), head)

    def _place(self, purpose: str, number: int) -> float:
        """The u of one line."""
        if self.kind == "distill":
            return 1.0
        stream = noise.stream(self.seed, purpose, number)
        if self.kind == "reflow":
            return float(stream.random(dtype=np.float32))
        steps = self.steps_per_segment
        return int(stream.integers(1, steps + 1)) / steps


def _like(values: Tensor, x: Tensor) -> Tensor:
    """(B,) as (B, 1, ...), to be broadcast over `x`."""
    return values.reshape(-1, *[1] * (x.ndim - 1))
