"""The executor: which jobs are submitted together, which have ended, what is said."""

from __future__ import annotations

import sys
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

from snakemake_executor_plugin_submitit import logs, notes, settings
from snakemake_executor_plugin_submitit.backends import Batch, SubmissionError
from snakemake_executor_plugin_submitit.checks import (
    check_here,
    make_backend,
    refusals,
)
from snakemake_executor_plugin_submitit.notes import Note
from snakemake_executor_plugin_submitit.request import (
    Request,
    RequestError,
    request_of,
)
from snakemake_executor_plugin_submitit.site import read_site

_SHOWN_REFUSALS = 10


class Executor(RemoteExecutor):  # type: ignore[misc]
    """Snakemake jobs through submitit."""

    def __init__(self, workflow: Any, logger: Any) -> None:
        self._settings = workflow.executor_settings
        self.logger = logger
        with self._one_line():
            settings.check(self._settings)
            problem = check_here(self._settings.cluster)
            if problem:
                raise WorkflowError(f"--executor submitit: {problem}")
            site = self._settings.site
            self._site = read_site(Path(site) if site else None)
        self._root = Path(self._settings.folder).absolute()
        self._notes = notes.Notes(Path(".snakemake/submitit").absolute())
        self._live: dict[str, tuple[SubmittedJobInfo, Note]] = {}
        self._open_marks: set[str] = set()
        self._left: dict[str, Note] = {}
        self._counts = {"jobs": 0, "submissions": 0}
        fastest = workflow.remote_execution_settings.seconds_between_status_checks
        latency = float(workflow.execution_settings.latency_wait)
        self._backend = make_backend(
            self._settings, fastest, latency, self._say, self._moved
        )
        # This starts the thread that polls: everything it uses is there by now.
        super().__init__(workflow, logger)

    def __post_init__(self) -> None:
        """Refuse nonsense before anything is submitted; find what still runs."""
        with self._one_line():
            self._check_all()
        found = self._notes.all(self._cluster)
        mine = list(found.values())
        self._left = {note.key: note for note in self._backend.survivors(mine)}
        for note in mine:
            if note.key not in self._left:
                self._notes.remove(note)
        kept = [Path(p) for n in self._left.values() for p in (n.logs, n.folder)]
        logs.clean(self._root, self._settings.keep_logs, kept)

    @property
    def _cluster(self) -> str:
        return str(self._settings.cluster)

    def _say(self, text: str) -> None:
        self.logger.info(f"submitit: {text}")

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        """A user's mistake is its line, without Snakemake's report of an exception."""
        try:
            yield
        except WorkflowError as error:
            self.logger.error(str(error))
            raise SystemExit(1) from None

    # What jobs ask for ------------------------------------------------------------

    def _request(self, job: Any) -> Request:
        resources = {str(k): v for k, v in job.resources.items() if not _is_open(v)}
        return request_of(
            job.name, resources, job.threads, self._site, self._settings.accelerator
        )

    def _check_all(self) -> None:
        """All jobs that will be submitted, as far as their resources are known now."""
        found: list[str] = []
        requests: dict[tuple[str, Request], None] = {}
        for job in self.workflow.dag.needrun_jobs():
            if job.is_local or _is_open(job.resources.get("runtime")):
                continue
            try:
                requests[job.name, self._request(job)] = None
            except RequestError as error:
                found.append(str(error))
        limits = self._backend.limits()
        found = [*dict.fromkeys(found), *(refusals(requests, limits) if limits else [])]
        if found:
            more = len(found) - _SHOWN_REFUSALS
            lines = found[:_SHOWN_REFUSALS] + ([f"and {more} more"] if more > 0 else [])
            raise WorkflowError("\n".join(lines))

    # Submission -------------------------------------------------------------------

    def run_job(self, job: Any) -> None:
        """Submit one job."""
        self._submit_all([job])

    def run_jobs(self, jobs: list[Any]) -> None:
        """Submit all jobs that are ready now, equal ones as arrays."""
        for job in jobs:
            self.run_job_pre(job)
        self._submit_all(jobs)

    def _submit_all(self, jobs: list[Any]) -> None:
        groups: dict[tuple[str, Request], list[Any]] = {}
        old: dict[tuple[str, Request], list[Note]] = {}
        for job in jobs:
            try:
                request = self._request(job)
            except (RequestError, WorkflowError) as error:
                self._refuse([job], str(error))
                continue
            note = self._left.pop(notes.key_of(job), None)
            if note is not None and self._is_wanted(job, note):
                self._register(job, note, verb="goes on as")
                continue
            if note is not None:
                old.setdefault((job.name, request), []).append(note)
            groups.setdefault((job.name, request), []).append(job)
        self._cancel_old([note for some in old.values() for note in some])
        for (rule, request), members in groups.items():
            later = _after(request, old.get((rule, request), []))
            for part in _parts(members, self._settings.array):
                self._submit(rule, later, part)

    def _is_wanted(self, job: Any, note: Note) -> bool:
        """Whether the job of an earlier run does what is wanted now."""
        if note.cancelled or self._settings.on_restart == "cancel":
            return False
        return note.work == notes.work_of(job)

    def _cancel_old(self, old: list[Note]) -> None:
        """End jobs of an earlier run that are not taken over."""
        running = [note for note in old if not note.cancelled]
        for note in running:
            wanted = self._settings.on_restart == "take-over"
            why = "runs an older form of" if wanted else "belongs to an earlier run of"
            self._say(f"{self._cluster} job {note.job_id} {why} {note.rule}: cancelled")
        self._backend.cancel([str(note.job_id) for note in running])

    def _submit(self, rule: str, request: Request, jobs: Sequence[Any]) -> None:
        from snakemake_executor_plugin_submitit.job import NestedSnakemake

        mark = f"submitit-{uuid.uuid4().hex[:12]}"
        try:
            planned = [
                self._plan(rule, job, mark, i, jobs) for i, job in enumerate(jobs)
            ]
        except OSError as error:
            self._refuse(jobs, f"{error.filename}: {error.strerror}")
            return
        calls = [
            NestedSnakemake(
                self.format_job_exec(job),
                str(self.workflow.workdir_init),
                note.logs,
                grace=max(5.0, request.notice(self._settings.warning) - 10.0),
                requeues=self._backend.requeues(self._settings.requeues),
            )
            for job, note in zip(jobs, planned, strict=True)
        ]
        batch = Batch(rule, Path(planned[0].folder), request, calls, mark)
        self._open_marks.add(mark)
        try:
            ids = self._backend.submit(batch)
        except SubmissionError as error:
            for note in planned:
                self._notes.remove(note)
            self._refuse(jobs, f"{self._cluster} did not take the job: {error}")
            self._open_marks.discard(mark)
            return
        self._counts["jobs"] += len(jobs)
        self._counts["submissions"] += 1
        for job, note, job_id in zip(jobs, planned, ids, strict=True):
            self._register(job, replace(note, job_id=job_id))
        self._open_marks.discard(mark)

    def _refuse(self, jobs: Sequence[Any], why: str) -> None:
        for job in jobs:
            self.logger.error(f"submitit: job {job.jobid} ({job.name}): {why}")
            self.report_job_error(SubmittedJobInfo(job), msg=f"{why}\n")

    def _plan(
        self, rule: str, job: Any, mark: str, index: int, jobs: Sequence[Any]
    ) -> Note:
        """Folders and note of a job that is about to be submitted."""
        key = notes.key_of(job)
        words = [] if job.is_group() else [str(v) for v in job.wildcards]
        folder = logs.job_folder(self._root, rule, words, key)
        logs.make(folder)
        # A cluster that was set up anew counts its jobs from 1 again.
        for left in folder.glob("*_result.pkl"):
            left.unlink()
        alone = len(jobs) == 1
        shared = folder if alone else self._root / rule / f"array-{mark[9:]}"
        logs.make(shared)
        number = None if alone else index
        work = notes.work_of(job)
        where = (str(shared), str(folder), mark, number)
        note = Note(key, work, rule, self._cluster, *where)
        self._notes.write(note)
        return note

    def _register(self, job: Any, note: Note, verb: str = "is") -> None:
        self._notes.write(note)
        job_id = str(note.job_id)
        info = SubmittedJobInfo(job, external_jobid=job_id)
        self._live[note.key] = (info, note)
        end = "which an earlier run submitted" if verb == "goes on as" else ""
        path = _relative(Path(note.logs) / f"{job_id}.log")
        self._say(
            f"job {job.jobid} ({note.rule}) {verb} {self._cluster} job {job_id}, "
            f"{end or f'log {path}'}"
        )
        self.report_job_submission(info)

    # States -----------------------------------------------------------------------

    async def check_active_jobs(
        self, active_jobs: list[SubmittedJobInfo]
    ) -> AsyncGenerator[SubmittedJobInfo, None]:
        """Report those that have ended, yield the others."""
        if not active_jobs:
            return
        known = {id(info): note for info, note in list(self._live.values())}
        pairs = [(info, known[id(info)]) for info in active_jobs if id(info) in known]
        ended = self._backend.check([note for _, note in pairs])
        for info, note in pairs:
            outcome = ended.get(str(note.job_id))
            if outcome is None:
                yield info
                continue
            _, last = self._live.pop(note.key, (info, note))
            self._notes.remove(last)
            if outcome.ok:
                self.report_job_success(info)
            else:
                self._report_failure(info, last, outcome.reason)

    def _moved(self, note: Note) -> None:
        """A job that waited for a GPU of this machine has started, as a process."""
        self._notes.write(note)
        if note.key in self._live:
            self._live[note.key] = (self._live[note.key][0], note)

    def _report_failure(self, info: SubmittedJobInfo, note: Note, why: str) -> None:
        log = Path(note.logs) / f"{note.job_id}.log"
        early = Path(note.folder) / f"{note.job_id}_0_log.err"
        # Before the job's own log begins only submitit's tells what happened.
        shown = next((p for p in (log, early) if logs.tail(p)), log)
        lines = "".join(f"    {line}\n" for line in logs.tail(shown))
        end = f", the end of {_relative(shown)}:\n{lines}" if lines else ""
        what = f"{self._cluster} job {note.job_id}"
        # Snakemake's own report of the rule is not shown with `quiet: rules`.
        whose = f"submitit: job {info.job.jobid} ({note.rule})"
        self.logger.error(f"{whose}: {what} failed: {why}{end}".rstrip())
        text = f"{what} failed: {why}\n"
        self.report_job_error(info, msg=text, aux_logs=[str(_relative(shown))])

    # The end ----------------------------------------------------------------------

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """End what this run submitted or took over, and nothing else."""
        # Not the list that is given: it is empty while states are being asked for.
        mine = list(self._live.values())
        ids = {str(note.job_id) for _, note in mine}
        ids |= self._backend.marked(self._open_marks)
        if not ids:
            return
        done = self._backend.cancel(ids)
        found = self._notes.all(self._cluster).values()
        unanswered = [note for note in found if note.mark in self._open_marks]
        for note in (*unanswered, *(note for _, note in mine)):
            # Some still save; what is started again waits for them to be gone.
            self._notes.write(replace(note, cancelled=done))
        self._live.clear()
        if done:
            self._say(f"cancelled {len(ids)} {self._cluster} jobs")

    def shutdown(self) -> None:
        """Say what it took."""
        super().shutdown()
        if self._counts["jobs"]:
            cost = self._backend.summary()
            self._say(
                "{jobs} jobs in {submissions} submissions".format(**self._counts)
                + (f"; {cost}" if cost else "")
            )
            self._counts["jobs"] = 0
        self._left = {k: n for k, n in self._left.items() if not n.cancelled}
        if self._left:
            ids = " ".join(sorted(str(n.job_id) for n in self._left.values()))
            self._say(f"jobs of an earlier run that nobody asked for now run on: {ids}")
            self._left = {}

    def get_python_executable(self) -> str:
        """This Python: the environment lies on the shared file system."""
        return sys.executable


def _is_open(value: Any) -> bool:
    """Whether a resource depends on files that are not there yet."""
    return type(value).__name__ == "TBDString"


def _after(request: Request, old: list[Note]) -> Request:
    """The request, to start when jobs are gone that would write the same files."""
    ids = [str(note.job_id) for note in old if note.cluster == "slurm"]
    if not ids:
        return request
    waits = ("dependency", ":".join(["afterany", *ids]))
    return replace(request, extra=(*request.extra, waits))


def _parts(jobs: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(jobs), size):
        yield jobs[start : start + size]


def _relative(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
