"""One training on two nodes: torchrun on each, preempted, the weights of one node."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.slurm.cluster import Cluster
from tests.slurm.runs import Work
from tests.slurm.test_limb import PROFILE, SITE, preempt_in_the_middle
from tests.workflow.conftest import SNAKEMAKE, Project, copy_project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
MODEL = "results/digits/model.safetensors"


def project(folder: Path, nodes: int) -> Project:
    """The tiny TarFlow, to be trained by two processes on so many nodes."""
    folder.mkdir()
    made = copy_project(folder)
    processes = f"save_every: 10\n      gpus: 2\n      nodes: {nodes}"
    made.edit("tiny.yaml", "save_every: 20", processes)
    (folder / "profiles/cluster.yaml").write_text(SITE)
    return made


def test_two_nodes_train_the_weights_of_one(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Preempted half-way on both nodes, it goes on; how they are spread is no matter."""
    monkeypatch.setenv("FEWSTEP_DEVICE", "cpu")
    remote, local = project(tmp_path / "remote", 2), project(tmp_path / "local", 1)
    variables = {
        "PYTHONPATH": str(remote.folder / "src"),
        "FEWSTEP_DEVICE": "cpu",
    }
    work = Work(remote.folder, cluster, variables)
    values = ("--configfile", str(remote.config))
    run = work.launch([*SNAKEMAKE, MODEL, *PROFILE, *values])
    try:
        saved = remote.folder / ".cache/train/digits/last.pt"
        preempt_in_the_middle(run, ("train-tarflow",), saved.exists)
        assert not (remote.folder / MODEL).exists()
        run.succeeds(300)
    finally:
        work.close()
    log = (remote.folder / "logs/digits/train.log").read_text()
    assert "going on from step" in log
    local.run(MODEL)
    mine, theirs = (load_file(p.folder / MODEL) for p in (remote, local))
    assert mine.keys() == theirs.keys()
    assert all(mine[name].equal(theirs[name]) for name in mine)
