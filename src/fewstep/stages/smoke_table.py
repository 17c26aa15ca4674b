"""Stage: what all smokes found, as one table; without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewstep import files

_HEAD = (
    *("experiment", "parameters", "images", "values", "phase"),
    *("estimated MB", "measured MB", "ratio", "host peak MB", "seconds"),
)


def table(records: Sequence[Path], out: Path, text: Path) -> None:
    """Write `smoke.json` (all records) and `smoke.txt` (a line a phase, and a sum).

    Args:
        records: what `fewstep smoke` wrote.
        out: a JSON list.
        text: the table.
    """
    found = [files.read_json(path) for path in records]
    rows = [_HEAD, *(row for record in found for row in _rows(record))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    seconds = sum(record["seconds"] for record in found)
    peak = max(p["host_peak_mb"] for record in found for p in record["phases"])
    lines.append(
        f"{len(found)} architectures, {seconds / 60:.1f} minutes, "
        f"at most {peak * 1e6 / 2**30:.1f} GiB of main memory"
    )
    files.write_json(out, found)
    files.write_bytes(text, ("\n".join(lines) + "\n").encode())


def _rows(record: dict[str, Any]) -> list[tuple[str, ...]]:
    """One line a phase; what holds for the record stands in the first."""
    size = "x".join(map(str, record["drawn"]))
    scored = record.get("scored", record["drawn"])
    if scored != record["drawn"]:
        size += f" -> {scored[-1]}"
    values = "finite" if record.get("finite") else record["weights"]
    count = f"{record['parameters'] / 1e6:.1f} M"
    first = (record["experiment"], count, size, values)
    rows = []
    for phase in record["phases"]:
        rows.append((*first, *_phase(phase, record)))
        first = ("", "", "", "")
    return rows


def _phase(phase: dict[str, Any], record: dict[str, Any]) -> tuple[str, ...]:
    estimated, measured = phase.get("estimated_mb"), phase.get("measured_mb")
    if phase["phase"] == "shapes":  # nothing was allocated
        estimated = record["estimated_mb"]
    ratio = f"{estimated / measured:.2f}" if estimated and measured else ""
    return (
        phase["phase"],
        "" if estimated is None else str(estimated),
        "" if measured is None else str(measured),
        ratio,
        str(phase["host_peak_mb"]),
        f"{phase['seconds']:.1f}",
    )
