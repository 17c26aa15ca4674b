"""Stage: one evaluation's JSON, and its rows in the shared table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewstep import files
from fewstep.provenance import utc_now
from fewstep.results import (
    EVALUATIONS,
    PUBLISHED,
    compare,
    spread,
    summarize,
    upsert,
    verdict,
)


def run(
    spec: dict[str, Any],
    scores: Path,
    timing: Path,
    samples: list[Path],
    plan: Path,
    out: Path,
    table: Path,
    dataset: Path | None = None,
    assets: Sequence[Path] = (),
) -> None:
    """Write `results/{experiment}_{sampler}_fid.json` and upsert its rows.

    The rows go into the table first: when the JSON is there, they are too.

    Args:
        spec: resolved `name`, `system`, `sampler`, `settings` (columns of the row),
            `timing_batch`, `timed_as` (its name in the timing), `published`,
            `protocol_note`, `code`.
        scores, timing, plan: the cell's JSON files.
        samples: `samples.json` of each seed.
        dataset: `dataset.json`, where the row rests on images of ours.
        assets: `results/assets/{name}.json` of the published files behind the row.
        out: the summary.
        table: `results/tables/evaluations.parquet`; `published.parquet` lies beside it.
    """
    scored = files.read_json(scores)["seeds"]
    manifests = [files.read_json(path) for path in samples]
    clock, planned = files.read_json(timing), files.read_json(plan)
    if "samplers" in clock:
        clock = clock["samplers"][spec["timed_as"]]
    rows = [
        {
            **_who(spec, score, manifest),
            **score["row"],
            "notes": _notes(score, planned),
            **_work(manifest),
            **_speed(clock, spec["timing_batch"]),
            **manifest["extra"]["provenance"],
            **spec["settings"],
            "mode": manifest["extra"].get("mode"),
            "strategy": planned["notation"],
            "code_digest": spec.get("code"),
            "checkpoint_sha256": manifest["extra"]["checkpoint_sha256"],
            "dataset_sha256": files.read_json(dataset)["sha256"] if dataset else None,
            "assets": _assets(assets),
            "status": "ok",
        }
        for score, manifest in zip(scored, manifests, strict=True)
    ]
    judged = [EVALUATIONS.new_row(**_judged(row, rows, spec)) for row in rows]
    beside = compare(judged, spec["published"], spec["protocol_note"])
    cell = ("experiment", "sampler")
    upsert(table, judged, replace=cell)
    # Where nothing is published any more there is no row that would name the cell.
    own = [(spec["name"], spec["sampler"])]
    upsert(table.with_stem(PUBLISHED.name), beside, replace=cell, groups=own)
    summary = {**summarize(judged), "timing": clock["batches"], "published": beside}
    files.write_json(out, {**summary, "evaluated_utc": utc_now()})


def _who(
    spec: dict[str, Any], score: dict[str, Any], manifest: dict[str, Any]
) -> dict[str, Any]:
    options = manifest["options"]
    return {
        "experiment": spec["name"],
        "system": spec["system"],
        "sampler": spec["sampler"],
        "seed": score["seed"],
        "labels": options["labels"] if options["num_classes"] else "none",
        "protocol": score["protocol"],
        "reference_sha256": score["protocol_facts"]["reference_sha256"],
    }


def _assets(records: Sequence[Path]) -> str | None:
    """Hashes of published files by name, as JSON."""
    found = {r["name"]: r["sha256"] for r in map(files.read_json, records)}
    return json.dumps(found, sort_keys=True) if found else None


def _notes(score: dict[str, Any], plan: dict[str, Any]) -> str | None:
    """What could not be scored, and what a search has to say of its plan."""
    notes = [f"{name}: {why}" for name, why in score["notes"].items()]
    if "search" in plan:
        found = plan["search"]
        notes.append(f"search at batch {found['batch']}: {found['reason']}")
    return "; ".join(notes) or None


def _work(manifest: dict[str, Any]) -> dict[str, Any]:
    """Counts over all shards."""
    shards = manifest["shards"]
    total = sum(shard["count"] for shard in shards)

    def mean(name: str) -> float:
        weighted = sum(shard[name] * shard["count"] for shard in shards)
        return float(weighted / total)

    return {
        "steps": mean("steps"),
        "iterations": mean("iterations") or None,
        **_means(shards, total),
        "nan_events": sum(shard["nan_events"] for shard in shards),
        "redrawn": sum(shard["redrawn"] for shard in shards),
        "batch": min(shard["batch"] for shard in shards),
        "clipped": mean("clipped"),
        "peak_memory_mb": max(shard["peak_memory_mb"] for shard in shards),
    }


def _means(shards: list[dict[str, Any]], total: int) -> dict[str, float]:
    """The sampler's further numbers over all shards."""
    return {
        name: sum(s["means"][name] * s["count"] for s in shards) / total
        for name in shards[0]["means"]
    }


def _speed(clock: dict[str, Any], batch: int) -> dict[str, Any]:
    """The timing at the wanted batch, or at the largest one that was timed.

    Beside it the time at batch 1, where that was timed, and the best rate of all.
    """
    batches = {entry["batch"]: entry for entry in clock["batches"]}
    entry = batches.get(batch) or batches[max(batches)]
    best = max(clock["batches"], key=lambda timed: timed["images_per_second"])
    return {
        "seconds_per_image": entry["seconds_per_image"],
        "images_per_second": entry["images_per_second"],
        "seconds_end_to_end_per_image": entry["seconds_end_to_end"] / entry["batch"],
        "timing_batch": entry["batch"],
        "baseline": entry["baseline"],
        "speedup": entry["ratio"],
        "error_to_exact": entry["error_to_exact"],
        "seconds_batch1": batches[1]["seconds_per_image"] if 1 in batches else None,
        "images_per_second_best": best["images_per_second"],
        "best_batch": best["batch"],
    }


def _judged(
    row: dict[str, Any], rows: list[dict[str, Any]], spec: dict[str, Any]
) -> dict[str, Any]:
    """The row with the published value and the verdict on the mean over seeds."""
    published = spec["published"]
    mean, sd = spread([other[other["metric"]] for other in rows])
    found = verdict(
        mean,
        sd,
        published["value"] if published else None,
        row["n"],
        published["n"] if published else None,
        not spec["protocol_note"],
        metric=row["metric"],
        protocol_note=spec["protocol_note"],
        published_sd=published["sd"] if published else None,
    )
    reason = found.reason
    if published and published["value"] is None:
        reason = f"published in {published['table']}, number not verified"
    extra: dict[str, Any] = {"verdict": found.verdict, "verdict_reason": reason}
    if published:
        extra["published_n"] = published["n"]
        extra["published_table"] = published["table"]
        extra["published_source"] = f"{published['source']}, {published['table']}"
        if published["value"] is not None:
            extra["published_value"] = published["value"]
            extra["difference"] = row[row["metric"]] - published["value"]
    return {**row, **extra}
