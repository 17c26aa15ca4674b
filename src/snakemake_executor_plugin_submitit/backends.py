"""What the executor asks of a place where jobs run, and what all places share."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from snakemake_executor_plugin_submitit.notes import Note
from snakemake_executor_plugin_submitit.request import Request

if TYPE_CHECKING:
    from snakemake_executor_plugin_submitit.job import NestedSnakemake

# submitit counts any early signal as a time-out; the limit is kept by the job itself.
_NO_LIMIT = 1_000_000


@dataclass(frozen=True)
class Ended:
    """How a job ended."""

    ok: bool
    reason: str = ""


@dataclass(frozen=True)
class Batch:
    """Jobs of one rule that ask for the same, for one submission.

    Attributes:
        rule: names them.
        folder: submitit's; exists before the submission, for SLURM writes there.
        request: what each asks for.
        calls: what each runs.
        mark: comment by which the submission is found again.
    """

    rule: str
    folder: Path
    request: Request
    calls: Sequence[NestedSnakemake]
    mark: str


class SubmissionError(Exception):
    """The cluster refused a submission; its text is one line."""


class Backend(Protocol):
    """A place where jobs run. Jobs are known by their notes."""

    def submit(self, batch: Batch) -> list[str]:
        """Submit; the ids in order.

        Raises:
            SubmissionError: when the cluster refuses.
        """

    def check(self, notes: Sequence[Note]) -> dict[str, Ended]:
        """Those of the jobs that have ended, by id."""

    def cancel(self, ids: Iterable[str]) -> bool:
        """End jobs; whether they were told so."""

    def survivors(self, notes: Sequence[Note]) -> list[Note]:
        """Jobs of an earlier run that still wait or run, with their ids."""

    def marked(self, marks: Iterable[str]) -> set[str]:
        """Ids of submissions with these comments whose answer did not come."""

    def limits(self) -> dict[str, int | None]:
        """Longest time limits in minutes by partition, "" is the default one."""

    def requeues(self, wanted: int) -> int:
        """Times that a job can go back into the queue here, of those that may."""

    def summary(self) -> str:
        """What it cost, for the closing line; "" for nothing to say."""


def read_result(folder: str, job_id: str) -> Ended | None:
    """How a job ended by its result file; None while there is none."""
    from submitit.core.utils import JobPaths

    path = JobPaths(folder, job_id=job_id, task_id=0).result_pickle
    try:
        with open(path, "rb") as file:
            kind, value = pickle.load(file)
    except (OSError, EOFError, pickle.UnpicklingError, AttributeError, ImportError):
        return None  # not there, or not whole yet
    if kind != "success":
        lines = str(value).strip().splitlines() or ["unknown"]
        return Ended(False, lines[-1])
    if value.status == 0:
        return Ended(True)
    return Ended(False, value.reason or f"exit status {value.status}")


def auto_executor(
    batch: Batch, cluster: str, warning: int, python: str | None = None
) -> Any:
    """The AutoExecutor of a batch.

    Args:
        batch: what will be submitted.
        cluster: "slurm", "local" or "debug".
        warning: of the settings.
        python: shell words that start Python on the node; None: this one.
    """
    import submitit

    options = {f"{c}_max_num_timeout": _NO_LIMIT for c in ("slurm", "local")}
    executor = submitit.AutoExecutor(
        batch.folder, cluster=cluster, slurm_python=python, **options
    )
    executor.update_parameters(
        name=batch.rule,
        **batch.request.parameters(warning),
        slurm_comment=batch.mark,
        slurm_array_parallelism=len(batch.calls),
    )
    return executor


def results(notes: Sequence[Note]) -> tuple[dict[str, Ended], dict[str, Note]]:
    """Those that left a result, and those that did not, by id."""
    found, open_ = {}, {}
    for note in notes:
        job = str(note.job_id)
        result = read_result(note.folder, job)
        if result is None:
            open_[job] = note
        else:
            found[job] = result
    return found, open_
