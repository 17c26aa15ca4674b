"""The TarFlow limb on SLURM, preempted twice, ends in the bits of a local run."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from fewstep import files
from tests.slurm.cluster import Cluster, wait_for
from tests.slurm.runs import PATIENCE, Run, Work
from tests.workflow.conftest import SNAKEMAKE, Project, copy_project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
CELLS = ("for", "gsj")
TARGETS = [f"results/digits/{cell}/scores.json" for cell in CELLS]
# As a user types it, and faster than on a cluster whose file system is far away.
PROFILE = (
    *("--profile", "profiles/slurm", "--seconds-between-status-checks", "1"),
    *("--latency-wait", "5"),
)
SITE = """\
cpu: {partition: low, account: null}
gpu: {partition: low, account: null}
"""


@pytest.fixture
def remote(tmp_path: Path) -> Project:
    """A project whose stages save often, with the file that names its partitions."""
    folder = tmp_path / "remote"
    folder.mkdir()
    project = copy_project(folder)
    project.edit("tiny.yaml", "save_every: 20", "save_every: 10")
    project.edit("tiny.yaml", "shard_size: 40", "shard_size: 8")
    project.edit("tiny.yaml", "seeds: [0, 1]", "seeds: [0]")
    (folder / "profiles/cluster.yaml").write_text(SITE)
    return project


def run_locally(remote: Project, folder: Path) -> Project:
    """The same model, samples and scores on this machine, of the same data."""
    shutil.copytree(remote.folder, folder, symlinks=True)
    for made in ("results/digits", ".cache", "logs"):
        shutil.rmtree(folder / made)
    project = Project(folder)
    project.run(*TARGETS)
    return project


def stage(cluster: Cluster, words: tuple[str, ...]) -> psutil.Process | None:
    """The process of a stage on a node, by words of its command."""
    for process in cluster.processes():
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        if command[1:3] == ["-m", "fewstep"] and all(w in command for w in words):
            return process
    return None


def preempt_in_the_middle(
    run: Run, words: tuple[str, ...], begun: Callable[[], object]
) -> None:
    """Preempt a stage that has saved something, and has something left to do.

    It is stopped until then, so that the machine's speed decides nothing; SLURM lets
    it go on together with its signal.
    """
    cluster = run.work.cluster
    what = f"process {' '.join(words)}"
    process = wait_for(lambda: stage(cluster, words), PATIENCE, run.report)
    assert process is not None
    number = process.environ()["SLURM_JOB_ID"]
    end = time.monotonic() + PATIENCE
    while not begun():
        assert time.monotonic() < end, f"{what}\n{run.report()}"
        time.sleep(0.001)
    process.suspend()
    with run.preempted(number):
        pass


def assert_same_bits(local: Project, remote: Project) -> None:
    """Model, samples and scores are equal."""
    for path in ("results/digits/model.safetensors", *TARGETS):
        assert (local.folder / path).read_bytes() == (
            remote.folder / path
        ).read_bytes(), path
    for cell in CELLS:
        path = f"results/digits/{cell}/seed0/samples.json"
        mine, theirs = (files.read_json(p.folder / path) for p in (local, remote))
        assert len(mine["shards"]) == 13
        for one, other in zip(mine["shards"], theirs["shards"], strict=True):
            assert one["sha256"] == other["sha256"]


def test_two_preemptions_do_not_change_a_bit(
    cluster: Cluster, remote: Project, tmp_path: Path
) -> None:
    """Training and sampling lose their nodes half-way; models and scores agree."""
    variables = {"PYTHONPATH": str(remote.folder / "src")}
    work = Work(remote.folder, cluster, variables)
    values = ("--configfile", str(remote.config))
    run = work.launch([*SNAKEMAKE, *TARGETS, *PROFILE, *values])
    folder = remote.folder / "results/digits/for/seed0"
    try:
        saved = remote.folder / ".cache/train/digits/last.pt"
        preempt_in_the_middle(run, ("train-tarflow",), saved.exists)
        assert not (remote.folder / "results/digits/model.safetensors").exists()
        words = ("sample", "results/digits/for/seed0/samples.json")
        preempt_in_the_middle(run, words, lambda: list(folder.glob("*/*.json")))
        kept = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.json")}
        assert 0 < len(kept) < 13
        text = run.succeeds(300)
    finally:
        work.close()
    assert "going on from step" in (remote.folder / "logs/digits/train.log").read_text()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert "10 of 10 jobs done in " in text
    for rule in ("tarflow_train", "sample"):
        logs = (remote.folder / "logs/submitit" / rule).rglob("*.log")
        assert any(", start 2" in path.read_text() for path in logs), rule
    assert_same_bits(run_locally(remote, tmp_path / "local"), remote)
