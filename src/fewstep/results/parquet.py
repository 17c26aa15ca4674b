"""Rows of one table in a Parquet file: written whole, read in the present schema.

It knows no table by name: whoever writes one depends on no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fewstep.errors import UserError
from fewstep.files import atomic_path
from fewstep.results.columns import Kind, Row, Table

_TABLE, _VERSION = b"fewstep.table", b"fewstep.schema_version"
_ARROW: dict[Kind, pa.DataType] = {
    "text": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "flag": pa.bool_(),
    "time": pa.string(),
}


def arrow_schema(table: Table) -> pa.Schema:
    """The pyarrow schema, with the version and every column's description inside."""
    fields = [
        pa.field(
            column.name,
            _ARROW[column.kind],
            nullable=not column.required,
            metadata={"description": column.description},
        )
        for column in table.columns
    ]
    version = str(table.version).encode()
    return pa.schema(fields, metadata={_TABLE: table.name.encode(), _VERSION: version})


def write_rows(path: str | Path, table: Table, rows: Sequence[Row]) -> None:
    """Write a file of its own with exactly these rows, sorted by key.

    For a job's own output; the shared tables are filled from such files by `upsert`.

    Raises:
        ValueError: for a row that does not fit, or two rows with one key.
    """
    keyed = by_key([table.check(row) for row in rows], table.key)
    ordered = [keyed[name] for name in sorted(keyed)]
    write(Path(path), pa.Table.from_pylist(ordered, schema=arrow_schema(table)))


def read_rows(path: str | Path, table: Table) -> list[dict[str, Any]]:
    """The rows of a table's file as plain Python values."""
    rows: list[dict[str, Any]] = load(Path(path), table).to_pylist()
    return rows


def load(path: Path, table: Table) -> pa.Table:
    """The file's rows in the present schema of `table`.

    Raises:
        UserError: for a missing or broken file, or one of a newer version.
    """
    try:
        # By name, pyarrow opens it twice: another job may replace it in between.
        file = pq.ParquetFile(pa.BufferReader(path.read_bytes()))
        # A thread of pyarrow's that drops these bytes while Python ends aborts it.
        found = file.read(use_threads=False)
    except FileNotFoundError as error:
        raise UserError("file not found", where=str(path)) from error
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"not a readable table ({error})",
            where=str(path),
            do="move it away and run again: rows are rebuilt from results/*.json",
        ) from error
    return _migrate(found, table, path)


def _migrate(found: pa.Table, table: Table, path: Path) -> pa.Table:
    """Bring a table of an earlier version to the present columns."""
    version = int((found.schema.metadata or {}).get(_VERSION, b"0"))
    if version > table.version:
        raise UserError(
            f"written by a newer fewstep (schema version {version})",
            where=str(path),
            expected=f"version {table.version} or older",
            do="update fewstep",
        )
    schema = arrow_schema(table)
    strangers = set(found.column_names) - set(table.names) - set(table.retired)
    lost = [
        c.name for c in table.columns if c.required and c.name not in found.schema.names
    ]
    if strangers or lost:
        raise UserError(
            f"not the table {table.name!r}: columns {sorted(strangers) + lost}",
            where=str(path),
            do="move it away and run again",
        )
    arrays = [
        found.column(field.name).cast(field.type)
        if field.name in found.column_names
        else pa.nulls(found.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def write(path: Path, table: pa.Table) -> None:
    """Replace the file, whole or not at all."""
    with atomic_path(path) as part:
        pq.write_table(table, part, compression="zstd")


def by_key(
    rows: Sequence[dict[str, Any]], key: tuple[str, ...]
) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Rows by the values of their key columns."""
    keyed: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        name = pick(row, key)
        if None in name:
            raise ValueError(f"key {key} has a null: {name}")
        if name in keyed:
            raise ValueError(
                f"two rows have the key {dict(zip(key, name, strict=True))}"
            )
        keyed[name] = row
    return keyed


def pick(row: Row, columns: Sequence[str]) -> tuple[Any, ...]:
    """The values of some columns."""
    return tuple(row[column] for column in columns)
