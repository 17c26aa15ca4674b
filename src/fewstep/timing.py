"""Times of sampling alone: warmed up, synchronised, rivals taken in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from fewstep.device import synchronise


@dataclass(frozen=True)
class Timing:
    """Seconds of a call.

    Attributes:
        median: of the repeats.
        iqr: distance of the quartiles (0 with a single repeat).
        seconds: every repeat.
    """

    median: float
    iqr: float
    seconds: tuple[float, ...]


def once(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one synchronised call."""
    synchronise(device)
    began = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - began


def alternate(
    calls: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    device: torch.device,
    warm_up: int = 1,
) -> dict[str, Timing]:
    """Time rivals in turn, so that a slow spell of the machine hits all alike.

    Args:
        calls: what to time, by name.
        repeats: timed calls of each, at least 1.
        device: where the work is done.
        warm_up: calls of each before the clock starts.
    """
    for call in calls.values():
        for _ in range(warm_up):
            call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            taken[name].append(once(call, device))
    return {name: summarise(seconds) for name, seconds in taken.items()}


def summarise(seconds: list[float]) -> Timing:
    """Median and distance of the quartiles."""
    iqr = 0.0
    if len(seconds) > 1:
        low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
        iqr = high - low
    return Timing(statistics.median(seconds), iqr, tuple(seconds))
