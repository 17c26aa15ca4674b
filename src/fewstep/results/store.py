"""Tables that workflows share: Parquet files that are replaced whole, under a lock.

Two workflows may add rows to one table at the same time, and either may be killed at
any moment: the file is always a complete table, and no row that was added is lost.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from fewstep.errors import UserError
from fewstep.locks import take
from fewstep.results.columns import Row, Table
from fewstep.results.parquet import arrow_schema, by_key, load, pick, write
from fewstep.results.tables import TABLES

# Null is not zero and not NaN: integers and flags stay what they are in pandas too.
_PANDAS = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}


@dataclass(frozen=True)
class Change:
    """What an upsert did to a table: numbers of rows."""

    added: int
    replaced: int
    removed: int
    total: int

    def __bool__(self) -> bool:
        """Whether any row changed."""
        return bool(self.added or self.replaced or self.removed)


def upsert(
    path: str | Path,
    rows: Sequence[Row],
    key_columns: Sequence[str] | None = None,
    *,
    replace: Sequence[str] = (),
    groups: Iterable[tuple[Any, ...]] = (),
    table: Table | None = None,
    timeout: float = 60.0,
) -> Change:
    """Add rows to a table, or replace those with the same key.

    The file is rewritten only if a row changed; its rows are sorted by key, so the
    same rows give the same bytes whatever the order they came in.

    Args:
        path: the Parquet file, e.g. `results/tables/evaluations.parquet`.
        rows: complete rows (`Table.new_row` makes them).
        key_columns: columns that name a row; the table's own key if None.
        replace: columns of a group, e.g. ("experiment",): rows of the groups that
            `rows` touch are removed when `rows` do not name them again. A search
            that tries fewer candidates than the last one leaves none of those behind.
        groups: values of the columns `replace`, of groups that are replaced even if
            `rows` has none of them: no rows of a group touch none.
        table: the table's definition, if not the one named by the file's stem.
        timeout: seconds to wait for another process's lock.

    Raises:
        ValueError: for a row that does not fit, or two rows with one key.
        UserError: for a table that cannot be read, or a lock that is not released.
    """
    path = Path(path)
    table = table or table_of(path)
    key = tuple(key_columns or table.key)
    new = by_key([table.check(row) for row in rows], key)
    with _locked(path, timeout):
        _remove_orphans(path)
        old = by_key(load(path, table).to_pylist() if path.exists() else [], key)
        gone = {*groups, *(pick(row, replace) for row in new.values() if replace)}
        kept = {
            name: row
            for name, row in old.items()
            if name in new or pick(row, replace) not in gone
        }
        merged = {**kept, **new}
        change = Change(
            added=len(new.keys() - old.keys()),
            replaced=sum(not _same(old[k], new[k]) for k in new.keys() & old.keys()),
            removed=len(old) - len(kept),
            total=len(merged),
        )
        if change or not path.exists():
            ordered = [merged[name] for name in sorted(merged)]
            write(path, pa.Table.from_pylist(ordered, schema=arrow_schema(table)))
    return change


def read(path: str | Path, table: Table | None = None) -> pd.DataFrame:
    """A table as a pandas frame; older files get null in the columns they lack.

    Integers and flags come as pandas' nullable types, so that null stays null.

    Raises:
        UserError: for a missing or broken file, or one of a newer version.
    """
    path = Path(path)
    frame: pd.DataFrame = load(path, table or table_of(path)).to_pandas(
        types_mapper=_PANDAS.get, use_threads=False
    )
    return frame


def table_of(path: str | Path) -> Table:
    """The definition of the table in a file, by the file's stem."""
    stem = Path(path).stem
    if stem not in TABLES:
        raise ValueError(f"no table is named {stem!r}: {', '.join(TABLES)}")
    return TABLES[stem]


def _same(one: Row, other: Row) -> bool:
    """Whether two rows are equal, NaN being equal to itself."""
    return all(a == other[name] or _both_nan(a, other[name]) for name, a in one.items())


def _both_nan(a: Any, b: Any) -> bool:
    both = isinstance(a, float) and isinstance(b, float)
    return both and math.isnan(a) and math.isnan(b)


@contextmanager
def _locked(path: Path, timeout: float) -> Iterator[None]:
    """Hold the table's lock. The kernel drops it when the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f"{path.name}.lock")
    with open(lock, "a+", encoding="utf-8") as file:
        _acquire(file.fileno(), lock, timeout)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        # Closing the file releases the lock. The file itself stays: removing it would
        # let two processes hold locks on two files of the same name.
        yield


def _acquire(descriptor: int, lock: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not take(descriptor):
        if time.monotonic() >= deadline:
            raise UserError(
                f"the table is locked by {lock.read_text() or 'another process'}",
                where=str(lock),
                expected=f"its release within {timeout:g} s",
                do="wait for that process or end it, then run again",
            )
        time.sleep(0.02)


def _remove_orphans(path: Path) -> None:
    """Remove parts that killed writers left; the lock says nobody writes one now."""
    for part in path.parent.glob(f".{path.name}.*.tmp"):
        part.unlink(missing_ok=True)
