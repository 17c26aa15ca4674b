"""SQL over the tables of a folder, through DuckDB; the files are only read."""

from __future__ import annotations

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
        sql: one statement, such as `select * from evaluations where status = 'ok'`.
        folder: `results/tables`.

    Raises:
        UserError: for SQL that DuckDB refuses, a broken table, or without DuckDB.
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
            found = connection.execute(sql)
            columns = [column[0] for column in found.description or ()]
            rows = found.fetchall() if columns else []
        except duckdb.Error as error:
            # Below stands the query with a pointer that means nothing in one line.
            what = str(error).partition("\n\nLINE ")[0]
            raise UserError(what, where=_WHERE, do=_tables()) from error
    if not columns:
        raise UserError("gives no rows", where=_WHERE, expected="a select")
    return Answer(columns, rows)


def _copy(connection: duckdb.DuckDBPyConnection, name: str, folder: Path) -> None:
    """A table of the folder in DuckDB's memory, empty where there is no file."""
    table, path = TABLES[name], folder / f"{name}.parquet"
    found = load(path, table) if path.exists() else arrow_schema(table).empty_table()
    connection.register("given", found)
    connection.execute(f"create table {name} as select * from given")
    connection.unregister("given")


def _tables() -> str:
    return f"the tables are {', '.join(TABLES)}; docs/outputs.md has their columns"
