"""What targets will need, what is missing, and what that blocks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fewstep.doctor.backwards import Job
from fewstep.doctor.environment import environment
from fewstep.doctor.jobs import job_of
from fewstep.doctor.sources import (
    Source,
    asset_source,
    fetched_source,
    file_source,
    folder_source,
)
from fewstep.doctor.targets import SHOWN, expand
from fewstep.estimate import MARGIN
from fewstep.graph import Graph
from fewstep.graph.needs import Need
from fewstep.hub.surroundings import offline_variable

_GIGA = 1e9
_SMALL = {"asset", "inception", "quick"}


@dataclass
class Line:
    """A target, or all cells of an experiment.

    Attributes:
        target: as typed, or the experiment.
        results: files that were asked for.
        done: how many of them are there.
        jobs: jobs that are left to run.
        gpu_hours: of those, estimated.
        peak_memory_gb: largest need of one GPU, with the configured batches.
        fits: whether all jobs fit the configured hardware, with a smaller batch where
            the job takes one by itself.
        advice: on jobs that do not fit as they are configured.
        disk_gb: what the jobs write.
        download_mb: what is fetched first; None: the size of something is not known.
        blocked: results that cannot be made, because of
        blocked_by: sources that are missing and cannot be fetched.
    """

    target: str
    results: list[str]
    done: int = 0
    jobs: int = 0
    gpu_hours: float = 0.0
    peak_memory_gb: float = 0.0
    fits: bool = True
    advice: list[str] = field(default_factory=list)
    disk_gb: float = 0.0
    download_mb: float | None = 0.0
    blocked: list[str] = field(default_factory=list)
    blocked_by: list[str] = field(default_factory=list)


@dataclass
class Diagnosis:
    """The whole answer; `as_json` is what `--json` prints.

    Attributes:
        environment: interpreter, devices, disk, scheduler, token (set or not).
        hardware: the GPU that estimates are made for.
        sources: assets, folders and files that the targets rest on.
        targets: one line each.
        totals: over all jobs, each counted once.
    """

    environment: dict[str, Any]
    hardware: dict[str, Any]
    sources: list[Source]
    targets: list[Line]
    totals: dict[str, Any]

    @property
    def blocked(self) -> bool:
        """Whether a target cannot start."""
        return any(line.blocked for line in self.targets)

    def as_json(self) -> dict[str, Any]:
        """The answer as one JSON value."""
        return {
            "environment": self.environment,
            "hardware": self.hardware,
            "sources": [asdict(source) for source in self.sources],
            "targets": [asdict(line) for line in self.targets],
            "totals": self.totals,
            "blocked": self.blocked,
        }


@dataclass
class _Walk:
    """Jobs that are left for some files, and the sources at their end."""

    graph: Graph
    jobs: dict[tuple[str, str, str], Job] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)

    def visit(self, paths: Sequence[str]) -> None:
        """All that a list of files waits for."""
        waiting, seen = list(paths), set[str]()
        while waiting:
            path = waiting.pop()
            if path in seen:
                continue
            seen.add(path)
            job = None if path.endswith("/") else job_of(self.graph, path)
            if job is None or job.kind in ("asset", "inception"):
                self._end(path, job)
            if job is None or os.path.exists(path):
                continue
            self.jobs[job.kind, job.name, job.number] = job
            waiting += job.inputs
            if job.kind == "dataset":
                self._folder(job.name)

    def _end(self, path: str, job: Job | None) -> None:
        if job is None and not path.endswith("/"):
            self.sources.setdefault(path, file_source(path))
        elif job is not None and job.kind == "asset":
            spec = self.graph.config.assets[job.name]
            found = asset_source(spec, self.graph.asset(job.name))
            self.sources.setdefault(job.name, found)
        elif job is not None:
            assets = self.graph.config.assets.values()
            self.sources.setdefault(job.name, fetched_source(job.name, assets))
        else:
            self._folder_at(path)

    def _folder(self, dataset: str) -> None:
        own = self.graph.config.datasets[dataset]
        if own.path is not None:
            self._folder_at(f"{own.path}/")

    def _folder_at(self, path: str) -> None:
        """A folder of images by the datasets that are made of it, or of codes."""
        named = self.graph.config.datasets.items()
        used = [own for _, own in named if own.path and f"{own.path}/" == path]
        self.sources.setdefault(path, folder_source(path, used))


def examine(graph: Graph, targets: Sequence[str] = ()) -> Diagnosis:
    """Look at the files and estimate the rest.

    Args:
        graph: the configuration; paths start from the working directory.
        targets: as for snakemake, or experiments; none: every published cell.

    Raises:
        UserError: for a target that does not exist.
    """
    lines, all_jobs, all_sources = [], dict[Any, Job](), dict[str, Source]()
    for label, paths in expand(graph, targets).items():
        walk, line = _walked(graph, label, paths)
        all_jobs.update(walk.jobs)
        for name, source in walk.sources.items():
            known = all_sources.setdefault(name, source)
            known.needed_by.append(label)
            if name in line.blocked_by:
                known.blocks.append(label)
        lines.append(line)
    sources = sorted(all_sources.values(), key=lambda s: (s.kind, s.name))
    return Diagnosis(
        environment(),
        graph.config.hardware.resolved(),
        sources,
        lines,
        _totals(graph, all_jobs, sources, lines),
    )


def obstacles(graph: Graph) -> dict[str, dict[str, list[str]]]:
    """By experiment and sampler, why an evaluation cannot start; none for one that can.

    A cell whose file is there is left out.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for (experiment, sampler), path in zip(
        graph.cells(), graph.evaluations(graph.cells()), strict=True
    ):
        if os.path.exists(path):
            continue
        walk = _Walk(graph)
        walk.visit([path])
        barred = [_obstacle(one) for one in walk.sources.values() if _blocks(one)]
        if barred:
            found.setdefault(experiment, {})[sampler] = sorted(barred)
    return found


def _obstacle(source: Source) -> str:
    # What follows a semicolon is for those who read the table of assets.
    origin = source.origin.partition("; ")[0]
    offline = f", but {offline_variable()} is set" if "download" in source.state else ""
    return f"{source.path}: {source.state}{offline} ({origin})"


def _walked(graph: Graph, label: str, paths: list[str]) -> tuple[_Walk, Line]:
    """The walk through all results of a line, and the line."""
    whole, blocked = _Walk(graph), []
    if label in SHOWN:
        whole.jobs["quick", label, ""] = Job("quick", label)
    for path in paths:
        walk = _Walk(graph)
        walk.visit([path])
        whole.jobs.update(walk.jobs)
        whole.sources.update(walk.sources)
        if any(_blocks(source) for source in walk.sources.values()):
            blocked.append(path)
    line = _line(graph, label, paths, whole)
    line.blocked = blocked
    return whole, line


def _needs(graph: Graph, jobs: dict[Any, Job]) -> list[tuple[Job, Need]]:
    return [(job, _need(graph, job)) for job in jobs.values() if job.kind not in _SMALL]


def _need(graph: Graph, job: Job) -> Need:
    """The estimate for a job; several may draw the samples of one seed."""
    whole = graph.need(job.kind, job.name)
    seconds, disk = job.share * whole.seconds, int(job.share * whole.disk)
    return replace(whole, seconds=seconds, disk=disk)


def _line(graph: Graph, label: str, paths: list[str], walk: _Walk) -> Line:
    needs = _needs(graph, walk.jobs)
    advice = {
        text: _adapts(job, need)
        for job, need in needs
        if (text := _advice(graph, job, need)) is not None
    }
    missing = [source for source in walk.sources.values() if source.state != "there"]
    return Line(
        label,
        paths,
        done=sum(os.path.exists(path) for path in paths),
        jobs=len(walk.jobs),
        gpu_hours=round(sum(need.gpu_hours for _, need in needs), 2),
        peak_memory_gb=_largest(needs),
        fits=all(advice.values()),
        advice=list(advice),
        disk_gb=round(sum(need.disk for _, need in needs) / _GIGA, 2),
        download_mb=_download(missing),
        blocked_by=[source.name for source in missing if _blocks(source)],
    )


def _largest(needs: list[tuple[Job, Need]]) -> float:
    return round(max((need.memory for _, need in needs), default=0) / _GIGA, 1)


def _blocks(source: Source) -> bool:
    """Whether a source keeps its targets from starting."""
    if source.state == "to download":
        return offline_variable() is not None
    return source.state != "there"


def _download(missing: Sequence[Source]) -> float | None:
    """MB to download; None where a size is not known."""
    sizes = [source.mb for source in missing if source.state == "to download"]
    known = [size for size in sizes if size is not None]
    return round(sum(known), 1) if len(known) == len(sizes) else None


def _adapts(job: Job, need: Need) -> bool:
    """Whether a job takes the batch that fits by itself."""
    return job.kind == "sample" and bool(need.batch)


def _advice(graph: Graph, job: Job, need: Need) -> str | None:
    """What to change for a job that does not fit the hardware; None: it fits."""
    if MARGIN * need.memory <= graph.free:
        return None
    what = f"{job.kind} {job.name}: {need.memory / _GIGA:.0f} GB"
    if _adapts(job, need):
        return f"{what}; draws {need.batch} at a time instead"
    if job.kind == "train" and need.batch:
        train = graph.experiments[job.name].train
        assert train is not None
        parts = train.batch // train.gpus // need.batch
        return f"{what}; train.accumulate {parts} fits"
    if need.batch:
        return f"{what}; batch {need.batch} fits"
    return what


def _totals(
    graph: Graph, jobs: dict[Any, Job], sources: list[Source], lines: list[Line]
) -> dict[str, Any]:
    needs = _needs(graph, jobs)
    missing = [source for source in sources if source.state != "there"]
    disk = sum(need.disk for _, need in needs) / _GIGA
    return {
        "targets": len(lines),
        "results": sum(len(line.results) for line in lines),
        "done": sum(line.done for line in lines),
        "blocked": sum(len(line.blocked) for line in lines),
        "jobs": len(jobs),
        "gpu_hours": round(sum(need.gpu_hours for _, need in needs), 2),
        "peak_memory_gb": _largest(needs),
        "disk_gb": round(disk, 2),
        "disk_free_gb": round(shutil.disk_usage(Path()).free / _GIGA, 2),
        "download_mb": _download(missing),
    }
