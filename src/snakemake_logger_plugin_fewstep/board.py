"""The state of a run: which jobs run, how many are done, how long the rest may take."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from fewstep.progress import Reading
from snakemake_logger_plugin_fewstep import logs

_POLL = 2.0
"""Seconds between two looks into a log."""
_OLD = 30.0
"""Seconds after which a remaining time in a log is no longer true."""


@dataclass
class Job:
    """One job that was started.

    Attributes:
        number: Snakemake's.
        what: its message, or rule and wildcards.
        rule: its rule.
        logs: its logs, the first is looked into.
        target: what to ask Snakemake for to get this job alone.
        submitted: when it was given out, then when it began to run, on a steady clock.
        since: the same, in seconds since the epoch.
        collects: whether it does nothing but ask for its inputs.
        waits: whether it lies in a cluster's queue.
        reading: the last progress in its log.
        heard: when that was new, on the steady clock.
    """

    number: int
    what: str
    rule: str
    logs: tuple[str, ...]
    target: str
    submitted: float = field(default_factory=time.monotonic)
    since: float = field(default_factory=time.time)
    collects: bool = False
    waits: bool = False
    reading: Reading | None = None
    heard: float = 0.0
    looked: float = 0.0

    @property
    def seconds(self) -> float:
        """How long it has run, or waited where it does not run yet."""
        return time.monotonic() - self.submitted

    @property
    def rate(self) -> str:
        """What its log says of its speed; "" where it says nothing."""
        return self.reading.state.partition(", ")[0] if self.reading else ""

    @property
    def left(self) -> str:
        """What its log says of the remaining time; "" where that is too old."""
        if self.reading is None or time.monotonic() - self.heard > _OLD:
            return ""
        return self.reading.state.partition(", ")[2]

    def look(self) -> None:
        """Read its log, unless that was just done."""
        now = time.monotonic()
        if not self.logs or now - self.looked < _POLL:
            return
        self.looked = now
        fresh, reading = logs.progress(self.logs[0], self.since)
        if fresh and self.waits:
            self.waits, self.submitted = False, now
        if reading is not None and reading != self.reading:
            self.reading, self.heard = reading, now


class Board:
    """All jobs of a run. Every method may be called by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[int, Job] = {}
        self._failed: dict[int, Job] = {}
        self._planned: Counter[str] = Counter()
        self._seconds: dict[str, list[float]] = defaultdict(list)
        self._begun: float | None = None
        self.done = self.total = 0

    def plan(self, stats: Mapping[str, int]) -> None:
        """How many jobs there are of each rule; `total` among them."""
        with self._lock:
            self._planned = Counter(stats)
            self.total = self._planned.pop("total", 0)
            self._begun = time.monotonic()

    def start(self, job: Job) -> None:
        """A job was given out, perhaps once more after a failure."""
        with self._lock:
            self._begun = self._begun or time.monotonic()
            self._failed.pop(job.number, None)
            self._running[job.number] = job

    def queue(self, number: int) -> None:
        """A job that was given out waits for a node."""
        with self._lock:
            if number in self._running:
                self._running[number].waits = True

    def finish(self, number: int) -> tuple[Job | None, int]:
        """A job has ended well: it, and how many have."""
        with self._lock:
            self.done += 1
            job = self._running.pop(number, None)
            if job is not None:
                self._seconds[job.rule].append(job.seconds)
            return job, self.done

    def fail(self, number: int) -> Job | None:
        """A job has failed."""
        with self._lock:
            job = self._running.pop(number, None)
            if job is not None:
                self._failed[number] = job
            return job

    def stop(self, number: int) -> Job | None:
        """A job was ended by what ends the run."""
        with self._lock:
            return self._running.pop(number, None)

    def running(self) -> list[Job]:
        """Jobs that are given out, with a fresh look at them; the waiting ones last."""
        with self._lock:
            jobs = list(self._running.values())
        for job in jobs:
            job.look()
        return sorted(jobs, key=lambda job: job.waits)

    def failed(self) -> list[Job]:
        """Jobs that failed and were not started once more."""
        with self._lock:
            return list(self._failed.values())

    def elapsed(self) -> float:
        """Seconds since the first job."""
        return time.monotonic() - self._begun if self._begun is not None else 0.0

    def remaining(self) -> float | None:
        """About how many seconds are left; None while too little is known.

        What is left of a rule takes as long as its jobs have taken so far, a rule not
        seen yet as long as the others on average, and as many jobs run at a time.
        """
        with self._lock:
            spent = [second for one in self._seconds.values() for second in one]
            elapsed = self.elapsed()
            if len(spent) < 3 or elapsed < 10 or not self._planned:
                return None
            mean = {rule: sum(one) / len(one) for rule, one in self._seconds.items()}
            usual = sum(mean.values()) / len(mean)
            work = sum(
                (count - len(self._seconds.get(rule, ()))) * mean.get(rule, usual)
                for rule, count in self._planned.items()
            )
            for job in self._running.values():
                work -= min(job.seconds, mean.get(job.rule, usual))
            return max(work, 0.0) / max(1.0, sum(spent) / elapsed)
