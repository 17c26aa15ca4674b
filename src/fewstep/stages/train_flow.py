"""Stage: train a flow: from data, or from reflow pairs, or distil it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewstep import checkpoints
from fewstep.device import pick_device
from fewstep.stages.flow_recipe import Sources, build
from fewstep.stages.snapshots import Snapshots, snapshots_agree
from fewstep.stages.training import history_of, train_options, write_curve
from fewstep.training import closing_group, train


def train_flow(
    spec: dict[str, Any],
    sources: Sources,
    work: Path,
    out: Path,
    curve: Path,
    batch: int = 64,
) -> None:
    """Train a flow.

    Args:
        spec: resolved `name`, `model`, `segments`, `train` of the experiment, digests
            `code` and `weights_code`, and `scoring` where snapshots are scored.
        sources: what it reads.
        work: folder of the unfinished run's checkpoint and of its snapshots.
        out: `model.safetensors`; its manifest goes beside it, and the snapshots into
            `snapshots/` with their list `snapshots.json`.
        curve: Parquet file of the training curve.
        batch: samples drawn at once for the score of a snapshot.
    """
    recipe = build(spec, sources)
    snapshots_agree(work, recipe.key, spec["train"]["snapshots"])
    snapshots = Snapshots(
        spec, work / "snapshots", recipe.key, recipe.about, sources.scorer, batch
    )
    tensors, state = train(
        recipe.objective,
        train_options(spec["train"], recipe.objective.per_epoch),
        work,
        key=recipe.key,
        device=pick_device(),
        label=f"train {spec['name']}",
        initial=recipe.initial,
        on_snapshot=snapshots.take if spec["train"]["snapshots"] else None,
    )
    with closing_group() as first:
        if not first:
            return
        snapshots.publish(out.parent, state)
        write_curve(spec["name"], state, curve, snapshots.metric)
        checkpoints.write_state_dict(
            out, tensors, recipe.about, history_of(spec, state)
        )
