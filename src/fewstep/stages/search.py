"""Stage: the strategy search of one sampler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fewstep import files
from fewstep.device import pick_device
from fewstep.provenance import hardware, threads, utc_now
from fewstep.results import CONVERGENCE, STRATEGIES
from fewstep.results.parquet import pick, write_rows
from fewstep.sampling import labels_for
from fewstep.stages.curves import convergence_rows
from fewstep.tarflow.case import Candidate, SearchOptions
from fewstep.tarflow.learned import write_learned
from fewstep.tarflow.metrics import GUESSES
from fewstep.tarflow.sampler import load_sampler
from fewstep.tarflow.search import SearchResult, search


def run(
    spec: dict[str, Any],
    checkpoint: Path,
    rank: Path,
    out: Path,
    strategies: Path,
    profile: Path,
) -> None:
    """Search, and write the plan with all that was tried.

    Args:
        spec: resolved `name`, `sampler`, `model`, `noise`, `sampling`, `search`.
        checkpoint: `model.safetensors`.
        rank: `rank.json`.
        out: `plan.json`.
        strategies: Parquet, table strategies.
        profile: Parquet, table convergence (source "sampling").
    """
    result = _search(spec, checkpoint, files.read_json(rank))
    shared = {
        "experiment": spec["name"],
        "checkpoint_sha256": files.sha256_file(checkpoint),
        "code_digest": spec.get("code"),
        "created_utc": utc_now(),
    }
    machine, batch = hardware(pick_device()), spec["search"]["batch"]
    on = {
        "device": machine["device"],
        "hardware": machine["hardware"],
        "threads": threads(),
    }
    here = {**shared, **on, "sampler": spec["sampler"], "batch": batch}
    write_rows(strategies, STRATEGIES, _strategy_rows(here, result))
    write_rows(
        profile,
        CONVERGENCE,
        convergence_rows(
            shared,
            "sampling",
            result.profile,
            max(batch, spec["search"]["calibration"]),
        ),
    )
    files.write_json(
        out,
        {
            "source": "search",
            "notation": str(result.strategy),
            "strategy": result.strategy.to_dict(),
            **write_learned(result.learned),
            "search": {
                **result.summary(),
                "tolerance": result.tolerance,
                "batch": batch,
                **on,
                "torch": torch.__version__,
            },
        },
    )


def _search(
    spec: dict[str, Any], checkpoint: Path, ranked: dict[str, Any]
) -> SearchResult:
    """The search on noise of its own: never that of an evaluation."""
    wanted = spec["search"]
    sampler = load_sampler(spec, checkpoint, None)
    count, seed = max(wanted["batch"], wanted["calibration"]), wanted["seed"]
    indices = list(range(count))
    labels = labels_for(
        spec["sampling"]["labels"], spec["model"]["num_classes"], indices, seed
    )
    return search(
        sampler,
        sampler.inputs(seed, indices, labels, purpose="search"),
        sampler.inputs(seed, indices, labels, purpose="search-verify"),
        ranked["igm"],
        ranked["tough"],
        SearchOptions(
            tolerance=wanted["tolerance"],
            batch=wanted["batch"],
            segments=tuple(wanted["segments"]),
            windows=tuple(wanted["windows"]),
            repeats=wanted["repeats"],
            max_iterations=wanted["max_iterations"],
        ),
    )


def _strategy_rows(here: dict[str, Any], result: SearchResult) -> list[dict[str, Any]]:
    """A row a candidate, and one (block -1) for the whole strategy.

    Plans that differ only in what the table's key does not name are one row: the
    chosen one, else the first that had a clock.
    """
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    order = sorted(
        result.candidates, key=lambda c: (not c.chosen, c.seconds is None, c.predicted)
    )
    for c in order:
        row = _candidate_row(here, c)
        rows.setdefault(pick(row, STRATEGIES.key), row)
    whole = STRATEGIES.new_row(
        **here,
        block=-1,
        mode="mixed",
        segments=0,
        iterations=0,
        window=0,
        guess="none",
        seconds=result.seconds,
        error=result.error,
        tolerance=result.tolerance,
        chosen=True,
        reason=result.reason,
        strategy=str(result.strategy),
    )
    return [*rows.values(), whole]


def _candidate_row(here: dict[str, Any], c: Candidate) -> dict[str, Any]:
    plan = c.plan
    return STRATEGIES.new_row(
        **here,
        block=c.block,
        mode=plan.mode,
        segments=plan.segments,
        iterations=0 if plan.is_for or plan.window else plan.max_jacobi,
        window=plan.window,
        refine=plan.refine,
        corrected=plan.corrected,
        spare=plan.spare,
        front=plan.front,
        stop=plan.tol,
        guess="none" if plan.is_for else GUESSES[plan.guess],
        seconds=c.seconds,
        predicted=c.predicted,
        error=c.error,
        tolerance=c.tolerance,
        chosen=c.chosen,
        reason=c.reason,
    )
