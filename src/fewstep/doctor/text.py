"""The diagnosis as text: tables in a terminal, plain columns elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fewstep.doctor.diagnosis import Diagnosis, Line
from fewstep.doctor.sources import Source


@dataclass(frozen=True)
class _Section:
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: frozenset[str] = frozenset()


def show(found: Diagnosis, console: Console) -> None:
    """Print a diagnosis.

    Args:
        found: what `examine` says.
        console: rich tables where it is a terminal, else columns without lines.
    """
    render = _table if console.is_terminal else _columns
    for section in _sections(found):
        if section.rows:
            console.print()
            render(section, console)
    console.print()
    for line in _last(found):
        console.print(Text(line), soft_wrap=True)


def _sections(found: Diagnosis) -> Iterable[_Section]:
    yield _Section("environment", ("", ""), list(_environment(found.environment)))
    missing = [source for source in found.sources if source.state != "there"]
    there = [source for source in found.sources if source.state == "there"]
    header = ("name", "state", "MB", "where", "targets", "from")
    yield _Section(
        "missing", header, [_source(one) for one in missing], frozenset({"MB"})
    )
    yield _Section(
        "there",
        ("name", "MB", "checked", "where"),
        [_present(one) for one in there],
        frozenset({"MB"}),
    )
    numbers = ("results", "jobs", "GPU-hours", "GPU GB", "disk GB", "download MB")
    yield _Section(
        "targets (estimates)",
        ("target", *numbers, "state"),
        [_line(line) for line in found.targets],
        frozenset(numbers),
    )
    rows = [(line.target, text) for line in found.targets for text in line.advice]
    yield _Section(
        f"does not fit {found.hardware['name']}, "
        f"{found.hardware['memory_gb']:g} GB, as configured",
        ("target", "job"),
        rows,
    )


def _environment(facts: dict[str, Any]) -> Iterable[tuple[str, str]]:
    versions = facts["packages"].items()
    packages = [f"{name} {version or 'missing'}" for name, version in versions]
    yield "python", f"{facts['python']}, {', '.join(packages)}"
    devices = [f"{one['name']} ({one['memory_gb']:g} GB)" for one in facts["devices"]]
    yield "GPUs here", ", ".join(devices) or "none"
    ram = f"{facts['cpus']} CPUs, {facts['ram_gb']:g} GB memory"
    yield "machine", f"{ram}, {facts['disk_free_gb']:g} GB of disk free"
    missing = [name for name, there in facts["slurm"].items() if not there]
    slurm = "all commands found"
    if missing:
        none = len(missing) == len(facts["slurm"])
        slurm = "not found" if none else f"missing: {', '.join(missing)}"
    yield "SLURM", slurm
    yield "profiles/cluster.yaml", "there" if facts["cluster_file"] else "not there"
    hub = ["token set" if facts["hf_token_set"] else "no token set (HF_TOKEN)"]
    hub += [f"offline ({facts['offline']})"] if facts["offline"] else []
    hub += [f"endpoint {facts['hf_endpoint']}"] if facts["hf_endpoint"] else []
    yield "hub", ", ".join(hub)


def _source(one: Source) -> tuple[str, ...]:
    size = "?" if one.mb is None else f"{one.mb:,.0f}"
    blocked = f"blocks {_some(one.blocks)}" if one.blocks else _some(one.needed_by)
    # What follows a semicolon is for those who read the table of assets.
    origin = one.origin.partition("; ")[0]
    return (one.name, one.state, size, one.path, blocked, origin)


def _present(one: Source) -> tuple[str, ...]:
    size = "" if one.mb is None else f"{one.mb:,.1f}"
    checked = {True: "yes", False: "not yet", None: ""}[one.verified]
    return (one.name, size, checked, one.path)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _line(line: Line) -> tuple[str, ...]:
    state = "ready"
    if line.blocked:
        share = f"{len(line.blocked)} of {len(line.results)} "
        whole = len(line.blocked) == len(line.results)
        state = f"{'' if whole else share}blocked: {_some(line.blocked_by)}"
    elif line.done == len(line.results) and not line.jobs:
        state = "done"
    elif not line.fits:
        state = "ready, but see below"
    return (
        line.target,
        f"{line.done}/{len(line.results)}",
        str(line.jobs),
        _number(line.gpu_hours),
        f"{line.peak_memory_gb:.1f}",
        f"{line.disk_gb:,.1f}",
        "?" if line.download_mb is None else f"{line.download_mb:,.0f}",
        state,
    )


def _number(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.2f}"


def _last(found: Diagnosis) -> Iterable[str]:
    totals, name = found.totals, found.hardware["name"]
    size = totals["download_mb"]
    download = "downloads of unknown size"
    if size is not None:
        download = f"{size:,.0f} MB of downloads"
    yield (
        f"in all: {totals['done']} of {totals['results']} results there, "
        f"{totals['jobs']} jobs, {_number(totals['gpu_hours'])} GPU-hours, "
        f"{totals['disk_gb']:,.1f} GB of disk ({totals['disk_free_gb']:,.1f} free), "
        f"{download}"
    )
    yield (
        f"Hours and memory are estimates, for an {name} at "
        f"{found.hardware['efficiency']:.0%} of its speed; `hardware:` in config.yaml "
        "describes another."
    )
    wanted = totals["disk_gb"] + (size or 0) / 1000
    if wanted > totals["disk_free_gb"]:
        yield f"The disk here is too small: {wanted:,.1f} GB are wanted."
    if totals["blocked"]:
        count = totals["blocked"]
        yield f"{count} of {totals['results']} results are blocked: see `missing`."
    else:
        yield "Nothing is blocked."


def _table(section: _Section, console: Console) -> None:
    table = Table(title=section.title, title_justify="left", title_style="bold")
    table.show_header = any(section.header)
    for name in section.header:
        right = name in section.right
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in section.rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _columns(section: _Section, console: Console) -> None:
    rows = [list(row) for row in section.rows]
    if any(section.header):
        rows = [list(section.header), *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    console.print(Text(section.title))
    for row in rows:
        cells = [
            cell.rjust(width) if name in section.right else cell.ljust(width)
            for cell, width, name in zip(row, widths, section.header, strict=True)
        ]
        console.print(Text("  " + "  ".join(cells).rstrip()), soft_wrap=True)
