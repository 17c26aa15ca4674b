"""The machine that the command is typed on."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fewstep.hub.surroundings import offline_variable

CLUSTER = Path("profiles/cluster.yaml")
_SLURM = ("sbatch", "squeue", "sacct", "scancel", "srun")
_TOKEN = "HF_TOKEN"
_PACKAGES = ("fewstep", "torch", "snakemake", "huggingface_hub", "torch-fidelity")


def environment(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Interpreter, devices, disk, scheduler, hub; of a token only whether it is set."""
    return {
        "python": platform.python_version(),
        "packages": {name: installed(name) for name in _PACKAGES},
        "cpus": os.cpu_count(),
        "ram_gb": _ram(),
        "devices": devices(),
        "disk_free_gb": round(shutil.disk_usage(Path()).free / 1e9, 1),
        "slurm": {name: shutil.which(name) is not None for name in _SLURM},
        "cluster_file": CLUSTER.is_file(),
        "hf_token_set": bool(environ.get(_TOKEN, "").strip()),
        "hf_endpoint": _host(environ.get("HF_ENDPOINT", "")),
        "offline": offline_variable(environ),
    }


def devices() -> list[dict[str, Any]]:
    """Name and memory of each GPU that a job here would compute on."""
    try:
        import torch

        from fewstep import device as ours
    except (ImportError, OSError):  # not installed, or for another system
        return []

    found = []
    for index in range(ours.device_count() or 0):
        one = torch.device("cuda", index)
        size = ours.total_memory(one) or 0
        found.append({"name": ours.label(one), "memory_gb": round(size / 1e9, 1)})
    return found


def installed(name: str) -> str | None:
    """The version of a package; None where it is not there."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _ram() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)


def _host(url: str) -> str:
    """The host of an address, which may carry a password."""
    return urlsplit(url).hostname or "" if url else ""
