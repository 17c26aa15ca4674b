"""The spine's protocol: a sampler turns sample numbers into images, in shards.

Sample i belongs to (seed, i): shards, batch size, number of jobs and a resume have no
influence on it beyond the order of float reductions. (A sampler that repeats a released
program's stopping rule over the whole batch is the exception, and says so.)
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewstep import files, noise
from fewstep.errors import UserError
from fewstep.images import Rounding, resize_bicubic, to_uint8
from fewstep.processes import PreemptedError, stop_signal
from fewstep.progress import Progress
from fewstep.provenance import peak_memory_mb, reset_peak_memory

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


def draw_shard(
    sampler: Sampler, options: SampleOptions, indices: list[int], progress: Progress
) -> tuple[NDArray[np.uint8], ShardCounts]:
    """Images (n, 3, H, W) of one shard; the batch is halved when memory runs out."""
    batch = options.batch
    counts, parts, done = ShardCounts(), [], 0
    while done < len(indices):
        chosen = indices[done : done + batch]
        try:
            images, draw = draw_batch(sampler, options, chosen, counts)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise UserError(
                    "one sample does not fit into the device's memory",
                    do="use a bigger device or sampling.precision bf16",
                ) from None
            batch //= 2
            torch.cuda.empty_cache()
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


@dataclass
class SampleManifest:
    """The list of shards: what `samples.json` holds.

    Attributes:
        key: identity of the run that drew them.
        options: the `SampleOptions`.
        shards: file, first sample, count, sha256 and `ShardCounts` of each.
        extra: whatever the stage adds (checkpoint hash, plan, versions).
    """

    key: str
    options: dict[str, Any]
    shards: list[dict[str, Any]]
    extra: dict[str, Any] = field(default_factory=dict)


def draw_samples(
    sampler: Sampler,
    options: SampleOptions,
    manifest_path: str | Path,
    *,
    key: str,
    extra: dict[str, Any] | None = None,
    label: str = "sample",
) -> SampleManifest:
    """Draw all shards into a folder beside the manifest, which is written last.

    A shard that is there whole is kept: a killed job goes on after it. One that is told
    to stop finishes the shard in flight first. Shards of another key (changed
    checkpoint, plan, options or code) are removed at the end.

    Args:
        sampler: what draws.
        options: which samples and how.
        manifest_path: `…/samples.json`.
        key: identity of the run, e.g. a hash of checkpoint, plan, options, code.
        extra: goes into the manifest.
        label: name on the progress line.

    Raises:
        PreemptedError: after SIGTERM or SIGUSR2, where shards are left to draw.
    """
    manifest_path = Path(manifest_path)
    folder = manifest_path.parent / f"{manifest_path.stem}-{key[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    progress = Progress(label, options.stop - options.start)
    shards, asked = [], vars(options).copy()
    starts = range(options.start, options.stop, options.shard)
    with stop_signal() as stop:
        for number, start in enumerate(starts):
            indices = list(range(start, min(start + options.shard, options.stop)))
            record = folder / f"{start:07d}.json"
            if _is_whole(record):
                progress.first += len(indices)
                progress.advance(len(indices))
            elif stop["now"]:
                raise PreemptedError(f"stopped after shard {number} of {len(starts)}")
            else:
                options = _write_shard(sampler, options, indices, record, progress)
            shards.append(files.read_json(record))
        manifest = SampleManifest(key, asked, shards, extra or {})
        files.write_json(manifest_path, vars(manifest))
    for other in manifest_path.parent.glob(f"{manifest_path.stem}-*"):
        if other.is_dir() and other != folder:
            shutil.rmtree(other)
    return manifest


def _is_whole(record: Path) -> bool:
    """Whether a shard is there as its record says."""
    images = record.with_suffix(".npy")
    if not record.exists() or not images.exists():
        return False
    return bool(files.read_json(record)["sha256"] == files.sha256_file(images))


def _write_shard(
    sampler: Sampler,
    options: SampleOptions,
    indices: list[int],
    record: Path,
    progress: Progress,
) -> SampleOptions:
    """The images, then the record that says that they are whole.

    Returns:
        the options with the batch size that fitted, for the next shard.
    """
    reset_peak_memory(sampler.device)
    images, counts = draw_shard(sampler, options, indices, progress)
    counts.peak_memory_mb = peak_memory_mb(sampler.device)
    path = record.with_suffix(".npy")
    with files.atomic_path(path) as part, open(part, "wb") as file:
        np.save(file, images)
    files.write_json(
        record,
        {
            "file": f"{record.parent.name}/{path.name}",
            "start": indices[0],
            "count": len(indices),
            "sha256": files.sha256_file(path),
            **vars(counts),
        },
    )
    return replace(options, batch=counts.batch)


def read_manifest(path: str | Path) -> SampleManifest:
    """Read `samples.json`."""
    value = files.read_json(path)
    try:
        return SampleManifest(**value)
    except TypeError as error:
        raise UserError(
            "not a sample manifest", where=str(path), do="delete it and run again"
        ) from error


def read_images(path: str | Path) -> Iterator[NDArray[np.uint8]]:
    """Images of each shard (n, 3, H, W), memory-mapped; hashes are verified.

    Raises:
        UserError: for a missing or changed shard.
    """
    path = Path(path)
    for shard in read_manifest(path).shards:
        file = path.parent / shard["file"]
        if not file.exists():
            raise UserError(
                "shard not found",
                where=str(file),
                do=f"delete {path} and run again: the shard is drawn anew",
            )
        if files.sha256_file(file) != shard["sha256"]:
            raise UserError(
                "the shard's content has changed",
                where=str(file),
                expected=f"sha256 {shard['sha256'][:12]}…",
                do=f"delete {path} and run again: the shard is drawn anew",
            )
        yield np.load(file, mmap_mode="r")
