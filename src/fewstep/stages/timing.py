"""Stage: seconds of sampling alone, beside the baseline in the same job."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fewstep import files
from fewstep.device import empty_cache, memory_errors
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
from fewstep.results.parquet import write_rows
from fewstep.sampling import Draw, Sampler, complete, labels_for
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
    name = spec["sampler"]
    clocks = _time(
        spec,
        {name: spec},
        {name: plan},
        checkpoint,
        _baseline(spec, baseline_checkpoint, baseline_plan),
    )
    if _is_its_baseline(spec, plan, baseline_plan):
        for entry in clocks[name]["batches"]:
            if entry["ratio"] is not None:
                entry |= {"ratio": 1.0, "seconds_baseline": entry["seconds"]}
    _file_rows(clocks, rows)
    files.write_json(out, clocks[name])


def _is_its_baseline(spec: Mapping[str, Any], plan: Path, baseline_plan: Path) -> bool:
    """Whether a search came to the baseline's own plan: clocks then differ by noise."""
    theirs, named = spec["baseline"], ("sampler", "strategy")
    notations = {files.read_json(path)["notation"] for path in (plan, baseline_plan)}
    alike = all(spec.get(k) == v for k, v in theirs.items() if k not in named)
    return alike and len(notations) == 1


def run_together(
    spec: dict[str, Any],
    checkpoint: Path,
    plans: Sequence[Path],
    baseline_checkpoint: Path,
    baseline_plan: Path,
    out: Path,
    rows: Path,
) -> None:
    """Time all samplers of an experiment, and the baseline, in turn on the same noise.

    Args:
        spec: as of `run`, with the samplers' own settings in `samplers`.
        checkpoint: of all samplers.
        plans: one a sampler, each in a folder of the sampler's name.
        baseline_checkpoint, baseline_plan: of the baseline.
        out: `timing.json` with `samplers`: name to what `run` writes.
        rows: Parquet, table timing.
    """
    # By name: the order of a JSON object is not that of the configuration.
    named = {plan.parent.name: plan for plan in plans}
    if named.keys() != spec["samplers"].keys():
        raise UserError(
            f"plans of {', '.join(sorted(named))}",
            where="--plan",
            expected=", ".join(sorted(spec["samplers"])),
        )
    # One that is among the samplers is not loaded twice.
    among = _baseline_among(spec, named) is not None
    loaded = None if among else _baseline(spec, baseline_checkpoint, baseline_plan)
    clocks = _time(spec, spec["samplers"], named, checkpoint, loaded)
    _file_rows(clocks, rows)
    files.write_json(out, {"samplers": clocks})


def _baseline(spec: dict[str, Any], checkpoint: Path, plan: Path) -> Sampler:
    found: Sampler = load_sampler(spec["baseline"], checkpoint, plan)
    return found


def _time(
    spec: dict[str, Any],
    specs: Mapping[str, dict[str, Any]],
    plans: Mapping[str, Path],
    checkpoint: Path,
    rival: Sampler | None,
) -> dict[str, dict[str, Any]]:
    """What `timing.json` says of each sampler."""
    samplers = {
        name: load_sampler(own, checkpoint, plans[name]) for name, own in specs.items()
    }
    rival = rival or samplers[spec["baseline"]["sampler"]]
    measured = _measure_all(spec, samplers, rival)
    machine = hardware(rival.device)
    shared = {
        "experiment": spec["name"],
        "repeats": spec["timing"]["repeats"],
        "warmup": spec["timing"]["warmup"],
        "device": machine["device"],
        "hardware": machine["hardware"],
        "threads": threads(),
        "torch": torch.__version__,
        "checkpoint_sha256": files.sha256_file(checkpoint),
        "code_digest": spec.get("code"),
        "created_utc": utc_now(),
    }
    return {
        name: {
            **shared,
            "sampler": name,
            "strategy": files.read_json(plans[name])["notation"],
            "batches": [entry[name] for entry in measured],
        }
        for name in specs
    }


_NOT_IN_TABLE = ("seconds_end_to_end", "seconds_baseline", "steps", "nfe")


def _file_rows(clocks: Mapping[str, dict[str, Any]], rows: Path) -> None:
    """The rows of the table timing."""
    made = []
    for clock in clocks.values():
        shared = {key: value for key, value in clock.items() if key != "batches"}
        for entry in clock["batches"]:
            kept = {k: v for k, v in entry.items() if k not in _NOT_IN_TABLE}
            made.append(TIMING.new_row(**shared, **kept))
    write_rows(rows, TIMING, made)


def _measure_all(
    spec: dict[str, Any], samplers: Mapping[str, Sampler], rival: Sampler
) -> list[dict[str, dict[str, Any]]]:
    """Every batch size that fits into memory."""
    measured, batches = [], spec["timing"]["batches"]
    what = "/".join([spec["name"], *([] if len(samplers) > 1 else samplers)])
    progress = Progress(f"time {what}", len(batches), every=5)
    for batch in batches:
        try:
            with memory_errors():
                measured.append(_measure(spec, samplers, rival, batch))
            note = f"batch {batch} done"
        except torch.OutOfMemoryError:
            empty_cache(rival.device)
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
    spec: dict[str, Any], samplers: Mapping[str, Sampler], rival: Sampler, batch: int
) -> dict[str, dict[str, Any]]:
    """One batch size: medians of every sampler, of the baseline, of whole draws."""
    indices = list(range(batch))
    labels = labels_for(spec["labels"], spec["num_classes"], indices, 0)
    theirs_in = rival.inputs(0, indices, labels, purpose="timing")
    theirs = rival.draw(theirs_in)
    drawn, peaks, calls = {}, {}, {}
    for name, sampler in samplers.items():
        # The same noise; a sampler's temperature is its own.
        inputs = sampler.inputs(0, indices, labels, purpose="timing")
        for other in (rival, *samplers.values()):
            _release(other)
        reset_peak_memory(sampler.device)
        drawn[name] = sampler.draw(inputs)
        peaks[name] = peak_memory_mb(sampler.device)
        calls[name] = partial(sampler.draw, inputs)
    own = _baseline_among(spec, samplers)
    if own is None:
        calls[_RIVAL] = partial(rival.draw, theirs_in)
    wanted = spec["timing"]
    device = rival.device
    timings = alternate(
        calls, repeats=wanted["repeats"], device=device, warm_up=wanted["warmup"]
    )
    whole = alternate(
        {n: partial(complete, s, 0, indices, labels) for n, s in samplers.items()},
        repeats=2,
        device=device,
        warm_up=0,  # the samplers are warm
    )
    partner = timings[_RIVAL if own is None else own].median
    exact = spec["exact_baseline"]
    return {
        name: {
            "batch": batch,
            "seconds": timings[name].median,
            "seconds_iqr": timings[name].iqr,
            "seconds_per_image": timings[name].median / batch,
            "images_per_second": batch / timings[name].median,
            "seconds_end_to_end": whole[name].median,
            "seconds_baseline": None if name == own else partner,
            "baseline": None if name == own else spec["baseline_name"],
            "ratio": None if name == own else partner / timings[name].median,
            "steps": drawn[name].steps,
            "iterations": drawn[name].iterations or None,
            "nfe": _mean(drawn[name].numbers.get("nfe")),
            "error_to_exact": _distance(drawn[name], theirs) if exact else None,
            "peak_memory_mb": peaks[name],
        }
        for name in samplers
    }


_RIVAL = "baseline of another experiment"


def _release(sampler: Sampler) -> None:
    """Let a sampler give back what it keeps between draws, if it keeps something."""
    release = getattr(sampler, "release", None)
    if release is not None:
        release()


def _baseline_among(spec: dict[str, Any], samplers: Iterable[str]) -> str | None:
    """The baseline's name, if it is itself one of the samplers."""
    other = spec["baseline"]
    same = other["name"] == spec["name"] and other["sampler"] in samplers
    return str(other["sampler"]) if same else None


def _mean(values: torch.Tensor | None) -> float | None:
    return None if values is None else float(values.double().mean())


def _distance(mine: Draw, theirs: Draw) -> float | None:
    """Largest difference of a value; None where one is not finite."""
    error = float((mine.images - theirs.images).abs().max())
    return error if math.isfinite(error) else None
