"""SQL over the tables of a folder, through DuckDB; the files are only read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fewstep.errors import UserError
from fewstep.results.parquet import arrow_schema, load
from fewstep.results.tables import TABLES

if TYPE_CHECKING:
    import duckdb

_WHERE = "--sql"


class Answer(NamedTuple):
    """What a query gave: names of its columns, and its rows as Python values."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


def query(sql: str, folder: Path) -> Answer:
    """Ask the tables of a folder; each is known by its name.

    A table that is not there yet is empty. Files of earlier versions have the present
    columns. The query sees copies in memory: it can neither change a table nor reach a
    file or the network.

    Args:
        sql: one statement that reads, such as `select * from evaluations`.
        folder: `results/tables`.

    Raises:
        UserError: for SQL that DuckDB refuses or that does not read, several
            statements, a broken table, or without DuckDB.
    """
    try:
        import duckdb
    except ModuleNotFoundError as error:
        raise UserError(
            "needs duckdb, which is not installed",
            where=_WHERE,
            do="run pip install 'fewstep[report]'",
        ) from error
    with duckdb.connect(":memory:") as connection:
        for name in TABLES:
            _copy(connection, name, folder)
        connection.execute("set enable_external_access = false")
        connection.execute("set lock_configuration = true")
        try:
            found = _reading(connection, sql)
            rows = _plain(found).fetchall()
        except duckdb.Error as error:
            raise UserError(_first(error), where=_WHERE, do=_tables()) from error
        return Answer(_unique(found.columns), rows)


def _reading(
    connection: duckdb.DuckDBPyConnection, sql: str
) -> duckdb.DuckDBPyRelation:
    """What the one statement of a text will give, if it reads.

    Raises:
        UserError: for no statement, several, or one that does not read.
    """
    import duckdb

    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        what = f"holds {len(statements)} statements"
        raise UserError(what, where=_WHERE, expected="one select", do=_tables())
    kind, kinds = statements[0].type, duckdb.StatementType
    # A pivot is several in one: it asks for the columns first. It may fill a table.
    if kind in (kinds.SELECT, kinds.EXPLAIN, kinds.MULTI):
        found = connection.sql(statements[0])
        if kind != kinds.MULTI or found.columns != ["Success"]:
            return found
    name = "create" if kind == kinds.MULTI else kind.name.lower()
    raise UserError(f"only reads, and refuses {name}", where=_WHERE, do=_tables())


def _plain(found: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """The rows with times of a time zone as text: DuckDB needs pytz for those."""
    zoned = ["WITH TIME ZONE" in str(kind) for kind in found.types]
    if not any(zoned):
        return found
    columns = (
        f"cast(#{i} as varchar)" if cast else f"#{i}"
        for i, cast in enumerate(zoned, start=1)
    )
    return found.project(", ".join(columns))


def _unique(names: Sequence[str]) -> list[str]:
    """Names of columns; further ones of a name get a number."""
    found: dict[str, None] = {}
    for name in names:
        number, unique = 1, name
        while unique in found or (number > 1 and unique in names):
            number += 1
            unique = f"{name}_{number}"
        found[unique] = None
    return list(found)


def _first(error: Exception) -> str:
    """The first lines of DuckDB's message.

    Below them stands the query with a pointer, or a stack of calls.
    """
    return " ".join(str(error).partition("\n\n")[0].splitlines()[:2])


def _copy(connection: duckdb.DuckDBPyConnection, name: str, folder: Path) -> None:
    """A table of the folder in DuckDB's memory, empty where there is no file."""
    table, path = TABLES[name], folder / f"{name}.parquet"
    found = load(path, table) if path.exists() else arrow_schema(table).empty_table()
    connection.register("given", found)
    connection.execute(f"create table {name} as select * from given")
    connection.unregister("given")


def _tables() -> str:
    return f"the tables are {', '.join(TABLES)}; docs/outputs.md has their columns"
