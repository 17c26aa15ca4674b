"""Where a number comes from: code, versions, machine, time, memory.

torch is imported only where a function needs it, and only after the caller has.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

PACKAGES = (
    "fewstep",
    "torch",
    "torch-fidelity",
    "torchvision",
    "numpy",
    "pandas",
    "pyarrow",
    "snakemake",
)
_SOURCE = Path(__file__).resolve().parent


class GitState(NamedTuple):
    """The commit and whether the working tree differs from it; None if unknown."""

    commit: str | None
    dirty: bool | None


def git_state(folder: str | Path = _SOURCE) -> GitState:
    """The state of the repository that tracks `folder` (default: this package).

    Everything unknown is None: no git, no repository, no commit yet, or a folder that
    merely lies inside somebody's repository (a virtual environment, say) without
    being tracked there. New files count as dirty, ignored ones do not.
    """
    folder = Path(folder)
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None or not _git(folder, "ls-files", "--", "."):
        return GitState(None, None)
    top = _git(folder, "rev-parse", "--show-toplevel")
    changes = _git(Path(top), "status", "--porcelain") if top else None
    return GitState(commit, None if changes is None else bool(changes))


def _git(folder: Path, *arguments: str) -> str | None:
    """A git command's output, or None when it cannot be had."""
    # Without optional locks, jobs that look at the same time do not disturb a commit.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            env=environment,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def versions() -> dict[str, str | None]:
    """Installed versions by package name, and Python's; nothing is imported."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def hardware(device: torch.device | str = "cpu") -> dict[str, Any]:
    """The machine this process runs on.

    Returns:
        {device, hardware (name of the GPU or TPU, or of the processor), cpu, cores
        (all), cores_allowed (to this process), memory_gb, gpu, driver, system}.
    """
    kind = str(device).split(":", maxsplit=1)[0]
    cpu = _cpu_model()
    gpu, driver = _accelerator(device)
    return {
        "device": kind,
        "hardware": gpu or cpu,
        "cpu": cpu,
        "cores": os.cpu_count(),
        "cores_allowed": _cores_allowed(),
        "memory_gb": _memory_gb(),
        "gpu": gpu,
        "driver": driver,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def _cpu_model() -> str:
    """The processor's name as Linux tells it, else whatever Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith(("model name", "Hardware")):
            return " ".join(line.split(":", maxsplit=1)[1].split())
    return platform.processor() or platform.machine()


def _cores_allowed() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _memory_gb() -> float | None:
    """Physical memory, 10^9 bytes."""
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None
    return round(pages * size / 1e9, 1)


def _accelerator(device: torch.device | str) -> tuple[str | None, str | None]:
    """The name of a GPU or TPU and its driver's version; None for a CPU."""
    if str(device) == "cpu":
        return None, None  # without importing torch
    from fewstep.device import driver, label

    name = label(device)
    return name, driver(device)


def threads() -> int:
    """CPU threads that torch computes with."""
    import torch

    return int(torch.get_num_threads())


def utc_now() -> str:
    """The time as the tables hold it, e.g. `2026-11-21T22:42:05Z`."""
    now = datetime.datetime.now(tz=datetime.UTC)
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def row_fields(device: torch.device | str = "cpu") -> dict[str, Any]:
    """The columns of `evaluations` that say by what code and where a row was made.

    Returns:
        device, hardware, driver, threads, torch, torch_fidelity, python, fewstep,
        commit, dirty, created_utc.
    """
    installed, machine, git = versions(), hardware(device), git_state()
    return {
        "device": machine["device"],
        "hardware": machine["hardware"],
        "driver": machine["driver"],
        "threads": threads(),
        "torch": installed["torch"],
        "torch_fidelity": installed["torch-fidelity"],
        "python": installed["python"],
        "fewstep": installed["fewstep"],
        "commit": git.commit,
        "dirty": git.dirty,
        "created_utc": utc_now(),
    }


def peak_memory_mb(device: torch.device | str = "cpu") -> float:
    """Peak memory since the start or `reset_peak_memory`, 10^6 bytes.

    On a GPU: what torch allocated there. On a CPU, and on a device that does not tell:
    the process's resident memory, so Python and the libraries are part of it.
    """
    if str(device) != "cpu":
        from fewstep.device import peak_memory

        there = peak_memory(device)
        if there is not None:
            return there / 1e6
    kib = _status_kib("VmHWM")
    if kib is not None:
        return kib * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def reset_peak_memory(device: torch.device | str = "cpu") -> bool:
    """Let the peak start anew from what is in use now.

    Returns:
        False where the system does not allow it: the peak is then that of the whole
        process so far.
    """
    if str(device) != "cpu":
        from fewstep import device as devices

        if devices.reset_peak_memory(device):
            return True
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status_kib(field: str) -> int | None:
    """A memory figure of /proc/self/status in KiB (Linux)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    return None
