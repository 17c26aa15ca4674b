"""The spine's protocol: a sampler turns sample numbers into images.

Sample i belongs to (seed, i): shards, batch size, number of jobs and a resume have no
influence on it beyond the order of float reductions. (A sampler that repeats a released
program's stopping rule over the whole batch is the exception, and says so.)
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewstep import noise
from fewstep.device import empty_cache, memory_errors
from fewstep.errors import UserError
from fewstep.images import Rounding, resize_bicubic, to_uint8
from fewstep.progress import Progress

logger = logging.getLogger(__name__)

NanPolicy = Literal["fail", "redraw"]


@dataclass(frozen=True)
class Draw:
    """What a sampler gives for one batch.

    Attributes:
        images: (B, 3, H, W), about [-1, 1], not clipped.
        steps: sequential network calls.
        iterations: mean network evaluations of a token.
        numbers: further numbers of each sample (B,), by column.
    """

    images: Tensor
    steps: int = 0
    iterations: float = 0.0
    numbers: dict[str, Tensor] = field(default_factory=dict)


class Sampler(Protocol):
    """What a limb ends in: noise and labels, then images, then a finish.

    The three steps are apart so that the clock can see the middle one alone.
    """

    @property
    def device(self) -> torch.device:
        """Where it works."""

    @property
    def static_shapes(self) -> bool:
        """Whether its tensors have the same shapes in every step, as compilers like."""

    def inputs(
        self,
        seed: int,
        indices: list[int],
        labels: NDArray[np.int64] | None,
        attempt: int = 0,
        purpose: str = "noise",
    ) -> Any:
        """Noise and labels of samples; attempt > 0 is a redraw."""

    def draw(self, inputs: Any) -> Draw:
        """Images of the inputs, not finished."""

    def finish(self, images: Tensor, inputs: Any) -> Tensor:
        """What comes after sampling, such as denoising: (B, 3, H, W) both."""


def complete(
    sampler: Sampler,
    seed: int,
    indices: list[int],
    labels: NDArray[np.int64] | None,
    attempt: int = 0,
) -> Draw:
    """All three steps."""
    inputs = sampler.inputs(seed, indices, labels, attempt)
    draw = sampler.draw(inputs)
    return replace(draw, images=sampler.finish(draw.images, inputs))


@dataclass(frozen=True)
class SampleOptions:
    """How samples are drawn.

    Attributes:
        seed: of the run.
        start, stop: sample numbers start..stop-1.
        batch: samples at a time; halved when memory runs out.
        shard: samples a file.
        num_classes: 0 = no labels.
        labels: "balanced" or "iid".
        rounding: "truncate", "round" or "half_up" to bytes.
        nan_policy: "fail", or "redraw" with a new attempt number.
        max_redraws: attempts after the first.
        resize: side that images are resized to before they become bytes
            (`images.resize_bicubic`); None: they stay as they were drawn.
        batch_decides: the samples depend on `batch` (a released program's stopping
            rule), so that it is never changed.
    """

    seed: int
    start: int
    stop: int
    batch: int
    shard: int
    num_classes: int = 0
    labels: str = "balanced"
    rounding: Rounding = "truncate"
    nan_policy: NanPolicy = "fail"
    max_redraws: int = 3
    resize: int | None = None
    batch_decides: bool = False


@dataclass
class ShardCounts:
    """What happened while a shard was drawn.

    Attributes:
        nan_events: samples that came out with a value that is not finite (each
            attempt counts).
        redrawn: samples that needed more than one attempt.
        clipped: share of values outside [-1, 1] among those that become bytes.
        steps: mean sequential network calls of a batch.
        iterations: mean evaluations of a token.
        means: the sampler's further numbers, means over the samples.
        batch: batch size that fitted.
        peak_memory_mb: peak memory while drawing, 10^6 bytes.
    """

    nan_events: int = 0
    redrawn: int = 0
    clipped: float = 0.0
    steps: float = 0.0
    iterations: float = 0.0
    means: dict[str, float] = field(default_factory=dict)
    batch: int = 0
    peak_memory_mb: float = 0.0


def labels_for(
    policy: str, num_classes: int, indices: list[int], seed: int
) -> NDArray[np.int64] | None:
    """Labels of samples by a policy; None for a model without classes."""
    if not num_classes:
        return None
    return noise.labels(policy, num_classes, indices, seed)


def sample_labels(
    options: SampleOptions, indices: list[int]
) -> NDArray[np.int64] | None:
    """Labels of a run's samples."""
    return labels_for(options.labels, options.num_classes, indices, options.seed)


def draw_batch(
    sampler: Sampler, options: SampleOptions, indices: list[int], counts: ShardCounts
) -> tuple[NDArray[np.uint8], Draw]:
    """One batch as bytes (B, 3, H, W); samples that are not finite by policy.

    Raises:
        UserError: under "fail", or when `max_redraws` did not help.
    """
    labels = sample_labels(options, indices)
    draw = complete(sampler, options.seed, indices, labels)
    images = draw.images
    for attempt in range(1, options.max_redraws + 2):
        bad = (~torch.isfinite(images).flatten(1).all(dim=1)).nonzero()[:, 0].tolist()
        if not bad:
            break
        counts.nan_events += len(bad)
        numbers = [indices[i] for i in bad]
        if options.nan_policy == "fail" or attempt > options.max_redraws:
            raise UserError(
                f"{len(bad)} of {len(indices)} samples are not finite "
                f"(seed {options.seed}, samples {_listed(numbers)})",
                where="sampling.nan_policy",
                do="set it to redraw to replace and count them, or mend the sampler",
            )
        counts.redrawn += len(bad) if attempt == 1 else 0
        part = None if labels is None else labels[bad]
        images = images.clone()
        again = complete(sampler, options.seed, numbers, part, attempt)
        images[bad] = again.images
        for name, values in draw.numbers.items():
            values[bad] = again.numbers[name]
    if options.resize is not None:
        images = resize_bicubic(images, options.resize)
    counts.clipped += float((images.abs() > 1).float().mean()) * len(indices)
    return to_uint8(images, options.rounding).cpu().numpy(), draw


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:5]))
    return shown + (" …" if len(numbers) > 5 else "")


def _smaller(batch: int, options: SampleOptions) -> int:
    """Half of a batch that did not fit.

    Raises:
        UserError: where there is no half, or it would draw other samples.
    """
    if batch > 1 and not options.batch_decides:
        return batch // 2
    what = "one sample does not fit into the device's memory"
    if batch > 1:
        what = f"{batch} samples do not fit, and other batches draw other samples"
    raise UserError(
        what,
        where="sampling.batch",
        do="use a bigger device or sampling.precision bf16",
    ) from None


def draw_shard(
    sampler: Sampler, options: SampleOptions, indices: list[int], progress: Progress
) -> tuple[NDArray[np.uint8], ShardCounts]:
    """Images (n, 3, H, W) of one shard; the batch is halved when memory runs out."""
    batch = options.batch
    counts, parts, done = ShardCounts(), [], 0
    while done < len(indices):
        chosen = indices[done : done + batch]
        before = counts.nan_events, counts.redrawn
        try:
            with memory_errors():
                images, draw = draw_batch(sampler, options, chosen, counts)
        except torch.OutOfMemoryError:
            counts.nan_events, counts.redrawn = before  # this batch is drawn once more
            batch = _smaller(batch, options)
            empty_cache(sampler.device)
            logger.warning("out of memory: batch halved to %d", batch)
            continue
        parts.append(images)
        share = len(chosen) / len(indices)
        counts.steps += draw.steps * len(chosen)
        counts.iterations += draw.iterations * share
        for name, values in draw.numbers.items():
            mean = float(values.double().mean())
            counts.means[name] = counts.means.get(name, 0.0) + mean * share
        done += len(chosen)
        progress.advance(len(chosen))
    counts.clipped /= len(indices)
    counts.steps /= len(indices)
    counts.batch = batch
    return np.concatenate(parts), counts
