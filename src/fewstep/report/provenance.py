"""Where all numbers of a page come from: code, machines, weights, published files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewstep.report.headline import NONE, known

Row = Mapping[str, Any]

_ORIGIN = {
    "protocol": "protocol",
    "labels": "labels",
    "hardware": "hardware",
    "device": "device",
    "driver": "driver",
    "threads": "threads",
    "torch": "torch",
    "torch_fidelity": "torch-fidelity",
    "python": "Python",
    "fewstep": "fewstep",
    "commit": "commit",
    "dirty": "uncommitted changes",
    "code_digest": "code digest",
    "checkpoint_sha256": "checkpoint sha256",
    "dataset_sha256": "dataset sha256",
    "extractor_sha256": "extractor sha256",
    "reference_sha256": "reference sha256",
    "assets": "published files",
    "created_utc": "made (UTC)",
}
_SHARED = (
    *("fewstep", "commit", "dirty", "Python", "torch", "torch-fidelity"),
    *("hardware", "device", "driver"),
)
_EACH = ("code_digest", "checkpoint_sha256", "dataset_sha256", "commit")
_SHORT = 12


@dataclass(frozen=True)
class Provenance:
    """The page's own part on provenance.

    Args:
        shared: facts that rows have in common or differ in, every value once.
        header: of the table by experiment.
        lines: experiment, then hashes, shortened.
        assets: name, SHA-256 and experiments of every published file.
    """

    shared: dict[str, list[str]]
    header: tuple[str, ...]
    lines: list[tuple[str, ...]]
    assets: list[tuple[str, str, str]]


def origin(rows: Sequence[Row]) -> dict[str, list[str]]:
    """What rows say about code and machine: every value once."""
    found = {
        title: sorted(
            {text for value in known(rows, column) for text in _texts(column, value)}
        )
        for column, title in _ORIGIN.items()
    }
    made = found["made (UTC)"]
    if len(made) > 1:
        found["made (UTC)"] = [f"{made[0]} to {made[-1]}"]
    return {title: values for title, values in found.items() if values}


def _texts(column: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    if column != "assets":
        return [str(value)]
    return [f"{name} {digest}" for name, digest in _assets(value).items()]


def _assets(value: str) -> dict[str, str]:
    """Hashes by name; text that is no such list stands as it is."""
    try:
        found = json.loads(value)
    except ValueError:
        return {value: ""}
    return {str(k): str(v) for k, v in found.items()} if found else {}


def provenance(rows: Sequence[Row]) -> Provenance | None:
    """Of all rows of the page; None without any."""
    if not rows:
        return None
    everything = origin(rows)
    wanted = {_ORIGIN.get(name, name) for name in _SHARED}
    lines, files = [], dict[tuple[str, str], dict[str, None]]()
    for name in dict.fromkeys(str(row["experiment"]) for row in rows):
        own = [row for row in rows if row["experiment"] == name]
        lines.append((name, *(_short(own, column) for column in _EACH)))
        for value in known(own, "assets"):
            for asset in _assets(value).items():
                files.setdefault(asset, {}).setdefault(name)
    return Provenance(
        shared={title: everything[title] for title in everything if title in wanted},
        header=("experiment", *(_ORIGIN[column] for column in _EACH)),
        lines=lines,
        assets=[(*asset, ", ".join(used)) for asset, used in sorted(files.items())],
    )


def _short(rows: Sequence[Row], column: str) -> str:
    found = dict.fromkeys(str(value)[:_SHORT] for value in known(rows, column))
    return ", ".join(found) or NONE
