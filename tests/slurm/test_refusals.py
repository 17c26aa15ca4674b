"""Nonsense is refused in one line, before anything is submitted."""

from __future__ import annotations

import pytest

from tests.slurm.runs import Work

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
CASES = {
    "an unknown partition": (
        ["--set-resources", "tiny:slurm_partition=nowhere"],
        "rule tiny: partition nowhere is not known to SLURM; expected one of high, low",
    ),
    "two ways of asking for GPUs": (
        ["--set-resources", "tiny:gpu=1", "tiny:gres=gpu:1"],
        "rule tiny: resources.gpu: there are two ways of asking for gpus",
    ),
    "seconds for minutes": (
        ["--set-resources", "tiny:runtime=86400"],
        "rule tiny: resources.runtime: 86400 minutes are more than the 1440 of",
    ),
    "another program's name": (
        ["--set-resources", "tiny:walltime=10"],
        "rule tiny: resources.walltime: would be ignored; expected runtime",
    ),
    "a missing cluster file": (
        ["--submitit-site", "cluster.yaml"],
        "cluster.yaml is missing: it names this cluster's partition and account;",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_before_submission(work: Work, case: str) -> None:
    """One line says what; SLURM's queue stays empty and sbatch is never called."""
    options, expected = CASES[case]
    run = work.start("all", options=options)
    text = run.fails()
    lines = [line for line in text.splitlines() if expected in line]
    assert len(lines) == 1, text
    assert "Traceback" not in text
    assert run.calls["sbatch"] == 0
    assert work.cluster.live() == []
