"""Targets resolve, and a wrong configuration is one line before any job."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fewstep.graph import Graph
from tests.workflow.conftest import ROOT, Project, copy_project

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A checkout with nothing made yet."""
    project = copy_project(tmp_path_factory.mktemp("fresh"))
    (project.folder / "local").symlink_to("profiles/local")
    return project


def test_every_target_passes_a_dry_run(fresh: Project) -> None:
    """Each named target and each evaluation of the configuration has a plan."""
    graph = Graph(ROOT)
    cells = graph.evaluations(graph.cells())
    systems = ["tarflow", "seqrf", "par"]
    named = ["all", "extract", "train", "demo", "demo_scratch", "tables", "report"]
    named.append("smoke")
    done = fresh.snakemake("--profile", "local", "-n", *systems, *named, *cells)
    assert done.returncode == 0, done.stderr
    # Snakemake prints its table of jobs before and after the plan.
    counts = set(re.findall(r"^evaluation +(\d+)$", done.stdout + done.stderr, re.M))
    assert counts == {str(len(cells))}


def test_a_profile_s_limit_leaves_a_training_its_gpus(fresh: Project) -> None:
    """Where a profile runs one GPU job at a time, 8 GPUs are still asked for."""
    done = fresh.snakemake(
        *("results/afhq-scratch/model.safetensors", "-n", "--printshellcmds"),
        *("--resources", "gpu=1"),
    )
    assert done.returncode == 0, done.stderr
    assert " --gpus 8 " in done.stdout


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("patch_size: 2", "patch_size: 3", "patches of 3 do not divide 8 pixels"),
        ("patch_size: 2", "pach_size: 2", "unknown key 'pach_size'"),
        ('"[2-4-4-4]"', '"[2-5-4-4]"', "5 segments do not divide 16 tokens"),
        ("steps: 60", "steps: many", "expected a whole number"),
    ],
)
def test_a_mistake_in_the_configuration_is_one_line(
    fresh: Project, tmp_path: Path, old: str, new: str, message: str
) -> None:
    """File, line, key path and what was expected; no traceback, no job."""
    path = tmp_path / "wrong.yaml"
    text = fresh.config.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    done = fresh.snakemake("results/digits_for_fid.json", "--configfile", str(path))
    assert done.returncode == 1
    (line,) = [s for s in done.stderr.splitlines() if "fewstep:" in s]
    assert message in line
    assert f"{path}:" in line
    assert "experiments.digits" in line
    assert "Traceback" not in done.stderr
    assert not (fresh.folder / "results").exists()
