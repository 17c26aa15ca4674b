"""A real SLURM for the tests: installed where that is allowed, started when needed."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.runs import Work

PACKAGES = ("slurmctld", "slurmd", "slurm-client")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "sinfo")
APT = ("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120")


def missing_programs() -> list[str]:
    """SLURM's programs that are not here."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


def install() -> str:
    """Install SLURM if it is missing; the reason why it cannot be, or ""."""
    if os.geteuid() != 0:
        return "a SLURM of its own needs root"
    if not missing_programs():
        return ""
    if shutil.which("apt-get") is None:
        return f"{missing_programs()[0]} is missing, and there is no apt-get"
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        (*APT, "update"),
        (*APT, "install", "-y", "--no-install-recommends", *PACKAGES),
    ):
        try:
            done = subprocess.run(
                command,
                env=quiet,
                capture_output=True,
                text=True,
                check=False,
                stdin=subprocess.DEVNULL,
                timeout=240,
            )
        except subprocess.TimeoutExpired:
            return f"no end of `{' '.join(command)}` in 240 s"
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines() or ["no reason"]
            return f"`{' '.join(command)}` failed: {lines[-1]}"
    left = missing_programs()
    return f"{left[0]} is missing after the installation" if left else ""


@pytest.fixture(scope="session")
def slurm_programs() -> None:
    """SLURM's programs, or a skip that says why not; in CI they must be there."""
    # Workers of pytest-xdist may come here at once, and apt-get runs once at a time.
    with open(Path(tempfile.gettempdir()) / "fewstep-slurm-install.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        reason = install()
    if not reason:
        return
    if os.environ.get("CI"):
        pytest.fail(f"no SLURM: {reason}", pytrace=False)
    pytest.skip(f"no SLURM: {reason}")


@pytest.fixture(scope="session")
def _cluster(
    slurm_programs: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def _plain_cluster(
    slurm_programs: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("plain-slurm")
    with Cluster(folder, user_signal=False) as cluster:
        yield cluster


def cleared(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, and what a test has left there taken away."""
    yield cluster
    cluster.repair()


@pytest.fixture
def cluster(_cluster: Cluster) -> Iterator[Cluster]:
    """Two idle nodes; jobs are warned before they are preempted."""
    yield from cleared(_cluster)


@pytest.fixture
def plain_cluster(_plain_cluster: Cluster) -> Iterator[Cluster]:
    """Two idle nodes; preempted jobs get SIGTERM at once."""
    yield from cleared(_plain_cluster)


@pytest.fixture
def work(cluster: Cluster, tmp_path: Path) -> Iterator[Work]:
    """A working folder whose jobs go to `cluster`."""
    work = Work(tmp_path / "work", cluster)
    yield work
    work.close()
