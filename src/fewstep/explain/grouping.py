"""Jobs with the same reasons are one group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Reason:
    """Why a job would run.

    Attributes:
        kind: "missing", "interrupted", "setting", "default" (a setting that this
            release adds), "code", "input", "command", "software", "always" or
            "upstream".
        what: in words; what equal reasons share: a changed setting, changed
            functions, the rule that runs before.
        files: those of this job that it is about.
    """

    kind: str
    what: str = ""
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Planned:
    """A job that would run.

    Attributes:
        rule: its rule.
        label: what it does, as the workflow says it.
        outputs: files it makes.
        reasons: at least one.
    """

    rule: str
    label: str
    outputs: tuple[str, ...]
    reasons: tuple[Reason, ...]


@dataclass
class Group:
    """Jobs of one rule that would run for the same reasons.

    Attributes:
        rule: their rule.
        jobs: what each does.
        outputs: files they make.
        reasons: shared; the files are those of all jobs.
    """

    rule: str
    jobs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)


@dataclass
class Explanation:
    """The whole answer; `as_json` is what `--json` prints.

    Attributes:
        targets: as typed.
        groups: in the order of the work: what runs first comes first.
        rules: rule -> number of jobs.
    """

    targets: list[str]
    groups: list[Group]
    rules: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """The answer as one JSON value."""
        return {**asdict(self), "jobs": sum(self.rules.values())}


def group(targets: Iterable[str], jobs: Iterable[Planned]) -> Explanation:
    """Put jobs of equal rule and reasons together, in the order given."""
    found: dict[Any, Group] = {}
    counts: Counter[str] = Counter()
    for job in jobs:
        key = (job.rule, tuple((one.kind, one.what) for one in job.reasons))
        own = found.setdefault(key, Group(job.rule))
        own.jobs.append(job.label)
        own.outputs += job.outputs
        own.reasons = _merged(own.reasons, job.reasons)
        counts[job.rule] += 1
    rules = dict(sorted(counts.items()))
    return Explanation(list(targets), list(found.values()), rules)


def _merged(known: list[Reason], more: Iterable[Reason]) -> list[Reason]:
    """Equal reasons with the files of both."""
    if not known:
        return list(more)
    return [
        Reason(one.kind, one.what, tuple(dict.fromkeys([*one.files, *other.files])))
        for one, other in zip(known, more, strict=True)
    ]
