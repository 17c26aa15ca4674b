"""The table of published numbers beside ours: one row a number, with its verdict."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from fewstep.results.columns import Row, Table, integer, number, text
from fewstep.results.common import EXPERIMENT, SAMPLER
from fewstep.results.summary import spread
from fewstep.results.verdicts import (
    NO_PUBLISHED,
    NOT_COMPARABLE,
    VERDICTS,
    Verdict,
    verdict,
)

SCORES = ("isc", "precision", "recall")
"""Published beside the main score; more is better."""
SECONDS = ("seconds_per_image", "seconds_batch1")
"""Published times: of a whole run, divided by its images; of one image alone."""
QUANTITIES = ("fid", *SCORES, *SECONDS)


def _check_comparison(row: Row) -> None:
    """The difference is that of the row's own numbers."""
    value, published = row["ours"], row["published"]
    both = None if value is None or published is None else value - published
    stated = row["difference"]
    if (both is None) != (stated is None) or (
        both is not None and not math.isclose(stated, both, abs_tol=1e-6)
    ):
        raise ValueError("column 'difference' is not 'ours' minus 'published'")


PUBLISHED = Table(
    name="published",
    description="Published numbers beside ours, each with its verdict.",
    columns=(
        EXPERIMENT,
        SAMPLER,
        text(
            "quantity",
            "which number: a score (fid, isc, precision, recall), seconds_per_image (a "
            "whole run divided by its images) or seconds_batch1 (one image alone)",
            *QUANTITIES,
            required=True,
        ),
        number("ours", "our value, mean over seeds; of seconds the median", minimum=-1),
        number("sd", "standard deviation over seeds; null with one"),
        integer("seeds", "seeds behind it", required=True),
        integer("n", "images a seed", required=True, minimum=1),
        number("published", "the published value; null: not verified"),
        number("published_sd", "its standard deviation, if published"),
        integer("published_n", "images behind it", minimum=1),
        number("difference", "ours minus published", minimum=None),
        text("verdict", "the comparison's outcome", *VERDICTS, required=True),
        text("reason", "the numbers or the obstacle behind it", required=True),
        text("source", "paper or page", required=True),
        text("source_table", "table or section in it", required=True),
        text("hardware", "processor, GPU or TPU of our time"),
        text("published_hardware", "devices of the published time"),
        text("unit", "the time as printed, and how it became seconds"),
        text("note", "what is known of the published number, such as a defect"),
    ),
    key=("experiment", "sampler", "quantity"),
    rule=_check_comparison,
)


def compare(
    rows: Sequence[Row], published: Mapping[str, Any] | None, protocol_note: str = ""
) -> list[dict[str, Any]]:
    """All that was published for a cell beside our rows of it.

    Args:
        rows: the cell's rows of the table of evaluations, one a seed.
        published: the cell's `published` of the configuration.
        protocol_note: why the protocols differ; empty when they do not.

    Returns:
        rows of the table `published`; none when nothing was published.
    """
    if not published:
        return []
    found = [_score("fid", published["value"], rows, published, protocol_note)]
    others = published.get("others") or {}
    found += [
        _score(name, others[name], rows, published, protocol_note)
        for name in SCORES
        if others.get(name) is not None
    ]
    if published.get("seconds") is not None:
        an_image = published["seconds"] / published["n"]
        found.append(_time("seconds_per_image", an_image, rows, published))
    if published.get("seconds_batch1") is not None:
        found.append(
            _time("seconds_batch1", published["seconds_batch1"], rows, published)
        )
    return found


def _score(
    name: str,
    value: float | None,
    rows: Sequence[Row],
    published: Mapping[str, Any],
    protocol_note: str,
) -> dict[str, Any]:
    """A score: judged where protocol and n allow."""
    column = rows[0]["metric"] if name == "fid" else name
    scored = [row[column] for row in rows if row[column] is not None]
    ours, sd = spread(scored)
    found = verdict(
        ours,
        sd,
        value,
        rows[0]["n"],
        published["n"],
        not protocol_note,
        # The other scores need Inception as FID does.
        metric=rows[0]["metric"],
        protocol_note=protocol_note,
        published_sd=published["sd"] if name == "fid" else None,
        lower_is_better=name == "fid",
    )
    if value is None:
        reason = f"published in {published['table']}, number not verified"
        found = Verdict(NO_PUBLISHED, reason)
    return _row(name, ours, value, found, rows, published) | {
        "sd": sd,
        "seeds": len(scored),
        "published_sd": published["sd"] if name == "fid" else None,
    }


def _time(
    name: str, value: float, rows: Sequence[Row], published: Mapping[str, Any]
) -> dict[str, Any]:
    """A time: compared on the same hardware alone."""
    timed = [row[name] for row in rows if row[name] is not None]
    ours = statistics.median(timed) if timed else None
    own = next((row["hardware"] for row in rows if row["hardware"]), None)
    theirs = published["hardware"] or "unknown hardware"
    if ours is None:
        found = Verdict(NOT_COMPARABLE, "we have no time")
    elif not same_hardware(own, theirs):
        reason = f"hardware: ours on {own or 'unknown hardware'}, published on {theirs}"
        found = Verdict(NOT_COMPARABLE, reason)
    else:
        # Seconds an image need no equal number of images.
        found = verdict(ours, 0.0, value, 1, 1, True)
    return _row(name, ours, value, found, rows, published) | {
        "seeds": len(timed),
        "hardware": own,
        "published_hardware": published["hardware"] or None,
        "unit": published["unit"] or None,
    }


def same_hardware(ours: str | None, published: str) -> bool:
    """Whether one of our devices is just what the published time was measured on.

    `one A100, batch 1` is the same as `NVIDIA A100-SXM4-80GB`; several devices never
    are, for our clock runs on one.
    """
    words = published.lower().replace(",", " ").split()
    if not ours or words[:1] != ["one"] or len(words) < 2:
        return False
    return words[1] in ours.lower().replace("-", " ").split()


def _row(
    name: str,
    ours: float | None,
    value: float | None,
    found: Verdict,
    rows: Sequence[Row],
    published: Mapping[str, Any],
) -> dict[str, Any]:
    difference = None if ours is None or value is None else ours - value
    return PUBLISHED.new_row(
        experiment=rows[0]["experiment"],
        sampler=rows[0]["sampler"],
        quantity=name,
        ours=ours,
        seeds=0,
        n=rows[0]["n"],
        published=value,
        published_n=published["n"],
        difference=difference,
        verdict=found.verdict,
        reason=found.reason,
        source=published["source"],
        source_table=published["table"],
        note=published["note"] or None,
    )
