"""Stage: a shard of reflow pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewstep import files
from fewstep.data import open_dataset
from fewstep.device import autocast, pick_device
from fewstep.errors import UserError
from fewstep.progress import Progress
from fewstep.seqrf.flow import Flow, compile_network, load_flow
from fewstep.seqrf.pair_plan import PairPlan
from fewstep.seqrf.pair_shards import write_shard
from fewstep.seqrf.segments import Segments


def shard(
    spec: dict[str, Any],
    number: int,
    teacher: Path,
    dataset: Path,
    edges: Path | None,
    out: Path,
    batch: int | None = None,
) -> None:
    """Make one shard of pairs.

    Args:
        spec: resolved `PairsSpec` with the teacher's `model` and `heads`; `count` may
            be that of the pairs up to this shard's end.
        number: of the shard.
        teacher: its weights.
        dataset: folder of images.
        edges: `edges.json`; None = equal segments.
        out: `….arrow`; its record goes beside it.
        batch: pairs at a time (None: `spec["batch"]`).

    Raises:
        UserError: for a teacher whose heads belong to other segments.
    """
    device = pick_device()
    flow = load_flow(spec["model"], spec["heads"], teacher, device)
    if spec["compile"]:
        compile_network(flow.model)
    given = files.read_json(edges)["edges"] if edges else None
    segments = Segments.of(spec["segments"], given)
    _check_heads(flow, segments, teacher)
    plan = _plan(spec, segments, flow)
    data = open_dataset(dataset)
    indices = plan.indices(number)
    origin = {
        "teacher_sha256": files.sha256_file(teacher),
        "dataset_sha256": data.sha256,
        "precision": spec["precision"],
        "code": spec["code"],
    }
    with autocast(device, spec["precision"]):
        write_shard(
            flow.model,
            data,
            plan,
            number,
            out,
            origin=origin,
            batch=batch or spec["batch"],
            device=device,
            progress=Progress(f"pairs {spec['name']} {number}", len(indices)),
        )


def _plan(spec: dict[str, Any], segments: Segments, flow: Flow) -> PairPlan:
    """What decides each pair."""
    return PairPlan(
        seed=spec["seed"],
        count=spec["count"],
        edges=segments.edges,
        tol=spec["tol"],
        error_norm=spec["error_norm"],
        dtype=spec["dtype"],
        flip=spec["flip"],
        shard=spec["shard_size"],
        time_factor=spec["mode"] or flow.time_factor,
    )


def _check_heads(flow: Flow, segments: Segments, teacher: Path) -> None:
    """A head knows the segment that it was trained for, and no other."""
    if flow.model.segments == 1 or flow.segments.same(segments):
        return
    own, wanted = (
        " ".join(f"{edge:.6g}" for edge in one.edges)
        for one in (flow.segments, segments)
    )
    raise UserError(
        f"its heads were trained for segments with edges {own}",
        where=str(teacher),
        expected=f"{wanted}, those of the pairs",
        do="take a teacher of one segment, or pairs with its edges",
    )
