"""Shards of codes: images are encoded once, training reads uint16 from a memory map.

The codes of image i depend on the image alone. So any number of jobs may make shards
at once, in any order; one that is killed leaves nothing half and costs its own shard.
Every batch is filled up to one size, so a device gives the same bits in any shard.
Another batch size rounds latents otherwise, by about 1e-6, which can only move a code
between two entries that are as near.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fewstep import files
from fewstep.device import empty_cache, memory_errors
from fewstep.errors import UserError
from fewstep.images import to_model_range
from fewstep.par.code_plan import FORMAT, METADATA_KEY, CodePlan, schema
from fewstep.par.code_sources import Source, cores, read_ahead
from fewstep.par.tokenizer import VQModel
from fewstep.progress import Progress
from fewstep.shards import write_arrow

logger = logging.getLogger(__name__)

ORIGIN = frozenset({"tokenizer_sha256", "dataset", "dataset_sha256"})
"""What codes must say of where they come from."""
_COUNTED = 2**22
"""Codes counted at a time, which are copied to int64 for it."""


def write_shard(
    vq: VQModel,
    source: Source,
    plan: CodePlan,
    number: int,
    path: str | Path,
    *,
    origin: Mapping[str, Any],
    batch: int = 64,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Encode one shard of images, and write its record `….json`, each whole or not.

    Threads read images while the device encodes. An autocast around this call governs
    the encoder; the nearest entries are always found in float32.

    Args:
        vq: the tokenizer on `device`, in evaluation mode.
        source: images and labels; the first `plan.count` are meant.
        plan: which codes, and where.
        number: of the shard, 0..plan.shards-1.
        path: `….arrow`; what is there is replaced.
        origin: as in `write_codes`.
        batch: views at a time; halved when the device's memory runs out.
        device: where the encoder runs.
        progress: advanced by the images encoded.
        about: further entries of the record, as in `write_codes`.

    Returns:
        the record, see `write_codes`, with batch (that fitted) and seconds.

    Raises:
        UserError: for an image that cannot be read, fewer images than the plan's, a
            label outside the classes, a full disk, or memory too small for one view.
        ValueError: for a tokenizer or source that do not fit the plan, an origin
            without its keys, or a shard that does not exist.
    """
    _check(vq, source, plan)
    started = time.monotonic()
    indices = plan.indices(number)
    encoder = _Encoder(vq, torch.device(device), batch)
    codes = np.empty((len(indices) * plan.views, plan.tokens), dtype=np.uint16)
    done = 0
    ahead = 2 * max(cores(), -(-batch // plan.views))
    with closing(read_ahead(source.read, indices, ahead)) as images:
        for views in _blocks(images, batch):
            codes[done : done + len(views)] = encoder(views)
            before, done = done, done + len(views)
            if progress is not None:
                progress.advance(done // plan.views - before // plan.views)
    labels = source.labels[indices.start : indices.stop]
    seconds = time.monotonic() - started
    about = {**(about or {}), "batch": encoder.batch, "seconds": seconds}
    return write_codes(plan, number, path, codes, labels, origin=origin, about=about)


def write_codes(
    plan: CodePlan,
    number: int,
    path: str | Path,
    codes: NDArray[Any],
    labels: ArrayLike,
    *,
    origin: Mapping[str, Any],
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write codes that are at hand as one shard and its record `….json`.

    Args:
        plan: which codes, and where.
        number: of the shard.
        path: `….arrow`; what is there is replaced.
        codes: integers that reshape to (images of the shard, views, N), raster order.
        labels: class of each image of the shard.
        origin: JSON value that says what the codes come from: `tokenizer_sha256`,
            `dataset`, `dataset_sha256`, and whatever else must not differ between
            shards.
        about: further entries of the record.

    Returns:
        the record: file, sha256, bytes, number, first, count, plan, origin and
        code_counts (how often each code occurs, over all views).

    Raises:
        UserError: for codes or labels out of range, or a full disk.
        ValueError: for an origin without its keys, or another number of codes.
    """
    if not origin.keys() >= ORIGIN:
        raise ValueError(f"origin {sorted(origin)}: expected {sorted(ORIGIN)}")
    path = Path(path)
    # It says that the shard beside it is whole: not any more.
    path.with_suffix(".json").unlink(missing_ok=True)
    indices = plan.indices(number)
    stored = _columns(path, plan, len(indices), codes, np.asarray(labels))
    what = {
        "number": number,
        "first": indices.start,
        "count": len(indices),
        "plan": plan.identity(),
        "origin": dict(origin),
    }
    with files.atomic_path(path) as part:
        metadata = {"format": FORMAT, **what}
        write_arrow(part, stored, schema(plan), (METADATA_KEY, metadata))
        record = {
            "file": path.name,
            "sha256": files.sha256_file(part),
            "bytes": part.stat().st_size,
            **what,
            "code_counts": code_counts(stored["codes"], plan.codebook_size).tolist(),
            **(about or {}),
        }
    files.write_json(path.with_suffix(".json"), record)
    return record


def _columns(
    path: Path, plan: CodePlan, count: int, codes: NDArray[Any], labels: NDArray[Any]
) -> dict[str, NDArray[Any]]:
    """A shard's columns in the types that are stored, when they fit them."""
    codes = np.reshape(codes, (count, plan.views * plan.tokens))
    _check_range(path, "codes", codes, plan.codebook_size)
    _check_range(path, "label", labels, plan.num_classes)
    return {
        "codes": codes.astype(np.uint16, copy=False),
        "label": labels.reshape(count).astype(np.int32, copy=False),
    }


def code_counts(codes: NDArray[np.integer[Any]], size: int) -> NDArray[np.int64]:
    """How often each of `size` codes occurs: (size,)."""
    counts, flat = np.zeros(size, dtype=np.int64), codes.reshape(-1)
    for start in range(0, flat.size, _COUNTED):
        counts += np.bincount(flat[start : start + _COUNTED], minlength=size)
    return counts


def _check(vq: VQModel, source: Source, plan: CodePlan) -> None:
    """Hold tokenizer and images against the plan."""
    found = {
        "codebook_size": vq.codebook_size,
        "grid": source.size / vq.downsample,
        "views": source.views,
        "num_classes": source.num_classes,
    }
    for name, value in found.items():
        if value != getattr(plan, name):
            raise ValueError(f"{name} {value:g}: the plan has {getattr(plan, name)}")
    if len(source.labels) < plan.count:
        raise UserError(
            f"{len(source.labels)} images, but codes of {plan.count} are asked for",
            do="correct `count`, or complete the dataset",
        )


def _check_range(path: Path, name: str, values: NDArray[Any], size: int) -> None:
    """Values must be 0..size-1."""
    least, most = int(values.min()), int(values.max())
    if not 0 <= least <= most < size:
        what = "codebook" if name == "codes" else "classes"
        raise UserError(
            f"{name} {least} to {most}",
            where=str(path),
            expected=f"0 to {size - 1}, those of the {what}",
        )


def _blocks(
    images: Iterator[NDArray[np.uint8]], batch: int
) -> Iterator[NDArray[np.uint8]]:
    """Views (n, 3, S, S) of all images one after another, n = batch but at the end."""
    rows = chain.from_iterable(images)
    while block := list(islice(rows, batch)):
        yield np.stack(block)


class _Encoder:
    """Codes of views, in batches that fit.

    Attributes:
        batch: views at a time, halved as often as the memory ran out.
    """

    def __init__(self, vq: VQModel, device: torch.device, batch: int) -> None:
        if batch < 1:
            raise ValueError(f"batch {batch}: expected 1 or more")
        self.vq, self.device, self.batch = vq, device, batch

    def __call__(self, views: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Codes (n, N) of views (n, 3, S, S)."""
        out: list[NDArray[np.int64]] = []
        done = 0
        while done < len(views):
            part = views[done : done + self.batch]
            try:
                with memory_errors():
                    codes = self._codes(self._filled(part))
                out.append(codes[: len(part)].cpu().numpy())
            except torch.OutOfMemoryError:
                self._halve()
                continue
            done += len(part)
        return np.concatenate(out)

    def _filled(self, part: NDArray[np.uint8]) -> Tensor:
        """The last views filled up to a batch: kernels, and so bits, go by its size."""
        blank = np.zeros((self.batch - len(part), *part.shape[1:]), dtype=np.uint8)
        return torch.from_numpy(np.concatenate([part, blank]))

    @torch.inference_mode()
    def _codes(self, views: Tensor) -> Tensor:
        # Bytes travel to the device, a quarter of what floats would.
        z = self.vq.latent(to_model_range(views.to(self.device))).movedim(1, -1)
        with torch.autocast(self.device.type, enabled=False):
            return self.vq.quantize.indices(z.float()).view(len(views), -1)

    def _halve(self) -> None:
        if self.batch == 1:
            raise UserError(
                "one view does not fit into the device's memory",
                do="use a bigger device or a lower precision",
            ) from None
        self.batch //= 2
        empty_cache(self.device)
        logger.warning("out of memory: batch halved to %d views", self.batch)
