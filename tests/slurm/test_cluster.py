"""What the other tests here stand on: it starts, says why not, and leaves nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.slurm import conftest
from tests.slurm.cluster import Cluster, wait_for


def test_a_cluster_ends_all_that_it_started(
    slurm_programs: None, tmp_path: Path
) -> None:
    """After the end no daemon, no job and no step of it lives; others are untouched."""
    with Cluster(tmp_path) as cluster:
        job = cluster.submit(command="sleep 600")
        cluster.wait_state(job, "RUNNING")
        wait_for(lambda: len(cluster.processes()) >= 9, 60, "daemons and a job")
        alive = cluster.processes()
        names = [process.name() for process in alive]
        assert {"slurmctld", "slurmd", "slurmstepd", "sleep"} <= set(names)
    assert cluster.processes() == []
    assert not any(process.is_running() for process in alive)


def test_why_there_is_no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason of a skip is what is missing: root, or apt-get."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert conftest.install() == "slurmctld is missing, and there is no apt-get"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert conftest.install() == "a SLURM of its own needs root"


def test_waiting_ends() -> None:
    """What never happens is an error that says what was waited for."""
    with pytest.raises(AssertionError, match=r"not within 0 s: a miracle"):
        wait_for(lambda: False, 0, "a miracle")
