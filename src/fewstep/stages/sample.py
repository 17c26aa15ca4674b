"""Stage: draw samples in shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewstep import files
from fewstep.provenance import row_fields
from fewstep.sampling import SampleOptions, draw_samples
from fewstep.stages.snapshot_files import verify
from fewstep.stages.systems import load_sampler


def run(
    spec: dict[str, Any],
    checkpoint: Path,
    plan: Path,
    seed: int,
    batch: int,
    out: Path,
) -> None:
    """Draw samples 0..n-1 of one seed.

    Args:
        spec: resolved `name`, `sampler`, `system`, `sampling`, `num_classes`, `labels`,
            `n`, `rounding`, `code`, and what loads the sampler; `resize`, where samples
            are resized before they become bytes.
        checkpoint: `model.safetensors`.
        plan: `plan.json`.
        seed: of the run.
        batch: samples drawn at once.
        out: `samples.json`; the shards lie in a folder beside it.
    """
    options = _options(spec, seed, batch)
    if checkpoint.parent.name == "snapshots":
        verify(checkpoint)
    checkpoint_sha256 = files.sha256_file(checkpoint)
    strategy = files.read_json(plan)
    sampler = load_sampler(spec, checkpoint, plan)
    key = files.sha256_json(
        {
            "spec": spec,
            "seed": seed,
            "checkpoint": checkpoint_sha256,
            "strategy": strategy["strategy"],
        }
    )
    draw_samples(
        sampler,
        options,
        out,
        key=key,
        extra={
            "experiment": spec["name"],
            "sampler": spec["sampler"],
            "notation": strategy["notation"],
            "mode": getattr(sampler, "mode", None),
            "checkpoint_sha256": checkpoint_sha256,
            "provenance": row_fields(sampler.device),
        },
        label=f"sample {spec['name']}/{spec['sampler']} seed {seed}",
    )


def _options(spec: dict[str, Any], seed: int, batch: int) -> SampleOptions:
    sampling = spec["sampling"]
    return SampleOptions(
        seed=seed,
        start=0,
        stop=spec["n"],
        batch=batch,
        shard=sampling["shard_size"],
        num_classes=spec["num_classes"],
        labels=spec["labels"],
        rounding=spec["rounding"],
        nan_policy=sampling["nan_policy"],
        max_redraws=sampling["max_redraws"],
        resize=spec.get("resize"),
    )
