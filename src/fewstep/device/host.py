"""Memory of the machine, as far as this process may use it."""

from __future__ import annotations

import os
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")


def physical_bytes() -> int | None:
    """Memory of the whole machine."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def free_bytes() -> int | None:
    """Memory that this process may still take without swapping; None: not known.

    What the kernel calls available, or what the control groups above this process leave
    where that is less: a scheduler's job may have a small part of a large machine.
    """
    available = _field(_MEMINFO, "MemAvailable:")
    found = [] if available is None else [available * 1024]
    found += _left_in_groups()
    return min(found, default=None)


def _left_in_groups() -> list[int]:
    """What each group of this process, and each one above it, leaves."""
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        _, controllers, path = line.split(":", maxsplit=2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = _GROUPS / "memory" if controllers else _GROUPS
        own = root / path.lstrip("/")
        for folder in (own, *own.parents):
            if folder.is_relative_to(root):
                left.append(_left(folder))
    return [room for room in left if room is not None]


def _left(group: Path) -> int | None:
    """Limit less use, of the second version of control groups or the first."""
    for limit, use, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most = int((group / limit).read_text())
            used = int((group / use).read_text())
        except (OSError, ValueError):  # no such file, or "max"
            continue
        # The kernel gives up cached files before it refuses memory.
        return max(0, most - used + (_field(group / "memory.stat", cached) or 0))
    return None


def _field(path: Path, name: str) -> int | None:
    """The number after a name in a file of one figure a line."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        words = line.split()
        if words and words[0] == name:
            return int(words[1])
    return None
