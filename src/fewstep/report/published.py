"""Published numbers beside ours: scores and times, each with its verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewstep.report.headline import plus_minus, seconds_text
from fewstep.report.inputs import Summary
from fewstep.results import PUBLISHED

_NAMES = {
    "fid": "FID",
    "isc": "Inception score",
    "precision": "precision",
    "recall": "recall",
    "seconds_per_image": "time per image, of a whole run",
    "seconds_batch1": "time of one image alone",
}


@dataclass(frozen=True)
class Published:
    """A published number beside ours; every field is text ready to print."""

    experiment: str
    sampler: str
    quantity: str
    ours: str
    published: str
    verdict: str
    reason: str
    source: str
    hardware: str
    published_hardware: str
    note: str


def published_lines(summaries: Sequence[Summary]) -> list[Published]:
    """Lines of all cells, in their order; of older evaluations there are none."""
    return [
        _line(row) for summary in summaries for row in summary.get(PUBLISHED.name) or ()
    ]


def _line(row: Mapping[str, Any]) -> Published:
    timed = row["quantity"].startswith("seconds")
    sd = row["published_sd"]
    theirs = row["published"]
    return Published(
        experiment=row["experiment"],
        sampler=row["sampler"],
        quantity=_NAMES.get(row["quantity"], row["quantity"]),
        ours=seconds_text(row["ours"]) if timed else plus_minus(row["ours"], row["sd"]),
        published=seconds_text(theirs) if timed else plus_minus(theirs, sd),
        verdict=row["verdict"],
        reason=row["reason"],
        source=f"{row['source']}, {row['source_table']}",
        hardware=row["hardware"] or "",
        published_hardware=row["published_hardware"] or "",
        note=row["note"] or "",
    )
