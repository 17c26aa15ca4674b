"""Parallel tokens side by side: one line a cell, for the page and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewstep.report.headline import (
    NONE,
    Headline,
    headlines,
    known,
    median,
    metric_name,
    plus_minus,
    seconds_text,
)
from fewstep.report.inputs import Summary
from fewstep.results import agreement, sampler_order, spread
from fewstep.results.verdicts import BETTER, MATCHES, WORSE

_SAME = ("metric", "protocol", "extractor", "n")

Cell = tuple[str, str]
"""Experiment and sampler."""


@dataclass(frozen=True)
class TokenLine:
    """One experiment and sampler.

    Args:
        line: the cell in words.
        head: the cell of one token a step that it is compared with; its own, if so.
        label: its n, in words, and the sampler where its model has several of one n.
        group: n, tokens drawn in one step; None: unknown.
        steps: network calls for an image.
        mean, sd: of the score over seeds.
        class_agreement: share of images taken for their class, mean and sd over seeds.
        seconds: of one image at batch 1.
        rate, batch: most images a second, and the batch that gave it.
        speeds: by batch, the baseline's seconds over its own in the same job.
    """

    line: Headline
    head: Cell
    label: str
    group: int | None
    steps: float | None
    mean: float | None
    sd: float | None
    class_agreement: tuple[float | None, float | None]
    seconds: float | None
    rate: float | None
    batch: int | None
    speeds: Mapping[int, float]

    @property
    def cell(self) -> Cell:
        """Experiment and sampler."""
        return self.line.experiment, self.line.sampler

    @property
    def published(self) -> tuple[str, str]:
        """The published score, and the table of one that nobody has verified."""
        return self.line.published, self.line.unverified

    @property
    def steps_text(self) -> str:
        """Network calls."""
        return NONE if self.steps is None else f"{self.steps:,.5g}"

    @property
    def agreement_text(self) -> str:
        """Percent of images taken for their class."""
        mean, sd = self.class_agreement
        if mean is None:
            return NONE
        return (
            f"{100 * mean:.1f} %"
            if sd is None
            else f"{100 * mean:.1f} ± {100 * sd:.1f} %"
        )

    @property
    def agreement_short(self) -> str:
        """The mean alone."""
        mean = self.class_agreement[0]
        return NONE if mean is None else f"{100 * mean:.1f} %"

    @property
    def seconds_text(self) -> str:
        """Time of one image at batch 1."""
        return seconds_text(self.seconds)

    @property
    def rate_text(self) -> str:
        """Images a second at the best batch."""
        if self.rate is None:
            return NONE
        return f"{self.rate:,.0f}" if self.rate >= 100 else f"{self.rate:#.3g}"

    @property
    def shown_batches(self) -> list[int]:
        """Batches whose speed-up is told: 1 and the best one, if others were not."""
        wanted = dict.fromkeys([1, self.batch, *sorted(self.speeds)])
        return [b for b in wanted if b is not None and b in self.speeds][:2]

    def speed(self, batch: int | None) -> str:
        """The speed-up at a batch; a dash where it was not timed."""
        found = None if batch is None else self.speeds.get(batch)
        return NONE if found is None else f"{found:.2f}×"


@dataclass(frozen=True)
class TokenTable:
    """Cells of one protocol and one number of images.

    Args:
        metric: the score's proper name.
        samples: number of images and of seeds.
        lines: cells of one model together, by rising n.
        sentences: what n does, a sentence for each n above 1.
    """

    metric: str
    samples: str
    lines: tuple[TokenLine, ...]
    sentences: tuple[str, ...]

    @property
    def published(self) -> bool:
        """Whether anything was published for any cell."""
        words = [word for one in self.lines for word in one.published]
        return any(word not in ("", NONE) for word in words)

    @property
    def classes(self) -> bool:
        """Whether a classifier judged any cell's images."""
        return any(one.class_agreement[0] is not None for one in self.lines)

    @property
    def models(self) -> list[Cell]:
        """The cells of one token a step, each with what is compared with it."""
        return list(dict.fromkeys(line.head for line in self.lines))

    def of_model(self, head: Cell) -> list[TokenLine]:
        """The lines that are compared with a cell, and its own."""
        return [line for line in self.lines if line.head == head]


def model_name(head: Cell, models: Sequence[Cell]) -> str:
    """A model's name in charts: its experiment, with the sampler where two share it."""
    alone = [experiment for experiment, _ in models].count(head[0]) < 2
    return head[0] if alone else "/".join(head)


def token_models(summaries: Sequence[Summary]) -> list[str]:
    """Experiments of the system, in the given order."""
    return list(dict.fromkeys(s["experiment"] for s in summaries if _is_par(s)))


def token_tables(summaries: Sequence[Summary]) -> list[TokenTable]:
    """One table for each set of cells whose scores may be compared."""
    lines = {(line.experiment, line.sampler): line for line in headlines(summaries)}
    groups: dict[tuple[Any, ...], list[Summary]] = {}
    for summary in summaries:
        if _is_par(summary):
            key = tuple(summary[name] for name in _SAME)
            groups.setdefault(key, []).append(summary)
    return [_table(own, lines) for own in groups.values()]


def _is_par(summary: Summary) -> bool:
    return bool(summary["system"] == "par")


def _table(own: Sequence[Summary], lines: Mapping[Cell, Headline]) -> TokenTable:
    cells = {_cell(summary): summary for summary in own}
    heads = {cell: _head(summary, cells) for cell, summary in cells.items()}
    places = list(dict.fromkeys(heads.values()))
    samplers = sampler_order(name for _, name in cells)
    names = list(dict.fromkeys(name for name, _ in cells))

    def order(cell: Cell) -> tuple[int, float, int, int]:
        group = _group(cells[cell]) or float("inf")
        name, sampler = cell
        place = places.index(heads[cell])
        return place, group, names.index(name), samplers.index(sampler)

    ordered = sorted(cells, key=order)
    made = []
    for cell in ordered:
        twins = [c for c in cells if heads[c] == heads[cell]]
        same = [c for c in twins if _group(cells[c]) == _group(cells[cell])]
        label = _label(cells[cell], alone=len(same) == 1)
        made.append(_line(cells[cell], lines[cell], heads[cell], label))
    counts = sorted({len(summary["seeds"]) for summary in own})
    seeds = " to ".join(dict.fromkeys(map(str, (counts[0], counts[-1]))))
    unit = "seed" if counts[-1] == 1 else "seeds"
    return TokenTable(
        metric=metric_name(own[0]),
        samples=f"{own[0]['n']:,} images, {seeds} {unit}",
        lines=tuple(made),
        sentences=_sentences(made),
    )


def _cell(summary: Summary) -> Cell:
    return summary["experiment"], summary["sampler"]


def _group(summary: Summary) -> int | None:
    found = known(summary["rows"], "group")
    return int(found[0]) if found else None


def _label(summary: Summary, *, alone: bool) -> str:
    group = _group(summary)
    if group is None:
        return summary["experiment"] if alone else "/".join(_cell(summary))
    label = "n = 1 (LlamaGen)" if group == 1 else f"n = {group}"
    return label if alone else f"{label}, {summary['sampler']}"


def _head(summary: Summary, cells: Mapping[Cell, Summary]) -> Cell:
    """The cell that its speed-up is over, or itself.

    Two models of one token a step are not each other's n = 1, whatever a clock
    compares.
    """
    own = _cell(summary)
    named = known(summary["rows"], "baseline")
    if not named:
        return own
    other, _, sampler = str(named[0]).rpartition("/")
    found = (other or own[0], sampler)
    if found not in cells or (_group(summary) == 1 and found[0] != own[0]):
        return own
    return found


def _line(summary: Summary, line: Headline, head: Cell, label: str) -> TokenLine:
    good = [row for row in summary["rows"] if row["status"] == "ok"]
    best = median(good, "best_batch")
    return TokenLine(
        line=line,
        head=head,
        label=label,
        group=_group(summary),
        steps=median(good, "steps"),
        mean=summary["mean"],
        sd=summary["sd"],
        class_agreement=spread(known(good, "class_agreement")),
        seconds=median(good, "seconds_batch1"),
        rate=median(good, "images_per_second_best"),
        batch=None if best is None else int(best),
        speeds=_speeds(summary, good),
    )


def _speeds(summary: Summary, rows: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Ratios within the timing's job by batch; a row knows that of one batch alone."""
    clock = summary.get("timing") or [
        {"batch": row["timing_batch"], "ratio": row["speedup"]} for row in rows
    ]
    return {
        int(entry["batch"]): float(entry["ratio"])
        for entry in clock
        if entry.get("ratio") is not None
    }


# What the numbers say


def _sentences(lines: Sequence[TokenLine]) -> tuple[str, ...]:
    by_cell = {line.cell: line for line in lines}
    several = len({line.head for line in lines}) > 1
    return tuple(
        _sentence(line, by_cell[line.head], several)
        for line in lines
        if line.head != line.cell and line.head in by_cell
    )


def _sentence(line: TokenLine, head: TokenLine, several: bool) -> str:
    """Steps, speed and score of a cell against those of its n = 1."""
    name, other = (_named(one, several) for one in (line, head))
    said = [
        f"{name} takes {line.steps_text} steps, {other} {head.steps_text}",
        _speed_words(line),
        _score_words(line, head),
    ]
    return " ".join(f"{words}." for words in said if words)


def _named(line: TokenLine, several: bool) -> str:
    """The cell by its n alone where that is enough."""
    return f"{line.cell[0]} (n = {line.group})" if several else line.label


def _speed_words(line: TokenLine) -> str:
    """Speed-ups at batch 1 and at the best batch; slower is called slower."""
    timed = line.shown_batches
    said = [f"{_times(line.speeds[batch])} at batch {batch}" for batch in timed]
    return f"Timed in one job, it is {' and '.join(said)}" if said else ""


def _times(ratio: float) -> str:
    return f"{ratio:.2f} times as fast" + (", so slower," if ratio < 1 else "")


def _score_words(line: TokenLine, head: TokenLine) -> str:
    if line.mean is None or head.mean is None:
        return "One of the two has no score"
    found = agreement(line.mean, line.sd, head.mean, head.sd).verdict
    mine, theirs = plus_minus(line.mean, line.sd), plus_minus(head.mean, head.sd)
    says = {
        MATCHES: f"agrees with {theirs}",
        BETTER: f"is better than {theirs}",
        WORSE: f"is worse than {theirs}",
    }.get(found, f"is not {theirs}, but one seed cannot tell which is better")
    return f"Its score, {mine}, {says}"
