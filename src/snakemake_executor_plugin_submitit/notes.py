"""A note of each submitted job, so that a killed Snakemake finds its jobs again.

Snakemake's own record of a job's external id does not outlive the start of the job: the
nested Snakemake overwrites it. So the executor keeps its own: first that it is about to
submit, under a mark that SLURM keeps with the job, then the id.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Note:
    """A submitted job.

    Attributes:
        key: which job it is (`key_of`).
        work: what it does (`work_of`).
        rule: its name.
        cluster: "slurm" or "local".
        folder: submitit's folder.
        logs: the job's own folder.
        mark: the submission's comment.
        index: the job's number in the submission, None: alone in it.
        job_id: the cluster's id; None: it may or may not have been submitted.
        cancelled: it was told to end, and may take a while.
    """

    key: str
    work: str
    rule: str
    cluster: str
    folder: str
    logs: str
    mark: str
    index: int | None = None
    job_id: str | None = None
    cancelled: bool = False


class Notes:
    """The notes of one working folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, note: Note) -> None:
        """Keep a note, over an older one of the same job; it appears whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f".{note.key}-{note.cluster}.{os.getpid()}"
        part.write_text(json.dumps(asdict(note), indent=1))
        part.replace(self._path(note))

    def all(self, cluster: str) -> dict[str, Note]:
        """The notes of a cluster by key; one that cannot be read is no note."""
        found = {}
        for path in sorted(self.folder.glob(f"[!.]*-{cluster}.json")):
            try:
                note = Note(**json.loads(path.read_text()))
            except (OSError, ValueError, TypeError):
                continue
            found[note.key] = note
        return found

    def remove(self, note: Note) -> None:
        """The job is over."""
        self._path(note).unlink(missing_ok=True)

    def _path(self, note: Note) -> Path:
        return self.folder / f"{note.key}-{note.cluster}.json"


def members(job: Any) -> list[Any]:
    """The single jobs of a Snakemake job, in a fixed order."""
    jobs = job.jobs if job.is_group() else [job]
    return sorted(jobs, key=lambda j: (j.rule.name, [str(f) for f in j.output]))


def key_of(job: Any) -> str:
    """Which job: its rules, wildcards and outputs."""
    parts = [
        [j.rule.name, sorted(map(str, j.wildcards_dict.items())), _texts(j.output)]
        for j in members(job)
    ]
    return _digest(parts)[:16]


def work_of(job: Any) -> str:
    """What it does: inputs, params and shell command, and not how or where.

    Of a script it is the path: a changed text alone makes no other job.
    """
    return _digest(
        [
            [
                *(j.rule.name, _texts(j.input), _texts(j.output)),
                sorted((str(k), _plain(v)) for k, v in j.params.items()),
                [_plain(v) for v in j.params],
                *(_plain(j.rule.shellcmd), _plain(j.rule.script)),
                *(_plain(j.rule.notebook), _plain(j.rule.wrapper)),
            ]
            for j in members(job)
        ]
    )


def _texts(files: Iterable[Any]) -> list[str]:
    return [str(f) for f in files]


def _plain(value: Any) -> str:
    """Text of a value; of an object, whose text may hold an address, its type."""
    if value is None or isinstance(value, str | int | float | bool | Path):
        return str(value)
    if isinstance(value, list | tuple | set):
        parts = [_plain(v) for v in value]
        return repr(sorted(parts) if isinstance(value, set) else parts)
    if isinstance(value, dict):
        return repr(sorted((_plain(k), _plain(v)) for k, v in value.items()))
    return type(value).__name__


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
