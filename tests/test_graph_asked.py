"""What Snakemake is asked for, against the configuration."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fewstep.errors import UserError
from fewstep.graph import Graph
from fewstep.graph.asked import SHARED, check_command, check_targets, targets_of

ROOT = Path(__file__).parents[1]
GRAPH = Graph(ROOT, (), {})


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (
            "results/afhq_gjs_fid.json",
            "no evaluation is called 'afhq_gjs'; expected results/afhq_gsj_fid.json",
        ),
        (
            "results/afqh/rank.json",
            "no experiment is called 'afqh'; expected results/afhq/rank.json",
        ),
        (
            "results/afhq/gjs/grid.png",
            "no sampler of afhq is called 'gjs'; expected results/afhq/gsj/grid.png",
        ),
        ("results/afhq/xyz/grid.png", "is called 'xyz'; expected for, gsj, auto"),
    ],
)
def test_a_misspelt_target_names_the_nearest(target: str, says: str) -> None:
    """Experiments and samplers that do not exist are one line with those that do."""
    with pytest.raises(UserError, match=re.escape(says)):
        check_targets(GRAPH, ["demo", target])


def test_every_cell_and_its_files_may_be_asked_for() -> None:
    """Evaluations, a sampler's and a model's files, and shared folders pass."""
    check_targets(GRAPH, GRAPH.evaluations(GRAPH.cells()))
    files = [
        "afhq/gsj/seed0/parts/0-of-8.json",
        "afhq/rank.json",
        "data/x/dataset.json",
    ]
    files += ["demo-tarflow/export/x.safetensors", "cifar10-4seqrf/snapshots/step-9.x"]
    check_targets(GRAPH, ["all", "train_afhq", *(f"results/{one}" for one in files)])


def test_shared_folders_are_those_of_the_rules() -> None:
    """Each first folder that a rule names is an experiment's or known as shared."""
    sources = [
        *(ROOT / "rules").glob("*.smk"),
        *(ROOT / "src/fewstep/graph").glob("*.py"),
    ]
    text = "\n".join(path.read_text() for path in [*sources, ROOT / "Snakefile"])
    named = set(re.findall(r'"results/([a-z0-9-]+)/', text))
    assert named - set(GRAPH.experiments) == SHARED


@pytest.mark.parametrize(
    ("argv", "targets"),
    [
        (["/x/bin/snakemake", "-n", "results/a_b_fid.json"], ["results/a_b_fid.json"]),
        (["/x/snakemake/__main__.py", "results/a/b"], ["results/a/b"]),
        (["snakemake", "--report", "results/page/r.html", "demo"], ["demo"]),
        (["snakemake", "demo"], []),
        (["fewstep", "explain", "results/a_b_fid.json"], []),
        ([], []),
    ],
)
def test_targets_are_read_as_snakemake_reads_them(
    argv: list[str], targets: list[str]
) -> None:
    """Values of options are no targets, and other programs have none."""
    assert targets_of(argv) == targets


def test_only_targets_are_refused() -> None:
    """A path that an option names may be anything; a target may not."""
    check_command(GRAPH, ["snakemake", "--report", "results/page/r.html", "demo"])
    with pytest.raises(UserError, match="no experiment is called 'page'"):
        check_command(GRAPH, ["snakemake", "results/page/r.html"])


@pytest.mark.slow
def test_snakemake_says_one_line(tmp_path: Path) -> None:
    """The command itself ends with that line, and without a traceback."""
    command = [sys.executable, "-m", "snakemake", "-n", "results/afhq_gjs_fid.json"]
    command += ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(tmp_path)]
    run = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert run.returncode == 1
    assert "fewstep: results/afhq_gjs_fid.json: no evaluation" in run.stderr
    assert "Traceback" not in run.stderr
