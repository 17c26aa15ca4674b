"""What jobs ask for is what they get, and how they end is what is said."""

from __future__ import annotations

import re

import pytest

from tests.slurm.runs import Work

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_a_job_that_succeeds(work: Work) -> None:
    """Its output is there, its log is where the message says, its note is gone."""
    run = work.start("out/tiny/0.txt")
    text = run.succeeds()
    assert (work.folder / "out/tiny/0.txt").read_text() == "0\n"
    found = re.search(r"job \d+ \(tiny\) is slurm job (\d+), log (\S+)", text)
    assert found
    assert found[2] == f"{found[2].rpartition('/')[0]}/{found[1]}.log"
    assert "output: out/tiny/0.txt" in (work.folder / found[2]).read_text()
    assert list((work.folder / ".snakemake/submitit").glob("*.json")) == []
    assert "submitit: 1 jobs in 1 submissions; scheduler calls: sbatch 1," in text


def test_a_job_that_fails(work: Work) -> None:
    """The exit status, the log's path and its last lines stand in the main output."""
    run = work.start("out/broken.txt")
    text = run.fails()
    number = run.job_id("breaks")
    found = re.search(rf"slurm job {number} failed: exit status \d+.* (\S+):", text)
    assert found
    assert (work.folder / found[1]).is_file()
    assert "    the reason stands here" in text
    assert "non-zero exit code" in text
    assert run.calls["sbatch"] == 1
    assert work.cluster.job(number).restarts == 0


def test_a_failed_job_is_retried_by_snakemake_and_not_requeued(work: Work) -> None:
    """With --retries the second attempt is a job of its own that succeeds."""
    run = work.start("out/recovered.txt", options=["--retries", "1"])
    run.succeeds()
    lines = (work.folder / "work/recovers").read_text().splitlines()
    ids = [line.split()[1] for line in lines]
    assert len(set(ids)) == len(ids) == 2
    assert [line.split()[2] for line in lines] == ["0", "0"]
    assert run.calls["sbatch"] == 2
    assert [work.cluster.job(number).restarts for number in ids] == [0, 0]


def test_resources_reach_slurm(work: Work) -> None:
    """Time, CPUs, memory, constraint, partition, nodes and tasks are the rule's."""
    queue = "asks:slurm_partition=high"
    run = work.start(
        *("out/asks.txt", "out/spread.txt"), options=["--set-resources", queue]
    )
    run.succeeds()
    shown = (work.folder / "out/asks.txt").read_text()
    for field in (
        "TimeLimit=00:03:00",
        "NumCPUs=2",
        "CPUs/Task=2",
        "MinMemoryNode=300M",
        "Features=n2",
        "NodeList=n2",
        "Partition=high",
        "JobName=asks",
    ):
        assert field in shown, f"{field}: {shown}"
    spread = (work.folder / "out/spread.txt").read_text()
    assert spread.split() == ["n1", "n1", "n2", "n2"]
    assert (work.folder / "work-spreads").read_text() == "run\n"


DEVICES = {
    "one": ("[01]", "gres:gpu:1"),
    "two": ("0,1", "gres:gpu:2"),
    "gres": ("[01]", "gres:gpu:a100:1"),
    "node": ("0,1", "gres:gpu:a100:2"),
}


def test_gpus_are_seen_by_the_job(work: Work) -> None:
    """Each way of asking for GPUs gives CUDA_VISIBLE_DEVICES that many numbers."""
    run = work.start(*(f"out/devices-{kind}.txt" for kind in DEVICES))
    run.succeeds()
    for kind, (numbers, asked) in DEVICES.items():
        text = (work.folder / f"out/devices-{kind}.txt").read_text()
        assert re.match(f"devices={numbers} ", text), kind
        job = work.cluster.job(text.split("job=")[1].strip())
        assert job["TresPerNode"] == asked


def test_an_accelerator_of_another_name(work: Work) -> None:
    """With `accelerator: tpu`, `gpu: 2` asks SLURM for two TPUs and for no GPU."""
    run = work.start("out/devices-two.txt", options=["--submitit-accelerator", "tpu"])
    run.succeeds()
    text = (work.folder / "out/devices-two.txt").read_text()
    assert text.startswith("devices= ")
    job = work.cluster.job(text.split("job=")[1].strip())
    assert job["TresPerNode"] == "gres:tpu:2"


def test_a_job_that_can_never_start(work: Work) -> None:
    """SLURM takes more tasks than there are CPUs; the job fails with its reason."""
    run = work.start(
        "out/tiny/0.txt", options=["--set-resources", "tiny:nodes=2", "tiny:tasks=10"]
    )
    text = run.fails()
    assert re.search(r"slurm job \d+ failed: can never start: \w+", text), run.report()
    assert work.cluster.live() == []


def test_scancel_from_outside(work: Work) -> None:
    """Snakemake fails the job and says that somebody else has cancelled it."""
    run = work.start("out/a.txt")
    work.at_the_gate(run, "a")
    number = run.job_id()
    work.cluster.order("scancel", number)
    assert f"slurm job {number} failed: cancelled from outside" in run.fails()
    assert len(work.starts("a")) == 1
