"""Jobs on this machine: as processes (local), or in this very process (debug)."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from snakemake_executor_plugin_submitit import processes
from snakemake_executor_plugin_submitit.backends import (
    Batch,
    Ended,
    SubmissionError,
    auto_executor,
    read_result,
    results,
)
from snakemake_executor_plugin_submitit.notes import Note
from snakemake_executor_plugin_submitit.slots import Slots, visible_gpus

if TYPE_CHECKING:  # it loads submitit, which only a run needs
    from snakemake_executor_plugin_submitit.job import NestedSnakemake

_CONTROLLER = "submitit.local._local"


class _Here:
    """What has no meaning without a scheduler."""

    def marked(self, marks: Iterable[str]) -> set[str]:
        """Nothing is started without an id."""
        return set()

    def limits(self) -> dict[str, int | None]:
        """No partitions."""
        return {}

    def requeues(self, wanted: int) -> int:
        """submitit's local cluster starts a job six times at most."""
        return min(wanted, 5)

    def summary(self) -> str:
        """Nothing to say."""
        return ""


class LocalBackend(_Here):
    """Jobs are processes of this machine; each gets GPUs of its own."""

    def __init__(
        self,
        warning: int,
        moved: Callable[[Note], None],
        gpus: list[int] | None = None,
    ) -> None:
        numbers = visible_gpus() if gpus is None else gpus
        self.slots, self.warning, self._moved = Slots(numbers), warning, moved
        self._lock = threading.Lock()  # submission and polling are two threads
        self._waiting: dict[str, Batch] = {}
        self._started: dict[str, str] = {}
        self._count = 0

    def submit(self, batch: Batch) -> list[str]:
        """Start each, or let it wait for a GPU."""
        wanted = batch.request.gpu_count if self.slots.total else 0
        if wanted > self.slots.total:
            raise SubmissionError(
                f"{wanted} GPUs wanted, and this machine has {self.slots.total}"
            )
        if batch.request.nodes > 1:
            raise SubmissionError("nodes > 1 needs --submitit-cluster slurm")
        ids = []
        for call in batch.calls:
            self._count += 1
            name = f"{os.getpid()}-{self._count}"
            self._waiting[name] = replace(batch, calls=[call])
            ids.append(name)
        self._start()
        return [self._started.get(name, name) for name in ids]

    def _start(self) -> None:
        """Start what waits and for which there are GPUs now."""
        with self._lock:
            self._start_waiting()

    def _start_waiting(self) -> None:
        for name, batch in list(self._waiting.items()):
            wanted = batch.request.gpu_count if self.slots.total else 0
            gpus = self.slots.take(name, wanted)
            if gpus is None:
                continue
            executor = auto_executor(batch, "local", self.warning)
            # AutoExecutor has no words for these two.
            inner = executor._executor.parameters
            notice = batch.request.notice(self.warning)
            inner.update(signal_delay_s=notice, gpus_per_node=len(gpus))
            inner.update(visible_gpus=gpus)
            self._started[name] = executor.submit(batch.calls[0]).job_id
            del self._waiting[name]

    def check(self, notes: Sequence[Note]) -> dict[str, Ended]:
        """Result files, then whether the processes still live."""
        names = {job: name for name, job in self._started.items()}
        real = [
            replace(n, job_id=self._started.get(n.job_id or "", n.job_id))
            for n in notes
        ]
        for note, now in zip(notes, real, strict=True):
            if now != note:
                self._moved(now)
        running = [n for n in real if n.job_id not in self._waiting]
        found, open_ = results(running)
        for job, note in open_.items():
            if not _lives(note.folder, job):
                late = read_result(note.folder, job)
                found[job] = late or Ended(False, "died without leaving a result")
        for job in found:
            self.slots.free(names.get(job, job))
        self._start()
        back = {r.job_id: n.job_id for n, r in zip(notes, real, strict=True)}
        return {str(back[job]): ended for job, ended in found.items()}

    def cancel(self, ids: Iterable[str]) -> bool:
        """An interrupt to the controller, which ends its tasks."""
        for job in ids:
            self._waiting.pop(job, None)
            pid = self._started.get(job, job)
            if pid.isdigit() and _CONTROLLER in processes.command_line(int(pid)):
                processes.send([int(pid)], signal.SIGINT)
        return True

    def survivors(self, notes: Sequence[Note]) -> list[Note]:
        """Noted jobs whose processes live; they keep their GPUs."""
        found = [n for n in notes if n.job_id and _lives(n.folder, n.job_id)]
        for note in found:
            job = str(note.job_id)
            shown = processes.variable(int(job), "CUDA_VISIBLE_DEVICES") or ""
            self.slots.keep(job, [int(p) for p in shown.split(",") if p.isdigit()])
        return found


class DebugBackend(_Here):
    """Jobs run one after the other in this process, when they are asked for."""

    def __init__(self, warning: int) -> None:
        self.warning = warning
        self._jobs: dict[str, Any] = {}
        self._calls: dict[str, NestedSnakemake] = {}

    def submit(self, batch: Batch) -> list[str]:
        """Keep them for later."""
        executor = auto_executor(batch, "debug", self.warning)
        jobs = [executor.submit(call) for call in batch.calls]
        self._jobs.update({job.job_id: job for job in jobs})
        for job, call in zip(jobs, batch.calls, strict=True):
            self._calls[job.job_id] = call
        return [job.job_id for job in jobs]

    def check(self, notes: Sequence[Note]) -> dict[str, Ended]:
        """Run the next one."""
        for note in notes:
            job = self._jobs.pop(note.job_id or "", None)
            if job is None:
                continue
            outcome = job.result()
            reason = outcome.reason or f"exit status {outcome.status}"
            return {str(note.job_id): Ended(outcome.status == 0, reason)}
        return {}

    def cancel(self, ids: Iterable[str]) -> bool:
        """Forget what did not run yet; end what runs, and nothing else that is here."""
        for job in ids:
            self._jobs.pop(job, None)
            if call := self._calls.pop(job, None):
                call.kill()
        return True

    def survivors(self, notes: Sequence[Note]) -> list[Note]:
        """None: the process that ran them is gone."""
        return []


def _lives(folder: str, pid: str) -> bool:
    """Whether the controller of a local job runs; the number may be another's now."""
    if not pid.isdigit() or not processes.is_alive(int(pid)):
        return False
    words = processes.command_line(int(pid))
    # It has none for a moment while it is being started.
    return not any(words) or (_CONTROLLER in words and folder in words)
