"""What is refused before anything is submitted, and which backend a setting means."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable
from typing import Any

from snakemake_executor_plugin_submitit.backends import Backend
from snakemake_executor_plugin_submitit.here import DebugBackend, LocalBackend
from snakemake_executor_plugin_submitit.notes import Note
from snakemake_executor_plugin_submitit.request import Request
from snakemake_executor_plugin_submitit.scheduler import Scheduler
from snakemake_executor_plugin_submitit.slurm import SlurmBackend
from snakemake_executor_plugin_submitit.watch import Say, Watch


def check_here(cluster: str) -> str:
    """Why jobs cannot be submitted from here; "" if they can."""
    missing = [c for c in ("sbatch", "squeue", "srun") if shutil.which(c) is None]
    if cluster == "slurm" and missing:
        return (
            f"{missing[0]} is not here; start Snakemake on a login node of the "
            "cluster, or use --submitit-cluster local"
        )
    if sys.platform != "linux":
        return f"jobs need Linux, and this is {sys.platform}"
    return ""


def refusals(
    requests: Iterable[tuple[str, Request]], limits: dict[str, int | None]
) -> list[str]:
    """What the cluster's partitions would not take, a line each.

    Args:
        requests: rules and what they ask for.
        limits: `Scheduler.partitions`.
    """
    found = []
    for rule, request in requests:
        names = (request.partition or "").split(",")
        unknown = [n for n in names if n and n not in limits]
        if unknown:
            known = ", ".join(sorted(n for n in limits if n))
            found.append(
                f"rule {rule}: partition {unknown[0]} is not known to SLURM; expected "
                f"one of {known}"
            )
            continue
        longest = [limits.get(n) for n in names]
        if all(m is not None and m < request.minutes for m in longest):
            most = max(m for m in longest if m is not None)
            found.append(
                f"rule {rule}: resources.runtime: {request.minutes} minutes are more "
                f"than the {most} of partition {request.partition or '(default)'}; it "
                "counts minutes, not seconds"
            )
    return list(dict.fromkeys(found))


def make_backend(
    settings: Any,
    fastest: float,
    latency: float,
    say: Say,
    moved: Callable[[Note], None],
) -> Backend:
    """The backend of the settings."""
    if settings.cluster == "local":
        return LocalBackend(settings.warning, moved)
    if settings.cluster == "debug":
        return DebugBackend(settings.warning)
    scheduler = Scheduler()
    scheduler.use_accounting(settings.states)
    watch = Watch(
        scheduler,
        say,
        fastest=max(fastest, 1.0),
        lost_after=settings.lost_after,
        settle=max(latency, 2.0),
    )
    return SlurmBackend(scheduler, watch, settings.warning, say)
