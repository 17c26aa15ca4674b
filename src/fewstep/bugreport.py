"""What a bug report says of the machine, and nothing that names it or its user."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewstep.doctor.environment import environment, installed
from fewstep.provenance import git_state, hardware

LOCK = "requirements.lock"
_SETTINGS = ("FEWSTEP_", "HF_", "SLURM_JOB_ID", "CUDA_VISIBLE_DEVICES", "SNAKEMAKE_")
_HARMLESS = re.compile(
    r"\d{1,3}(,\d{1,3})*|true|false|yes|no|on|off|auto|cpu|mps|xla|tpu|cuda(:\d+)?",
    re.IGNORECASE,
)
_SECRET = re.compile("SECRET|KEY|TOKEN|PASS", re.IGNORECASE)
_RELEASE = re.compile(r"slurm \S+", re.IGNORECASE)
_ROOT = Path(__file__).resolve().parents[2]


def facts(
    environ: Mapping[str, str] = os.environ, lock: Path | None = None
) -> dict[str, Any]:
    """Everything that the block says, for `--json`.

    Args:
        environ: environment variables. A value is told only where it is a number, a
            switch or a device; of any other, and of whatever has the name of a token,
            key or password, that it is set.
        lock: file of the versions that fewstep was tested with; None: the checkout's.

    Returns:
        {fewstep, commit, dirty, python, system, cpu, cores, cores_allowed, memory_gb,
        disk_free_gb, torch, gpus, driver, snakemake, differs, slurm, settings}.
    """
    here, machine, git = environment(environ), hardware(), git_state()
    gpus = here["devices"]
    return {
        "fewstep": here["packages"]["fewstep"],
        "commit": git.commit,
        "dirty": git.dirty,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": machine["system"],
        "cpu": machine["cpu"],
        "cores": machine["cores"],
        "cores_allowed": machine["cores_allowed"],
        "memory_gb": machine["memory_gb"],
        "disk_free_gb": here["disk_free_gb"],
        "torch": _torch(),
        "gpus": gpus,
        "driver": _driver(gpus),
        "snakemake": here["packages"]["snakemake"],
        "differs": _differing(lock or _lock()),
        "slurm": _slurm(),
        "settings": settings(environ),
    }


def as_markdown(found: Mapping[str, Any]) -> str:
    """The facts as a Markdown list, which reads well as plain text too."""
    state = {True: ", with changes", False: "", None: ""}[found["dirty"]]
    commit = f"commit {found['commit'][:12]}{state}" if found["commit"] else "no commit"
    allowed = f"{found['cores_allowed']} of {found['cores']} cores"
    gpus = [f"{one['name']} ({one['memory_gb']:g} GB)" for one in found["gpus"]]
    driver = f", driver {found['driver']}" if found["driver"] else ""
    lines = {
        "fewstep": f"{found['fewstep'] or 'not installed'}, {commit}",
        "Python": found["python"],
        "system": found["system"],
        "processor": f"{found['cpu']}, {allowed}",
        "memory": f"{found['memory_gb']} GB",
        "disk": f"{found['disk_free_gb']} GB free",
        "torch": found["torch"] or "missing",
        "GPUs": f"{', '.join(gpus)}{driver}" if gpus else "none",
        "Snakemake": found["snakemake"] or "missing",
        f"other versions than {LOCK}": _listed(found["differs"]),
        "SLURM": found["slurm"] or "not found",
        "settings": _listed(found["settings"]),
    }
    return "\n".join(f"- {name}: {text}" for name, text in lines.items())


def settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that change what fewstep does; see `facts` for their values."""
    names = sorted(name for name in environ if name.startswith(_SETTINGS))
    return {name: _told(name, environ[name]) for name in names}


def _told(name: str, value: str) -> str:
    if not value.strip():
        return "empty"
    harmless = _HARMLESS.fullmatch(value) and not _SECRET.search(name)
    return value if harmless else "set"


def _listed(named: Mapping[str, str] | None) -> str:
    if named is None:
        return "unknown, for the file is not there"
    return ", ".join(f"{name} {text}" for name, text in named.items()) or "none"


def _torch() -> str | None:
    """torch's version and what it was built for."""
    try:
        import torch
    except (ImportError, OSError):
        return None
    cuda, hip = torch.version.cuda, torch.version.hip
    build = f"CUDA {cuda}" if cuda else f"ROCm {hip}" if hip else "CPU only"
    return f"{torch.__version__}, built for {build}"


def _driver(gpus: list[dict[str, Any]]) -> str | None:
    """The version of the GPUs' driver."""
    version = hardware("cuda:0")["driver"] if gpus else None
    return None if version is None else str(version)


def _lock() -> Path:
    """Of the working directory, else of the checkout that this library lies in."""
    return Path(LOCK) if Path(LOCK).is_file() else _ROOT / LOCK


def _differing(lock: Path) -> dict[str, str] | None:
    """Package -> its version here, where it is not the tested one; None: no file."""
    try:
        lines = lock.read_text().splitlines()
    except OSError:
        return None
    found = {}
    for line in lines:
        name, _, wanted = line.partition("==")
        if not wanted:
            continue
        here = installed(name)
        if here is None or here.partition("+")[0] != wanted.partition("+")[0]:
            found[name] = f"{here or 'missing'} (tested: {wanted})"
    return found


def _slurm() -> str | None:
    """SLURM's release, and no other word of `sbatch`; None without SLURM."""
    if shutil.which("sbatch") is None:
        return None
    try:
        done = subprocess.run(
            ["sbatch", "--version"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "sbatch does not answer"
    found = _RELEASE.search(done.stdout)
    return found[0] if found else "sbatch does not say its release"
