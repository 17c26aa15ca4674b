"""Jobs in SLURM's queue."""

from __future__ import annotations

import itertools
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_submitit.backends import (
    Batch,
    Ended,
    SubmissionError,
    auto_executor,
    read_result,
    results,
)
from snakemake_executor_plugin_submitit.notes import Note
from snakemake_executor_plugin_submitit.scheduler import (
    Scheduler,
    SchedulerAwayError,
    SchedulerError,
    is_away,
)
from snakemake_executor_plugin_submitit.states import JobState
from snakemake_executor_plugin_submitit.watch import Say, Watch

_RETRY = (5.0, 10.0, 20.0, 40.0)
_RETRY_AT_LAST = 60.0
_KEPT = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT")


class SlurmBackend:
    """Jobs go to SLURM's queue."""

    def __init__(
        self, scheduler: Scheduler, watch: Watch, warning: int, say: Say
    ) -> None:
        self.scheduler, self.watch, self.warning = scheduler, watch, warning
        self._say = say
        self._ran: set[str] = set()
        self._held: set[str] = set()
        self._open = 0
        self._python = patient_python()
        leave_outer_job(say)

    def submit(
        self, batch: Batch, sleep: Callable[[float], Any] = time.sleep
    ) -> list[str]:
        """Submit as one array, or alone; a controller that is away is waited for."""
        waits = itertools.chain(_RETRY, itertools.repeat(_RETRY_AT_LAST))
        for attempt, pause in enumerate(waits):
            try:
                return self._sbatch(batch)
            except Exception as error:
                text = _one_line(error)
                full = "MaxSubmitJob" in text
                if full and not self._open:
                    text += "; lower --submitit-array to what one may submit"
                    raise SubmissionError(text) from error
                if not full and not is_away(text):
                    raise SubmissionError(text) from error
            if not attempt:
                self._say(f"SLURM does not take jobs now ({text}); waiting")
            sleep(pause)
            self._withdraw(batch.mark)
        raise AssertionError("the waits have no end")

    def _sbatch(self, batch: Batch) -> list[str]:
        executor = auto_executor(batch, "slurm", self.warning, self._python)
        self.scheduler.calls["sbatch"] += 1
        if len(batch.calls) == 1:
            return [executor.submit(batch.calls[0]).job_id]
        return [job.job_id for job in executor.submit_array(list(batch.calls))]

    def _withdraw(self, mark: str) -> None:
        """A submission whose answer was lost must not run beside the next one."""
        try:
            queue = self.scheduler.queue()
        except SchedulerAwayError:
            return
        self.cancel({job for job, state in queue.items() if state.comment == mark})

    def check(self, notes: Sequence[Note]) -> dict[str, Ended]:
        """Result files first, then one question about all that have none."""
        found, open_ = results(notes)
        self._open = len(open_)
        hopeless = []
        states = self.watch.look(list(open_))
        for job, note in open_.items():
            state = states.get(job)
            if state is None:
                continue
            self._tell(note, job, state)
            if not self.watch.for_good(job):
                continue
            _refresh(Path(note.folder))
            found[job] = read_result(note.folder, job) or Ended(False, state.why())
            if state.phase != "ended" or state.may_return:
                hopeless.append(job)
        self.cancel(hopeless)
        for job in found:
            self.watch.forget(job)
        return found

    def _tell(self, note: Note, job: str, state: JobState) -> None:
        if state.phase == "running":
            self._ran.add(job)
            self._held.discard(job)
        elif state.phase == "waiting" and job in self._ran:
            self._ran.discard(job)
            self._say(f"slurm job {job} ({note.rule}) is back in the queue")
        if state.held and job not in self._held:
            self._held.add(job)
            self._say(
                f"slurm job {job} ({note.rule}) is held ({state.reason}): "
                f"`scontrol release {job}` lets it go on"
            )

    def cancel(self, ids: Iterable[str]) -> bool:
        """scancel, if there is anything to cancel."""
        wanted = list(ids)
        try:
            if wanted:
                self.scheduler.cancel(wanted)
        except SchedulerAwayError as error:
            left = " ".join(sorted(wanted))
            self._say(f"could not cancel ({error}); later: scancel {left}")
            return False
        return True

    def marked(self, marks: Iterable[str]) -> set[str]:
        """Ids of submissions whose answer did not come."""
        wanted = set(marks)
        try:
            queue = self.scheduler.queue() if wanted else {}
        except SchedulerAwayError:
            return set()
        return {
            job
            for job, state in queue.items()
            if state.comment in wanted and state.phase in {"waiting", "running"}
        }

    def survivors(
        self, notes: Sequence[Note], sleep: Callable[[float], Any] = time.sleep
    ) -> list[Note]:
        """Noted jobs that SLURM still has; waits for a controller that is away."""
        if not notes:
            return []
        queue, told = None, False
        while queue is None:
            try:
                queue = self.scheduler.queue()
            except SchedulerAwayError as error:
                if not told:
                    self._say(f"SLURM does not answer ({error}); waiting")
                told = True
                sleep(_RETRY[0])
        alive = {j: s for j, s in queue.items() if s.phase != "ended" or s.may_return}
        found = []
        for note in notes:
            job = note.job_id or _submitted(note, alive)
            if job in alive and job is not None:
                found.append(replace(note, job_id=job))
        # Submitted, but never given what it was to run: it would fail in a minute.
        known = {note.job_id for note in found}
        marks = {note.mark for note in notes if note.job_id is None}
        self.cancel({j for j, s in alive.items() if s.comment in marks} - known)
        return found

    def requeues(self, wanted: int) -> int:
        """As many as wanted."""
        return wanted

    def summary(self) -> str:
        """The calls by command."""
        names = ("sbatch", "squeue", "sacct", "scancel", "sinfo")
        return "scheduler calls: " + ", ".join(
            f"{name} {self.scheduler.calls[name]}" for name in names
        )

    def limits(self) -> dict[str, int | None]:
        """Of the partitions; {} while the controller is away: sbatch will say."""
        try:
            return self.scheduler.partitions()
        except (SchedulerAwayError, SchedulerError):
            return {}


def _submitted(note: Note, alive: dict[str, JobState]) -> str | None:
    """The id of a job whose submission was not answered, if it got its pickle."""
    from submitit.core.utils import JobPaths

    for job, state in alive.items():
        number = job.partition("_")[2]
        if state.comment != note.mark or number != str(
            "" if note.index is None else note.index
        ):
            continue
        if JobPaths(note.folder, job_id=job).submitted_pickle.exists():
            return job
    return None


def _refresh(folder: Path) -> None:
    """Make a network file system look at the folder anew."""
    try:
        folder.chmod(folder.stat().st_mode)
    except OSError:
        return


def _one_line(error: Exception) -> str:
    """What sbatch said, out of submitit's error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("sbatch: error:")]
    return "; ".join(line.removeprefix("sbatch: error:").strip() for line in told) or (
        " ".join(lines) or type(error).__name__
    )


def patient_python() -> str | None:
    """Words that start Python with the signals held back until it can answer them.

    A job may be preempted in the second in which Python starts, and would die of it.
    None where `env` is too old to know how (coreutils before 8.31).
    """
    words = ["env", "--block-signal=USR2,TERM"]
    try:
        done = subprocess.run([*words, "true"], capture_output=True, check=False)
    except OSError:
        return None
    return None if done.returncode else shlex.join([*words, sys.executable])


def leave_outer_job(say: Say) -> None:
    """Take variables away that sbatch and srun would obey rather than the rules."""
    wishes = sorted(name for name in os.environ if name.startswith("SBATCH_"))
    if wishes:
        say(
            f"{', '.join(wishes)}: not used, for it would overrule every rule; its "
            "place is the cluster's file (--submitit-site) or a resource"
        )
    outer = "SLURM_JOB_ID" in os.environ
    for name in list(os.environ):
        inherited = outer and name.startswith("SLURM_") and name not in _KEPT
        if inherited or name in wishes:
            del os.environ[name]
