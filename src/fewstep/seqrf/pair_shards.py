"""Shards of reflow pairs: pair i is decided by (seed, i), a shard by its numbers alone.

So any number of jobs may make shards at once, in any order and batch size; one that is
killed leaves nothing half and costs its own shard.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewstep import files, noise
from fewstep.data import Dataset
from fewstep.device import empty_cache, memory_errors
from fewstep.errors import UserError
from fewstep.images import to_model_range
from fewstep.progress import Progress
from fewstep.seqrf.pair_plan import METADATA_KEY, PairPlan, schema
from fewstep.seqrf.reflow import NotFiniteError, Pairs, reflow_pairs
from fewstep.shards import write_arrow

logger = logging.getLogger(__name__)

SOLVER = "dormand-prince-5(4)"
_ORIGIN = {"teacher_sha256", "dataset_sha256"}


class Teacher(Protocol):
    """A network that makes pairs, such as `NCSNpp` with the weights of its EMA."""

    @property
    def centered(self) -> bool:
        """Whether its model space is [-1, 1], not [0, 1]."""

    def __call__(self, x: Tensor, label: Tensor, index: int | Tensor | None) -> Tensor:
        """Velocity (B, C, H, W)."""


def draw_pairs(
    plan: PairPlan, dataset: Dataset, indices: Sequence[int], centered: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """What pairs are made of: image, noise and segment of each, on the CPU.

    Args:
        plan: gives seed, mirroring and segments.
        dataset: images; one is drawn for each pair, with repetition.
        indices: numbers of the pairs.
        centered: images in [-1, 1], not [0, 1].

    Returns:
        data (B, C, H, W) and noise (B, C, H, W) float32, segment (B,) int64.

    Raises:
        ValueError: for an empty dataset.
    """
    shape = dataset.images.shape[1:]
    images = np.empty((len(indices), *shape), dtype=np.uint8)
    drawn = np.empty(images.shape, dtype=np.float32)
    for row, index in enumerate(indices):
        stream = noise.stream(plan.seed, "pairs", index)
        image = dataset.images[stream.integers(len(dataset))]
        # Drawn in any case: switched off, mirroring changes no other draw.
        mirrored = bool(stream.integers(2)) and plan.flip
        images[row] = image[..., ::-1] if mirrored else image
        stream.standard_normal(dtype=np.float32, out=drawn[row])
    data = to_model_range(images) if centered else torch.from_numpy(images) / 255
    segment = torch.tensor([index % plan.segments for index in indices])
    return data, torch.from_numpy(drawn), segment


def write_shard(
    net: Teacher,
    dataset: Dataset,
    plan: PairPlan,
    number: int,
    path: str | Path,
    *,
    origin: dict[str, Any],
    batch: int = 256,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make one shard of pairs and its record `….json`, each whole or not at all.

    Args:
        net: the teacher on `device`, in evaluation mode.
        dataset: real images.
        plan: which pairs and how.
        number: of the shard, 0..plan.shards-1.
        path: `….arrow`; pairs of another origin there are replaced.
        origin: JSON value that says what the pairs come from: `teacher_sha256`,
            `dataset_sha256`, and whatever else must not differ between shards.
        batch: pairs at a time; halved when the device's memory runs out.
        device: where the pairs are made.
        progress: advanced by the pairs made.

    Returns:
        the record: file, sha256, bytes, number, first, count, pairs and mean NFE by
        segment, seconds, batch that fitted, solver, origin, plan, shape.

    Raises:
        UserError: for pairs that are not finite (says which), a solver that gets
            nowhere, a full disk, or memory too small for one pair.
        ValueError: for an origin without hashes or a shard that does not exist.
    """
    if not origin.keys() >= _ORIGIN:
        raise ValueError(f"origin {sorted(origin)}: expected {sorted(_ORIGIN)}")
    path = Path(path)
    record_path = path.with_suffix(".json")
    # It says that the shard beside it is whole: not any more.
    record_path.unlink(missing_ok=True)
    started = time.monotonic()
    job = _Job(net, dataset, plan, plan.indices(number), torch.device(device))
    columns, batch = _make(job, batch, progress)
    about = {"origin": origin, "number": number, "solver": SOLVER, **job.about()}
    with files.atomic_path(path) as part:
        write_arrow(part, columns, schema(plan, job.shape), (METADATA_KEY, about))
    record = {
        "file": path.name,
        "sha256": files.sha256_file(path),
        "bytes": path.stat().st_size,
        **about,
        **_by_segment(columns, plan.segments),
        "batch": batch,
        "seconds": time.monotonic() - started,
    }
    files.write_json(record_path, record)
    return record


def _by_segment(columns: dict[str, NDArray[Any]], k: int) -> dict[str, list[float]]:
    """Pairs and mean NFE of each segment."""
    segment = columns["segment"]
    counts = np.bincount(segment, minlength=k)
    sums = np.bincount(segment, weights=columns["nfe"], minlength=k)
    means = sums / np.maximum(counts, 1)
    return {"segment_counts": counts.tolist(), "segment_nfe": means.tolist()}


@dataclass(frozen=True)
class _Job:
    """What a batch of pairs is made from."""

    net: Teacher
    dataset: Dataset
    plan: PairPlan
    indices: range
    device: torch.device

    @property
    def shape(self) -> list[int]:
        """[C, H, W] of the images."""
        return list(self.dataset.images.shape[1:])

    def about(self) -> dict[str, Any]:
        """What the pairs are, as a JSON value."""
        return {
            "plan": self.plan.identity(),
            "shape": self.shape,
            "first": self.indices[0],
            "count": len(self.indices),
        }

    def pairs(self, rows: NDArray[np.int64]) -> Pairs:
        """Pairs of the shard's rows."""
        numbers = [self.indices[row] for row in rows]
        data, normal, segment = draw_pairs(
            self.plan, self.dataset, numbers, self.net.centered
        )
        shared = self.plan.error_norm == "batch"
        try:
            return reflow_pairs(
                self.net,
                data.to(self.device),
                normal.to(self.device),
                segment=int(segment[0]) if shared else segment,
                segments=self.plan.segments,
                tol=self.plan.tol,
                error_norm=self.plan.error_norm,
                edges=self.plan.edges,
                time_factor=self.plan.time_factor,
            )
        except NotFiniteError as error:
            raise self.refusal([numbers[row] for row in error.rows]) from error

    def refusal(self, pairs: Sequence[int]) -> UserError:
        """The line for pairs that are not finite."""
        shown = ", ".join(map(str, pairs[:5])) + (", …" if len(pairs) > 5 else "")
        return UserError(
            f"{len(pairs)} of the pairs are not finite (seed {self.plan.seed}, "
            f"pairs {shown}, {self.plan.dtype})",
            do="check the teacher's checkpoint and precision; no shard was written",
        )


def _queues(plan: PairPlan, indices: range) -> Iterator[NDArray[np.int64]]:
    """Rows that may share a batch: any, or those of one segment under one step size."""
    rows = np.arange(len(indices))
    if plan.error_norm == "sample":
        yield rows
        return
    segment = np.asarray(indices) % plan.segments
    yield from (rows[segment == one] for one in range(plan.segments))


def _make(
    job: _Job, batch: int, progress: Progress | None
) -> tuple[dict[str, NDArray[Any]], int]:
    """The columns of a shard, and the batch size that fitted."""
    columns = _empty(job.plan, job.indices, job.shape)
    for queue in _queues(job.plan, job.indices):
        done = 0
        while done < len(queue):
            rows = queue[done : done + batch]
            try:
                with memory_errors():
                    pairs = job.pairs(rows)
            except torch.OutOfMemoryError:
                if batch == 1:
                    raise UserError(
                        "one pair does not fit into the device's memory",
                        do="use a bigger device or a lower precision",
                    ) from None
                batch //= 2
                empty_cache(job.device)
                logger.warning("out of memory: batch halved to %d", batch)
                continue
            _store(job, columns, rows, pairs)
            done += len(rows)
            if progress is not None:
                progress.advance(len(rows))
    return columns, batch


def _empty(
    plan: PairPlan, indices: range, shape: Sequence[int]
) -> dict[str, NDArray[Any]]:
    """Columns to fill, those that the numbers decide filled."""
    pair = np.asarray(indices, dtype=np.int64)
    count, segment = len(pair), (pair % plan.segments).astype(np.int16)
    edges = np.asarray(plan.edges, dtype=np.float32)
    return {
        "x0": np.empty((count, *shape), dtype=plan.dtype),
        "x1": np.empty((count, *shape), dtype=plan.dtype),
        "t0": edges[segment + 1],
        "t1": edges[segment],
        "segment": segment,
        "pair": pair,
        "nfe": np.zeros(count, dtype=np.int32),
    }


def _store(
    job: _Job,
    columns: dict[str, NDArray[Any]],
    rows: NDArray[np.int64],
    pairs: Pairs,
) -> None:
    """Put a batch into its rows; refuse what is not finite in the stored type."""
    dtype = getattr(torch, job.plan.dtype)
    ends = {"x0": pairs.x0.to(dtype), "x1": pairs.x1.to(dtype)}
    good = torch.stack([x.isfinite().flatten(1).all(dim=1) for x in ends.values()])
    bad = rows[~good.all(dim=0).cpu().numpy()]
    if len(bad):
        raise job.refusal([job.indices[row] for row in bad])
    for name, x in ends.items():
        columns[name][rows] = x.cpu().numpy()
    columns["nfe"][rows] = pairs.nfe_per_sample.cpu().numpy()
