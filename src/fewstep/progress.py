"""Progress of a long loop as plain lines: they read well on a terminal and in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable


class Progress:
    """Counts units of work and now and then prints rate and remaining time.

    Args:
        label: what is being done.
        total: units in all.
        done: units already done before (a resumed job).
        every: seconds between two lines.
        write: where a line goes; default standard error.
    """

    def __init__(
        self,
        label: str,
        total: int,
        *,
        done: int = 0,
        every: float = 10.0,
        write: Callable[[str], None] | None = None,
    ) -> None:
        self.label, self.total, self.done, self.every = label, total, done, every
        self.write = write or _to_stderr
        self.first = done
        self.started = self.printed = time.monotonic()

    def advance(self, units: int = 1, note: str = "") -> None:
        """Count `units`; print when the last line is old enough or all is done."""
        self.done += units
        now = time.monotonic()
        if now - self.printed < self.every and self.done < self.total:
            return
        self.printed = now
        rate = (self.done - self.first) / max(now - self.started, 1e-9)
        left = (self.total - self.done) / rate if rate else float("inf")
        share = 100 * self.done / max(self.total, 1)
        state = f"{rate:.3g}/s"
        state += f", {clock(left)} left" if self.done < self.total else ", done"
        self.write(
            f"  {self.label}  {self.done}/{self.total} ({share:.0f} %)  {state}"
            + (f"  {note}" if note else "")
        )


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _to_stderr(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
