"""A signal to stop is heard once, by whoever works, and forgotten afterwards."""

from __future__ import annotations

import faulthandler
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fewstep.processes import PreemptedError, stop_signal
from fewstep.training import train
from tests.test_training import SNAPSHOTS, Line, Scores, vector, weights

SIGNALS = (signal.SIGTERM, signal.SIGUSR2)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Whatever a test does, signals mean afterwards what they meant before."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    assert {number: signal.getsignal(number) for number in SIGNALS} == before


@pytest.mark.parametrize("number", SIGNALS)
def test_either_signal_raises_the_flag(number: signal.Signals) -> None:
    """SIGTERM and SIGUSR2 are noted, not obeyed at once."""
    with stop_signal() as stop:
        assert not stop["now"]
        os.kill(os.getpid(), number)
        assert stop["now"]


def test_an_inner_stage_shares_the_flag_of_the_outer() -> None:
    """A signal in the inner one is known to the outer, and the other way round."""
    with stop_signal() as outer:
        with stop_signal() as inner:
            os.kill(os.getpid(), signal.SIGUSR2)
            assert inner["now"]
        assert outer["now"]
        with stop_signal() as inner:
            assert inner["now"]
    with stop_signal() as later:
        assert not later["now"]


def test_signals_mean_what_they_meant_after_an_error() -> None:
    """An ignored signal is ignored again, as the executor starts its jobs."""
    before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        with pytest.raises(ValueError, match="inside"), stop_signal():
            raise ValueError("inside")
        assert signal.getsignal(signal.SIGUSR2) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_handler_of_another_library_does_no_harm() -> None:
    """One that Python cannot give back makes way for the default."""
    before = signal.getsignal(signal.SIGUSR2)
    with tempfile.TemporaryFile() as file:
        faulthandler.register(signal.SIGUSR2, file)
        try:
            with stop_signal() as stop:
                os.kill(os.getpid(), signal.SIGUSR2)
            assert stop["now"]
        finally:
            faulthandler.unregister(signal.SIGUSR2)
            signal.signal(signal.SIGUSR2, before)


def test_another_thread_works_without_signals() -> None:
    """Outside the main thread there is no handler, and the work goes on."""
    seen = []

    def work() -> None:
        with stop_signal() as stop:
            seen.append((dict(stop), signal.getsignal(signal.SIGUSR2)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [({"now": False}, signal.getsignal(signal.SIGUSR2))]


class Interrupted(Scores):
    """An `on_snapshot` that draws samples: told to stop on the way.

    Args:
        left: whether there are shards left, which ends it.
    """

    def __init__(self, left: bool) -> None:
        super().__init__()
        self.left = left

    def __call__(self, step: int, tensors: dict[str, Tensor]) -> dict[str, float]:
        with stop_signal() as stop:
            os.kill(os.getpid(), signal.SIGUSR2)
            assert stop["now"]
            if self.left:
                raise PreemptedError("stopped after shard 1 of 2")
        return super().__call__(step, tensors)


@pytest.mark.parametrize(
    ("left", "step", "again"), [(True, 3, [3, 6]), (False, 4, [6])]
)
def test_a_stop_in_a_snapshot_finds_the_training_saved(
    tmp_path: Path, left: bool, step: int, again: list[int]
) -> None:
    """A snapshot cut short is taken again; after a whole one the training stops."""
    with pytest.raises(PreemptedError, match="shard 1 of 2" if left else "step 4"):
        train(Line(), SNAPSHOTS, tmp_path, key="k", on_snapshot=Interrupted(left))
    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    assert saved["step"] == step
    scores = Scores()
    kept, _ = train(Line(), SNAPSHOTS, tmp_path, key="k", on_snapshot=scores)
    assert list(scores.seen) == again
    assert torch.equal(vector(kept), weights(tmp_path / "one", SNAPSHOTS))
