"""GPUs of this machine, handed out to jobs of the local cluster.

submitit's local cluster shows every job the first GPUs; here each gets its own.
"""

from __future__ import annotations

import os
import re
from pathlib import Path


def visible_gpus() -> list[int]:
    """Numbers of the GPUs that this process may use."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is not None:
        return [int(part) for part in shown.split(",") if part.strip().isdigit()]
    names = (path.name for path in Path("/dev").glob("nvidia[0-9]*"))
    return sorted(int(n[6:]) for n in names if re.fullmatch(r"nvidia\d+", n))


class Slots:
    """Numbered places, each used by one job at a time."""

    def __init__(self, numbers: list[int]) -> None:
        self.total = len(numbers)
        self._free = sorted(numbers)
        self._taken: dict[str, tuple[int, ...]] = {}

    def take(self, owner: str, count: int) -> tuple[int, ...] | None:
        """That many for an owner; None while too few are free."""
        if count > len(self._free):
            return None
        mine, self._free = tuple(self._free[:count]), self._free[count:]
        self._taken[owner] = mine
        return mine

    def keep(self, owner: str, numbers: list[int]) -> None:
        """These are an owner's already."""
        mine = tuple(n for n in numbers if n in self._free)
        self._free = [n for n in self._free if n not in mine]
        self._taken[owner] = mine

    def free(self, owner: str) -> None:
        """Give back what an owner has, if anything."""
        self._free = sorted([*self._free, *self._taken.pop(owner, ())])
