"""Jobs on this machine: as processes with GPUs of their own, or in this process."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_plugin_submitit.backends import Batch, Ended, SubmissionError
from snakemake_executor_plugin_submitit.here import DebugBackend, LocalBackend
from snakemake_executor_plugin_submitit.job import NestedSnakemake
from snakemake_executor_plugin_submitit.notes import Note
from snakemake_executor_plugin_submitit.request import Request
from tests.submitit.fake_slurm import wait_for
from tests.submitit.programs import gone, mentioning, signal_all

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tidy")]
PATIENCE = 60.0


class Here:
    """A backend, and the notes of what was submitted to it."""

    def __init__(self, backend: Any, folder: Path, cluster: str) -> None:
        self.backend, self.folder, self.cluster = backend, folder, cluster
        self.notes: list[Note] = []
        self.ended: dict[str, Ended] = {}

    def submit(self, *commands: str, **asked: Any) -> list[str]:
        """Submit commands; their ids."""
        folder = self.folder / f"logs{len(self.notes)}"
        folder.mkdir()
        values = (str(self.folder), str(folder), 20.0, 5)
        calls = [NestedSnakemake(command, *values) for command in commands]
        batch = Batch("r", folder, Request(minutes=5, **asked), calls, "mark")
        ids: list[str] = self.backend.submit(batch)
        self.notes += [
            Note(
                f"k{i}", "w", "r", self.cluster, str(folder), str(folder), "mark", 0, i
            )
            for i in ids
        ]
        return ids

    def check(self) -> dict[str, Ended]:
        """All that have ended by now."""
        left = [n for n in self.notes if n.job_id not in self.ended]
        self.ended |= self.backend.check(left)
        return self.ended

    def wait(self, *ids: str) -> dict[str, Ended]:
        """Until these have ended."""
        wait_for(lambda: set(ids) <= set(self.check()), PATIENCE, f"the end of {ids}")
        return {i: self.ended[i] for i in ids}


@pytest.fixture
def local(tidy: None, tmp_path: Path) -> Iterator[Here]:
    """A local cluster with two GPUs."""
    backend = LocalBackend(120, lambda note: None, gpus=[0, 1])
    yield Here(backend, tmp_path, "local")
    signal_all(mentioning(str(tmp_path)), signal.SIGKILL)


def test_local_jobs_end_in_their_own_ways(local: Here) -> None:
    """Success, failure with the exit status, and a death without a result."""
    ids = local.submit("exit 0", "exit 3", "kill -9 $PPID")
    good, bad, dead = local.wait(*ids).values()
    assert good.ok
    assert (bad.ok, bad.reason) == (False, "exit status 3")
    assert not dead.ok
    assert "died" in dead.reason


def test_each_local_job_has_gpus_of_its_own(local: Here) -> None:
    """Two at once get different ones, the third waits for a free one."""
    show = "echo $CUDA_VISIBLE_DEVICES > seen$SUBMITIT_LOCAL_JOB_ID; "
    wait = "while [ ! -e go ]; do sleep 0.05; done"
    first = local.submit(show + wait, gpus="1")
    second = local.submit(show + wait, gpus="1")
    third = local.submit(show + wait, gpus="a100:1")
    files = [local.folder / f"seen{i}" for i in (*first, *second)]
    wait_for(lambda: all(f.exists() for f in files), PATIENCE, "two jobs")
    wait_for(lambda: all(f.read_text() for f in files), PATIENCE, "two GPUs")
    assert sorted(f.read_text().strip() for f in files) == ["0", "1"]
    assert local.check() == {}
    assert len(list(local.folder.glob("seen*"))) == 2
    (local.folder / "go").touch()
    assert all(end.ok for end in local.wait(*first, *second, *third).values())
    assert len(list(local.folder.glob("seen*"))) == 3


def test_a_local_job_without_gpus_sees_none(local: Here) -> None:
    """It must not take what another job was given."""
    ids = local.submit("echo [$CUDA_VISIBLE_DEVICES] > seen")
    assert local.wait(*ids)[ids[0]].ok
    assert (local.folder / "seen").read_text() == "[]\n"


@pytest.mark.parametrize("asked", [{"gpus": "3"}, {"nodes": 2}])
def test_what_this_machine_has_not_is_refused(
    local: Here, asked: dict[str, Any]
) -> None:
    """More GPUs than there are, or more than one node: one line at once."""
    with pytest.raises(SubmissionError) as caught:
        local.submit("exit 0", **asked)
    assert "\n" not in str(caught.value)


def test_cancelled_local_jobs_leave_nobody_behind(local: Here) -> None:
    """Running ones end with all below them, waiting ones never start."""
    line = "touch $SUBMITIT_LOCAL_JOB_ID.runs; bash -c 'sleep 600; true'"
    ids = [*local.submit(line, gpus="2"), *local.submit(line, gpus="2")]
    wait_for((local.folder / f"{ids[0]}.runs").exists, PATIENCE, "the first job")
    local.backend.cancel(ids)
    wait_for(lambda: not mentioning(str(local.folder)), PATIENCE, "the end of all")
    local.check()
    assert len(list(local.folder.glob("*.runs"))) == 1


def test_local_jobs_of_a_killed_run_are_found(local: Here) -> None:
    """By their processes; a number that is another process now is not taken over."""
    ids = local.submit("sleep 600", "exit 0")
    local.wait(ids[1])
    wait_for(lambda: gone(int(ids[1])), PATIENCE, "the end of its process")
    again = LocalBackend(120, lambda note: None, gpus=[])
    assert [n.job_id for n in again.survivors(local.notes)] == [ids[0]]
    (mine, _) = local.notes
    stranger = Note(**{**vars(mine), "job_id": str(os.getpid())})
    assert again.survivors([stranger]) == []
    again.cancel([ids[0]])
    wait_for(lambda: gone(int(ids[0])), PATIENCE, "the end of what was taken over")
    assert not again.check([mine])[ids[0]].ok


def test_debug_runs_one_job_after_the_other_in_this_process(tmp_path: Path) -> None:
    """Success and failure are told as on any cluster; what is cancelled never runs."""
    debug = Here(DebugBackend(120), tmp_path, "debug")
    ids = debug.submit("echo $$ >> ran; exit 0", "exit 4", "touch never")
    debug.backend.cancel([ids[2]])
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR2)
    good, bad = debug.wait(*ids[:2]).values()
    assert good.ok
    assert (bad.ok, bad.reason) == (False, "exit status 4")
    assert debug.check().keys() == set(ids[:2])
    assert not (tmp_path / "never").exists()
    assert debug.backend.survivors(debug.notes) == []
    after = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR2)
    assert before == after


def test_debug_cancels_its_job_and_nothing_else_of_this_process(tmp_path: Path) -> None:
    """What the job started ends, orphans too; a process beside it lives on."""
    debug = Here(DebugBackend(120), tmp_path, "debug")
    beside = subprocess.Popen(["sleep", "600"])
    command = "(sleep 601 & echo $! > orphan); echo $$ > own; sleep 602"
    (job,) = debug.submit(command)
    runner = threading.Thread(target=debug.check)
    runner.start()
    names = [tmp_path / "orphan", tmp_path / "own"]
    try:
        wait_for(lambda: all(p.exists() and p.read_text() for p in names), 60, "start")
        debug.backend.cancel([job])
        for path in names:
            wait_for(lambda p=path: gone(int(p.read_text())), PATIENCE, f"{path} gone")
        runner.join(PATIENCE)
        assert not debug.ended[job].ok
        assert beside.poll() is None
    finally:
        beside.kill()
        beside.wait()
