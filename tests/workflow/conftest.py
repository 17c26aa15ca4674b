"""A copy of the project in a folder of its own, with a tiny chain run in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PARTS = ("Snakefile", "config.yaml", "rules", "workflow", "profiles", "src")
# Tiny tensors gain nothing from threads, which then wait for each other.
THREADS = (
    *("reference", "timing", "tarflow_train", "tarflow_rank", "tarflow_search"),
    *("seqrf_train", "seqrf_edges", "timing_together"),
    *("par_train_tokenizer", "par_train"),
)
SNAKEMAKE = (
    *(sys.executable, "-m", "snakemake"),
    *("--set-threads", *(f"{rule}=1" for rule in THREADS)),
    *("--cores", "2"),
)
CELLS = ("for", "gsj", "auto")
TARGETS = [
    *(f"results/digits_{name}_fid.json" for name in CELLS),
    *(f"results/digits/{name}/{p}.png" for name in CELLS for p in ("grid", "trace")),
    "results/digits/rank.png",
    "results/digits/convergence.png",
    "results/digits/training.png",
]
CHECKPOINT = ROOT / "tests/golden/seqrf/rf_checkpoint_cifar_tiny_npscalar.pth"
FLOW_CELLS = ("base_rk45", "seq2_euler-2", "seq2_euler-2-at20")
FLOW_TARGETS = [
    *(f"results/{cell}_fid.json" for cell in FLOW_CELLS),
    *(f"results/seq2/{p}.png" for p in ("solvers", "trajectories", "training")),
    "results/distilled/model.safetensors",
    "results/stepped/model.safetensors",
]
PAR_CELLS = ("one_cfg", "four_cfg", "four_likely")
PAR_TARGETS = [
    *(f"results/{cell}_fid.json" for cell in PAR_CELLS),
    "results/tokenizers/vq-reconstruction.json",
    "results/four/cfg/grid.png",
    "results/four/cfg/seed0/adm.npz",
    *(f"results/{name}/model.safetensors" for name in ("imported", "cropped")),
]


@dataclass(frozen=True)
class Project:
    """A checkout in which Snakemake runs with its own copy of the library."""

    folder: Path
    targets: Sequence[str] = tuple(TARGETS)
    """What `pending` asks for."""

    @property
    def config(self) -> Path:
        """The tiny configuration, which a test may change."""
        return self.folder / "tiny.yaml"

    @property
    def environment(self) -> dict[str, str]:
        """Processes here import this folder's library."""
        return {
            **os.environ,
            "PYTHONPATH": str(self.folder / "src"),
            "PYTHONWARNINGS": "ignore",
            "OMP_NUM_THREADS": "1",
        }

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Snakemake here; its output is captured, not checked."""
        return subprocess.run(
            [*SNAKEMAKE, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start Snakemake on the tiny configuration, in a process group of its own."""
        return subprocess.Popen(
            [*SNAKEMAKE, *arguments, "--configfile", str(self.config)],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def run(self, *targets: str) -> str:
        """Make targets with the tiny configuration; what was printed."""
        done = self.snakemake(*targets, "--configfile", str(self.config))
        output = done.stdout + done.stderr
        assert done.returncode == 0, output
        return output

    def pending(self, *targets: str) -> dict[str, int]:
        """Rules that would run, with the number of their jobs."""
        done = self.snakemake(
            *(targets or self.targets), "-n", "--configfile", str(self.config)
        )
        output = done.stdout + done.stderr
        assert done.returncode == 0, output
        if "Nothing to be done" in output:
            return {}
        table = output.partition("Job stats:")[2].partition("total")[0]
        return {m[1]: int(m[2]) for m in re.finditer(r"^(\w+) +(\d+)$", table, re.M)}

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace a text that stands once in a file."""
        path = self.folder / file
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file}"
        path.write_text(text.replace(old, new))


def copy_project(
    folder: Path, config: str = "config.yaml", targets: Sequence[str] = tuple(TARGETS)
) -> Project:
    """The project's files, and a tiny configuration."""
    for part in PARTS:
        source, target = ROOT / part, folder / part
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.egg-info"))
        else:
            shutil.copy2(source, target)
    shutil.copy2(ROOT / "tests" / "workflow" / config, folder / "tiny.yaml")
    return Project(folder, targets)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny chain from data to scores and pictures, run once; do not change it."""
    project = copy_project(tmp_path_factory.mktemp("project"))
    project.run(*TARGETS)
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project that a test may change."""
    folder = tmp_path / "copy"
    shutil.copytree(finished.folder, folder, symlinks=True)
    return Project(folder)


@pytest.fixture(scope="session")
def finished_flows(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny chain of SeqRF, run once; do not change it."""
    folder = tmp_path_factory.mktemp("flows")
    project = copy_project(folder, "flows.yaml", FLOW_TARGETS)
    shutil.copy2(CHECKPOINT, folder / "rf-tiny.pth")
    project.run(*FLOW_TARGETS)
    return project


@pytest.fixture
def flows(finished_flows: Project, tmp_path: Path) -> Project:
    """A copy of the finished flows that a test may change."""
    folder = tmp_path / "copy"
    shutil.copytree(finished_flows.folder, folder, symlinks=True)
    return Project(folder, FLOW_TARGETS)


@pytest.fixture(scope="session")
def finished_par(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny chain of PAR, run once; do not change it."""
    folder = tmp_path_factory.mktemp("par")
    project = copy_project(folder, "par.yaml", PAR_TARGETS)
    draw_photos(folder / "photos")
    write_released(folder / "released")
    project.run(*PAR_TARGETS)
    return project


@pytest.fixture
def par(finished_par: Project, tmp_path: Path) -> Project:
    """A copy of the finished PAR that a test may change."""
    folder = tmp_path / "copy"
    shutil.copytree(finished_par.folder, folder, symlinks=True)
    return Project(folder, PAR_TARGETS)


def draw_photos(folder: Path) -> None:
    """Two images of noise in each of ten classes, larger than a view and not square."""
    rng = np.random.default_rng(0)
    for label in range(10):
        (folder / f"class{label}").mkdir(parents=True)
        for number in range(2):
            pixels = rng.integers(256, size=(18, 15, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"class{label}/{number}.png")


def write_released(folder: Path, count: int = 40) -> None:
    """Codes of two views as LlamaGen's program writes them, of 32 entries."""
    rng = np.random.default_rng(1)
    for kind in ("codes", "labels"):
        (folder / f"toy8_{kind}").mkdir(parents=True)
    for image in range(count):
        codes = rng.integers(32, size=(1, 2, 16))
        np.save(folder / f"toy8_codes/{image}.npy", codes)
        np.save(folder / f"toy8_labels/{image}.npy", np.array([image % 10]))
