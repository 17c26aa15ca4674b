"""Times and memory of rivals that are called in turn."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewstep.provenance import peak_memory_mb, reset_peak_memory

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Clock:
    """What a call took.

    Attributes:
        seconds: every repeat. On one thread of a CPU they are the processor's, which
            other work on the machine does not lengthen; else those of the wall.
        unit: "CPU s" or "s".
        cpu, wall: median seconds of the processor and of the wall.
        memory_mb: peak memory of a call on top of what stood before, 10^6 bytes; on
            a CPU as the system counts it.
    """

    seconds: tuple[float, ...]
    unit: str
    cpu: float
    wall: float
    memory_mb: float

    @property
    def median(self) -> float:
        """Of the repeats."""
        return statistics.median(self.seconds)

    @property
    def iqr(self) -> float:
        """Distance of the quartiles; 0 with a single repeat."""
        if len(self.seconds) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return high - low


def race(
    calls: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    threads: int,
    device: torch.device | str = "cpu",
) -> dict[str, Clock]:
    """Time rivals in turn, so that a slow spell of the machine hits all alike.

    Each is called once before the clocks start; that call measures its memory.

    Args:
        calls: what to time, by name.
        repeats: timed calls of each, at least 1.
        threads: of torch on the CPU while this runs.
        device: where the work is done.
    """
    import torch

    device = torch.device(device)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        memory = {name: _memory(call, device) for name, call in calls.items()}
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        for _ in range(repeats):
            for name, call in calls.items():
                taken[name].append(once(call, device))
    finally:
        torch.set_num_threads(before)
    of_cpu = threads == 1 and device.type == "cpu"
    clocks = {}
    for name, pairs in taken.items():
        cpu, wall = zip(*pairs, strict=True)
        clocks[name] = Clock(
            cpu if of_cpu else wall,
            "CPU s" if of_cpu else "s",
            statistics.median(cpu),
            statistics.median(wall),
            memory[name],
        )
    return clocks


def once(call: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Seconds of the processor and of the wall of one synchronised call."""
    from fewstep.device import synchronise

    synchronise(device)
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    synchronise(device)
    return time.process_time() - cpu, time.perf_counter() - wall


def _memory(call: Callable[[], object], device: torch.device) -> float:
    """Peak memory of a call on top of what stood before, 10^6 bytes."""
    gc.collect()
    _give_back()
    reset_peak_memory(device)
    before = peak_memory_mb(device)  # just reset: what is in use
    once(call, device)
    return peak_memory_mb(device) - before


def _give_back() -> None:
    """Let the C library return what it keeps: a call would fill that first."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)
