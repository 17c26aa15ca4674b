"""Tables on disk: upserts, locks, processes, failures and older versions."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import math
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep import locks
from fewstep.errors import UserError
from fewstep.results import (
    TABLES,
    TRAINING,
    arrow_schema,
    read,
    read_rows,
    upsert,
    write_rows,
)
from fewstep.results.columns import integer, number, text
from tests import results_samples as samples


def training(step: int, loss: float = 1.0, experiment: str = "demo") -> dict[str, Any]:
    """A complete row of the training table."""
    return TRAINING.new_row(
        experiment=experiment, step=step, loss=loss, lr=0.1, seconds=1.0
    )


def digest(path: Path) -> str:
    """Hash of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


# Upsert and read


def test_a_group_without_rows_is_cleared_when_it_is_named(tmp_path: Path) -> None:
    """No rows touch no group: which one they stand for must be said."""
    path = tmp_path / "training.parquet"
    upsert(path, [training(1), training(2), training(1, experiment="other")])
    assert not upsert(path, [], replace=("experiment",))
    change = upsert(path, [], replace=("experiment",), groups=[("demo",)])
    assert (change.removed, change.total) == (2, 1)
    assert [row["experiment"] for row in read_rows(path, TRAINING)] == ["other"]


def test_rows_are_added_replaced_and_left(tmp_path: Path) -> None:
    """Upsert counts what it did, and the table holds the last row of each key."""
    path = tmp_path / "training.parquet"
    first = upsert(path, [training(1), training(2)])
    second = upsert(path, [training(2, loss=5.0), training(3)])
    assert (first.added, second.added, second.replaced, second.total) == (2, 1, 1, 3)
    assert read(path)["loss"].tolist() == [1.0, 5.0, 1.0]


def test_nothing_new_leaves_the_file_alone(tmp_path: Path) -> None:
    """The same rows again, a NaN among them, do not touch the file."""
    path = tmp_path / "training.parquet"
    rows = [training(1), training(2, loss=math.nan)]
    upsert(path, rows)
    before = (digest(path), path.stat().st_mtime_ns, path.stat().st_ino)
    change = upsert(path, rows)
    assert not change
    assert (digest(path), path.stat().st_mtime_ns, path.stat().st_ino) == before


@settings(deadline=None, max_examples=20)
@given(
    steps=st.lists(st.integers(0, 30), unique=True, max_size=8), cut=st.integers(0, 8)
)
def test_order_of_arrival_does_not_change_a_byte(
    steps: list[int], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any order and any split of the same rows give the same file."""
    folder = tmp_path_factory.mktemp("order")
    one, two = folder / "a" / "training.parquet", folder / "b" / "training.parquet"
    rows = [training(step, loss=float(step)) for step in steps]
    upsert(one, rows)
    upsert(two, rows[cut:][::-1])
    upsert(two, rows[:cut])
    assert digest(one) == digest(two)
    assert read(one)["step"].tolist() == sorted(steps)


def test_a_jobs_own_file_holds_exactly_its_rows(tmp_path: Path) -> None:
    """write_rows sorts, checks and replaces; any file name will do; read_rows reads."""
    path = tmp_path / "curve.parquet"
    write_rows(path, TRAINING, [training(3), training(1)])
    write_rows(path, TRAINING, [training(2), training(1, loss=math.inf)])
    rows = read_rows(path, TRAINING)
    assert [row["step"] for row in rows] == [1, 2]
    assert rows == [training(1, loss=math.inf), training(2)]
    upsert(tmp_path / "training.parquet", rows)
    assert digest(tmp_path / "training.parquet") == digest(path)
    with pytest.raises(ValueError, match="two rows have the key"):
        write_rows(path, TRAINING, [training(1), training(1)])


def test_replace_drops_a_groups_stale_rows_only(tmp_path: Path) -> None:
    """With `replace`, rows of the touched group that are not named again go."""
    path = tmp_path / "training.parquet"
    upsert(path, [training(1), training(2), training(1, experiment="other")])
    change = upsert(path, [training(1)], replace=("experiment",))
    assert change.removed == 1
    left = read(path)[["experiment", "step"]].values.tolist()
    assert left == [["demo", 1], ["other", 1]]


def test_own_key_columns_and_doubled_keys(tmp_path: Path) -> None:
    """Other key columns may be given; two rows with one key, or a null key, may not."""
    path = tmp_path / "training.parquet"
    upsert(path, [training(1)], key_columns=["experiment"])
    assert upsert(path, [training(9)], key_columns=["experiment"]).replaced == 1
    with pytest.raises(ValueError, match="two rows have the key"):
        upsert(path, [training(1), training(2)], key_columns=["experiment"])
    with pytest.raises(ValueError, match="has a null"):
        upsert(path, [training(1)], key_columns=["bpd"])
    assert read(path)["step"].tolist() == [9]


def test_a_bad_row_changes_nothing(tmp_path: Path) -> None:
    """One bad row among good ones leaves the table as it was."""
    path = tmp_path / "training.parquet"
    upsert(path, [training(1)])
    before = digest(path)
    with pytest.raises(ValueError, match="column 'step'"):
        upsert(path, [training(2), {**training(3), "step": 1.5}])
    assert digest(path) == before


def test_a_file_of_another_name_is_no_table(tmp_path: Path) -> None:
    """A table is known by its file's stem."""
    with pytest.raises(ValueError, match="no table is named 'evaluation'"):
        upsert(tmp_path / "evaluation.parquet", [])


def test_pandas_keeps_null_apart_from_zero(tmp_path: Path) -> None:
    """Integers and flags that are null stay null, and integers stay integers."""
    path = tmp_path / "evaluations.parquet"
    upsert(
        path,
        [
            samples.evaluation("for", 0, 1.0, nan_events=None, dirty=None),
            samples.evaluation("for", 1, 1.0),
        ],
    )
    frame = read(path)
    assert str(frame["nan_events"].dtype) == "Int64"
    assert str(frame["dirty"].dtype) == "boolean"
    assert frame["nan_events"].isna().tolist() == [True, False]
    assert frame["seed"].tolist() == [0, 1]


def test_duckdb_and_plain_pandas_read_a_table(tmp_path: Path) -> None:
    """Other readers see the same rows, and no lock or part file gets in the way."""
    path = tmp_path / "evaluations.parquet"
    upsert(
        path, [samples.evaluation("for", 0, 10.0), samples.evaluation("for", 1, 14.0)]
    )
    mean = duckdb.sql(
        f"select avg(frechet), max(created_utc) from '{tmp_path}/*.parquet'"
    ).fetchall()
    assert mean == [(12.0, samples.NOW)]
    assert pd.read_parquet(path)["frechet"].mean() == 12.0


_THREADS = """
import os, sys
from fewstep.results import read, read_rows, EVALUATIONS

def threads() -> int:
    return len(os.listdir("/proc/self/task"))

before = threads()
read_rows(sys.argv[1], EVALUATIONS)
read(sys.argv[1])
print(threads() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in Linux's /proc")
def test_reading_starts_no_thread(tmp_path: Path) -> None:
    """A thread of pyarrow's that holds the file's bytes while Python ends aborts it."""
    path = tmp_path / "evaluations.parquet"
    upsert(path, [samples.evaluation("for", 0, 10.0)])
    done = subprocess.run(
        [sys.executable, "-c", _THREADS, str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "0\n"


# Failures


def test_missing_and_broken_tables_are_named(tmp_path: Path) -> None:
    """A missing, empty, or truncated file gives one line with its name."""
    path = tmp_path / "training.parquet"
    with pytest.raises(UserError, match=r"training\.parquet: file not found"):
        read(path)
    upsert(path, [training(1)])
    whole = path.read_bytes()
    for part in (b"", whole[: len(whole) // 2]):
        path.write_bytes(part)
        with pytest.raises(UserError, match=r"training\.parquet: not a readable table"):
            read(path)
        with pytest.raises(UserError, match="move it away"):
            upsert(path, [training(1)])
        assert path.read_bytes() == part


def test_a_strange_parquet_file_is_refused(tmp_path: Path) -> None:
    """Somebody else's Parquet file under a table's name is not overwritten."""
    path = tmp_path / "training.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(UserError, match="not the table 'training'"):
        upsert(path, [training(1)])


def test_a_held_lock_is_waited_for_and_reported(tmp_path: Path) -> None:
    """Behind a lock that is not released: one line, in the time allowed."""
    path = tmp_path / "training.parquet"
    upsert(path, [training(1)])
    with open(f"{path}.lock", "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=f"locked by process {os.getpid()} on"):
            upsert(path, [training(2)], timeout=0.1)
    upsert(path, [training(2)])
    assert len(read(path)) == 2


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_tables_are_written_and_it_is_said_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    code: int,
) -> None:
    """Network file systems without flock take rows too; one warning says the limit."""
    locks.warn_once.cache_clear()

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    path = tmp_path / "training.parquet"
    upsert(path, [training(1)])
    upsert(path, [training(2)])
    assert read(path)["step"].tolist() == [1, 2]
    said = [record for record in caplog.records if "no locks" in record.message]
    assert len(said) == 1
    assert "run one Snakemake at a time here" in said[0].message
    locks.warn_once.cache_clear()


def test_other_troubles_with_a_lock_are_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that does not mean `no locks here` is raised."""

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="broken"):
        upsert(tmp_path / "training.parquet", [training(1)])


def test_a_full_disk_leaves_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the new file cannot be written the old table stays, without a part."""
    path = tmp_path / "training.parquet"
    upsert(path, [training(1)])

    def full(_: pa.Table, part: Path, **__: Any) -> None:
        part.write_bytes(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(UserError, match="the disk is full"):
        upsert(path, [training(2)])
    assert read(path)["step"].tolist() == [1]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        path.name,
        f"{path.name}.lock",
    ]


# Older versions

SECOND = replace(
    TRAINING,
    version=TRAINING.version + 1,
    columns=(*TRAINING.columns, number("ema", "new in it"), text("note", "new in it")),
)


def test_an_older_table_is_migrated(tmp_path: Path) -> None:
    """Columns that an older file lacks become null; the next upsert writes them."""
    path = tmp_path / "training.parquet"
    upsert(path, [training(1)])
    assert read(path, SECOND)["note"].isna().all()
    new = {**training(2), "ema": 0.9, "note": "x"}
    upsert(path, [new], table=SECOND)
    assert read(path, SECOND)["note"].tolist()[1] == "x"
    assert pq.read_schema(path).metadata[b"fewstep.schema_version"] == (
        str(SECOND.version).encode()
    )
    assert read(path, SECOND)["loss"].tolist() == [1.0, 1.0]


def test_evaluations_of_the_version_before_are_read(tmp_path: Path) -> None:
    """A table without sFID and PAR's columns gets nulls there, and takes new rows."""
    now = TABLES["evaluations"]
    later = (
        *("sfid", "group", "top_k", "top_p", "guidance_shape"),
        *("seconds_batch1", "images_per_second_best", "best_batch"),
    )
    columns = tuple(c for c in now.columns if c.name not in later)
    before = replace(now, version=now.version - 1, columns=columns)
    path = tmp_path / "evaluations.parquet"
    old = samples.evaluation("for", 0, 10.0)
    upsert(path, [{k: v for k, v in old.items() if k not in later}], table=before)
    assert read_rows(path, now)[0] == {**old, **dict.fromkeys(later)}
    upsert(path, [samples.evaluation("for", 1, 11.0, sfid=5.0, group=4)])
    assert [row["sfid"] for row in read_rows(path, now)] == [None, 5.0]


def test_a_newer_table_is_not_touched(tmp_path: Path) -> None:
    """A file of a later version is refused rather than cut down."""
    path = tmp_path / "training.parquet"
    upsert(path, [], table=SECOND)
    before = digest(path)
    with pytest.raises(UserError, match="written by a newer fewstep"):
        upsert(path, [training(1)])
    assert digest(path) == before


def test_retired_columns_go_and_other_strangers_do_not(tmp_path: Path) -> None:
    """A column of an earlier version is dropped only where the table says so."""
    path = tmp_path / "training.parquet"
    upsert(path, [training(1)])
    fewer = replace(
        TRAINING,
        version=TRAINING.version + 1,
        columns=tuple(c for c in TRAINING.columns if c.name != "bpd"),
    )
    with pytest.raises(UserError, match="bpd"):
        read(path, fewer)
    assert "bpd" not in read(path, replace(fewer, retired=("bpd",)))


def test_a_required_column_cannot_come_later(tmp_path: Path) -> None:
    """An old file without a required column is refused, not filled with null."""
    path = tmp_path / "training.parquet"
    upsert(path, [training(1)])
    more = replace(
        TRAINING,
        version=TRAINING.version + 1,
        columns=(*TRAINING.columns, integer("rank", "required", required=True)),
    )
    with pytest.raises(UserError, match="rank"):
        read(path, more)


def test_the_schema_of_a_table_is_that_of_its_file(tmp_path: Path) -> None:
    """What arrow_schema says is what a reader finds, metadata included."""
    path = tmp_path / "timing.parquet"
    upsert(path, [])
    found = pq.read_schema(path)
    assert found.equals(arrow_schema(TABLES["timing"]), check_metadata=True)


# Processes

WRITER = """
import sys
from fewstep.results import TRAINING, upsert
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for step in range(count):
    row = TRAINING.new_row(experiment=name, step=step, loss=1.0, lr=1.0, seconds=1.0)
    upsert(path, [row])
    print(step, flush=True)
"""


def writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    """A process that waits for a line and then adds `count` rows one by one."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def start(process: subprocess.Popen[str]) -> None:
    """Wait until a writer is ready and let it go."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()


def test_two_processes_lose_nothing(tmp_path: Path) -> None:
    """Two processes with 20 upserts each leave 40 rows."""
    path = tmp_path / "training.parquet"
    writers = [writer(path, name, 20) for name in ("one", "two")]
    for process in writers:
        start(process)
    for process in writers:
        process.communicate(timeout=60)
        assert process.returncode == 0
    counts = read(path).groupby("experiment").size().to_dict()
    assert counts == {"one": 20, "two": 20}


def test_a_table_is_read_whole_while_another_replaces_it(tmp_path: Path) -> None:
    """Every read gives one of the tables that were there, never parts of two."""
    path = tmp_path / "training.parquet"
    few = [training(step) for step in range(3)]
    many = [training(step, loss=step / 7) for step in range(500)]
    write_rows(path, TRAINING, few)
    done = threading.Event()

    def replace_it() -> None:
        while not done.is_set():
            write_rows(path, TRAINING, many)
            write_rows(path, TRAINING, few)

    writer = threading.Thread(target=replace_it)
    writer.start()
    try:
        found = [len(read_rows(path, TRAINING)) for _ in range(200)]
    finally:
        done.set()
        writer.join()
    assert set(found) <= {len(few), len(many)}


def test_kill_in_the_middle_leaves_a_whole_table(tmp_path: Path) -> None:
    """After kill -9 the table reads, holds all reported rows and takes new ones."""
    path = tmp_path / "training.parquet"
    process = writer(path, "one", 100_000)
    start(process)
    assert process.stdout is not None
    reported = [process.stdout.readline() for _ in range(5)]
    time.sleep(0.003)
    process.send_signal(signal.SIGKILL)
    reported += process.communicate(timeout=60)[0].splitlines()
    assert process.returncode == -signal.SIGKILL
    steps = read(path)["step"].tolist()
    assert steps == list(range(len(steps)))
    # The row of the upsert in flight may be there too.
    assert len(steps) - len(reported) in (0, 1)
    (tmp_path / ".training.parquet.0123abcd.tmp").write_bytes(b"PAR1")
    upsert(path, [training(1)], timeout=1.0)
    assert len(read(path)) == len(steps) + 1
    assert not list(tmp_path.glob(".*.tmp"))
