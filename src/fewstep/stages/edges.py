"""Stage: SeqRF-Ada's segments, from trajectories of the teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep import files
from fewstep.device import pick_device
from fewstep.errors import UserError
from fewstep.seqrf.adaptive import edges_of_costs, segment_costs
from fewstep.seqrf.flow import load_flow
from fewstep.seqrf.integration import path_batches
from fewstep.seqrf.sampler import FlowSampler


def run(spec: dict[str, Any], teacher: Path, out: Path) -> None:
    """Write `edges.json`.

    Args:
        spec: `segments`, `adaptive`, `precision`, `mode` of the pairs (None: as the
            weights were trained), `model` and `heads` of the teacher.
        teacher: its weights.
        out: edges from 1 to 0, their step numbers and cost.

    Raises:
        UserError: for a teacher of several heads, whose segments are settled.
    """
    wanted = spec["adaptive"]
    if spec["heads"] != 1:
        raise UserError(
            f"{spec['heads']} segments, each with its own head",
            where=str(teacher),
            expected="a teacher of one segment, to be divided anew",
            do="take another teacher, or leave out adaptive",
        )
    flow = load_flow(spec["model"], spec["heads"], teacher, pick_device())
    sampler = FlowSampler(
        flow,
        "euler",
        steps=wanted["steps"],
        mode=spec["mode"] or flow.time_factor,
        precision=spec["precision"],
    )
    edges = edges_of_costs(_costs(sampler, wanted), spec["segments"])
    files.write_json(
        out,
        {
            "edges": list(edges),
            "path": list(edges.path),
            "cost": edges.cost,
            "steps": wanted["steps"],
            "samples": wanted["samples"],
            "teacher_sha256": files.sha256_file(teacher),
        },
    )


def _costs(sampler: FlowSampler, wanted: dict[str, Any]) -> NDArray[np.float64]:
    """Costs of all segments, mean over the samples; no two batches at once."""
    samples, points = wanted["samples"], wanted["steps"] + 1
    total: NDArray[np.float64] = np.zeros((points, points))
    values = sampler.flow.model.channels * sampler.flow.model.image_size**2
    for indices in path_batches(samples, points, values):
        total += len(indices) * _batch_costs(sampler, wanted["seed"], indices)
    total /= samples
    return total


def _batch_costs(
    sampler: FlowSampler, seed: int, indices: list[int]
) -> NDArray[np.float64]:
    """The same over one batch, whose trajectory is gone on return."""
    noise = sampler.inputs(seed, indices, None, purpose="edges")
    found = sampler.integrate(noise, return_trajectory=True)
    assert found.trajectory is not None
    return segment_costs(found.trajectory)
