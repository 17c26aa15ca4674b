"""Many jobs cost the scheduler few calls."""

from __future__ import annotations

import re
import time

import pytest

from tests.slurm.runs import HERE, Run, Work

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PAUSE = 10
"""Seconds between two questions at least, as in the profile."""
# A nested Snakemake takes 1.3 s of a CPU; two hundred of them are too many for a test.
SITE = f"""\
cpu: {{partition: low, account: null}}
setup: ["export PYTHONPATH={HERE / "stub"}"]
"""


def counted(text: str) -> dict[str, int]:
    """Calls of SLURM's commands, as the closing line has them."""
    calls = text.partition("scheduler calls: ")[2].splitlines()[0]
    return {name: int(number) for name, number in re.findall(r"(\w+) (\d+)", calls)}


def assert_made(work: Work, run: Run, count: int, submissions: int) -> str:
    """All outputs are there after so many calls of sbatch; what was printed."""
    text = run.succeeds(500)
    folder = work.folder / "out/tiny"
    made = {path.name: path.read_text() for path in folder.iterdir()}
    assert made == {f"{i}.txt": f"{i}\n" for i in range(count)}
    assert f"submitit: {count} jobs in {submissions} submissions;" in text
    assert run.calls["sbatch"] == counted(text)["sbatch"] == submissions
    return text


def test_jobs_in_arrays(work: Work) -> None:
    """Six jobs in arrays of four: two submissions, and every job has its own log."""
    run = work.start("all", config=["count=6"], options=["--submitit-array", "4"])
    text = assert_made(work, run, 6, 2)
    found = re.findall(r"is slurm job (\d+)_(\d), log (\S+)", text)
    assert sorted(task for _, task, _ in found) == list("001123")
    for number, task, path in found:
        heading = f"job {number}_{task} on "
        assert heading in (work.folder / path).read_text()


def test_two_hundred_tiny_jobs_cost_few_calls(work: Work) -> None:
    """Two calls of sbatch, one question in ten seconds at most, little besides.

    In these jobs a stub stands in for the nested Snakemake; the rest is real.
    """
    (work.folder / "cluster.yaml").write_text(SITE)
    begin = time.monotonic()
    run = work.start(
        "all",
        config=["count=200"],
        options=[
            *("--submitit-site", "cluster.yaml"),
            *("--seconds-between-status-checks", str(PAUSE)),
        ],
    )
    text = assert_made(work, run, 200, 2)
    seconds = time.monotonic() - begin
    calls = run.calls
    assert dict(calls) == {k: v for k, v in counted(text).items() if v}
    assert calls["squeue"] <= seconds / PAUSE + 2
    assert calls.total() - calls["squeue"] <= 5, calls
