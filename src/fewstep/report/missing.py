"""What was asked for and is not there: failed, blocked or not made yet, and why."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fewstep.results import FailedCell

State = Literal["failed", "blocked", "not made yet"]
Blocks = Mapping[str, Mapping[str, Sequence[str]]]
"""By experiment and sampler, what keeps it from starting, a sentence each."""


@dataclass(frozen=True)
class Missing:
    """Cells of one experiment that are missing for the same reason.

    Args:
        experiment: its name.
        samplers: the cells.
        state: what became of them.
        why: sentences.
        command: what makes them, once the reason is gone.
        log: of the job that failed, if one did.
    """

    experiment: str
    samplers: tuple[str, ...]
    state: State
    why: tuple[str, ...]
    command: str
    log: str = ""


def missing_cells(
    asked: Mapping[str, Sequence[str]],
    there: Collection[tuple[str, str]],
    failed: Sequence[FailedCell] = (),
    blocked: Blocks | None = None,
) -> list[Missing]:
    """The cells that are not there, those of an experiment by their reason.

    Args:
        asked: samplers of each experiment.
        there: cells that have an evaluation; one that failed since is listed too.
        failed: seeds that no result has replaced.
        blocked: what keeps cells from starting.
    """
    found = []
    for experiment, samplers in asked.items():
        reasons: dict[tuple[State, tuple[str, ...], str], list[str]] = {}
        for sampler in samplers:
            why = _reason(experiment, sampler, failed, blocked or {})
            if (experiment, sampler) in there and why[0] != "failed":
                continue
            reasons.setdefault(why, []).append(sampler)
        for (state, words, log), names in reasons.items():
            command = _command(experiment, names)
            row = Missing(experiment, tuple(names), state, words, command, log)
            found.append(row)
    order: list[State] = ["failed", "blocked", "not made yet"]
    return sorted(found, key=lambda one: order.index(one.state))


def _reason(
    experiment: str, sampler: str, failed: Sequence[FailedCell], blocked: Blocks
) -> tuple[State, tuple[str, ...], str]:
    own = [one for one in failed if one.cell == (experiment, sampler)]
    if own:
        logs = dict.fromkeys(one.log for one in own if one.log)
        return "failed", tuple(failure_words(own)), ", ".join(logs)
    barred = blocked.get(experiment, {}).get(sampler, ())
    if barred:
        return "blocked", tuple(barred), ""
    return "not made yet", (), ""


def failure_words(cells: Sequence[FailedCell]) -> list[str]:
    """A sentence for each error of one cell's seeds: the job that failed, and why."""
    jobs: dict[str, dict[str, None]] = {}
    for cell in cells:
        jobs.setdefault(cell.error, {}).setdefault(cell.job)
    return [f"{_first(list(names))}{error}" for error, names in jobs.items()]


def _first(jobs: Sequence[str]) -> str:
    more = f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""
    return f"{jobs[0]}{more}: " if jobs[0] else ""


def _command(experiment: str, samplers: Sequence[str]) -> str:
    """The shell's braces name several files."""
    names = samplers[0] if len(samplers) == 1 else "{" + ",".join(samplers) + "}"
    return f"snakemake --profile local results/{experiment}_{names}_fid.json"
