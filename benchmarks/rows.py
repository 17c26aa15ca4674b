"""Numbers beside their partners', kept in a JSON file and in the README's table."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.clock import Clock

from fewstep import files
from fewstep.provenance import hardware

if TYPE_CHECKING:
    import torch

HERE = Path(__file__).resolve().parent
LOAD = os.getloadavg()[0]
"""Of the machine before a program adds its own."""

Row = dict[str, Any]


def row(
    name: str,
    value: float,
    unit: str,
    partner: str,
    partner_value: float,
    **more: Any,
) -> Row:
    """One number beside its partner's; the smaller is the better.

    Args:
        name: of the row; it replaces an older one of that name (and threads, device).
        value: ours.
        unit: of both.
        partner: what it is measured against, in words.
        partner_value: its number.
        more: further keys: spread, error, memory_mb, threads, strategy, ...
    """
    return {
        "name": name,
        "value": rounded(value),
        "unit": unit,
        "partner": partner,
        "partner_value": rounded(partner_value),
        "ratio": rounded(partner_value / value),
        **{key: rounded(each) for key, each in more.items()},
    }


def versus(
    name: str,
    clocks: Mapping[str, Clock],
    ours: str,
    partner: str,
    **more: Any,
) -> Row:
    """The row of two rivals of one race.

    Its spread is the smallest and the largest ratio of a round; its memory that of
    both.

    Args:
        name: of the row.
        clocks: of the race.
        ours, partner: which two; the names of the race describe them.
        more: further keys, as in `row`.
    """
    mine, theirs = clocks[ours], clocks[partner]
    ratios = [b / a for a, b in zip(mine.seconds, theirs.seconds, strict=True)]
    return row(
        name,
        mine.median,
        mine.unit,
        partner,
        theirs.median,
        spread=[min(ratios), max(ratios)],
        memory_mb=mine.memory_mb,
        partner_memory_mb=theirs.memory_mb,
        **more,
    )


def rounded(value: Any) -> Any:
    """Numbers to four digits, also those of a list; anything else as it is."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return [rounded(each) for each in value] if isinstance(value, list) else value


def machine(
    packages: Collection[str] = ("torch",), device: torch.device | str = "cpu"
) -> str:
    """Processor, cores, accelerator, load at the start, versions."""
    found = hardware(device)
    words = [f"{found['cpu']}, {found['cores']} cores"]
    if found["gpu"]:
        words.append(f"{found['gpu']}, driver {found['driver']}")
    words += [f"load {LOAD:.1f} at the start", f"Python {platform.python_version()}"]
    words += [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return "; ".join(words)


def write(program: str, rows: Iterable[Row], folder: Path = HERE) -> None:
    """Keep rows in `<program>.json` and in the table of `README.md`.

    A row replaces the older one of its name, threads, device and kind of processor;
    others stay.

    Raises:
        SystemExit: with a line, when the README has no place for the table.
    """
    path, readme = folder / f"{program}.json", folder / "README.md"
    kept = {_key(r): r for r in (files.read_json(path) if path.exists() else [])}
    kept |= {_key(r): r for r in rows}
    text = _with_table(readme, program, list(kept.values()))
    files.write_json(path, list(kept.values()))
    files.write_bytes(readme, text.encode())


def _key(row: Row) -> tuple[Any, ...]:
    device = row.get("device", "cpu")
    return row["name"], row.get("threads"), device, row.get("simd")


def _with_table(readme: Path, program: str, rows: Sequence[Row]) -> str:
    """The README's text with a table of these rows between the program's marks."""
    start, end = marks(program)
    before, found, rest = readme.read_text().partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        sys.exit(f"{readme}: there is no {start} with {end} after it for the table")
    return f"{before}{start}\n{table(rows)}\n{end}{after}"


def marks(program: str) -> tuple[str, str]:
    """What stands before and after a program's table."""
    return f"<!-- {program} -->", f"<!-- end of {program} -->"


_COLUMNS: dict[str, Callable[[Row], str]] = {
    "name": lambda r: str(r["name"]),
    "value": lambda r: f"{r['value']:g} {r['unit']}",
    "partner": lambda r: f"{r['partner']}: {r['partner_value']:g}",
    "ratio": lambda r: f"{r['ratio']:.3g}×",
    "spread": lambda r: "–".join(f"{each:.3g}" for each in r["spread"]),
    "error": lambda r: f"{r['error']:.2g}",
    "partner's error": lambda r: f"{r['partner_error']:.2g}",
    "MB": lambda r: f"{r['memory_mb']:.3g}",
    "partner's MB": lambda r: f"{r['partner_memory_mb']:.3g}",
    "threads": lambda r: str(r["threads"]),
    "CPU": lambda r: str(r["simd"]),
    "what": lambda r: str(r["what"]),
    "date": lambda r: str(r["date"]),
}


def table(rows: Sequence[Row]) -> str:
    """Rows as Markdown; columns that no row fills are left out."""
    cells = {name: [_cell(read, r) for r in rows] for name, read in _COLUMNS.items()}
    cells = {name: column for name, column in cells.items() if any(column)}
    lines = [list(cells), ["---"] * len(cells), *zip(*cells.values(), strict=True)]
    machines = sorted({r["machine"] for r in rows})
    return "\n".join(
        [
            *(f"| {' | '.join(each or '–' for each in line)} |" for line in lines),
            "",
            *(f"Machine: {m}." for m in machines),
        ]
    )


def _cell(read: Callable[[Row], str], row: Row) -> str:
    """A row's text in a column; empty where it has none."""
    try:
        return read(row)
    except (KeyError, TypeError):  # no such key, or None
        return ""
