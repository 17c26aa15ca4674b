"""After a run with failed jobs: their cells become rows with the status `failed`.

The Snakefile's `onerror` calls `file_failed_run`, so this holds for every executor and
profile, also where a cluster killed the job. Only cells that the run was asked for are
filed: what nobody wanted has not failed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.config import ClassifierSpec
from fewstep.graph import Graph
from fewstep.progress import last_lines, parse

if TYPE_CHECKING:
    from fewstep.results import FailedCell

TABLE = Path("results/tables/evaluations.parquet")
EVALUATION = "evaluation"
"""The rule that files the rows of a cell."""
_LONGEST = 300
_SHOWN = 5
# How the submitit executor says why a job has ended; the first line of several.
_REASON = re.compile(r"submitit: job (\d+) \(.*?\): (.+?)(?:, the end of .*:)?$", re.M)
# What Snakemake's log says of failed jobs, and that a signal ends the run.
_TOLD = re.compile(
    r"^ *Error in rule .*?^ +jobid: (?P<failed>\d+)$"
    r"|^Job (?P<empty>\d+) +completed successfully, but"
    r"|^Trying to restart job (?P<again>\d+)\."
    r"|^(?P<end>Will exit after finishing currently|Terminating processes on user)",
    re.MULTILINE | re.DOTALL,
)

# A shell command that SIGTERM or SIGINT ended.
_ENDED = re.compile(r"died with <Signals\.SIG(TERM|INT)|exit status (143|130)\b")


def file_failed_run(
    workflow: Any, graph: Graph, logs: Sequence[str] = (), table: Path = TABLE
) -> None:
    """File the cells that a run's failed jobs leave without a score, and say so.

    Whatever goes wrong in it is one warning: the failures themselves are said already.

    Args:
        workflow: Snakemake's workflow, after its last job.
        graph: the configuration.
        logs: Snakemake's own log files.
        table: where the rows go.
    """
    from snakemake.logging import logger

    try:
        cells = failed_run(workflow, graph, logs)
        if not cells:
            return
        from fewstep.results import file_failures

        file_failures(table, cells)
        names = sorted({f"{cell.experiment}_{cell.sampler}" for cell in cells})
        more = len(names) - _SHOWN
        shown = ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        count = f"{len(names)} cell{'s' * (len(names) != 1)}"
        logger.info(f"{count} filed as failed in {table}: {shown}")
    except Exception as error:  # noqa: BLE001
        what = " ".join(f"{type(error).__name__}: {error}".split())
        logger.warning(f"the failed cells could not be filed in {table} ({what})")


def failed_run(
    workflow: Any, graph: Graph, logs: Sequence[str] = ()
) -> list[FailedCell]:
    """The cells that a run's failed jobs leave without a score, a row for each seed.

    A cell behind several failed jobs names the first of them. Where a signal stopped
    the run only jobs that failed before it count: it reached the others too. Which
    these are its log says: SIGINT may come before the scheduler has noted a failure.
    """
    from fewstep.results import FailedCell

    dag, reasons = workflow.dag, _reasons(logs)
    found: dict[tuple[str, str, int], FailedCell] = {}
    failed = _single(workflow.scheduler.failed)
    told, ended = _told_failed(logs)
    if ended or workflow.scheduler._user_kill:
        failed = (job for job in dag.jobs if str(dag.jobid(job)) in told)
    for job in sorted(failed, key=dag.jobid):
        log = str(job.log[0]) if job.log else None
        what = " ".join(str(job.message or job).split())
        error = why(log, reasons.get(str(dag.jobid(job)), ""))
        for experiment, sampler in _cells(dag, job):
            own = graph.experiments[experiment]
            for seed in own.evaluation.seeds:
                found.setdefault(
                    (experiment, sampler, seed),
                    FailedCell(
                        experiment=experiment,
                        sampler=sampler,
                        system=own.system,
                        seed=seed,
                        metric=metric_of(graph, experiment),
                        n=own.evaluation.n,
                        job=what,
                        error=error,
                        log=log,
                    ),
                )
    return list(found.values())


def metric_of(graph: Graph, experiment: str) -> str:
    """What a score of an experiment is called: `fid` is Inception's alone."""
    reference = graph.config.references[graph.reference_of(experiment)]
    spec = graph.config.extractors[reference.extractor]
    return "frechet" if isinstance(spec, ClassifierSpec) else "fid"


def why(log: str | None, reason: str = "") -> str:
    """In one line why a job failed: its own last words, else the executor's.

    Args:
        log: the job's log.
        reason: what the executor said.
    """
    lines = [line for line in _tail(log) if line and parse(line) is None]
    own = [line.strip() for line in lines if line.startswith("fewstep: ")]
    if own:
        text = own[-1].removeprefix("fewstep: ")
    elif reason:
        text = reason
    elif lines:
        text = lines[-1].strip()
    else:
        text = "the job ended without a word: it may have been killed"
    return " ".join(text.split())[:_LONGEST]


def _tail(log: str | None) -> list[str]:
    try:
        return last_lines(log) if log is not None else []
    except OSError:
        return []


def _texts(logs: Sequence[str]) -> Iterator[str]:
    """What stands in those of the logs that can be read."""
    for path in logs:
        with contextlib.suppress(OSError):
            yield Path(path).read_text(errors="replace")


def _reasons(logs: Sequence[str]) -> Mapping[str, str]:
    """What the executor said last of each failed job, by Snakemake's number."""
    return {
        number: said for text in _texts(logs) for number, said in _REASON.findall(text)
    }


def _told_failed(logs: Sequence[str]) -> tuple[set[str], bool]:
    """Numbers of the jobs that failed by themselves, and whether a signal came then.

    What failed after it is left out. A job may have died of the signal before Snakemake
    says that there was one, and where it was the last Snakemake says nothing of it.
    """
    found: set[str] = set()
    for text in _texts(logs):
        read = 0
        for told in _TOLD.finditer(text):
            if told["end"]:
                return found, True
            ended = _ENDED.search(text, read, told.start())
            read = told.end()
            if told["again"]:
                found.discard(told["again"])
            elif not ended:
                found.add(told["failed"] or told["empty"])
    return found, False


def _single(jobs: Iterable[Any]) -> Iterator[Any]:
    """Jobs, those of a group one by one."""
    for job in jobs:
        if job.is_group():
            yield from job.jobs
        else:
            yield job


def _cells(dag: Any, job: Any) -> list[tuple[str, str]]:
    """The cells whose evaluation waits for a job."""
    waiting = dag.bfs(dag.depending, job)
    rows = [one.wildcards for one in waiting if one.rule.name == EVALUATION]
    return sorted((str(w.experiment), str(w.sampler)) for w in rows)
