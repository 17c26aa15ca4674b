"""The clock's bookkeeping; its readings are never asserted."""

from __future__ import annotations

import torch

from fewstep.timing import alternate, summarise


def test_rivals_are_called_in_turn_after_warming_up() -> None:
    """Each is warmed up, then they take turns, so a slow spell hits both."""
    called: list[str] = []
    calls = {name: lambda name=name: called.append(name) for name in "ab"}
    timings = alternate(calls, repeats=2, device=torch.device("cpu"), warm_up=1)
    assert called == ["a", "b", "a", "b", "a", "b"]
    assert len(timings["a"].seconds) == 2


def test_summary_is_median_and_quartile_distance() -> None:
    """The median is not moved by one slow repeat; one repeat has no spread."""
    timing = summarise([1.0, 2.0, 3.0, 4.0, 100.0])
    assert (timing.median, timing.iqr) == (3.0, 2.0)
    assert summarise([2.0]).iqr == 0.0
