"""Stages: straightness and paths of a flow; its solvers' images side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep import files
from fewstep.device import pick_device
from fewstep.errors import UserError
from fewstep.images import filmstrip, save_png
from fewstep.provenance import utc_now
from fewstep.results.flows import (
    STRAIGHTNESS,
    TRAJECTORIES,
    straightness_rows,
    trajectory_rows,
)
from fewstep.results.parquet import write_rows
from fewstep.samples import read_images, read_manifest
from fewstep.seqrf.flow import Flow, load_flow
from fewstep.seqrf.integration import path_batches
from fewstep.seqrf.sampler import FlowSampler, make_sampler
from fewstep.seqrf.segments import Segments
from fewstep.seqrf.straightness import gaps, sequential_gaps

REFERENCE = "path"
"""Sampler's name of the many Euler steps that stand for the path itself."""
_DENSE_COPIES = 2  # RK45's states: float64 with a batch's norm, and joined at the end


def measure(spec: dict[str, Any], weights: Path, rows: Path, paths: Path) -> None:
    """Write the rows of the tables straightness and trajectories.

    Args:
        spec: resolved `name`, `model`, `segments`, `trajectory`, `solvers`,
            `precision` of the experiment.
        weights: `model.safetensors`.
        rows: Parquet, table straightness.
        paths: Parquet, table trajectories.
    """
    flow = load_flow(spec["model"], spec["segments"], weights, pick_device())
    wanted = spec["trajectory"]
    origin = {
        "checkpoint_sha256": files.sha256_file(weights),
        "code_digest": spec.get("code"),
        "created_utc": utc_now(),
    }
    measured, drawn = [], []
    for name, solver in _solvers(spec, flow).items():
        sampler = make_sampler(flow, solver, spec["precision"])
        common = {"experiment": spec["name"], "sampler": name, **origin}
        others = wanted["compare"] if name == REFERENCE else ()
        measured += _straightness(sampler, solver, wanted, common, others)
        drawn += _paths(sampler, wanted, common)
    write_rows(rows, STRAIGHTNESS, measured)
    write_rows(paths, TRAJECTORIES, drawn)


def _solvers(spec: dict[str, Any], flow: Flow) -> dict[str, dict[str, Any]]:
    """The path itself where the flow has one, then the experiment's solvers."""
    if not spec["trajectory"]["fine"]:
        return dict(spec["solvers"])
    path = {
        "solver": "euler",
        "steps": max(spec["trajectory"]["steps"], flow.segments.k),
        "tol": None,
        "error_norm": "sample",
        "mode": None,
    }
    return {REFERENCE: path, **spec["solvers"]}


def _straightness(
    sampler: FlowSampler,
    solver: dict[str, Any],
    wanted: dict[str, Any],
    common: dict[str, Any],
    others: Sequence[int],
) -> list[dict[str, Any]]:
    """Rows of one solver, and of its path seen in other numbers of segments.

    RK45 has rows of the whole path alone: every sample takes its own steps.
    """
    shared = {
        **{key: solver[key] for key in ("solver", "steps", "tol")},
        "n": wanted["count"],
        "seed": wanted["seed"],
        **common,
    }
    if solver["solver"] == "rk45":
        return _whole_path(sampler, wanted, shared)
    views = _views(common["sampler"], sampler.flow.segments, others)
    total = torch.zeros((), dtype=torch.float64)
    for noise in _noise(sampler, wanted, wanted["count"]):
        sums, times, shared["nfe"] = _by_step(sampler, noise, list(views.values()))
        total = total + sums
    whole, *sequential = (total / wanted["count"]).tolist()
    rows: list[dict[str, Any]] = []
    for (name, parts), values in zip(views.items(), sequential, strict=True):
        own = {**shared, "sampler": name}
        rows += straightness_rows(times, whole, values, edges=parts.edges, **own)
    return rows


def _views(name: str, own: Segments, others: Sequence[int]) -> dict[str, Segments]:
    """The flow's own segments, and equal ones in other numbers, by sampler's name."""
    views = {name: own}
    for k in others:
        if k != own.k:
            views[f"{name}-k{k}"] = Segments.uniform(k)
    return views


def _noise(
    sampler: FlowSampler, wanted: dict[str, Any], count: int, copies: int = 1
) -> Iterator[Tensor]:
    """Starts of the first samples, in batches small enough for their paths.

    With `error_norm: batch` a path depends on the batch that it is drawn in.
    """
    network = sampler.flow.model
    points = copies * (max(sampler.steps or 0, wanted["steps"]) + 1)
    values = network.channels * network.image_size**2
    for indices in path_batches(count, points, values):
        yield sampler.inputs(wanted["seed"], indices, None, purpose="trajectory")


def _whole_path(
    sampler: FlowSampler, wanted: dict[str, Any], shared: dict[str, Any]
) -> list[dict[str, Any]]:
    """The rows of a solver whose samples take steps of their own."""
    total = torch.zeros(3, dtype=torch.float64)
    for noise in _noise(sampler, wanted, wanted["count"]):
        found = sampler.integrate(noise)
        each = (found.straightness_per_sample, found.seq_straightness_per_sample)
        total += torch.stack([found.nfe_per_sample.double(), *each]).sum(1).cpu()
    nfe, whole, sequential = (total / wanted["count"]).tolist()
    return straightness_rows(
        [1.0, 0.0],
        [whole],
        [sequential],
        edges=sampler.flow.segments.edges,
        totals=(whole, sequential),
        nfe=nfe,
        **shared,
    )


def _by_step(
    sampler: FlowSampler, noise: Tensor, views: Sequence[Segments]
) -> tuple[Tensor, list[float], float]:
    """Gaps of every step, summed over a batch whose trajectory is gone on return.

    Returns:
        (1 + views, M), of the whole path and in the segments of each view; the M + 1
        times of the path; its network evaluations.
    """
    found = sampler.integrate(noise, return_trajectory=True)
    path, times = found.trajectory, found.times
    assert path is not None
    assert times is not None
    each = [gaps(path, times), *(_sequential(path, times, parts) for parts in views)]
    return torch.stack(each).sum(2).cpu(), times.tolist(), found.nfe


def _sequential(path: Tensor, times: Tensor, parts: Segments) -> Tensor:
    """Sequential gap of every step and sample."""
    try:
        return sequential_gaps(path, times, parts)
    except ValueError as error:
        raise UserError(
            str(error),
            where="trajectory.compare",
            expected="segments that the path's steps pass through",
            do="leave this number out, or change trajectory.steps",
        ) from error


def _paths(
    sampler: FlowSampler, wanted: dict[str, Any], common: dict[str, Any]
) -> list[dict[str, Any]]:
    """Rows of the first samples' pixels; RK45's path at equal times."""
    copies, at = 1, None
    if sampler.solver == "rk45":
        copies, at = _DENSE_COPIES, np.linspace(1, 0, wanted["steps"] + 1).tolist()
    first = 0
    rows: list[dict[str, Any]] = []
    for noise in _noise(sampler, wanted, wanted["shown"], copies):
        rows += _pixels(sampler, noise, at, first, common)
        first += len(noise)
    return rows


def _pixels(
    sampler: FlowSampler,
    noise: Tensor,
    at: Sequence[float] | None,
    first: int,
    common: dict[str, Any],
) -> list[dict[str, Any]]:
    """The same of one batch; by sample, as its rows are made from float64 states."""
    found = sampler.integrate(noise, return_trajectory=True, at=at)
    assert found.trajectory is not None
    assert found.times is not None
    times, edges = found.times.cpu(), sampler.flow.segments.edges
    rows: list[dict[str, Any]] = []
    for number, one in enumerate(torch.split(found.trajectory, 1, dim=1), first):
        own = trajectory_rows(times, one.cpu(), edges=edges, samples=1, **common)
        rows += [{**row, "sample": number} for row in own]
    return rows


def solver_pictures(samples: list[Path], out: Path, *, columns: int = 10) -> None:
    """One row of images a solver, all from the same noise, as a PNG.

    Args:
        samples: `samples.json` of each solver.
        out: the picture.
        columns: samples 0, 1, 2 … of each.
    """
    strips = []
    for path in samples:
        title = str(read_manifest(path).extra["sampler"])
        images = (image for shard in read_images(path) for image in shard)
        strips.append((title, [np.array(one) for one in islice(images, columns)]))
    scale = max(1, 64 // strips[0][1][0].shape[-1])
    longest = max(len(images) for _, images in strips)
    titles = [f"sample {i}" for i in range(longest)]
    save_png(filmstrip(strips, titles, scale=scale), out)
