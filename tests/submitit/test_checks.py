"""What is refused before anything is submitted."""

from __future__ import annotations

import pytest

from snakemake_executor_plugin_submitit.checks import check_here, refusals
from snakemake_executor_plugin_submitit.request import Request
from tests.submitit.fake_slurm import FakeSlurm

LIMITS = {"low": None, "high": 1440, "short": 30, "": None}


@pytest.mark.parametrize(
    "request_",
    [
        Request(10_000),
        Request(10_000, partition="low"),
        Request(30, partition="short"),
        Request(60, partition="short,high"),
    ],
)
def test_what_fits_is_not_refused(request_: Request) -> None:
    """One of several partitions is enough."""
    assert refusals([("r", request_)], LIMITS) == []


def test_an_unknown_partition_names_those_that_are_known() -> None:
    """One line a rule, whatever the number of its jobs."""
    wrong = Request(10, partition="hgih")
    (line,) = refusals([("r", wrong), ("r", wrong)], LIMITS)
    assert "rule r: partition hgih" in line
    assert "high, low, short" in line


@pytest.mark.parametrize("partition", ["short", "short,short"])
def test_a_time_above_the_partitions_limit_is_refused(partition: str) -> None:
    """SLURM would take the job and never start it."""
    (line,) = refusals([("r", Request(31, partition=partition))], LIMITS)
    assert "rule r: resources.runtime: 31 minutes" in line
    assert "the 30 of partition short" in line
    assert "\n" not in line


def test_the_default_partition_has_a_limit_as_well() -> None:
    """A job that names none goes there."""
    (line,) = refusals([("r", Request(31))], {"short": 30, "": 30})
    assert "(default)" in line


def test_a_machine_without_slurm_is_told_before_the_start(
    slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line says what is missing, and what to do."""
    assert check_here("slurm") == ""
    monkeypatch.setenv("PATH", "/nowhere")
    assert "sbatch is not here" in check_here("slurm")
    assert "login node" in check_here("slurm")
    assert check_here("local") == ""
    assert check_here("debug") == ""
