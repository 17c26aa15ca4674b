"""Columns and rows as CSV, Markdown or JSON; rows of a table back from CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fewstep.errors import UserError
from fewstep.results.columns import Kind, Table

_READ: dict[Kind, Callable[[str], Any]] = {
    "text": str,
    "integer": int,
    "number": float,
    "flag": {"true": True, "false": False}.__getitem__,
    "time": str,
}


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """CSV with a head; null is empty, and a number has all of its digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_plain(value) for value in row] for row in rows)
    return out.getvalue()


def table_csv(table: Table, rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows of a table as CSV, which `read_csv` reads back exactly."""
    return csv_text(table.names, ([row[c] for c in table.names] for row in rows))


def read_csv(path: Path, table: Table) -> list[dict[str, Any]]:
    """The rows that `table_csv` wrote; columns that an older file lacks are null.

    Raises:
        UserError: for a file that is missing, or a row that does not fit the table.
    """
    kinds = {column.name: column.kind for column in table.columns}
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return [
                table.new_row(
                    **{k: _READ[kinds[k]](v) if v else None for k, v in row.items()}
                )
                for row in csv.DictReader(file)
            ]
    except FileNotFoundError as error:
        raise UserError("file not found", where=str(path)) from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"not rows of the table {table.name!r}: {error}", where=str(path)
        ) from error


def markdown_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table of Markdown; columns of numbers stand to the right."""
    found = [list(row) for row in rows]
    numeric = [
        all(is_number(row[i]) or row[i] is None for row in found) and bool(found)
        for i in range(len(columns))
    ]
    lines = [
        [_escaped(name) for name in columns],
        ["---:" if right else "---" for right in numeric],
        *([_escaped(words(value)) for value in row] for row in found),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def json_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A list of objects; NaN and infinity become null, dates text."""
    found = [
        {name: _finite(value) for name, value in zip(columns, row, strict=True)}
        for row in rows
    ]
    return json.dumps(found, indent=2, ensure_ascii=False, default=str) + "\n"


def words(value: Any) -> str:
    """A value as a person reads it: six digits, null as a dash."""
    if value is None:
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else _plain(value)


def is_number(value: Any) -> bool:
    """Whether a value stands to the right."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else str(value)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
