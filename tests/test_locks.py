"""Stale locks are released, held ones are not."""

from __future__ import annotations

import subprocess
import sys
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
