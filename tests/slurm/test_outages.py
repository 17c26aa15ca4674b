"""A controller that does not answer says nothing about the jobs."""

from __future__ import annotations

import re
import time

import pytest

from tests.slurm.runs import Work

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
STATE_SAVED = 6.0
"""Seconds after which slurmctld has written what it knows, even if it is killed."""


def test_the_controller_dies_and_comes_back(work: Work) -> None:
    """Jobs run on and end meanwhile, the next one is submitted later, none fails."""
    run = work.start("out/after/0.txt", "out/b.txt")
    for name in ("a", "b"):
        work.at_the_gate(run, name)
    time.sleep(STATE_SAVED)
    work.cluster.kill_daemon("slurmctld")
    work.let_go("a")
    run.says("submitit: SLURM does not take jobs now")
    run.says(r"submitit: SLURM does not answer \(.+\); waiting")
    work.cluster.start_daemon("slurmctld")
    run.says(r"submitit: SLURM answers again after \d+ s")
    work.let_go("b")
    text = run.succeeds()
    assert len(re.findall("SLURM does not answer", text)) == 1
    assert len(re.findall("SLURM does not take jobs now", text)) == 1
    for name in ("a", "b"):
        assert len(work.starts(name)) == 1
        assert work.steps(name) == list(range(10))
    assert (work.folder / "out/after/0.txt").is_file()
