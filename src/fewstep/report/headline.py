"""The headline: one line for a sampler, in words and numbers a person reads."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewstep.report.inputs import Summary
from fewstep.results import Verdict, agreement, sampler_order, verdict
from fewstep.results.verdicts import NO_PUBLISHED, NOT_COMPARABLE

NONE = "–"


@dataclass(frozen=True)
class Headline:
    """One sampler's line; every field is text ready to print, `NONE` where unknown."""

    experiment: str
    sampler: str
    metric: str
    score: str
    samples: str
    agrees: str
    strategy: str
    iterations: str
    nfe: str
    straightness: str
    seq_straightness: str
    train_step: str
    seconds: str
    batch: str
    speed: str
    partner: str
    error: str
    published: str
    verdict: str
    reason: str
    failed: str
    source: str
    unverified: str

    @property
    def slower(self) -> bool:
        """Whether it takes longer than its baseline."""
        return self.speed != NONE and float(self.speed.rstrip("×")) < 1

    @property
    def speed_words(self) -> str:
        """The speed-up with its partner; slower is called slower."""
        if self.partner == self.sampler:
            return "the baseline"
        if self.partner == NONE:
            return NONE
        words = ", slower than" if self.slower else ""
        return f"{self.speed}{words} “{self.partner}”"


def headlines(summaries: Sequence[Summary]) -> list[Headline]:
    """Lines of all evaluations, by experiment in the given order, then by sampler."""
    experiments = dict.fromkeys(summary["experiment"] for summary in summaries)
    lines = []
    for experiment in experiments:
        own = {s["sampler"]: s for s in summaries if s["experiment"] == experiment}
        lines += [_headline(own[name], own) for name in sampler_order(own)]
    return lines


def metric_name(summary: Summary) -> str:
    """The score's proper name: FID for Inception features alone."""
    if summary["metric"] == "fid":
        return "FID"
    return f"Fréchet distance ({summary['extractor']})"


def _headline(summary: Summary, others: Mapping[str, Summary]) -> Headline:
    rows = summary["rows"]
    good = [row for row in rows if row["status"] == "ok"]
    failed = [f"seed {row['seed']}: {row['error']}" for row in rows if row not in good]
    seeds = (
        f"{len(good)} of {len(rows)} seeds" if failed else _plural(len(rows), "seed")
    )
    judged = _judged(summary, good)
    return Headline(
        experiment=summary["experiment"],
        sampler=summary["sampler"],
        metric=metric_name(summary),
        score=plus_minus(summary["mean"], summary["sd"]),
        samples=f"n = {summary['n']:,}, {seeds}",
        agrees=_agrees(summary, good, others),
        strategy=_only(good, "strategy"),
        iterations=number(median(good, "iterations")),
        nfe=nfe_text(median(good, "nfe")),
        straightness=number(median(good, "straightness")),
        seq_straightness=number(median(good, "seq_straightness")),
        train_step=_only(rows, "train_step"),
        seconds=seconds_text(median(good, "seconds_per_image")),
        batch=_only(good, "timing_batch"),
        speed=_speed(good),
        partner=_only(good, "baseline"),
        error=error_text(_largest(good, "error_to_exact")),
        published=number(median(rows, "published_value")),
        verdict=judged.verdict,
        reason=judged.reason,
        failed="; ".join(failed),
        source=_only(rows, "published_source"),
        unverified=_unverified(rows),
    )


def plus_minus(mean: float | None, sd: float | None) -> str:
    """A mean with its standard deviation, e.g. `12.47 ± 0.40`."""
    if mean is None:
        return NONE
    return number(mean) if sd is None else f"{number(mean)} ± {number(sd, mean)}"


def number(value: float | None, like: float | None = None) -> str:
    """Two decimals, or three significant digits when `like` (or it) is below 1."""
    if value is None or not math.isfinite(value):
        return NONE
    scale = abs(value if like is None else like)
    return f"{value:.2f}" if scale >= 1 or value == 0 else f"{value:.3g}"


def nfe_text(nfe: float | None) -> str:
    """A number of evaluations: whole, or with one decimal where it is a mean."""
    return NONE if nfe is None else f"{nfe:,.1f}".removesuffix(".0")


def seconds_text(seconds: float | None) -> str:
    """A duration in the unit that suits it."""
    if seconds is None:
        return NONE
    units = ((60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
    size, unit = next(((s, u) for s, u in units if seconds >= s), units[-1])
    return f"{seconds / size:.3g} {unit}"


def error_text(error: float | None) -> str:
    """An error with one digit, 0 where the inverse is exact."""
    if error is None:
        return NONE
    return (
        "0" if error == 0 else f"{error:.0e}".replace("e-0", "e-").replace("e+0", "e")
    )


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def known(rows: Sequence[Mapping[str, Any]], column: str) -> list[Any]:
    """A column's values that are not null."""
    return [row[column] for row in rows if row[column] is not None]


def median(rows: Sequence[Mapping[str, Any]], column: str) -> float | None:
    """The median of a column's values that are not null; None without any."""
    found = known(rows, column)
    return statistics.median(found) if found else None


def _largest(rows: Sequence[Mapping[str, Any]], column: str) -> float | None:
    return max(known(rows, column), default=None)


def _only(rows: Sequence[Mapping[str, Any]], column: str) -> str:
    """A text column's value; several are joined, so that none is hidden."""
    return " | ".join(dict.fromkeys(map(str, known(rows, column)))) or NONE


def _unverified(rows: Sequence[Mapping[str, Any]]) -> str:
    """The published table of a cell whose number nobody has read off; else empty."""
    open_rows = [row for row in rows if row["published_value"] is None]
    tables = _only(open_rows, "published_table")
    return "" if tables == NONE else tables


def _speed(rows: Sequence[Mapping[str, Any]]) -> str:
    ratio = median(rows, "speedup")
    return NONE if ratio is None else f"{ratio:.2f}×"


def _agrees(
    summary: Summary,
    rows: Sequence[Mapping[str, Any]],
    others: Mapping[str, Summary],
) -> str:
    """Whether the score is that of the sampler's baseline, where they compare."""
    name = _only(rows, "baseline")
    partner = others.get(name)
    if partner is None or name == summary["sampler"]:
        return ""
    if any(summary[k] != partner[k] for k in ("n", "protocol", "metric")):
        return f"not comparable with “{name}”: other protocol or n"
    found = agreement(summary["mean"], summary["sd"], partner["mean"], partner["sd"])
    says = {
        "matches": "agrees with",
        "better": "better than",
        "worse": "worse than",
    }.get(found.verdict, "not comparable with")
    return f"{says} “{name}” ({found.reason})"


def _judged(summary: Summary, rows: Sequence[Mapping[str, Any]]) -> Verdict:
    """The verdict on the mean over seeds.

    The evaluation judges the mean and writes that in every row. Where rows differ, each
    was judged alone: the mean is judged anew, unless one may not be compared.
    """
    found = list(dict.fromkeys((r["verdict"], r["verdict_reason"] or "") for r in rows))
    if not found or found == [(None, "")]:
        return Verdict(NONE, "")
    barred = [one for one in found if one[0] in (None, NOT_COMPARABLE, NO_PUBLISHED)]
    if len(found) == 1 or barred:
        name, reason = (barred or found)[0]
        return Verdict(name or NONE, reason)
    return verdict(
        summary["mean"],
        summary["sd"],
        median(rows, "published_value"),
        summary["n"],
        rows[0]["published_n"],
        True,
        metric=summary["metric"],
        published_metric=summary["metric"],
    )
