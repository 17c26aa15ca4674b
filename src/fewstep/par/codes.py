"""Codes on disk: the manifest, and training's view of the files.

A shard is an Arrow IPC file of one record batch: `codes` (fixed-size lists of views
times N uint16, raster order) and `label` (int32). `code_store` makes shards, `collect`
lists them in a manifest, `open_codes` opens them, and the released folders alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep import files
from fewstep.errors import UserError
from fewstep.par.code_plan import FORMAT, METADATA_KEY, CodePlan, schema
from fewstep.par.released_codes import open_released
from fewstep.par.usage import usage
from fewstep.shards import (
    UNREADABLE,
    broken,
    check_size,
    list_shards,
    map_arrow,
    view,
)

__all__ = ["CodeData", "StoredCodes", "collect", "open_codes"]

MANIFEST = "codes.json"


class CodeData(Protocol):
    """Codes that a transformer learns from, whatever files they lie in.

    Attributes:
        views: stored views of an image.
        classes: number of classes; labels are 0..classes-1.
        largest: no code is larger.
        grid: codes a side.
        tokens: codes of one view, N = grid².
        codebook_size: K.
        sha256: hash of the content.
        manifest: what the codes are; `origin` says where they come from, with
            `tokenizer_sha256` (None: unknown).
    """

    views: int
    classes: int
    largest: int
    grid: int
    tokens: int
    codebook_size: int
    sha256: str
    manifest: dict[str, Any]

    def __len__(self) -> int:
        """Number of images."""

    def batch(
        self, images: ArrayLike, views: ArrayLike
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Codes (B, N), in raster order, and labels (B,) of images' views.

        Raises:
            IndexError: for an image or view that is not there.
            UserError: for a damaged file, or a code or label out of range.
        """


def collect(
    records: Sequence[str | Path], out: str | Path, count: int | None = None
) -> dict[str, Any]:
    """Write the manifest `codes.json` of all shards of one extraction.

    Every file is read once and held against its hash here, so that trainings need not.

    Args:
        records: the `….json` that `write_codes` left beside each shard, in any order.
        out: the manifest; files are named relative to its folder.
        count: images that there must be; default those up to the last record.

    Returns:
        the manifest: format, the plan's values, origin, tokens, largest (code), used
        (share of the codebook), perplexity, sha256 (over the shards' hashes), shards.

    Raises:
        UserError: for records of different origin or plan, for images that are missing
            or there twice, and for a file that is missing or has changed.
    """
    read, shards, count = list_shards(records, out, ("origin", "plan"), count, "images")
    plan = CodePlan.from_dict({**read[0]["plan"], "count": count})
    counts = np.sum([record["code_counts"] for record in read], axis=0)
    manifest = {
        "format": FORMAT,
        "count": count,
        **plan.identity(),
        "tokens": plan.tokens,
        "largest": int(np.flatnonzero(counts)[-1]),
        **usage(counts),
        "origin": read[0]["origin"],
        "sha256": files.sha256_json([shard["sha256"] for shard in shards]),
        "shards": shards,
    }
    files.write_json(out, manifest)
    return manifest


def open_codes(
    path: str | Path,
    *,
    count: int | None = None,
    codebook_size: int | None = None,
    num_classes: int | None = None,
    verify: bool = False,
) -> CodeData:
    """Open codes without reading them: `codes.json`, its folder, or a released folder.

    Args:
        path: what `collect` wrote, its folder, or a folder that holds
            `<name>_codes/{i}.npy` and `<name>_labels/{i}.npy`.
        count: images that there must be; None: those that there are.
        codebook_size: no code may lie outside; None: as the manifest says, 16,384 for
            a released folder.
        num_classes: no label may lie outside; None: as the manifest says, 1,000 for a
            released folder.
        verify: also compare every file of a manifest with its SHA-256 (reads all).

    Raises:
        UserError: for images that are missing, codes or classes outside, and a shard
            that is missing, truncated, corrupt or of another extraction.
    """
    path = Path(path)
    if path.is_dir() and not (path / MANIFEST).exists():
        return open_released(path, count, codebook_size, num_classes)
    data = _open_stored(path / MANIFEST if path.is_dir() else path, verify)
    wrong = None
    if count not in (None, len(data)):
        wrong = f"codes of {len(data)} images", f"{count} images"
    elif codebook_size is not None and data.largest >= codebook_size:
        wrong = f"codes up to {data.largest}", f"a codebook of {codebook_size}"
    elif num_classes is not None and data.classes > num_classes:
        wrong = f"{data.classes} classes", f"{num_classes} classes"
    if wrong:
        raise UserError(
            wrong[0],
            where=str(path),
            expected=wrong[1],
            do="take the codes of the model's own dataset and tokenizer",
        )
    return data


@dataclass(frozen=True)
class _Shard:
    """Views of a memory-mapped file: codes (images, views, N), label (images,)."""

    path: Path
    codes: NDArray[np.uint16]
    label: NDArray[np.int32]


class StoredCodes:
    """Opened codes; rows come from the disk when they are asked for.

    Attributes:
        plan: which codes, and how they are stored.
        shards: views of the mapped files, in order.
        others: as in `CodeData`.
    """

    def __init__(
        self, manifest: dict[str, Any], plan: CodePlan, shards: list[_Shard]
    ) -> None:
        self.manifest, self.plan, self.shards = manifest, plan, shards
        self.views, self.classes = plan.views, plan.num_classes
        self.grid, self.tokens = plan.grid, plan.tokens
        self.codebook_size = plan.codebook_size
        self.largest, self.sha256 = int(manifest["largest"]), str(manifest["sha256"])

    def __len__(self) -> int:
        """Number of images."""
        return self.plan.count

    def batch(
        self, images: ArrayLike, views: ArrayLike
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Codes (B, N) and labels (B,) of images' views, as in `CodeData`."""
        image = np.asarray(images, dtype=np.int64)
        seen = np.asarray(views, dtype=np.int64)
        for name, value, size in (
            ("images", image, len(self)),
            ("views", seen, self.views),
        ):
            if value.size and not 0 <= value.min() <= value.max() < size:
                raise IndexError(f"{name} {value.min()} to {value.max()} of {size}")
        codes = np.empty((len(image), self.tokens), dtype=np.int64)
        labels = np.empty(len(image), dtype=np.int64)
        numbers, places = np.divmod(image, self.plan.shard)
        # Row by row: each goes from the map to its place without a copy between.
        rows = zip(numbers.tolist(), places.tolist(), seen.tolist(), strict=True)
        for row, (number, place, one) in enumerate(rows):
            shard = self.shards[number]
            codes[row] = shard.codes[place, one]
            labels[row] = shard.label[place]
        self._check(codes, labels, numbers)
        return codes, labels

    def _check(
        self,
        codes: NDArray[np.int64],
        labels: NDArray[np.int64],
        numbers: NDArray[np.int64],
    ) -> None:
        """Damage that maps well must not become an index on the device."""
        least = labels.min(initial=0)
        if codes.max(initial=0) <= self.largest and (
            0 <= least <= labels.max(initial=0) < self.classes
        ):
            return
        bad = (codes > self.largest).any(1) | (labels < 0) | (labels >= self.classes)
        path = self.shards[numbers[bad][0]].path
        raise broken(path, "codes or labels out of range: content has changed")


def _open_stored(path: Path, verify: bool) -> StoredCodes:
    manifest = files.read_json(path)
    try:
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']}, not {FORMAT}")
        plan = CodePlan.from_dict(manifest)
        entries, origin = list(manifest["shards"]), manifest["origin"]
        places = [(entry["first"], entry["count"]) for entry in entries]
        wanted = [plan.indices(number) for number in range(plan.shards)]
        if places != [(one.start, len(one)) for one in wanted]:
            raise ValueError(f"its shards do not make up {plan.count} images")
        shards = [_open_shard(path, entry, plan, origin, verify) for entry in entries]
        return StoredCodes(manifest, plan, shards)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"not a manifest of codes ({type(error).__name__}: {error})",
            where=str(path),
            do="delete it and run again: the shards are kept",
        ) from error


def _open_shard(
    manifest: Path,
    entry: Mapping[str, Any],
    plan: CodePlan,
    origin: Any,
    verify: bool,
) -> _Shard:
    """Views of one file, held against the manifest."""
    path = manifest.parent / entry["file"]
    check_size(path, entry, verify)
    try:
        batch = map_arrow(path)
        layout = schema(plan)
        if not batch.schema.equals(layout):
            raise broken(path, f"columns {batch.schema.names} of other types")
        if batch.num_rows != entry["count"]:
            raise broken(path, f"{batch.num_rows} images", f"{entry['count']}")
        about = json.loads(batch.schema.metadata[METADATA_KEY])
        same = {"format": FORMAT, "plan": plan.identity(), "origin": origin}
        wanted = {**same, "first": entry["first"]}
        if {key: about[key] for key in wanted} != wanted:
            raise broken(path, "of another extraction", "the manifest's")
        return _Shard(
            path,
            view(batch["codes"].flatten()).reshape(-1, plan.views, plan.tokens),
            view(batch["label"]),
        )
    except UNREADABLE as error:
        raise broken(path, f"not a whole shard ({type(error).__name__})") from error
