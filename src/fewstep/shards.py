"""Sharded columns on disk: Arrow IPC files that are whole, and mapped without a copy.

A shard is one uncompressed record batch with what it is made from in the metadata of
its schema. Jobs write shards in any order; a manifest lists them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from fewstep import files
from fewstep.errors import UserError

UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError, TypeError)
"""What a damaged file may raise while it is mapped and checked."""
MAKE_ANEW = "delete it and run again: only this shard is made anew"


def write_arrow(
    path: Path,
    columns: Mapping[str, NDArray[Any]],
    layout: pa.Schema,
    metadata: tuple[bytes, Mapping[str, Any]],
) -> None:
    """Write one record batch, uncompressed.

    Args:
        path: the file; wrap it in `files.atomic_path`.
        columns: an array of `layout`'s type for each of its fields; rows first.
        layout: columns and their types, without metadata.
        metadata: key of the schema's metadata, and the JSON value under it.
    """
    arrays = []
    for field in layout:
        values = pa.array(columns[field.name].reshape(-1))
        if pa.types.is_fixed_size_list(field.type):
            values = pa.FixedSizeListArray.from_arrays(values, type=field.type)
        arrays.append(values)
    key, about = metadata
    whole = layout.with_metadata({key: json.dumps(about, sort_keys=True)})
    # A Python file: its errors keep their number, by which a full disk is known.
    with open(path, "wb") as file, pa.ipc.new_file(file, whole) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=whole))


def map_arrow(path: Path) -> pa.RecordBatch:
    """The record batch of a shard; its buffers lie in the map of the file.

    Raises:
        UserError: for more or less than one record batch.
        pyarrow.ArrowException, OSError, ValueError: for a file that is damaged, as
            `UNREADABLE` lists.
    """
    # The map outlives the closed file: hundreds of shards need no open files.
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        if reader.num_record_batches != 1:
            raise broken(path, f"{reader.num_record_batches} batches", "1 batch")
        batch = reader.get_batch(0)
    batch.validate()  # unseen, an impossible length ends the process later
    return batch


def view(array: pa.Array) -> NDArray[Any]:
    """A read-only NumPy view of an Arrow array; never a copy."""
    values: NDArray[Any] = array.to_numpy(zero_copy_only=True)
    return values


def broken(path: Path, what: str, expected: str = "") -> UserError:
    """The line for a shard that cannot be used."""
    return UserError(what, where=str(path), expected=expected, do=MAKE_ANEW)


def check_size(path: Path, entry: Mapping[str, Any], verify: bool) -> None:
    """Hold a file against its manifest's entry: there, `bytes` long, of its `sha256`.

    Args:
        path: the file.
        entry: its `bytes` and `sha256`.
        verify: also read all of it and compare the hash.

    Raises:
        UserError: naming the file and what differs.
    """
    if not path.is_file():
        raise UserError(
            "shard not found",
            where=str(path),
            do="run again: only this shard is made anew",
        )
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise broken(path, f"{size} bytes", f"{entry['bytes']} bytes")
    if verify and files.sha256_file(path) != entry["sha256"]:
        raise broken(path, "content has changed", f"sha256 {entry['sha256'][:12]}…")


def read_records(
    paths: Sequence[str | Path], same: Sequence[str], where: str
) -> list[tuple[Path, dict[str, Any]]]:
    """The records beside shards, by their `first`, alike under the keys `same`.

    Args:
        paths: `….json` in any order.
        same: keys that must not differ.
        where: what an error names when there are no records.

    Raises:
        UserError: for no records, an unreadable one, or one that differs: it names the
            entry.
    """
    read = [(Path(path), files.read_json(path)) for path in paths]
    if not read:
        raise UserError("no shards to list", where=where)
    for path, record in read:
        lacking = {*same, "first", "count", "file", "sha256", "bytes"} - set(record)
        if lacking:
            lacks = ", ".join(sorted(lacking))
            raise broken(path, f"not a record of a shard: lacks {lacks}")
    read.sort(key=lambda item: int(item[1]["first"]))
    first_path, first = read[0]
    for path, record in read:
        for key in same:
            if record[key] != first[key]:
                what = _difference(record[key], first[key])
                raise UserError(
                    f"another {key} than {first_path}: {what}",
                    where=str(path),
                    do="delete the older of the two and run again",
                )
    return read


def check_coverage(
    read: Sequence[tuple[Path, dict[str, Any]]], count: int, unit: str
) -> None:
    """Shards, ordered by their first row, must make up 0..count-1.

    Args:
        read: records as `read_records` gives them.
        count: rows that there must be.
        unit: what a row is, in the plural, such as "images".

    Raises:
        UserError: for rows that are missing or there twice: it says which.
    """
    done, before = 0, Path()
    for path, record in [*read, (Path(), {"first": count, "count": 0})]:
        start = int(record["first"])
        if start > done:
            raise UserError(
                f"{unit} {done} to {start - 1} are missing",
                expected=f"shards of all {count} {unit}",
                do="run the missing shards",
            )
        if start < done:
            raise UserError(
                f"{unit} {start} to {done - 1} are also in {before}",
                where=str(path),
                expected=f"{unit} 0 to {count - 1} once each",
                do="delete one of the two",
            )
        done, before = start + int(record["count"]), path


def list_shards(
    records: Sequence[str | Path],
    out: str | Path,
    same: Sequence[str],
    count: int | None,
    unit: str,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
    """What a manifest lists: all shards of one kind, each held against its hash.

    Args:
        records: `….json` beside the shards, in any order.
        out: the manifest; files are named relative to its folder.
        same: keys of the records that must not differ.
        count: rows that there must be; None: those up to the last record.
        unit: what a row is, in the plural.

    Returns:
        the records in order; the manifest's entries: file, first, count, sha256, bytes;
        the number of rows.

    Raises:
        UserError: as `read_records`, `check_coverage` and `check_size`.
    """
    read = read_records(records, same, str(out))
    if count is None:
        count = max(int(record["first"]) + int(record["count"]) for _, record in read)
    check_coverage(read, count, unit)
    entries = []
    for path, record in read:
        file = path.parent / record["file"]
        check_size(file, record, verify=True)
        kept = {key: record[key] for key in ("first", "count", "sha256", "bytes")}
        entries.append({"file": os.path.relpath(file, Path(out).parent), **kept})
    return [record for _, record in read], entries, count


def _difference(one: Any, other: Any) -> str:
    """The first entry that differs, shortened."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted({*one, *other})
        name = next(key for key in keys if one.get(key) != other.get(key))
        return f"{name} {_short(one.get(name))}, not {_short(other.get(name))}"
    return f"{_short(one)}, not {_short(other)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 32 else f"{text[:12]}…"
