"""Stale locks are released, held ones are not."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fewstep import locks
from fewstep.errors import UserError


def lock(folder: Path) -> Path:
    """A lock file as Snakemake writes it."""
    path = folder / ".snakemake" / "locks" / "0.output.lock"
    path.parent.mkdir(parents=True)
    path.write_text("results/a\n")
    return path


def test_a_dead_snakemakes_lock_is_released(tmp_path: Path) -> None:
    """With nobody there the lock goes; without a lock nothing happens."""
    assert not locks.release_stale(tmp_path)
    path = lock(tmp_path)
    assert locks.release_stale(tmp_path)
    assert not path.exists()


def test_a_running_snakemakes_lock_stays(tmp_path: Path) -> None:
    """While a Snakemake runs in the folder its lock is kept and its process named."""
    path = lock(tmp_path)
    program = "import sys; print('ready', flush=True); sys.stdin.read()"
    child = subprocess.Popen(
        [sys.executable, "-c", program, "-m", "snakemake"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    child.stdout.readline()
    with pytest.raises(UserError, match=f"process {child.pid}"):
        locks.release_stale(tmp_path)
    child.communicate()
    assert path.exists()
    assert locks.release_stale(tmp_path)


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    """The second one is told who holds it, once, and comes in when that one leaves."""
    path, told, inside = tmp_path / "new" / "one.lock", list[str](), threading.Event()

    def second() -> None:
        with locks.hold(path, told.append):
            inside.set()

    with locks.hold(path, told.append):
        thread = threading.Thread(target=second)
        thread.start()
        assert not inside.wait(0.2)
    thread.join(10)
    assert inside.is_set()
    assert len(told) == 1
    assert told[0].startswith("process ")


def test_a_dead_holder_holds_nothing(tmp_path: Path) -> None:
    """The kernel drops the lock of a process that was killed."""
    path = tmp_path / "one.lock"
    program = (
        "import sys, pathlib; from fewstep.locks import hold\n"
        "with hold(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    child.stdout.readline()
    child.kill()
    child.communicate()
    with locks.hold(path):
        assert path.exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:
    """Work goes on where no lock can be taken, with one warning a process."""

    def lacks(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", lacks)
    locks.warn_once.cache_clear()
    for _ in range(3):
        with locks.hold(tmp_path / "one.lock"):
            pass
    assert [record.getMessage() for record in caplog.records] == [
        f"this file system has no locks ({os.strerror(number)}): "
        "run one Snakemake at a time here"
    ]


def test_other_faults_of_a_lock_are_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken disk is no file system without locks."""

    def breaks(*_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("fcntl.flock", breaks)
    with pytest.raises(OSError, match="Input/output"), locks.hold(tmp_path / "a"):
        pass
