"""Samples on disk: shards that any number of jobs draw, and a manifest that lists them.

A shard is whole or not there. Which job drew it, beside how many others, and after
which interruptions, has no influence on its bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep import files
from fewstep.errors import UserError
from fewstep.processes import PreemptedError, stop_signal
from fewstep.progress import Progress
from fewstep.provenance import peak_memory_mb, reset_peak_memory
from fewstep.sampling import SampleOptions, Sampler, draw_shard


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


@dataclass(frozen=True)
class Part:
    """One of several jobs that share a run.

    Attributes:
        number: of the job, from 0: it draws the shards number, number + of, ...
        of: jobs.
    """

    number: int
    of: int


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
    folder = shard_folder(manifest_path, key)
    with stop_signal() as stop:
        shards = _draw(sampler, options, folder, _starts(options), label, stop)
        manifest = SampleManifest(key, vars(options), shards, extra or {})
        files.write_json(manifest_path, vars(manifest))
    _remove_others(manifest_path, folder)
    return manifest


def draw_part(
    sampler: Sampler,
    options: SampleOptions,
    manifest_path: str | Path,
    part: Part,
    record: str | Path,
    *,
    key: str,
    extra: dict[str, Any] | None = None,
    label: str = "sample",
) -> None:
    """Draw the shards of one of several jobs; `collect_parts` makes the manifest.

    Args:
        sampler, options, manifest_path, key, extra, label: as for `draw_samples`.
        part: which of the jobs this is.
        record: `….json`, written last: that this job's shards are there.

    Raises:
        PreemptedError: as `draw_samples`.
    """
    folder = shard_folder(Path(manifest_path), key)
    starts = _starts(options)[part.number :: part.of]
    with stop_signal() as stop:
        _draw(sampler, options, folder, starts, label, stop)
        about = {"key": key, "options": vars(options), "part": vars(part)}
        files.write_json(record, {**about, "extra": extra or {}})


def collect_parts(
    records: Sequence[str | Path], manifest_path: str | Path
) -> SampleManifest:
    """The manifest of a run that several jobs drew, equal to that of a single one.

    Args:
        records: what `draw_part` wrote, of all jobs.
        manifest_path: `…/samples.json`.

    Raises:
        UserError: for records of different runs, a job whose record is not there, or a
            shard that is gone or damaged.
    """
    manifest_path = Path(manifest_path)
    read = [(Path(path), files.read_json(path)) for path in records]
    read.sort(key=lambda item: int(item[1]["part"]["number"]))
    (first_path, first), parts = read[0], [record["part"] for _, record in read]
    for path, record in read:
        if (record["key"], record["part"]["of"]) != (first["key"], len(read)):
            raise UserError(
                f"not of the same run as {first_path}",
                where=str(path),
                do=f"delete {path.parent} and run again: whole shards are kept",
            )
    if [part["number"] for part in parts] != list(range(len(read))):
        raise UserError("not one record of each job", where=str(first_path.parent))
    # The batch is what fitted where a job ran; nothing depends on it.
    batch = min(record["options"]["batch"] for _, record in read)
    options = SampleOptions(**{**first["options"], "batch": batch})
    folder = shard_folder(manifest_path, first["key"])
    shards = []
    for number, start in enumerate(_starts(options)):
        record = _record(folder, start)
        if not _is_whole(record):
            path = read[number % len(read)][0]
            raise UserError(
                "shard not found or changed",
                where=str(record.with_suffix(".npy")),
                do=f"delete {path} and run again: the shard is drawn anew",
            )
        shards.append(files.read_json(record))
    extra = {**first["extra"], "parts": len(read)}
    extra["provenance"] = _together([r["extra"].get("provenance", {}) for _, r in read])
    manifest = SampleManifest(first["key"], vars(options), shards, extra)
    files.write_json(manifest_path, vars(manifest))
    _remove_others(manifest_path, folder)
    return manifest


def _together(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the jobs say of themselves; texts that differ stand side by side."""
    joined = dict(found[0])
    for key, value in found[0].items():
        texts = sorted({str(other[key]) for other in found})
        if key == "created_utc":
            joined[key] = texts[-1]
        elif key == "dirty":
            joined[key] = any(other[key] for other in found)
        elif len(texts) > 1:
            joined[key] = " + ".join(texts) if isinstance(value, str) else value
    return joined


def shard_folder(manifest_path: Path, key: str) -> Path:
    """Where the shards of a run lie."""
    return manifest_path.parent / f"{manifest_path.stem}-{key[:12]}"


def _starts(options: SampleOptions) -> list[int]:
    """The first sample of every shard."""
    return list(range(options.start, options.stop, options.shard))


def _record(folder: Path, start: int) -> Path:
    return folder / f"{start:07d}.json"


def _draw(
    sampler: Sampler,
    options: SampleOptions,
    folder: Path,
    starts: Sequence[int],
    label: str,
    stop: dict[str, bool],
) -> list[dict[str, Any]]:
    """Records of the shards with these first samples; those that lack are drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [
        list(range(start, min(start + options.shard, options.stop))) for start in starts
    ]
    progress = Progress(label, sum(map(len, chosen)))
    shards = []
    for number, indices in enumerate(chosen):
        record = _record(folder, indices[0])
        if _is_whole(record):
            progress.first += len(indices)
            progress.advance(len(indices))
        elif stop["now"]:
            raise PreemptedError(f"stopped after shard {number} of {len(starts)}")
        else:
            options = _write_shard(sampler, options, indices, record, progress)
        shards.append(files.read_json(record))
    return shards


def _remove_others(manifest_path: Path, folder: Path) -> None:
    """Shards of other runs."""
    for other in manifest_path.parent.glob(f"{manifest_path.stem}-*"):
        if other.is_dir() and other != folder:
            shutil.rmtree(other)


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
    manifest = read_manifest(path)
    also = f"{path.parent / 'parts'} and " if "parts" in manifest.extra else ""
    anew = f"delete {also}{path} and run again: the shard is drawn anew"
    for shard in manifest.shards:
        file = path.parent / shard["file"]
        if not file.exists():
            raise UserError(
                "shard not found",
                where=str(file),
                do=anew,
            )
        if files.sha256_file(file) != shard["sha256"]:
            raise UserError(
                "the shard's content has changed",
                where=str(file),
                expected=f"sha256 {shard['sha256'][:12]}…",
                do=anew,
            )
        yield np.load(file, mmap_mode="r")
