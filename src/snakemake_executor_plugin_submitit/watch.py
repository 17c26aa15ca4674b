"""What SLURM says about all jobs, asked in one batch and no more often than needed.

That a job has ended well is seen from its result file, without the scheduler. It is
asked for what no file tells: whether a job that left none is still to come.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from snakemake_executor_plugin_submitit.scheduler import Scheduler, SchedulerAwayError
from snakemake_executor_plugin_submitit.states import JobState

Say = Callable[[str], object]


@dataclass
class Watch:
    """The last known state of each job.

    Attributes:
        scheduler: who is asked.
        say: takes messages for the user.
        fastest, slowest: seconds between two questions; the pause doubles until a job
            ends without a result, or new ones come.
        lost_after: seconds after which a job that nobody knows is lost.
        settle: seconds that an ended job's result is waited for, on a slow file system.
        patience: seconds in which SLURM puts a job back whose node was lost.
        clock: seconds.
    """

    scheduler: Scheduler
    say: Say
    fastest: float = 1.0
    slowest: float = 60.0
    lost_after: float = 120.0
    settle: float = 15.0
    patience: float = 60.0
    clock: Callable[[], float] = time.monotonic

    states: dict[str, JobState] = field(default_factory=dict)
    _since: dict[str, float] = field(default_factory=dict)
    _known: frozenset[str] = frozenset()
    _next: float = 0.0
    _pause: float = 0.0
    _away: float | None = None
    _told: bool = False

    def look(self, ids: Collection[str]) -> dict[str, JobState]:
        """States of the jobs, asking if it is time to.

        A job that nobody knows yet has no entry.
        """
        wanted = frozenset(ids)
        if wanted - self._known:
            self._pause, self._next = self.fastest, 0.0
        self._known = wanted
        if wanted and self.clock() >= self._next:
            self._ask(wanted)
        return {job: self.states[job] for job in wanted if job in self.states}

    def for_good(self, job: str) -> bool:
        """Whether an ended or stuck state has lasted so long that it counts."""
        state, now = self.states.get(job), self.clock()
        if state is None or state.phase in {"waiting", "running"}:
            return False
        if state.phase == "lost":
            return True
        patience = self.patience if state.may_return else self.settle
        return self._away is None and now - self._since[job] >= patience

    def forget(self, job: str) -> None:
        """The job is over."""
        self.states.pop(job, None)
        self._since.pop(job, None)
        self._since.pop(_unseen(job), None)

    def _ask(self, wanted: frozenset[str]) -> None:
        try:
            queue = self.scheduler.queue()
        except SchedulerAwayError as error:
            self._not_answered(error)
            return
        self._answered()
        past = self._past(wanted - queue.keys())
        for job in wanted:
            state = queue.get(job) or (past or {}).get(job)
            if state is not None:
                self._since.pop(_unseen(job), None)
            elif past is not None:
                state = self._unknown(job)
            if state is None:
                continue
            before = self.states.get(job)
            if before is None or (before.state, before.phase) != (
                state.state,
                state.phase,
            ):
                self._since[job] = self.clock()
            self.states[job] = state
        self._wait(quick=any(self._is_ending(job) for job in wanted))

    def _past(self, missing: frozenset[str]) -> dict[str, JobState] | None:
        """What accounting says; None while it does not answer, which proves nothing."""
        if not missing:
            return {}
        try:
            past = self.scheduler.past(missing)
        except SchedulerAwayError as error:
            if not self._told:
                self.say(f"sacct does not answer ({error}); waiting")
            self._told = True
            return None
        # What the accounts have as running and the controller does not know is lost.
        return {job: state for job, state in past.items() if state.phase == "ended"}

    def _unknown(self, job: str) -> JobState | None:
        """A job that neither the controller nor accounting knows."""
        first = self._since.setdefault(_unseen(job), self.clock())
        if self.clock() - first >= self.lost_after:
            return JobState("LOST")
        return self.states.get(job)

    def _is_ending(self, job: str) -> bool:
        """Whether it is to be seen soon if a job has failed or comes back."""
        state = self.states.get(job)
        return state is not None and state.phase not in {"waiting", "running"}

    def _wait(self, quick: bool) -> None:
        pause = self.fastest if quick else self._pause * 2
        self._pause = min(max(pause, self.fastest), self.slowest)
        self._next = self.clock() + self._pause

    def _not_answered(self, error: SchedulerAwayError) -> None:
        if self._away is None:
            self._away = self.clock()
            self.say(f"SLURM does not answer ({error}); waiting")
        self._wait(quick=False)

    def _answered(self) -> None:
        if self._away is None:
            return
        gone = self.clock() - self._away
        self.say(f"SLURM answers again after {gone:.0f} s")
        self._away = None
        # What was seen before says nothing about the time between.
        now = self.clock()
        self._since = dict.fromkeys(self._since, now)


def _unseen(job: str) -> str:
    """Under which name the time is kept since when nobody knows a job."""
    return f"unseen {job}"
