"""Progress of a long loop as plain lines: they read well on a terminal and in a log.

The Snakemake logger `fewstep` reads the last of these lines in a running job's log, so
writing (`Progress`) and reading (`parse`) stand together here.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FIRST = 2.0
"""Seconds after which the first line comes, so that something is to be seen early."""
WIDTH = 20
_FULL, _EMPTY = "━", "─"
_LINE = re.compile(
    rf"^  (?P<label>.+?)  (?P<bar>[{_FULL}{_EMPTY}]{{{WIDTH}}})  +(?P<share>\d+) %  "
    r"(?P<done>\d+)/(?P<total>\d+)  (?P<rate>\S+)/s, "
    r"(?:(?P<left>[\d:?]+) left|done)(?:  (?P<note>.*))?$"
)


class Progress:
    """Counts units of work and now and then prints a bar, rate and remaining time.

    Args:
        label: what is being done.
        total: units in all.
        done: units already done before (a resumed job).
        every: seconds between two lines; the first comes after `FIRST` at the latest.
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
        self.started = time.monotonic()
        self.due = self.started + min(every, FIRST)

    def advance(self, units: int = 1, note: str = "") -> None:
        """Count `units`; print when the last line is old enough or all is done."""
        self.done += units
        now = time.monotonic()
        if now < self.due and self.done < self.total:
            return
        self.due = now + self.every
        rate = (self.done - self.first) / max(now - self.started, 1e-9)
        left = (self.total - self.done) / rate if rate else float("inf")
        share = self.done / max(self.total, 1)
        state = f"{rate:.3g}/s, "
        state += f"{clock(left)} left" if self.done < self.total else "done"
        self.write(
            f"  {self.label}  {bar(share)}  {_percent(share):3} %"
            f"  {self.done}/{self.total}  {state}" + (f"  {note}" if note else "")
        )


@dataclass(frozen=True)
class Reading:
    """What a line of `Progress` says.

    Attributes:
        label: what is being done.
        share: from 0 to 1.
        done: units done, of
        total: units in all.
        state: rate, and the remaining time or "done".
    """

    label: str
    share: float
    done: int
    total: int
    state: str


def parse(line: str) -> Reading | None:
    """What a line of `Progress` says; None for any other line."""
    found = _LINE.match(line)
    if found is None:
        return None
    done, total = int(found["done"]), int(found["total"])
    state = f"{found['left']} left" if found["left"] else "done"
    return Reading(
        found["label"],
        min(1.0, done / max(total, 1)),
        done,
        total,
        f"{found['rate']}/s, {state}",
    )


def last_lines(path: str | Path, size: int = 65536) -> list[str]:
    """The lines in the last bytes of a log; the first may be the rest of one.

    Of a line that a program rewrites, the last state is enough.

    Raises:
        OSError: where it cannot be read.
    """
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, 2) - size))
        text = file.read().decode(errors="replace")
    return [line.rstrip("\r").rpartition("\r")[2] for line in text.splitlines()]


def bar(share: float, width: int = WIDTH) -> str:
    """A bar of so many characters, filled by a share; full only when all is done."""
    full = min(width, int(width * max(share, 0.0)))
    return _FULL * full + _EMPTY * (width - full)


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _percent(share: float) -> int:
    """Whole per cent; 100 only when all is done."""
    return 100 if share >= 1 else min(99, round(100 * share))


def _to_stderr(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
