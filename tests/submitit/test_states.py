"""What every state of SLURM means."""

from __future__ import annotations

import pytest

from snakemake_executor_plugin_submitit.states import (
    HELD,
    IMPOSSIBLE,
    JobState,
    short,
)

# squeue(1) of SLURM 22.05, "JOB STATE CODES", and sacct(1)'s REQUEUED.
PHASES = {
    "BOOT_FAIL": "ended",
    "CANCELLED": "ended",
    "COMPLETED": "ended",
    "CONFIGURING": "waiting",
    "COMPLETING": "running",
    "DEADLINE": "ended",
    "FAILED": "ended",
    "NODE_FAIL": "ended",
    "OUT_OF_MEMORY": "ended",
    "PENDING": "waiting",
    "PREEMPTED": "ended",
    "RUNNING": "running",
    "RESV_DEL_HOLD": "waiting",
    "REQUEUE_FED": "waiting",
    "REQUEUE_HOLD": "waiting",
    "REQUEUED": "waiting",
    "RESIZING": "running",
    "REVOKED": "ended",
    "SIGNALING": "running",
    "SPECIAL_EXIT": "waiting",
    "STAGE_OUT": "running",
    "STOPPED": "running",
    "SUSPENDED": "running",
    "TIMEOUT": "ended",
    "LOST": "lost",
    "SOMETHING_NEW": "running",
}


@pytest.mark.parametrize(("state", "phase"), PHASES.items())
def test_every_state_has_a_phase(state: str, phase: str) -> None:
    """A state that nobody knows is no reason to fail a job."""
    assert JobState(state).phase == phase


@pytest.mark.parametrize("state", [s for s, p in PHASES.items() if p == "ended"])
def test_every_end_is_told_in_words(state: str) -> None:
    """The user reads what happened, SLURM's own name, where, and the reason."""
    text = JobState(state, "Why", "n1").why()
    assert "\n" not in text
    assert f"({state} on n1, Why)" in text
    assert JobState(state, "None").why().endswith(f"({state})")


@pytest.mark.parametrize("state", ["NODE_FAIL", "PREEMPTED", "BOOT_FAIL"])
def test_what_slurm_undoes_may_return(state: str) -> None:
    """SLURM shows these for a moment before it puts the job back into the queue."""
    assert JobState(state).may_return
    assert not JobState("FAILED").may_return
    assert not JobState("PENDING").may_return


@pytest.mark.parametrize("reason", sorted(IMPOSSIBLE))
def test_a_job_that_can_never_start_is_stuck(reason: str) -> None:
    """Waiting does not help; the reason is SLURM's."""
    state = JobState("PENDING", reason)
    assert state.phase == "stuck"
    assert reason in state.why()


@pytest.mark.parametrize("reason", ["Priority", "Resources", "BeginTime", "Licenses"])
def test_a_job_in_the_queue_waits(reason: str) -> None:
    """The usual reasons are no failure and no hold."""
    state = JobState("PENDING", reason)
    assert state.phase == "waiting"
    assert not state.held


@pytest.mark.parametrize("reason", sorted(HELD))
def test_a_held_job_waits_for_somebody(reason: str) -> None:
    """It is not failed, and the user can be told."""
    assert JobState("PENDING", reason).held
    assert not JobState("RUNNING", reason).held


def test_a_lost_job_says_so() -> None:
    """The contract's words for a job that vanished."""
    assert "SLURM no longer knows it" in JobState("LOST").why()


def test_the_name_of_a_state_is_cut_out() -> None:
    """sacct adds who cancelled, and a plus where the column is narrow."""
    assert short("CANCELLED by 1000") == "CANCELLED"
    assert short("RUNNING+") == "RUNNING"
    assert short("PENDING") == "PENDING"
