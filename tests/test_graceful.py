"""SIGTERM ends a run at any moment."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import snakemake

from fewstep.graceful import stop_without_deadlock

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """This process answers SIGTERM afterwards as it did before."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_signal_while_the_scheduler_holds_its_lock_is_answered_after_it() -> None:
    """The flag is set at once, and the loop woken as soon as the lock is free."""
    lock, stopped = threading.Lock(), threading.Event()

    def exit_gracefully(*_: object) -> None:
        with lock:
            stopped.set()

    scheduler = SimpleNamespace(exit_gracefully=exit_gracefully, _user_kill=None)
    stop_without_deadlock(SimpleNamespace(scheduler=scheduler))
    with lock:
        os.kill(os.getpid(), signal.SIGTERM)
        assert scheduler._user_kill == "graceful"
        time.sleep(0.05)
        assert not stopped.is_set()
    assert stopped.wait(10)


def test_the_parts_of_snakemake_are_there() -> None:
    """Its handler is this method, which locks; the Snakefile puts ours in its place."""
    home = Path(snakemake.__file__).parent
    source = (home / "scheduling/job_scheduler.py").read_text()
    assert "signal.signal(signal.SIGTERM, self.exit_gracefully)" in source
    method = "def exit_gracefully(self, *args):\n        with self._lock:\n            "
    assert f'{method}self._user_kill = "graceful"' in source
    assert "stop_without_deadlock(workflow)" in (ROOT / "Snakefile").read_text()
