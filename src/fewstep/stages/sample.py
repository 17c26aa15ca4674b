"""Stage: draw samples in shards."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fewstep import files
from fewstep.errors import UserError
from fewstep.provenance import row_fields
from fewstep.samples import Part, collect_parts, draw_part, draw_samples
from fewstep.sampling import SampleOptions
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
    """Draw samples 0..n-1 of one seed, or one job's part of their shards.

    Args:
        spec: resolved `name`, `sampler`, `system`, `sampling`, `num_classes`, `labels`,
            `n`, `rounding`, `code`, and what loads the sampler; `resize`, where samples
            are resized before they become bytes.
        checkpoint: `model.safetensors`.
        plan: `plan.json`.
        seed: of the run.
        batch: samples drawn at once.
        out: `samples.json`, the shards in a folder beside it; or the record of one of
            several jobs, `parts/3-of-8.json` below that place.
    """
    part = part_of(out)
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
    extra = {
        "experiment": spec["name"],
        "sampler": spec["sampler"],
        "notation": strategy["notation"],
        "mode": getattr(sampler, "mode", None),
        "checkpoint_sha256": checkpoint_sha256,
        "provenance": row_fields(sampler.device),
    }
    label = f"sample {spec['name']}/{spec['sampler']} seed {seed}"
    if part is None:
        draw_samples(sampler, options, out, key=key, extra=extra, label=label)
        return
    label += f", part {part.number + 1} of {part.of}"
    whole = manifest_of_parts(out)
    draw_part(sampler, options, whole, part, out, key=key, extra=extra, label=label)


def part_of(out: Path) -> Part | None:
    """Which of several jobs writes this file: `parts/3-of-8.json`; None: the only one.

    Raises:
        UserError: for another name in a folder `parts`.
    """
    if out.parent.name != "parts":
        return None
    found = re.fullmatch(r"(\d+)-of-([1-9]\d*)", out.stem)
    if found is None or int(found[1]) >= int(found[2]):
        raise UserError("no part of a run", where=str(out), expected="3-of-8.json")
    return Part(int(found[1]), int(found[2]))


def manifest_of_parts(record: Path) -> Path:
    """The `samples.json` that `parts/….json` belongs to."""
    return record.parents[1] / "samples.json"


def collect(records: list[Path], out: Path) -> None:
    """The manifest of samples that several jobs drew.

    Args:
        records: `parts/….json` of each job.
        out: `samples.json`.
    """
    for record in records:
        if manifest_of_parts(record) != out:
            raise UserError("not a part of these samples", where=str(record))
    collect_parts(records, out)


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
        batch_decides="batch" in sampling,
    )
