"""The callable on the node, run by submitit: it saves, is requeued and goes on.

submitit's local cluster takes the same way from signal to requeue as SLURM does; what
only SLURM has is tested with the fake one.
"""

from __future__ import annotations

import pickle
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from submitit import AutoExecutor

from snakemake_executor_plugin_submitit.job import NestedSnakemake, Outcome
from tests.submitit.fake_slurm import FakeSlurm, wait_for
from tests.submitit.programs import (
    below_a_snakemake,
    children,
    counter,
    gone,
    mentioning,
    settled,
    signal_all,
    starts,
)

pytestmark = pytest.mark.slow
PATIENCE = 60.0


class Submitted:
    """A job on one of submitit's clusters."""

    def __init__(self, folder: Path, cluster: str, command: str, **values: Any) -> None:
        self.folder, self.logs = folder, folder / "logs"
        options: dict[str, Any] = {"grace": 20.0, "requeues": 5} | values
        call = NestedSnakemake(command, str(folder), str(self.logs), **options)
        limits = {f"{cluster}_max_num_timeout": 1_000_000}
        executor = AutoExecutor(folder / "submitit", cluster=cluster, **limits)
        executor.update_parameters(timeout_min=60, name="r")
        self.handle: Any = executor.submit(call)

    @property
    def log(self) -> str:
        """What the job has printed so far, over all its starts."""
        path = self.logs / f"{self.handle.job_id}.log"
        return path.read_text() if path.exists() else ""

    @property
    def own_log(self) -> str:
        """What submitit and the callable have printed."""
        paths = self.handle.paths
        texts = [p.read_text() for p in (paths.stdout, paths.stderr) if p.exists()]
        return "".join(texts)

    def result(self) -> Outcome:
        """The outcome, as soon as it is there."""
        path = self.handle.paths.result_pickle
        try:
            wait_for(path.exists, PATIENCE, "the result")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log}\n{self.own_log}") from None
        kind, value = pickle.loads(path.read_bytes())
        assert kind == "success", value
        assert isinstance(value, Outcome)
        return value

    def ready(self, start: int = 1) -> None:
        """The counter counts, in its given start."""
        folder = self.folder / "work"

        def counting() -> bool:
            return len(starts(folder)) == start and (folder / "ready").exists()

        wait_for(counting, PATIENCE, f"start {start} of the counter")

    def step(self) -> list[int]:
        """The processes that SLURM would signal: the task and all below it."""
        return children(int(self.handle.job_id))

    def tell(self, number: int) -> None:
        """Signal the whole step."""
        (self.folder / "work" / "ready").unlink()
        signal_all(self.step(), number)


@pytest.fixture
def folder(tidy: None, tmp_path: Path) -> Iterator[Path]:
    """A folder; nothing that was started with its name is left at the end."""
    yield tmp_path
    signal_all(mentioning(str(tmp_path)), signal.SIGKILL)


def test_a_job_runs_to_its_end(folder: Path) -> None:
    """Its output is in the log, under a heading, and its status is the outcome."""
    job = Submitted(folder, "local", "echo hello; echo trouble >&2")
    outcome = job.result()
    assert (outcome.status, outcome.reason, outcome.starts) == (0, "", 1)
    assert outcome.host
    assert outcome.seconds > 0
    heading, *lines = job.log.splitlines()
    assert f"job {job.handle.job_id} on {outcome.host}, start 1" in heading
    assert sorted(lines) == ["hello", "trouble"]


def test_a_job_that_fails_by_itself_is_not_requeued(folder: Path) -> None:
    """The exit status is the outcome, after one start."""
    job = Submitted(folder, "local", "echo once; exit 3")
    assert job.result().status == 3
    assert job.log.count("once") == 1


def test_a_job_that_is_killed_by_a_signal_has_failed(folder: Path) -> None:
    """As an out-of-memory killer does it: the outcome is no success."""
    job = Submitted(folder, "local", "kill -9 $$")
    assert job.result().status not in {0, None}


def test_told_to_leave_it_saves_and_goes_on(folder: Path) -> None:
    """USR2 to the whole step, twice: every step is counted exactly once."""
    command = f"exec {counter(folder / 'work', last=3, saving=0.3)}"
    job = Submitted(folder, "local", f"bash -c {command!r}")
    for start in (1, 2):
        job.ready(start)
        job.tell(signal.SIGUSR2)
    outcome = job.result()
    assert (outcome.status, outcome.starts) == (0, 3)
    first, second, third = starts(folder / "work")
    assert first == 0 <= second <= third
    assert f"saved {second} after SIGUSR2" in job.log
    assert f"saved {third} after SIGUSR2" in job.log
    assert "counted to 10" in job.log
    assert job.log.count("== ") >= 3
    assert "waiting for process" in job.own_log


def test_it_may_go_back_only_so_often(folder: Path) -> None:
    """After the last requeue it saves and fails, with the reason and the setting."""
    command = counter(folder / "work", last=99)
    job = Submitted(folder, "local", command, requeues=1)
    for start in (1, 2):
        job.ready(start)
        job.tell(signal.SIGUSR2)
    outcome = job.result()
    assert outcome.status is None
    assert "1 are allowed (--submitit-requeues)" in outcome.reason
    assert "requeue number 2" in outcome.reason
    assert job.log.count("saved") == 2
    assert mentioning(str(folder / "work")) == []


def test_a_nested_snakemake_does_not_see_its_child_stop(folder: Path) -> None:
    """It would call that a failure and remove what the child has made."""
    work = folder / "work"
    command = below_a_snakemake(folder / "above", counter(work, last=2, saving=0.5))
    job = Submitted(folder, "local", command)
    job.ready()
    job.tell(signal.SIGUSR2)
    assert job.result().status == 0
    assert len(starts(work)) == 2
    assert "saved" in job.log
    assert not (folder / "above" / "cleaned").exists()


def test_a_failing_child_is_still_seen_by_its_snakemake(folder: Path) -> None:
    """Without a signal nothing is held back."""
    command = below_a_snakemake(folder / "above", "exit 4")
    assert Submitted(folder, "local", command).result().status == 4
    assert (folder / "above" / "cleaned").exists()


def test_a_program_that_does_not_save_starts_anew(folder: Path) -> None:
    """It is ended at once; the grace is for those that have something to keep."""
    line = "echo x >> starts; test -e again || { touch again ready; sleep 600; }"
    (folder / "work").mkdir()
    job = Submitted(folder, "local", f"cd work; {line}", grace=50.0)
    wait_for((folder / "work" / "ready").exists, PATIENCE, "the first start")
    job.tell(signal.SIGUSR2)
    assert job.result().status == 0
    assert (folder / "work" / "starts").read_text() == "x\nx\n"


def test_a_program_that_saves_for_ever_is_ended(folder: Path) -> None:
    """After the grace; the job goes back into the queue all the same."""
    job = Submitted(
        folder, "local", counter(folder / "work", last=99, saving=600.0), grace=1.0
    )
    job.ready()
    (folder / "work" / "counter.py").write_text("print('short')")
    job.tell(signal.SIGUSR2)
    outcome = job.result()
    assert (outcome.status, outcome.starts) == (0, 2)
    assert job.log.endswith("short\n")


def test_term_saves_as_well_and_leaves_no_result(folder: Path) -> None:
    """Preempted without a warning, or cancelled: whoever did that decides."""
    job = Submitted(folder, "local", counter(folder / "work", last=99))
    job.ready()
    job.tell(signal.SIGTERM)
    wait_for(lambda: gone(int(job.handle.job_id)), PATIENCE, "the end of the job")
    assert "after SIGTERM" in job.log
    assert not job.handle.paths.result_pickle.exists()
    assert mentioning(str(folder / "work")) == []


def test_an_interrupted_job_leaves_nobody_behind(folder: Path) -> None:
    """Ctrl-C on the local cluster ends the whole tree."""
    job = Submitted(
        folder, "local", f"bash -c {counter(folder / 'work', last=99)!r}; true"
    )
    job.ready()
    tree = job.step()
    job.handle.cancel()
    wait_for(lambda: all(map(gone, tree)), PATIENCE, "the end of all processes")


def test_a_killed_task_takes_its_command_along(folder: Path) -> None:
    """kill -9 of the callable's process: the command does not run on without it."""
    job = Submitted(folder, "local", f"exec {counter(folder / 'work', last=99)}")
    job.ready()
    task, program = job.step()
    signal_all([task], signal.SIGKILL)
    wait_for(lambda: gone(program), 10, "the end of the program")


def test_the_command_gets_the_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows which start this is; the profile of the submitting Snakemake is not
    applied once more."""
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("SNAKEMAKE_PROFILE", "nowhere")
    line = "echo $SUBMITIT_STARTS $HF_TOKEN ${SNAKEMAKE_PROFILE:-none} $PWD"
    job = Submitted(folder, "local", line)
    assert job.result().status == 0
    assert job.log.splitlines()[1] == f"1 secret none {folder}"
    pickled = job.handle.paths.submitted_pickle.read_bytes()
    assert b"secret" not in pickled


def test_only_the_first_of_several_tasks_runs_the_command(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """The others wait for what the command starts on them, through srun."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "1")
    monkeypatch.setenv("SUBMITIT_LOCAL_GLOBALID", "1")
    call = NestedSnakemake("touch ran", str(folder), str(folder), 10.0, 5)
    assert call().status == 0
    assert not (folder / "ran").exists()


# -- what only SLURM has ----------------------------------------------------------


def slurm_signal(name: str, number: str) -> None:
    """scancel --signal, as an administrator or SLURM itself sends it."""
    subprocess.run(["scancel", f"--signal={number}", name], check=True)


def test_slurm_requeues_under_the_same_id(slurm: FakeSlurm, folder: Path) -> None:
    """USR2, as before a time limit: saved, requeued, gone on, finished."""
    slurm.configure(run=True)
    job = Submitted(folder, "slurm", counter(folder / "work", last=2))
    job.ready()
    slurm_signal(job.handle.job_id, "USR2")
    outcome = job.result()
    assert (outcome.status, outcome.starts) == (0, 2)
    first, second = starts(folder / "work")
    assert first == 0
    assert f"saved {second} after SIGUSR2" in job.log
    assert slurm.job(job.handle.job_id)["restarts"] == 1


def test_a_task_of_an_array_requeues_itself_alone(
    slurm: FakeSlurm, folder: Path
) -> None:
    """Its id is ARRAY_TASK; its neighbour runs on."""
    slurm.configure(run=True)
    options = {"grace": 20.0, "requeues": 5}
    work = [folder / "work0", folder / "work1"]
    calls = [
        NestedSnakemake(counter(w, last), str(folder), str(folder / "logs"), **options)
        for w, last in zip(work, (2, 1), strict=True)
    ]
    executor = AutoExecutor(folder / "submitit", cluster="slurm")
    executor.update_parameters(timeout_min=60, name="r")
    handles = executor.submit_array(calls)
    wait_for((work[0] / "ready").exists, PATIENCE, "the first counter")
    slurm_signal(handles[0].job_id, "USR2")
    for handle in handles:
        wait_for(handle.paths.result_pickle.exists, PATIENCE, "both results")
    assert [len(starts(place)) for place in work] == [2, 1]
    assert slurm.count()["sbatch"] == 1


def test_term_while_slurm_says_running_means_requeue(
    slurm: FakeSlurm, folder: Path
) -> None:
    """Preemption with a grace time: SLURM would kill the job, not requeue it."""
    slurm.configure(run=True)
    job = Submitted(folder, "slurm", counter(folder / "work", last=2))
    job.ready()
    slurm_signal(job.handle.job_id, "TERM")
    assert job.result().status == 0
    assert len(starts(folder / "work")) == 2
    assert "after SIGTERM" in job.log


def test_term_from_a_preemption_leaves_the_requeue_to_slurm(
    slurm: FakeSlurm, folder: Path
) -> None:
    """SLURM requeues by itself; the job saves and does not ask for it again."""
    slurm.configure(run=True)
    job = Submitted(folder, "slurm", counter(folder / "work", last=2))
    job.ready()
    subprocess.run(["scontrol", "requeue", job.handle.job_id], check=True)
    outcome = job.result()
    assert (outcome.status, outcome.starts) == (0, 2)
    assert "after SIGTERM" in job.log
    assert slurm.count()["scontrol"] == 1


def test_the_end_of_the_grace_time_does_not_undo_a_save(
    slurm: FakeSlurm, folder: Path
) -> None:
    """USR2, and TERM while the program still saves: it goes on from there."""
    slurm.configure(run=True)
    work = folder / "work"
    job = Submitted(folder, "slurm", counter(work, last=2, saving=1.0))
    job.ready()
    slurm_signal(job.handle.job_id, "USR2")
    wait_for(lambda: "to save" in job.own_log, PATIENCE, "the beginning of the save")
    subprocess.run(["scontrol", "requeue", job.handle.job_id], check=True)
    outcome = job.result()
    assert (outcome.status, outcome.starts) == (0, 2)
    assert f"saved {starts(work)[1]} after SIGUSR2" in job.log
    assert slurm.job(job.handle.job_id)["restarts"] == 1


def test_a_cancelled_job_stays_cancelled(slurm: FakeSlurm, folder: Path) -> None:
    """scancel sends TERM, too; nobody requeues what the user ended."""
    slurm.configure(run=True)
    job = Submitted(folder, "slurm", counter(folder / "work", last=99))
    job.ready()
    subprocess.run(["scancel", job.handle.job_id], check=True)
    wait_for(lambda: not slurm.job(job.handle.job_id)["pid"], PATIENCE, "the end")
    settled()
    assert slurm.count()["scontrol"] == 0
    assert not job.handle.paths.result_pickle.exists()
    assert len(starts(folder / "work")) == 1
    assert mentioning(str(folder / "work")) == []


def test_a_requeue_waits_for_a_controller_that_is_away(
    slurm: FakeSlurm, folder: Path
) -> None:
    """What was saved is not lost to a restart of slurmctld."""
    slurm.configure(run=True)
    job = Submitted(folder, "slurm", counter(folder / "work", last=2))
    job.ready()
    slurm.go_away("scontrol", "squeue")
    pids = mentioning(str(folder))
    assert pids
    # scancel would not reach the controller either; SLURM's own signals do.
    slurm_signal(job.handle.job_id, "USR2")
    wait_for(lambda: slurm.count()["scontrol"] >= 2, PATIENCE, "a second attempt")
    slurm.come_back()
    assert job.result().status == 0
    assert len(starts(folder / "work")) == 2


def test_a_job_that_had_ended_is_not_run_twice(slurm: FakeSlurm, folder: Path) -> None:
    """SLURM restarts jobs of a lost node, also those that had left their result."""
    slurm.configure(run=True)
    job = Submitted(folder, "slurm", "echo once")
    assert job.result().status == 0
    name = job.handle.job_id
    wait_for(lambda: not slurm.job(name)["pid"], PATIENCE, "the end of the job")
    subprocess.run(["scontrol", "requeue", name], check=True)
    subprocess.run(["scontrol", "update", f"JobId={name}", "StartTime=now"], check=True)
    wait_for(
        lambda: slurm.job(name)["state"] == "COMPLETED", PATIENCE, "the second end"
    )
    assert job.result().status == 0
    assert job.log.count("once") == 1


def test_requeues_by_slurm_itself_are_counted(slurm: FakeSlurm, folder: Path) -> None:
    """Node failures and preemptions take from the same limit as time limits do."""
    slurm.configure(run=True)
    job = Submitted(folder, "slurm", counter(folder / "work", last=99), requeues=1)
    name = job.handle.job_id
    for start in (1, 2):
        job.ready(start)
        (folder / "work" / "ready").unlink()
        subprocess.run(["scontrol", "requeue", name], check=True)
    outcome = job.result()
    assert outcome.status is None
    assert "--submitit-requeues" in outcome.reason
    assert len(starts(folder / "work")) == 2
