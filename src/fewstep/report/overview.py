"""The page's first table and charts: every sampler of every system at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from fewstep.plots import AnyChart, Cost, Look, score_cost_chart, score_costs
from fewstep.report.figures import Figure, chart_figure
from fewstep.report.headline import NONE, Headline, median
from fewstep.report.inputs import Summary
from fewstep.report.missing import failure_words
from fewstep.report.numbers import cost_numbers
from fewstep.results import FailedCell
from fewstep.results.failures import by_cell

SYSTEMS = {"tarflow": "TarFlow", "seqrf": "SeqRF", "par": "PAR"}
_SAME = ["metric", "extractor", "protocol", "n"]
_CLOCK = ["timing_batch", "device", "hardware", "threads"]


@dataclass(frozen=True)
class Entry:
    """One sampler's line.

    Args:
        experiment, sampler: the cell.
        line: its numbers in words; None: it has none.
        steps: network calls for an image, one after another.
        failed: why there is no number, or no newer one.
        baseline: whether speed-ups of others name it.
    """

    experiment: str
    sampler: str
    line: Headline | None
    steps: str
    failed: str = ""
    baseline: bool = False

    @property
    def verdict(self) -> str:
        """As the style knows it."""
        return self.line.verdict.replace(" ", "-") if self.line else ""


@dataclass(frozen=True)
class System:
    """A system's lines under its name.

    Args:
        name: as the papers call it.
        entries: the lines.
        common: the score's name, images and seeds, where all lines share them.
    """

    name: str
    entries: list[Entry]
    common: str = ""


def overview(
    summaries: Sequence[Summary],
    lines: Sequence[Headline],
    failures: Sequence[FailedCell],
) -> list[System]:
    """All samplers by system, those without any score among them.

    Args:
        summaries: the evaluations.
        lines: `headlines` of them.
        failures: seeds that no result has replaced.
    """
    known = {(s["experiment"], s["sampler"]): s for s in summaries}
    seeds = by_cell(failures)
    failed = {cell: "; ".join(failure_words(own)) for cell, own in seeds.items()}
    found: dict[str, list[Entry]] = {name: [] for name in SYSTEMS.values()}
    partners = {_partner(line) for line in lines}
    for line in lines:
        cell = line.experiment, line.sampler
        why = failed.pop(cell, line.failed)
        steps = _steps(known[cell])
        entry = Entry(*cell, line, steps, why, baseline=cell in partners)
        found.setdefault(_system(known[cell]["system"]), []).append(entry)
    for one in failures:
        if one.cell in failed:
            entry = Entry(*one.cell, None, NONE, failed.pop(one.cell))
            found.setdefault(_system(one.system), []).append(entry)
    return [
        System(name, entries, _common(entries))
        for name, entries in found.items()
        if entries
    ]


def _partner(line: Headline) -> tuple[str, str]:
    """The cell that a speed-up is over."""
    other, _, sampler = line.partner.rpartition("/")
    return other or line.experiment, sampler


def _common(entries: Sequence[Entry]) -> str:
    """What the scores of all lines are; empty where they differ."""
    said = {f"{e.line.metric}, {e.line.samples}" for e in entries if e.line}
    return said.pop() if len(said) == 1 else ""


def _system(name: str) -> str:
    return SYSTEMS.get(name, name)


def _steps(summary: Summary) -> str:
    """Network evaluations of an image where they are counted, else calls of a batch."""
    good = [row for row in summary["rows"] if row["status"] == "ok"]
    found = median(good, "nfe")
    found = median(good, "steps") if found is None else found
    return NONE if found is None else f"{found:,.1f}".removesuffix(".0")


def cost_figures(frame: pd.DataFrame | None, page: Sequence[str]) -> list[Figure]:
    """Score against time and steps, a chart for each set that may be compared.

    A set whose chart a system draws by itself, further down, has none here.

    Args:
        frame: rows of the table `evaluations`; None: there are none.
        page: experiments in order: each has one colour in all charts.
    """
    if frame is None:
        return []
    final = frame[(frame["status"] == "ok") & frame["train_step"].isna()]
    figures = []
    for _, same in final.groupby(_SAME, sort=False):
        systems = set(same["system"])
        # As in the charts of these systems alone, further down.
        named = frame.loc[frame["system"].isin(systems), "experiment"]
        names = [name for name in page if name in set(named)]
        if systems not in ({"seqrf"}, {"par"}) and _several(same, "steps"):
            figures.append(_figure(same, "steps", names))
        for _, clocked in same.groupby(_CLOCK, dropna=False, sort=False):
            own = set(clocked["system"]) == {"par"} or _alone(clocked)
            if not own and _several(clocked, "seconds"):
                figures.append(_figure(clocked, "seconds", names))
    return figures


def _alone(frame: pd.DataFrame) -> bool:
    """Whether the section of an experiment has the same chart with every seed."""
    return bool(
        frame["experiment"].nunique() == 1 and (frame["system"] == "tarflow").all()
    )


def _several(frame: pd.DataFrame, cost: Cost) -> bool:
    return len(score_costs(frame, cost)) > 1


def _figure(frame: pd.DataFrame, cost: Cost, page: Sequence[str]) -> Figure:
    def draw(look: Look) -> AnyChart:
        return score_cost_chart(frame, cost, names=page, look=look)

    caption = f"costs_{cost}"
    return chart_figure(caption, draw, cost_numbers(frame, cost))
