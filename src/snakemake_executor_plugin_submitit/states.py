"""What a state of SLURM means for a job that has not left its result.

Names as `squeue` and `sacct` print them (squeue(1), "JOB STATE CODES").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Phase = Literal["waiting", "running", "ended", "lost", "stuck"]

WAITING = frozenset(
    {
        *("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD"),
        *("RESV_DEL_HOLD", "SPECIAL_EXIT"),
    }
)
RUNNING = frozenset(
    {
        *("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING"),
        *("STAGE_OUT", "POWER_UP_NODE"),
    }
)
# SLURM puts a job back into the queue after these, some seconds later.
MAY_RETURN = frozenset({"NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "REVOKED"})

# No waiting helps a job that is pending for one of these reasons.
IMPOSSIBLE = frozenset(
    {
        *("BadConstraints", "PartitionNodeLimit", "PartitionTimeLimit"),
        *("PartitionConfig", "InvalidAccount", "InvalidQOS"),
        *("QOSMaxWallDurationPerJobLimit", "AssocMaxWallDurationPerJobLimit"),
    }
)
# Somebody has to release these.
HELD = frozenset(
    {"JobHeldUser", "JobHeldAdmin", "JobHoldMaxRequeue", "launch failed requeued held"}
)

_WORDS = {
    "COMPLETED": "ended without leaving a result (is the log folder shared?)",
    "FAILED": "died without leaving a result",
    "TIMEOUT": "reached its time limit before it had saved",
    "CANCELLED": "cancelled from outside",
    "OUT_OF_MEMORY": "used more memory than it asked for (mem_mb)",
    "NODE_FAIL": "lost its node and was not requeued",
    "PREEMPTED": "preempted and not requeued (PreemptMode of its partition)",
    "BOOT_FAIL": "its node did not start",
    "DEADLINE": "reached its deadline",
    "REVOKED": "taken over by another cluster of the federation",
}


@dataclass(frozen=True)
class JobState:
    """One job as SLURM shows it.

    Attributes:
        state: e.g. "RUNNING".
        reason: SLURM's reason, e.g. "Priority" or "NonZeroExitCode".
        node: where it runs or ran.
        comment: what the submission said of itself.
    """

    state: str
    reason: str = ""
    node: str = ""
    comment: str = ""

    @property
    def phase(self) -> Phase:
        """What it means; a job of a name that nobody knows is taken for running."""
        if self.state in WAITING:
            return "stuck" if self.reason in IMPOSSIBLE else "waiting"
        if self.state in _WORDS:
            return "ended"
        return "lost" if self.state == "LOST" else "running"

    @property
    def may_return(self) -> bool:
        """Whether SLURM may still put the job back into the queue."""
        return self.state in MAY_RETURN

    @property
    def held(self) -> bool:
        """Whether it waits for somebody to release it."""
        return self.phase == "waiting" and self.reason in HELD

    def why(self) -> str:
        """Why a job in this state has failed, in words."""
        if self.phase == "lost":
            return "SLURM no longer knows it, and it left no result"
        if self.phase == "stuck":
            return f"can never start: {self.reason}"
        words = _WORDS.get(self.state, self.state)
        detail = self.reason if self.reason not in {"", "None", "(null)"} else ""
        place = f" on {self.node}" if self.node else ""
        return f"{words} ({self.state}{place}{f', {detail}' if detail else ''})"


def short(state: str) -> str:
    """The name alone: sacct prints "CANCELLED by 1000" and "RUNNING+"."""
    return state.split(" ", maxsplit=1)[0].rstrip("+")
