"""The callable that submitit pickles and runs on a node: one nested Snakemake.

It is checkpointable: told to leave, it lets the programs below it save, and submitit
puts it back into the queue. SLURM signals every process of a job's step, so the nested
Snakemake, its shells and torchrun start with the signal ignored; a program that
installs a handler of its own still gets it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from submitit import JobEnvironment
from submitit.core.utils import DelayedSubmission, UncompletedJobError, pickle_load

from snakemake_executor_plugin_submitit import processes

# What a nested Snakemake must not inherit from the one that submits.
_DROPPED = ("SNAKEMAKE_PROFILE",)
_SETTLE = 2.0
"""Seconds after which SLURM shows what the signal it sent was for."""


class _TerminatedError(BaseException):
    """SIGTERM came; no `except Exception` on the way may take it for a failure."""


@dataclass(frozen=True)
class Outcome:
    """What a job leaves behind; its absence means that it did not end by itself.

    Attributes:
        status: exit status of the nested Snakemake; None: it was not run to its end.
        reason: why not.
        starts: how often the job was started.
        seconds: of the last start.
        host: where that was.
    """

    status: int | None
    reason: str = ""
    starts: int = 1
    seconds: float = 0.0
    host: str = ""


@dataclass
class NestedSnakemake:
    """Runs one command; saves, is requeued and goes on.

    Attributes:
        command: the shell line.
        folder: where it runs.
        logs: folder of the log, `JOBID.log`.
        grace: seconds for saving.
        requeues: times that it may go back into the queue.
        restarts: times that it was put back by this class; SLURM counts its own too.
    """

    command: str
    folder: str
    logs: str
    grace: float
    requeues: int
    restarts: int = 0

    _process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> Outcome:
        """Run to the end; the outcome goes into submitit's result file."""
        environment = JobEnvironment()
        if environment.global_rank:
            return Outcome(0)  # of several tasks the first one runs the command
        _remove_halves(environment)
        left = _result_of(environment)
        if left is not None:
            return left  # SLURM restarted a job that had ended: its node was lost
        starts = self._starts()
        if starts > self.requeues + 1:
            return Outcome(None, self._limit(starts), starts)
        began = time.monotonic()
        try:
            status = self._run(environment, starts)
        except _TerminatedError:
            return self._leave(environment, starts)
        except (UncompletedJobError, OSError) as error:
            return Outcome(None, str(error), starts)
        except subprocess.SubprocessError:
            _requeue_until_done(environment)  # the controller did not answer
        seconds = time.monotonic() - began
        return Outcome(status, "", starts, seconds, environment.hostname)

    def checkpoint(self) -> DelayedSubmission:
        """Let everything save; submitit calls it in the signal's handler.

        Raises:
            UncompletedJobError: when the job may not go back into the queue again.
        """
        self._save(signal.SIGUSR2)
        starts = self._starts()
        if starts > self.requeues:
            raise UncompletedJobError(self._limit(starts + 1))
        return DelayedSubmission(replace(self, restarts=starts, _process=None))

    def kill(self) -> None:
        """End what was started here, from another thread of the same process."""
        if self._process is not None and self._process.poll() is None:
            processes.kill_session(self._process.pid)

    def _starts(self) -> int:
        """Which start of the job this is, from 1."""
        counted = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        return max(counted, self.restarts) + 1

    def _limit(self, starts: int) -> str:
        return (
            f"start {starts} of the job would be its requeue number {starts - 1}, and "
            f"{self.requeues} are allowed (--submitit-requeues)"
        )

    def _run(self, environment: JobEnvironment, starts: int) -> int:
        """The exit status of the command."""
        main = threading.current_thread() is threading.main_thread()
        # The debug cluster runs in the submitting process, whose signals are its own.
        main = main and "SUBMITIT_DEBUG_JOB_ID" not in os.environ
        if main:
            processes.adopt_orphans()
            signal.signal(signal.SIGTERM, self._terminated)
            if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
                signal.signal(signal.SIGINT, self._terminated)
            # Held back while Python started (slurm.patient_python).
            held = {signal.SIGUSR2, signal.SIGTERM}
            signal.pthread_sigmask(signal.SIG_UNBLOCK, held)
        kept = {k: v for k, v in os.environ.items() if k not in _DROPPED}
        path = Path(self.logs) / f"{environment.job_id}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab", buffering=0) as log:
            _heading(log.fileno(), environment, starts)
            self._process = subprocess.Popen(
                ["bash", "-c", self.command],
                cwd=self.folder,
                env={
                    **kept,
                    "SUBMITIT_STARTS": str(starts),
                    # A rule's own srun shares the CPUs with the step that runs it.
                    "SLURM_OVERLAP": "1",
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_prepare_child,  # noqa: PLW1509
            )
            try:
                status = self._process.wait()
                if main:
                    _ignore_further_signals()
            finally:
                if main:
                    processes.kill_all()
        return status

    def _terminated(self, *_: int | FrameType | None) -> None:
        """SIGTERM: preempted without a warning of its own, or cancelled."""
        self._save(signal.SIGTERM)
        raise _TerminatedError

    def _save(self, number: int) -> None:
        """Let the programs below save and end; nothing is left of them then."""
        process = self._process
        if process is None:
            return
        if process.poll() is not None:
            return  # it has ended by itself already
        processes.let_save(
            number, self.grace, spare=_is_no_snakemake, waiting=_say_who_saves
        )

    def _leave(self, environment: JobEnvironment, starts: int) -> Outcome:
        """End without a result; back into the queue unless SLURM sees to that.

        Returns:
            the outcome of a job that may not go back once more.
        """
        _ignore_further_signals()
        if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
            time.sleep(_SETTLE)
            # Without an answer nothing is known; SLURM's SIGKILL ends the question.
            while not (state := _own_state(environment.job_id)):
                time.sleep(_SETTLE)
            if state == "RUNNING":
                if starts > self.requeues:
                    return Outcome(None, self._limit(starts + 1), starts)
                _requeue_until_done(environment)
        sys.stdout.flush()
        os._exit(128 + signal.SIGTERM)


def _prepare_child() -> None:
    processes.die_with_parent()
    # Inherited through exec by whatever installs no handler of its own.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def _is_no_snakemake(pid: int) -> bool:
    """Whether a process may live on: a Snakemake would report its child's end."""
    words = processes.command_line(pid)[:4]
    return "snakemake" not in words and not any(w.endswith("/snakemake") for w in words)


def _say_who_saves(pids: list[int]) -> None:
    names = [" ".join(processes.command_line(pid))[:80] for pid in pids]
    for pid, name in zip(pids, names, strict=True):
        print(f"waiting for process {pid} to save: {name}", flush=True)


def _heading(descriptor: int, environment: JobEnvironment, starts: int) -> None:
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    text = f"== {now} job {environment.job_id} on {environment.hostname}"
    text += f", start {starts}" + (f", GPUs {gpus}" if gpus else "") + " ==\n"
    os.write(descriptor, text.encode())


def _ignore_further_signals() -> None:
    """What is over must not be started again by a signal that comes late."""
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _result_of(environment: JobEnvironment) -> Outcome | None:
    """The outcome that an earlier start of this job has left."""
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return None
    path = environment.paths.result_pickle
    if not path.exists():
        return None
    kind, value = pickle_load(path)
    return value if kind == "success" and isinstance(value, Outcome) else None


def _remove_halves(environment: JobEnvironment) -> None:
    """submitit writes nothing beside a half-written file of a killed start."""
    if "SUBMITIT_FOLDER" in os.environ:
        paths = environment.paths
        for path in (paths.result_pickle, paths.submitted_pickle):
            path.with_suffix(".pkl.save_tmp").unlink(missing_ok=True)


def _own_state(job_id: str) -> str:
    """What SLURM says about this job; "" where it does not answer."""
    command = ["squeue", "--noheader", "--states=all", "--format=%T", "--jobs", job_id]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _requeue_until_done(
    environment: JobEnvironment, sleep: Callable[[float], Any] = time.sleep
) -> NoReturn:
    """Ask for the requeue until the controller answers; SLURM ends us otherwise."""
    while True:
        try:
            environment._requeue(0)
        except (OSError, subprocess.SubprocessError) as error:
            print(f"requeue: {error}; once more in 5 s", file=sys.stderr, flush=True)
            sleep(5)
        else:
            os._exit(1)
