"""A run that SIGTERM asks to stop ends, whatever it was doing at that moment."""

from __future__ import annotations

import _thread
import signal
from typing import Any


def stop_without_deadlock(workflow: Any) -> None:
    """Answer SIGTERM without a lock, and let another thread wake the scheduler.

    Snakemake 9's own handler takes the lock that the scheduler's loop holds while it
    books the jobs that ended. Both are in the main thread: a signal in that moment
    would hang the run for ever. The flag alone is set at once, before the loop can take
    jobs that the same signal ended for failed ones.

    Args:
        workflow: Snakemake's workflow, whose scheduler is made.
    """
    scheduler = workflow.scheduler

    def handler(*_: object) -> None:
        scheduler._user_kill = "graceful"
        # Not threading.Thread, which takes locks itself.
        _thread.start_new_thread(scheduler.exit_gracefully, ())

    signal.signal(signal.SIGTERM, handler)
