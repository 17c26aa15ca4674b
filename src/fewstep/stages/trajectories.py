"""Stages: straightness and paths of a flow; its solvers' images side by side."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
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
from fewstep.results.store import write_rows
from fewstep.sampling import read_images, read_manifest
from fewstep.seqrf.sampler import Flow, FlowSampler, load_flow, make_sampler
from fewstep.seqrf.segments import Segments
from fewstep.seqrf.straightness import gaps, sequential_gaps

REFERENCE = "path"
"""Sampler's name of the many Euler steps that stand for the path itself."""


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
    indices = list(range(wanted["count"]))
    noise = sampler.inputs(wanted["seed"], indices, None, purpose="trajectory")
    found = sampler.integrate(noise, return_trajectory=solver["solver"] != "rk45")
    shared = {
        **{key: solver[key] for key in ("solver", "steps", "tol")},
        "nfe": found.nfe,
        "n": wanted["count"],
        "seed": wanted["seed"],
        **common,
    }
    own = sampler.flow.segments
    if found.trajectory is None or found.times is None:
        totals = (found.straightness, found.seq_straightness)
        values = ([totals[0]], [totals[1]])
        return straightness_rows(
            [1.0, 0.0], *values, edges=own.edges, totals=totals, **shared
        )
    rows: list[dict[str, Any]] = []
    path, times = found.trajectory, found.times
    whole = gaps(path, times).mean(1)
    for parts in (own, *(Segments.uniform(k) for k in others if k != own.k)):
        if parts is not own:
            shared["sampler"] = f"{common['sampler']}-k{parts.k}"
        sequential = _sequential(path, times, parts)
        rows += straightness_rows(
            times.tolist(),
            whole.tolist(),
            sequential.tolist(),
            edges=parts.edges,
            **shared,
        )
    return rows


def _sequential(path: Tensor, times: Tensor, parts: Segments) -> Tensor:
    """Sequential gap of every step, mean over the batch."""
    try:
        return sequential_gaps(path, times, parts).mean(1)
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
    indices = list(range(wanted["shown"]))
    noise = sampler.inputs(wanted["seed"], indices, None, purpose="trajectory")
    even = np.linspace(1, 0, wanted["steps"] + 1).tolist()
    at = even if sampler.solver == "rk45" else None
    found = sampler.integrate(noise, return_trajectory=True, at=at)
    assert found.trajectory is not None
    assert found.times is not None
    return trajectory_rows(
        found.times.cpu(),
        found.trajectory.cpu(),
        edges=sampler.flow.segments.edges,
        samples=wanted["shown"],
        **common,
    )


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
