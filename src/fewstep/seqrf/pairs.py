"""Reflow pairs on disk: the manifest, and training's view of the files.

A shard is an Arrow IPC file of one record batch: `x0`, `x1` (fixed-size lists, float32
or float16), `t0`, `t1` (float32), `segment` (int16), `pair` (int64), `nfe` (int32).
Uncompressed, so that a memory map of it is used without a copy. `pair_shards` makes
shards, `collect` lists them in a manifest, `open_pairs` opens them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from fewstep import files
from fewstep.errors import UserError
from fewstep.seqrf.pair_plan import METADATA_KEY, PairPlan, schema
from fewstep.shards import (
    UNREADABLE,
    broken,
    check_size,
    list_shards,
    map_arrow,
    view,
)

__all__ = ["PairData", "PairPlan", "collect", "open_pairs"]


def collect(
    records: Sequence[str | Path], out: str | Path, count: int | None = None
) -> dict[str, Any]:
    """Write the manifest `pairs.json` of all shards of one plan.

    Every file is read once and held against its hash here, so that trainings need not.

    Args:
        records: the `….json` that `write_shard` left beside each shard, in any order.
        out: the manifest; files are named relative to its folder.
        count: pairs that there must be; default those up to the last record.

    Returns:
        the manifest.

    Raises:
        UserError: for records of different origin or plan, for pairs that are missing
            or there twice, and for a file that is missing or has changed.
    """
    same = ("origin", "plan", "shape")
    read, shards, count = list_shards(records, out, same, count, "pairs")
    first = read[0]
    counts = np.array([record["segment_counts"] for record in read])
    means = np.array([record["segment_nfe"] for record in read])
    total = counts.sum(axis=0)
    manifest = {
        **{key: first[key] for key in ("origin", "shape", "solver")},
        "plan": {**first["plan"], "count": count},
        "count": count,
        "segment_counts": total.tolist(),
        "segment_nfe": ((counts * means).sum(axis=0) / np.maximum(total, 1)).tolist(),
        "shards": shards,
    }
    files.write_json(out, manifest)
    return manifest


@dataclass(frozen=True)
class _Shard:
    """Views of a memory-mapped file."""

    x0: NDArray[Any]
    x1: NDArray[Any]
    t0: NDArray[np.float32]
    t1: NDArray[np.float32]
    segment: NDArray[np.int16]
    nfe: NDArray[np.int32]


class PairData:
    """Opened pairs; rows come from the disk when they are asked for.

    Attributes:
        manifest: the content of `pairs.json`.
        plan: how the pairs were made.
        shape: (C, H, W) of the images.
        shards: views of the mapped files, in order.
    """

    def __init__(
        self, manifest: dict[str, Any], shards: list[_Shard], count: int
    ) -> None:
        self.manifest, self.shards, self._count = manifest, shards, count
        self.plan = PairPlan.from_dict(manifest["plan"])
        self.shape: tuple[int, ...] = tuple(manifest["shape"])

    def __len__(self) -> int:
        """Number of pairs."""
        return self._count

    @property
    def identity(self) -> str:
        """Hash of the pairs in use: of what made them and of every file's content."""
        parts = {key: self.manifest[key] for key in ("origin", "shape")}
        parts["plan"] = self.plan.identity()
        used = self.manifest["shards"][: len(self.shards)]
        hashes = [shard["sha256"] for shard in used]
        return files.sha256_json({**parts, "shards": hashes, "count": self._count})

    def batch(
        self, indices: ArrayLike
    ) -> tuple[
        NDArray[np.float32],
        NDArray[np.float32],
        NDArray[np.float32],
        NDArray[np.float32],
        NDArray[np.int64],
    ]:
        """Clean ends x0, noisy ends x1 (B, C, H, W), times t0 < t1 (B,), segments (B,).

        Raises:
            IndexError: for a pair outside 0..len-1.
        """
        index = np.asarray(indices, dtype=np.int64)
        if index.size and not 0 <= index.min() <= index.max() < len(self):
            raise IndexError(f"pairs {index.min()} to {index.max()} of {len(self)}")
        x0 = np.empty((len(index), *self.shape), dtype=np.float32)
        x1 = np.empty_like(x0)
        t0 = np.empty(len(index), dtype=np.float32)
        t1 = np.empty_like(t0)
        segment = np.empty(len(index), dtype=np.int64)
        numbers, places = np.divmod(index, self.plan.shard)
        # Row by row: each goes from the map to its place without a copy between.
        for row, (number, place) in enumerate(zip(numbers, places, strict=True)):
            shard = self.shards[number]
            x0[row], x1[row] = shard.x0[place], shard.x1[place]
            t0[row], t1[row] = shard.t0[place], shard.t1[place]
            segment[row] = shard.segment[place]
        return x0, x1, t0, t1, segment


def open_pairs(
    manifest_path: str | Path,
    *,
    verify: bool = False,
    teacher_sha256: str | None = None,
    segments: int | None = None,
    limit: int | None = None,
) -> PairData:
    """Map the shards of a manifest into memory, reading only their ends.

    Args:
        manifest_path: what `collect` wrote.
        verify: also compare every file with its SHA-256 (reads all of it).
        teacher_sha256: checkpoint that must have made the pairs; None: any.
        segments: k that the pairs must have; None: any.
        limit: use the first `limit` pairs only; their segments are as balanced as all.

    Raises:
        UserError: for pairs of another checkpoint or k, fewer pairs than `limit`, and
            a shard that is missing, truncated, corrupt or of another plan.
    """
    path = Path(manifest_path)
    manifest = files.read_json(path)
    try:
        plan = PairPlan.from_dict(manifest["plan"])
        count, listed = int(manifest["count"]), list(manifest["shards"])
        shape, made_by = manifest["shape"], manifest["origin"]["teacher_sha256"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"not a manifest of pairs ({type(error).__name__}: {error})",
            where=str(path),
            do="delete it and run again: the shards are kept",
        ) from error
    _check_use(path, plan, made_by, teacher_sha256, segments)
    if limit is not None and not 0 < limit <= count:
        raise UserError(
            f"{count} pairs, but {limit} are asked for",
            where=str(path),
            expected=f"1 to {count}",
            do="ask for fewer or make more pairs",
        )
    wanted = count if limit is None else limit
    needed = [entry for entry in listed if entry["first"] < wanted]
    same = {key: manifest[key] for key in ("origin", "shape")}
    same["plan"] = plan.identity()
    shards = [_open_shard(path, entry, plan, shape, same, verify) for entry in needed]
    return PairData(manifest, shards, wanted)


def _check_use(
    path: Path, plan: PairPlan, made_by: str, teacher: str | None, k: int | None
) -> None:
    """Refuse pairs that do not fit the training that asks for them."""
    if teacher is not None and teacher != made_by:
        raise UserError(
            f"the pairs were made by another checkpoint (sha256 {made_by[:12]}…)",
            where=str(path),
            expected=f"checkpoint {teacher[:12]}…",
            do="make the pairs again, or train from the checkpoint that made them",
        )
    if k is not None and k != plan.segments:
        raise UserError(
            f"the pairs are of {plan.segments} segments",
            where=str(path),
            expected=f"{k} segments",
            do="make the pairs again for this k, or train with theirs",
        )


def _open_shard(
    manifest: Path,
    entry: dict[str, Any],
    plan: PairPlan,
    shape: Sequence[int],
    same: dict[str, Any],
    verify: bool,
) -> _Shard:
    """Views of one file, held against the manifest."""
    path = manifest.parent / entry["file"]
    check_size(path, entry, verify)
    try:
        batch = map_arrow(path)
        _check(path, batch, entry, schema(plan, shape), same)
    except UNREADABLE as error:
        raise broken(path, f"not a whole shard ({type(error).__name__})") from error
    return _Shard(
        *(view(batch[name].flatten()).reshape(-1, *shape) for name in ("x0", "x1")),
        *(view(batch[name]) for name in ("t0", "t1", "segment", "nfe")),
    )


def _check(
    path: Path,
    batch: pa.RecordBatch,
    entry: dict[str, Any],
    layout: pa.Schema,
    same: dict[str, Any],
) -> None:
    """Hold a shard's columns, length and metadata against the manifest."""
    if not batch.schema.equals(layout):
        raise broken(path, f"columns {batch.schema.names} of other types", "the plan's")
    if batch.num_rows != entry["count"]:
        raise broken(path, f"{batch.num_rows} pairs", f"{entry['count']}")
    about = json.loads(batch.schema.metadata[METADATA_KEY])
    wanted = {**same, "first": entry["first"]}
    if {key: about[key] for key in wanted} != wanted:
        raise broken(path, "made by another checkpoint or plan", "the manifest's")
