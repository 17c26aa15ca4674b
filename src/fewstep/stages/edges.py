"""Stage: SeqRF-Ada's segments, from trajectories of the teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fewstep import files
from fewstep.device import pick_device
from fewstep.errors import UserError
from fewstep.seqrf.adaptive import adaptive_edges
from fewstep.seqrf.sampler import FlowSampler, load_flow

_BATCH = 32


def run(spec: dict[str, Any], teacher: Path, out: Path) -> None:
    """Write `edges.json`.

    Args:
        spec: `segments`, `adaptive`, `precision` of the pairs, `model` and `heads` of
            the teacher.
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
        mode=flow.time_factor,
        precision=spec["precision"],
    )
    parts = []
    for first in range(0, wanted["samples"], _BATCH):
        indices = list(range(first, min(first + _BATCH, wanted["samples"])))
        noise = sampler.inputs(wanted["seed"], indices, None, purpose="edges")
        found = sampler.integrate(noise, return_trajectory=True)
        assert found.trajectory is not None
        parts.append(found.trajectory.cpu())
    edges = adaptive_edges(torch.cat(parts, dim=1), spec["segments"])
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
