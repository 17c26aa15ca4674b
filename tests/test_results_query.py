"""SQL over the tables: one statement that reads, and rows of every type."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewstep.errors import UserError
from fewstep.results import TRAINING, read_rows, upsert
from fewstep.results.export import json_text
from fewstep.results.query import query


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of tables with three rows of training."""
    rows = [
        TRAINING.new_row(experiment="demo", step=i, loss=1.0, lr=0.1, seconds=1.0)
        for i in range(3)
    ]
    upsert(tmp_path / "training.parquet", rows)
    return tmp_path


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("", "holds 0 statements; expected one select"),
        (" ; ", "holds 0 statements"),
        ("-- select 1", "holds 0 statements"),
        ("select 1; select 2", "holds 2 statements; expected one select"),
        ("insert into training select * from training", "refuses insert"),
        ("delete from training", "only reads, and refuses delete"),
        ("drop table training", "refuses drop"),
        ("set threads = 1", "refuses set"),
        ("create table x as pivot training on step using sum(lr)", "refuses create"),
    ],
)
def test_what_is_not_one_select_is_refused(folder: Path, sql: str, words: str) -> None:
    """Nothing, several statements, and those that change a table, in one line."""
    with pytest.raises(UserError, match=words) as caught:
        query(sql, folder)
    assert str(caught.value).startswith("--sql: ")
    assert len(read_rows(folder / "training.parquet", TRAINING)) == 3


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("from training select count(*);", [(3,)]),
        ("with x as (select 1 as a) select a from x -- one", [(1,)]),
        ("pivot (select step, lr from training) on step using sum(lr)", [(0.1,) * 3]),
    ],
)
def test_every_form_of_a_select_is_answered(
    folder: Path, sql: str, rows: list[tuple[object, ...]]
) -> None:
    """DuckDB's own forms, a semicolon and a comment are no obstacle."""
    assert query(sql, folder).rows == rows


def test_times_of_a_zone_are_text(folder: Path) -> None:
    """They need no package for zones, keep the rows' order, and lie in lists too."""
    sql = (
        "select step, timestamptz '2026-11-22 12:00:00+00' as t,"
        " list(timestamptz '2026-11-22 12:00:00+00') as l"
        " from training group by step order by step desc"
    )
    found = query(sql, folder)
    assert found.columns == ["step", "t", "l"]
    assert [row[0] for row in found.rows] == [2, 1, 0]
    assert all(isinstance(word, str) for row in found.rows for word in row[1:])
    assert found.rows[0][1].startswith("2026-11-22 ")


def test_a_long_message_of_duckdb_is_cut(folder: Path) -> None:
    """Its first two lines say what is wrong; no query and no stack follows them."""
    with pytest.raises(UserError) as caught:
        query("select cast('x' as integer)", folder)
    assert "LINE 1" not in str(caught.value)
    lines = " || chr(10) || ".join(f"'line{i}'" for i in range(5))
    with pytest.raises(UserError) as caught:
        query(f"select error({lines})", folder)
    assert "line0 line1;" in str(caught.value)
    assert "line2" not in str(caught.value)


def test_columns_of_one_name_are_told_apart(folder: Path) -> None:
    """Further ones get a number that no other column has, so JSON loses none."""
    found = query("select 1 as a, 2 as a, 3 as a_2, 4 as a, 5 as b", folder)
    assert found.columns == ["a", "a_3", "a_2", "a_4", "b"]
    assert json_text(found.columns, found.rows).count(": ") == 5
