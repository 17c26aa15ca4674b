"""Snakemake killed, started again, interrupted: whose jobs go on, and which end."""

from __future__ import annotations

import pytest

from tests.slurm.cluster import wait_for
from tests.slurm.runs import PATIENCE, Run, Work

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def killed(work: Work) -> tuple[Run, str]:
    """A run that got kill -9 while its job waits at the gate, and the job's id."""
    run = work.start("out/a.txt")
    work.at_the_gate(run, "a")
    number = run.job_id()
    run.kill()
    assert work.cluster.live() == [number]
    work.unlock()
    return run, number


def test_a_killed_snakemake_takes_its_job_over(work: Work) -> None:
    """Started again it finds the running job, submits none, and the job runs once."""
    _, number = killed(work)
    run = work.start("out/a.txt")
    run.says(
        rf"\(steps\) goes on as slurm job {number}, which an earlier run submitted"
    )
    work.let_go("a")
    run.succeeds()
    assert len(work.starts("a")) == 1
    assert work.steps("a") == list(range(10))
    assert run.calls["sbatch"] == 0
    assert work.cluster.job(number).state == "COMPLETED"
    assert work.cluster.job(number).restarts == 0


def test_a_job_that_ended_meanwhile_is_not_run_again(work: Work) -> None:
    """What the job made while nobody watched is taken as it is."""
    _, number = killed(work)
    work.let_go("a")
    work.cluster.wait_state(number, "COMPLETED")
    run = work.start("out/a.txt", options=["--rerun-incomplete"])
    run.succeeds()
    assert len(work.starts("a")) == 1
    assert run.calls["sbatch"] == 0


def test_a_killed_snakemake_can_cancel_its_job(work: Work) -> None:
    """With `on-restart: cancel` the old job is ended before a new one starts."""
    _, number = killed(work)
    run = work.start(
        "out/a.txt",
        options=["--submitit-on-restart", "cancel", "--rerun-incomplete"],
    )
    second = run.job_id()
    assert second != number
    work.let_go("a")
    run.succeeds()
    assert work.cluster.job(number).state == "CANCELLED"
    assert [start["SLURM_JOB_ID"] for start in work.starts("a")] == [number, second]


def test_changed_params_cancel_the_old_job(work: Work) -> None:
    """A job that does something else by now is not taken over."""
    _, number = killed(work)
    run = work.start("out/a.txt", config=["steps=12"], options=["--rerun-incomplete"])
    run.says(f"slurm job {number} runs an older form of steps: cancelled")
    work.let_go("a")
    run.succeeds()
    assert work.cluster.job(number).state == "CANCELLED"
    assert work.steps("a")[-1] == 11


def test_ctrl_c_cancels_its_own_jobs_alone(work: Work) -> None:
    """One that runs and one that waits are cancelled, others in the queue are not."""
    mine = work.cluster.submit("--hold", "-J", "steps")
    foreign = work.cluster.submit("--hold", "--uid=nobody", "--gid=nogroup")
    whole = ["--set-threads", "steps=4", "--set-resources", "steps:nodes=2"]
    run = work.start("out/a.txt", "out/b.txt", options=whole)
    work.at_the_gate(run, "a", "b")
    run.interrupt()
    run.fails()
    wait_for(
        lambda: sorted(work.cluster.live(), key=int) == [mine, foreign],
        PATIENCE,
        lambda: f"only the others left\n{run.report()}",
    )


def test_after_ctrl_c_the_same_command_goes_on(work: Work) -> None:
    """What the cancelled job has saved is there for the one that follows at once."""
    first = work.start("out/a.txt")
    work.at_the_gate(first, "a")
    first.interrupt()
    first.fails()
    run = work.start("out/a.txt", options=["--rerun-incomplete"])
    run.succeeds()
    assert run.job_id() != first.job_id()
    assert [start["from"] for start in work.starts("a")] == [0, 5]
    assert work.steps("a") == list(range(10))
