"""Stage: seconds of sampling alone, beside the baseline in the same job."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from fewstep import files
from fewstep.errors import UserError
from fewstep.progress import Progress
from fewstep.provenance import (
    hardware,
    peak_memory_mb,
    reset_peak_memory,
    threads,
    utc_now,
)
from fewstep.results import TIMING
from fewstep.results.store import write_rows
from fewstep.sampling import (
    Draw,
    Sampler,
    complete,
    labels_for,
)
from fewstep.stages.systems import load_sampler
from fewstep.timing import alternate


def run(
    spec: dict[str, Any],
    checkpoint: Path,
    plan: Path,
    baseline_checkpoint: Path,
    baseline_plan: Path,
    out: Path,
    rows: Path,
) -> None:
    """Time a sampler and its baseline in turn, on the same noise.

    Args:
        spec: resolved `name`, `sampler`, `system`, `sampling`, `num_classes`, `labels`,
            `timing`, `code` and what loads the sampler; `baseline`: the same of the
            baseline, called `baseline_name`.
        checkpoint, plan: of the sampler.
        baseline_checkpoint, baseline_plan: of the baseline.
        out: `timing.json`.
        rows: Parquet, table timing.
    """
    sampler = load_sampler(spec, checkpoint, plan)
    rival = load_sampler(spec["baseline"], baseline_checkpoint, baseline_plan)
    measured = _measure_all(spec, sampler, rival)
    machine = hardware(sampler.device)
    shared = {
        "experiment": spec["name"],
        "sampler": spec["sampler"],
        "repeats": spec["timing"]["repeats"],
        "warmup": spec["timing"]["warmup"],
        "strategy": files.read_json(plan)["notation"],
        "device": machine["device"],
        "hardware": machine["hardware"],
        "threads": threads(),
        "torch": torch.__version__,
        "checkpoint_sha256": files.sha256_file(checkpoint),
        "code_digest": spec.get("code"),
        "created_utc": utc_now(),
    }
    extra = ("seconds_end_to_end", "seconds_baseline", "steps")
    write_rows(
        rows,
        TIMING,
        [
            TIMING.new_row(**shared, **{k: v for k, v in m.items() if k not in extra})
            for m in measured
        ],
    )
    files.write_json(out, {**shared, "batches": measured})


def _measure_all(
    spec: dict[str, Any], sampler: Sampler, rival: Sampler
) -> list[dict[str, Any]]:
    """Every batch size that fits into memory."""
    measured, batches = [], spec["timing"]["batches"]
    progress = Progress(f"time {spec['name']}/{spec['sampler']}", len(batches), every=5)
    for batch in batches:
        try:
            measured.append(_measure(spec, sampler, rival, batch))
            note = f"batch {batch}: {measured[-1]['seconds']:.3g} s"
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            note = f"batch {batch} does not fit into memory: left out"
        progress.advance(note=note)
    if not measured:
        raise UserError(
            "no batch size fits into memory",
            where=f"experiments.{spec['name']}.timing.batches",
            expected=f"one smaller than {min(batches)}",
        )
    return measured


def _measure(
    spec: dict[str, Any], sampler: Sampler, rival: Sampler, batch: int
) -> dict[str, Any]:
    """One batch size: medians of the sampler, of the baseline, and of a whole draw."""
    indices = list(range(batch))
    labels = labels_for(spec["labels"], spec["num_classes"], indices, 0)
    inputs = sampler.inputs(0, indices, labels, purpose="timing")
    rival_inputs = rival.inputs(0, indices, labels, purpose="timing")
    theirs = rival.draw(rival_inputs)
    reset_peak_memory(sampler.device)
    mine = sampler.draw(inputs)
    peak = peak_memory_mb(sampler.device)
    name = spec["baseline_name"]
    calls = {
        "sampler": lambda: sampler.draw(inputs),
    }
    if not _is_baseline(spec):
        calls["baseline"] = lambda: rival.draw(rival_inputs)
    timings = alternate(
        calls,
        repeats=spec["timing"]["repeats"],
        device=sampler.device,
        warm_up=spec["timing"]["warmup"],
    )
    whole = alternate(
        {"end to end": lambda: complete(sampler, 0, indices, labels)},
        repeats=2,
        device=sampler.device,
        warm_up=0,  # the sampler is warm
    )["end to end"]
    seconds, partner = timings["sampler"].median, timings.get("baseline")
    return {
        "batch": batch,
        "seconds": seconds,
        "seconds_iqr": timings["sampler"].iqr,
        "seconds_per_image": seconds / batch,
        "images_per_second": batch / seconds,
        "seconds_end_to_end": whole.median,
        "seconds_baseline": partner.median if partner else None,
        "baseline": name if partner else None,
        "ratio": partner.median / seconds if partner else None,
        "steps": mine.steps,
        "iterations": mine.iterations or None,
        "nfe": mine.means.get("nfe"),
        "error_to_exact": _distance(mine, theirs) if spec["exact_baseline"] else None,
        "peak_memory_mb": peak,
    }


def _is_baseline(spec: dict[str, Any]) -> bool:
    own, other = spec, spec["baseline"]
    return all(own[key] == other[key] for key in ("name", "sampler"))


def _distance(mine: Draw, theirs: Draw) -> float | None:
    """Largest difference of a value; None where one is not finite."""
    error = float((mine.images - theirs.images).abs().max())
    return error if math.isfinite(error) else None
