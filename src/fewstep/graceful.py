"""A run that SIGTERM asks to stop ends, whatever it was doing at that moment."""

from __future__ import annotations

import _thread
import signal
from typing import Any


def stop_without_deadlock(workflow: Any) -> None:
    """Let another thread than the scheduler's answer SIGTERM.

    Snakemake 9's own handler takes the lock that the scheduler's loop holds while it
    books the jobs that ended. Both are in the main thread: a signal in that moment
    would hang the run for ever.

    Args:
        workflow: Snakemake's workflow, whose scheduler is made.
    """
    answer = workflow.scheduler.exit_gracefully

    def handler(*_: object) -> None:
        # Not threading.Thread, which takes locks itself.
        _thread.start_new_thread(answer, ())

    signal.signal(signal.SIGTERM, handler)
