"""Jobs in SLURM's queue: submitted once, asked about together, found again."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_plugin_submitit.backends import Batch, SubmissionError
from snakemake_executor_plugin_submitit.job import NestedSnakemake
from snakemake_executor_plugin_submitit.notes import Note
from snakemake_executor_plugin_submitit.request import Request
from snakemake_executor_plugin_submitit.scheduler import Scheduler
from snakemake_executor_plugin_submitit.slurm import (
    SlurmBackend,
    leave_outer_job,
    patient_python,
)
from snakemake_executor_plugin_submitit.watch import Watch
from tests.submitit.fake_slurm import FakeSlurm, wait_for

PATIENCE = 60.0


class Place:
    """A backend on the fake SLURM, and what it said; time passes by `sleep`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.slept: list[float] = []
        self.now = 0.0
        scheduler = Scheduler()
        scheduler.use_accounting("auto")
        self.watch = Watch(
            scheduler,
            self.said.append,
            fastest=0.0,
            slowest=0.0,
            lost_after=100.0,
            clock=lambda: self.now,
        )
        self.backend = SlurmBackend(scheduler, self.watch, 120, self.said.append)

    def batch(self, *commands: str, mark: str = "submitit-1") -> Batch:
        """Jobs that run commands."""
        folder = self.folder / "logs" / mark
        folder.mkdir(parents=True, exist_ok=True)
        calls = [
            NestedSnakemake(c, str(self.folder), str(folder), 20.0, 5) for c in commands
        ]
        return Batch("train", folder, Request(minutes=5), calls, mark)

    def notes(self, batch: Batch, ids: list[str]) -> list[Note]:
        """The notes that the executor keeps of a submission."""
        alone = len(ids) == 1
        return [
            Note(
                *(f"k{job}", "w", "train", "slurm", str(batch.folder)),
                *(str(batch.folder), batch.mark, None if alone else place, job),
            )
            for place, job in enumerate(ids)
        ]

    def submitted(self, *commands: str, **values: Any) -> list[Note]:
        """Submit; the notes."""
        batch = self.batch(*commands, **values)
        return self.notes(batch, self.backend.submit(batch, self.slept.append))

    def after(self, seconds: float, notes: list[Note]) -> dict[str, str]:
        """Why which jobs have failed when asked ten times in so long."""
        found: dict[str, str] = {}
        for _ in range(10):
            self.now += seconds / 10
            left = [n for n in notes if n.job_id not in found]
            ended = self.backend.check(left)
            found |= {job: end.reason for job, end in ended.items()}
        return found


@pytest.fixture
def place(slurm: FakeSlurm, tmp_path: Path) -> Place:
    """A backend on the fake SLURM."""
    return Place(tmp_path)


@pytest.mark.slow
def test_jobs_run_and_their_results_are_found(slurm: FakeSlurm, place: Place) -> None:
    """Three jobs are one sbatch; each ends in its own way."""
    slurm.configure(run=True)
    notes = place.submitted("exit 0", "exit 3", "echo hi")
    assert [n.job_id for n in notes] == ["17_0", "17_1", "17_2"]
    paths = [Path(n.folder) / f"{n.job_id}_0_result.pkl" for n in notes]
    wait_for(lambda: all(p.exists() for p in paths), PATIENCE, "all results")
    ended = place.backend.check(notes)
    assert {job: (e.ok, e.reason) for job, e in ended.items()} == {
        "17_0": (True, ""),
        "17_1": (False, "exit status 3"),
        "17_2": (True, ""),
    }
    assert slurm.count()["sbatch"] == 1
    assert place.backend.scheduler.calls["sbatch"] == 1


def test_results_need_no_scheduler(slurm: FakeSlurm, place: Place) -> None:
    """A thousand jobs that have left their results cost no call at all."""
    slurm.configure(run=True)
    notes = place.submitted("exit 0")
    path = Path(notes[0].folder) / "17_0_result.pkl"
    wait_for(path.exists, PATIENCE, "the result")
    slurm.go_away()
    before = slurm.count()
    assert place.backend.check(notes)["17"].ok
    assert slurm.count() == before
    assert place.said == []


def test_states_of_all_jobs_are_one_call(slurm: FakeSlurm, place: Place) -> None:
    """However many jobs wait."""
    notes = place.submitted(*["exit 0"] * 30)
    before = slurm.count()["squeue"]
    assert place.backend.check(notes) == {}
    assert slurm.count()["squeue"] == before + 1


def test_the_ways_to_fail_without_a_result(slurm: FakeSlurm, place: Place) -> None:
    """Each reason is told in words; what still runs is not touched."""
    notes = place.submitted(*["exit 0"] * 5)
    slurm.set_state("17_0", "RUNNING", node="n1")
    slurm.set_state("17_1", "CANCELLED")
    slurm.set_state("17_2", "OUT_OF_MEMORY", node="n1")
    slurm.set_state("17_3", "PENDING", reason="BadConstraints")
    slurm.set_state("17_4", "TIMEOUT")
    found = place.after(100, notes)
    assert "cancelled from outside" in found["17_1"]
    assert "mem_mb" in found["17_2"]
    assert "BadConstraints" in found["17_3"]
    assert "time limit" in found["17_4"]
    assert "17_0" not in found
    assert slurm.job("17_0")["state"] == "RUNNING"
    # It would start one day, when nobody waits for it any more.
    assert slurm.job("17_3")["state"] == "CANCELLED"


def test_a_vanished_job_is_failed_with_the_reason(
    slurm: FakeSlurm, place: Place
) -> None:
    """Neither squeue nor sacct knows it."""
    slurm.configure(accounting=True)
    notes = place.submitted("exit 0")
    place.after(5, notes)
    slurm.vanish("17")
    assert place.after(90, notes) == {}
    assert "no longer knows it" in place.after(120, notes)["17"]


def test_the_accounting_tells_how_a_forgotten_job_ended(
    slurm: FakeSlurm, place: Place
) -> None:
    """The controller forgets ended jobs after five minutes."""
    slurm.configure(accounting=True)
    notes = place.submitted("exit 0")
    slurm.set_state("17", "OUT_OF_MEMORY")
    slurm.forget("17")
    assert "mem_mb" in place.after(100, notes)["17"]


def test_a_silent_controller_fails_nothing(slurm: FakeSlurm, place: Place) -> None:
    """Ten minutes without an answer are two messages."""
    notes = place.submitted("exit 0")
    place.after(2, notes)
    slurm.go_away()
    assert place.after(600, notes) == {}
    slurm.come_back()
    assert place.after(2, notes) == {}
    assert len(place.said) == 2
    assert "does not answer" in place.said[0]
    assert "answers again" in place.said[1]


def test_a_requeue_is_told(slurm: FakeSlurm, place: Place) -> None:
    """A job that ran and waits again is named, once for each time."""
    notes = place.submitted("exit 0")
    for _ in range(2):
        slurm.set_state("17", "RUNNING", node="n1")
        place.after(2, notes)
        slurm.set_state("17", "PREEMPTED")
        place.after(2, notes)
        slurm.set_state("17", "PENDING", reason="BeginTime")
        assert place.after(2, notes) == {}
    told = [text for text in place.said if "back in the queue" in text]
    assert len(told) == 2
    assert "slurm job 17 (train)" in told[0]


def test_a_held_job_is_told_with_what_to_do(slurm: FakeSlurm, place: Place) -> None:
    """It waits for an administrator or the user; the line names the command."""
    notes = place.submitted("exit 0")
    slurm.set_state("17", "PENDING", reason="JobHeldUser")
    assert place.after(50, notes) == {}
    assert len(place.said) == 1
    assert "`scontrol release 17`" in place.said[0]


# -- submission -------------------------------------------------------------------


def test_a_refusal_is_one_line_of_sbatch(slurm: FakeSlurm, place: Place) -> None:
    """Its own words, without submitit's frame around them."""
    slurm.configure(refuse="Invalid account or account/partition combination specified")
    with pytest.raises(SubmissionError) as caught:
        place.submitted("exit 0")
    text = str(caught.value)
    assert "Invalid account or account/partition combination specified" in text
    assert "\n" not in text
    assert "submitit" not in text
    assert place.slept == []


def test_a_submission_waits_for_the_controller(slurm: FakeSlurm, place: Place) -> None:
    """Away for two attempts, then one job and no more is in the queue."""
    slurm.go_away()
    batch = place.batch("exit 0")

    def sleep(seconds: float) -> None:
        place.slept.append(seconds)
        if len(place.slept) == 2:
            slurm.come_back()

    assert len(place.backend.submit(batch, sleep)) == 1
    assert len(slurm.names()) == 1
    assert place.slept == sorted(place.slept)
    assert len(place.said) == 1
    assert "does not take jobs now" in place.said[0]


def test_a_lost_answer_leaves_one_job(slurm: FakeSlurm, place: Place) -> None:
    """sbatch timed out, but SLURM had the job: it is withdrawn, not run twice."""
    slurm.configure(lost=["sbatch"])
    ids = place.backend.submit(
        place.batch("exit 0", "exit 0"), lambda s: slurm.come_back()
    )
    with slurm.jobs() as known:
        alive = [name for name, job in known.items() if job["state"] == "PENDING"]
    assert alive == ids
    assert len(known) == 4


def test_a_lost_answer_in_a_long_silence_has_no_work(
    slurm: FakeSlurm, place: Place
) -> None:
    """Where nobody can be asked between the attempts, the first job has no pickle."""
    slurm.configure(lost=["sbatch"])

    def sleep(seconds: float) -> None:
        slurm.come_back()
        slurm.go_away("squeue", "scancel")

    batch = place.batch("exit 0")
    ids = place.backend.submit(batch, sleep)
    pickles = {path.name for path in batch.folder.glob("*_submitted.pkl")}
    assert len(slurm.names()) == 2
    assert pickles == {f"{ids[0]}_submitted.pkl"}


# -- take-over --------------------------------------------------------------------


def test_jobs_of_an_earlier_run_are_found(slurm: FakeSlurm, place: Place) -> None:
    """Waiting and running ones are; ended and unknown ones are not."""
    notes = place.submitted(*["exit 0"] * 4)
    slurm.set_state("17_1", "RUNNING")
    slurm.set_state("17_2", "COMPLETED")
    slurm.vanish("17_3")
    again = Place(place.folder)
    assert [n.job_id for n in again.backend.survivors(notes)] == ["17_0", "17_1"]
    assert again.backend.survivors([]) == []


def test_the_search_waits_for_the_controller(slurm: FakeSlurm, place: Place) -> None:
    """Without an answer nothing is submitted, for it might run already."""
    notes = place.submitted("exit 0")
    slurm.go_away()

    def sleep(seconds: float) -> None:
        place.slept.append(seconds)
        if len(place.slept) == 3:
            slurm.come_back()

    assert place.backend.survivors(notes, sleep) == notes
    assert len(place.said) == 1


def test_killed_between_sbatch_and_the_note(slurm: FakeSlurm, place: Place) -> None:
    """The job that had got its work is found by its mark; its neighbours, too."""
    notes = place.submitted("exit 0", "exit 0")
    unanswered = [replace(note, job_id=None) for note in notes]
    assert place.backend.survivors(unanswered) == notes


def test_killed_before_the_work_was_handed_over(slurm: FakeSlurm, place: Place) -> None:
    """sbatch's answer never came: such a job cannot run, so it is cancelled."""
    batch = place.batch("exit 0")
    (note,) = place.notes(batch, ["17"])
    slurm.add("17", state="PENDING", options={"comment": batch.mark})
    slurm.add("18", state="PENDING", options={"comment": "submitit-other"})
    assert place.backend.survivors([replace(note, job_id=None)]) == []
    assert slurm.job("17")["state"] == "CANCELLED"
    assert slurm.job("18")["state"] == "PENDING"


def test_ctrl_c_finds_what_was_being_submitted(slurm: FakeSlurm, place: Place) -> None:
    """By its mark, for there is no id yet; jobs of others are left alone."""
    place.submitted("exit 0", "exit 0", mark="submitit-2")
    slurm.add("90", state="RUNNING", options={"comment": "mine"})
    assert place.backend.marked(["submitit-2"]) == {"17_0", "17_1"}
    assert place.backend.marked([]) == set()
    slurm.go_away()
    assert place.backend.marked(["submitit-2"]) == set()


def test_what_cannot_be_cancelled_now_is_named(slurm: FakeSlurm, place: Place) -> None:
    """With the command that does it later."""
    notes = place.submitted("exit 0")
    slurm.go_away()
    place.backend.cancel([str(notes[0].job_id)])
    assert "later: scancel 17" in place.said[-1]
    place.backend.cancel([])
    assert len(place.said) == 1


def test_the_summary_counts_what_was_called(slurm: FakeSlurm, place: Place) -> None:
    """The closing line agrees with the scheduler's own count."""
    notes = place.submitted(*["exit 0"] * 3)
    place.after(3, notes)
    place.backend.cancel([n.job_id or "" for n in notes])
    counted = slurm.count()
    text = place.backend.summary()
    for name in ("sbatch", "squeue", "sacct", "scancel", "sinfo"):
        assert f"{name} {counted[name]}" in text


def test_inside_a_job_the_outer_one_is_left_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Snakemake may run in a SLURM job itself; sbatch would inherit its memory."""
    said: list[str] = []
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "100")
    monkeypatch.setenv("SLURM_CONF", "/etc/x")
    leave_outer_job(said.append)
    left = {name for name in os.environ if name.startswith("SLURM_")}
    assert left == {"SLURM_CONF"}
    assert said == []


def test_sbatch_obeys_the_rules_and_not_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SBATCH_… would overrule what a rule says and what was checked; one line tells."""
    said: list[str] = []
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("SBATCH_PARTITION", "other")
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
    leave_outer_job(said.append)
    assert "SBATCH_PARTITION" not in os.environ
    assert os.environ["SLURM_TIME_FORMAT"] == "relative"
    assert len(said) == 1
    assert "SBATCH_PARTITION" in said[0]
    assert "--submitit-site" in said[0]


def test_a_signal_while_python_starts_is_answered_later() -> None:
    """A job that is preempted before it can listen does not die of it."""
    words = patient_python()
    if words is None:
        pytest.skip("env of coreutils before 8.31 cannot hold signals back")
    program = """if True:
        import signal, sys
        print("up", flush=True)
        sys.stdin.readline()
        signal.signal(signal.SIGUSR2, lambda *_: print("heard", flush=True))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
        print("done", flush=True)
    """
    command = [*shlex.split(words), "-S", "-E", "-c", program]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGUSR2)
        rest, _ = process.communicate("go on\n")
    assert rest == "heard\ndone\n"
    assert process.returncode == 0
