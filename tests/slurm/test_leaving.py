"""Jobs that must leave save, go back into the queue, and go on where they were."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, wait_for
from tests.slurm.runs import PATIENCE, Run, Work

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
ALL_STEPS = list(range(10))


@pytest.fixture
def plain_work(plain_cluster: Cluster, tmp_path: Path) -> Iterator[Work]:
    """A working folder whose jobs get no warning before a preemption."""
    work = Work(tmp_path / "plain", plain_cluster)
    yield work
    work.close()


def assert_went_on(work: Work, run: Run, name: str = "a") -> None:
    """It was started again in the same SLURM job, and did no step twice."""
    run.succeeds()
    starts = work.starts(name)
    assert len(starts) >= 2, run.report()
    assert {start["SLURM_JOB_ID"] for start in starts} == {run.job_id()}
    assert [start["SUBMITIT_STARTS"] for start in starts[:2]] == ["1", "2"]
    assert work.steps(name) == ALL_STEPS
    assert (work.folder / f"out/{name}.txt").is_file()
    assert run.calls["sbatch"] == 1


@pytest.fixture(scope="module", autouse=True)
def limited(
    slurm_programs: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Run]:
    """A run whose job reaches its time limit, on a cluster of its own.

    SLURM looks at limits every 30 s, which the other tests here need not wait for. It
    warns as early as it was told to, which is at once for a limit of a minute.
    """
    folder = tmp_path_factory.mktemp("limited")
    with Cluster(folder / "slurm") as cluster:
        work = Work(folder / "work", cluster)
        yield work.start("out/a.txt", options=["--set-resources", "steps:runtime=1"])
        work.close()


def test_time_limit(limited: Run) -> None:
    """SLURM's warning before the limit makes it save; it is requeued and finishes."""
    assert_went_on(limited.work, limited)
    assert limited.work.signals("a")[0] == "SIGUSR2"


def test_preemption_with_a_warning(work: Work) -> None:
    """A job of higher priority takes its node; it saves on SIGUSR2 and finishes."""
    run = work.start("out/a.txt")
    work.at_the_gate(run, "a")
    run.looks_at_states()
    with run.preempted(run.job_id()):
        run.says(rf"slurm job {run.job_id()} \(steps\) is back in the queue")
    assert_went_on(work, run)
    assert work.signals("a") == ["SIGUSR2"]


def test_preemption_without_a_warning(plain_work: Work) -> None:
    """Where SLURM sends SIGTERM at once it saves too, and finishes."""
    run = plain_work.start("out/a.txt")
    plain_work.at_the_gate(run, "a")
    with run.preempted(run.job_id()):
        pass
    assert_went_on(plain_work, run)
    assert plain_work.signals("a") == ["SIGTERM"]


def test_a_node_that_dies(work: Work) -> None:
    """After a power cut the job runs from its start on the other node."""
    run = work.start("out/a.txt")
    work.at_the_gate(run, "a")
    node = work.starts("a")[0]["SLURMD_NODENAME"]
    work.cluster.kill_daemon(node)
    text = run.succeeds(180)
    starts = work.starts("a")
    assert [start["from"] for start in starts] == [0, 0]
    assert {start["SLURM_JOB_ID"] for start in starts} == {run.job_id()}
    assert starts[1]["SLURMD_NODENAME"] not in {"", node}
    assert work.steps("a") == [*range(5), *ALL_STEPS]
    assert "failed" not in text.replace("node failed", "")


def test_the_limit_of_requeues(work: Work) -> None:
    """The second warning is one too many where one requeue is allowed."""
    work.hold("a")
    run = work.start("out/a.txt", options=["--submitit-requeues", "1"])
    work.at_the_gate(run, "a")
    number = run.job_id()
    for starts in (1, 2):
        what = f"start {starts}"
        wait_for(partial(_started, work, starts), PATIENCE, what)
        work.cluster.order("scancel", "--signal=USR2", number)
    text = run.fails()
    assert f"slurm job {number} failed: " in text
    assert "1 are allowed (--submitit-requeues)" in text
    assert work.signals("a") == ["SIGUSR2", "SIGUSR2"]
    assert work.cluster.live() == []
    assert len(work.starts("a")) == 2


def _started(work: Work, times: int) -> bool:
    return len(work.starts("a")) == times
