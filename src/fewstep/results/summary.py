"""One evaluation's summary over seeds: the content of `results/*_fid.json`."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from fewstep.results.columns import Row
from fewstep.results.evaluations import EVALUATIONS

_ONE_VALUE = (
    "experiment",
    "system",
    "sampler",
    "metric",
    "n",
    "protocol",
    "extractor",
    "extractor_sha256",
    "reference_sha256",
)


_FURTHER = ("sfid", "kid", "isc", "precision", "recall", "class_agreement")
_FIRST = ("for", "gsj", "auto")


def sampler_order(names: Iterable[str]) -> list[str]:
    """Samplers in the order of every chart and table: for, gsj, auto, then others.

    Numbers in a name count as numbers: euler-8 comes before euler-16.
    """
    known = {name: index for index, name in enumerate(_FIRST)}

    def place(name: str) -> tuple[int, list[tuple[str, int]], str]:
        parts = re.findall(r"(\D*)(\d*)", name)
        numbered = [(words, int(digits or 0)) for words, digits in parts]
        return known.get(name, len(known)), numbered, name

    return sorted(set(names), key=place)


def spread(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation; None where there are too few values."""
    mean = statistics.fmean(values) if values else None
    return mean, statistics.stdev(values) if len(values) > 1 else None


def summarize(rows: Sequence[Row]) -> dict[str, Any]:
    """The summary of an experiment's sampler from its rows, one a seed.

    Returns:
        {experiment, system, sampler, metric, mean, sd, scores, seeds, n, protocol,
        extractor, rows}: mean and sample standard deviation of the score over the
        seeds that gave one (None where there are too few), the same of those
        further scores that a seed gave, by name, the seeds and rows sorted by seed.

    Raises:
        ValueError: for no rows, a row that does not fit, a seed twice, or rows that
            must not be averaged (another protocol, n, extractor or reference).
    """
    if not rows:
        raise ValueError("no rows to summarize")
    checked = sorted((EVALUATIONS.check(row) for row in rows), key=lambda r: r["seed"])
    # A failed row may not have got as far as the extractor's and reference's hashes.
    good = [row for row in checked if row["status"] == "ok"]
    first = (good or checked)[0]
    for name in _ONE_VALUE:
        if len({row[name] for row in good}) > 1:
            raise ValueError(f"rows of different {name!r} are never averaged")
    seeds = [row["seed"] for row in checked]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"a seed stands twice: {seeds}")
    mean, sd = spread([row[row["metric"]] for row in good])
    names = ("experiment", "system", "sampler", "metric")
    return {
        **{name: first[name] for name in names},
        "mean": mean,
        "sd": sd,
        "scores": _further(good),
        "seeds": seeds,
        "n": first["n"],
        "protocol": first["protocol"],
        "extractor": first["extractor"],
        "rows": checked,
    }


def _further(rows: Sequence[Row]) -> dict[str, dict[str, float | None]]:
    """Mean and standard deviation of the scores beside the main one.

    A score that no row has is left out: a file written before there was such a score
    then still agrees with its rows.
    """
    found = {}
    for name in _FURTHER:
        values = [row[name] for row in rows if row[name] is not None]
        if values:
            mean, sd = spread(values)
            found[name] = {"mean": mean, "sd": sd}
    return found
