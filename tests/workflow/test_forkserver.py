"""The fork server in runs of Snakemake: where it is used, and that nothing shows it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fewstep import files
from fewstep.graph import Graph, as_json
from tests.workflow.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

WORKFLOW = f"""
from fewstep.graph import use_this_python
use_this_python()
include: "{ROOT}/rules/shell.smk"
SPEC = '{{"strategy":"for","num_blocks":2,"tokens":16}}'
rule all:
    input: "one.json", "two.json"
rule plan:
    output: "{{name}}.json"
    log: "{{name}}.log"
    params: spec=SPEC
    shell: "echo $FEWSTEP_FORKSERVER > {{wildcards.name}}.switch;"
        " python -m fewstep --threads 1 strategy --spec {{params.spec:q}}"
        " --out {{output}} 2>&1 | tee {{log}};"
        " find run/ -type s > {{wildcards.name}}.run"
"""
CLUSTER = (
    *("--executor", "submitit", "--submitit-cluster", "local", "--jobs", "1"),
    *("--default-resources", "runtime=5", "mem_mb=200"),
    *("--seconds-between-status-checks", "1"),
)


@pytest.fixture
def folder(tmp_path: Path, room: Path) -> Path:
    """A workflow of two trivial jobs that import torch."""
    assert room.is_dir()
    (tmp_path / "Snakefile").write_text(WORKFLOW)
    return tmp_path


def environment(folder: Path, switch: str = "") -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("FEWSTEP_FORK")}
    kept |= {
        "XDG_RUNTIME_DIR": str((folder / "run").resolve()),
        "PYTHONWARNINGS": "ignore",
    }
    return kept | ({"FEWSTEP_FORKSERVER": switch} if switch else {})


def snakemake(folder: Path, *arguments: str, switch: str = "") -> None:
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(folder, switch),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def sockets(folder: Path, name: str) -> list[str]:
    """The servers that there were when a job had ended."""
    return (folder / f"{name}.run").read_text().split()


def test_local_jobs_share_a_server(folder: Path) -> None:
    """One socket serves both jobs; it is gone after the run, and off is off."""
    snakemake(folder)
    assert len(sockets(folder, "one")) == 1
    assert sockets(folder, "one") == sockets(folder, "two")
    pid, client = (folder / "one.switch").read_text().split()
    assert (int(pid) > 1, Path(client).name) == (True, "client.py")
    forked = [(folder / f"{name}.json").read_bytes() for name in ("one", "two")]
    snakemake(folder, "--forceall", switch="0")
    assert (folder / "one.switch").read_text() == "0\n"
    assert sockets(folder, "one") == []
    assert [(folder / f"{name}.json").read_bytes() for name in ("one", "two")] == forked


def test_switch_reruns_nothing(folder: Path) -> None:
    """What was made with the server is finished without it, and the reverse."""
    snakemake(folder)
    made = (folder / "one.json").stat().st_mtime_ns
    snakemake(folder, switch="0")
    assert (folder / "one.json").stat().st_mtime_ns == made


def test_cluster_jobs_use_none(folder: Path) -> None:
    """Another executor switches it off, here and in the jobs' own Snakemakes."""
    snakemake(folder, *CLUSTER)
    assert (folder / "one.switch").read_text() == "0\n"
    assert list((folder / "run").resolve().iterdir()) == []


def told(path: Path) -> bytes:
    """A file, without when it was made and the memory that happened to be in use."""
    if not path.is_file():
        return b""
    return re.sub(rb'"(created_utc|peak_memory_mb)": [^,}]+', rb"\1", path.read_bytes())


def test_same_bytes(tmp_path: Path, room: Path) -> None:
    """A sampler's images and records are those of the plain command."""
    spec = Graph(ROOT).sample(("demo-tarflow", "for"))
    plan = Graph(ROOT).strategy("demo-tarflow/for")
    model = ROOT / "workflow/assets/demo-tarflow.safetensors"
    client = ROOT / "src/fewstep/forkserver/client.py"
    switched = environment(tmp_path, f"{os.getpid()} {client}") | {
        "OMP_NUM_THREADS": "1"
    }
    made = []
    for how in ([], ["-S", "-E", str(client)]):
        out = tmp_path / f"made{len(made)}"
        command = [sys.executable, *how, "-m", "fewstep", "--threads", "1"]
        write = ["strategy", "--spec", as_json(plan), "--out", str(out / "plan.json")]
        draw = [
            "sample",
            "--spec",
            as_json(spec | {"n": 6}),
            "--seed",
            "0",
            "--batch",
            "4",
        ]
        draw += ["--model", str(model), "--plan", str(out / "plan.json")]
        draw += ["--out", str(out / "seed0/samples.json")]
        for stage in (write, draw):
            subprocess.run([*command, *stage], cwd=ROOT, env=switched, check=True)
        made.append({p.relative_to(out): told(p) for p in out.rglob("*.*")})
    assert made[0] == made[1]
    assert len(made[0]) > 2
    record = "seed0/samples-*/*.json"
    peaks = [
        files.read_json(next(tmp_path.glob(f"made{i}/{record}")))["peak_memory_mb"]
        for i in range(2)
    ]
    assert peaks[1] == pytest.approx(peaks[0], rel=0.1)
    assert len(list(room.resolve().glob("*/*"))) == 2  # the lock, and a server's
