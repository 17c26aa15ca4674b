"""Plausible rows of models that draw tokens in parallel, for plots and report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewstep.files import read_json, write_json
from tests import results_samples as samples

BATCHES = (1, 40)
# n, steps, score, class agreement, seconds an image at either batch, ratio at either.
CELLS: dict[str, tuple[int, int, float, float, tuple[float, float], float, float]] = {
    "demo-par-n1": (1, 256, 3.9, 0.95, (0.262, 0.0205), 1, 1),
    "demo-par-n4": (4, 67, 4.4, 0.94, (0.0712, 0.0119), 3.71, 1.72),
    "demo-par-n16": (16, 31, 7.8, 0.89, (0.0391, 0.0221), 6.72, 0.93),
}
BASELINE = "demo-par-n1/cfg"


def par_evaluations() -> list[dict[str, Any]]:
    """Three values of n, three seeds each."""
    return [
        par_evaluation(name, seed, values[2] * (1 + 0.03 * (seed - 1)))
        for name, values in CELLS.items()
        for seed in range(3)
    ]


def par_evaluation(
    name: str, seed: int, score: float, like: str = "", **more: Any
) -> dict[str, Any]:
    """One seed of a cell, its n, steps and times being those of `like`."""
    group, steps, _, correct, seconds, _, ratio = CELLS[like or name]
    values: dict[str, Any] = {
        "experiment": name,
        "system": "par",
        "class_agreement": correct + 0.005 * (seed - 1),
        "extractor": "classifier-32",
        "strategy": None,
        "iterations": None,
        "error_to_exact": None,
        "steps": float(steps),
        "group": group,
        "guidance": 2.0,
        "top_k": 0,
        "top_p": 1.0,
        "guidance_shape": "constant",
        "seconds_per_image": seconds[1],
        "images_per_second": 1 / seconds[1],
        "timing_batch": BATCHES[1],
        "seconds_batch1": seconds[0],
        "images_per_second_best": 1 / seconds[1],
        "best_batch": BATCHES[1],
        "baseline": BASELINE if group > 1 else None,
        "speedup": ratio if group > 1 else None,
        **more,
    }
    return samples.evaluation("cfg", seed, score, **values)


def clock(name: str) -> list[dict[str, Any]]:
    """What an evaluation's JSON says of its times, batch by batch."""
    group, _, _, _, seconds, *ratios = CELLS[name]
    return [
        {
            "batch": batch,
            "seconds_per_image": time,
            "baseline": BASELINE if group > 1 else None,
            "ratio": ratio if group > 1 else None,
        }
        for batch, time, ratio in zip(BATCHES, seconds, ratios, strict=True)
    ]


def par_jsons(folder: Path, rows: list[dict[str, Any]]) -> list[Path]:
    """The evaluations' files, with the times that the workflow writes into them."""
    paths = samples.write_jsons(folder, rows)
    for path in paths:
        name = path.name.partition("_")[0]
        if name in CELLS:
            write_json(path, {**read_json(path), "timing": clock(name)})
    return paths


def par_timing() -> list[dict[str, Any]]:
    """Times of the three cells at both batches."""
    first = samples.timing()[0]
    return [
        {
            **first,
            "experiment": name,
            "sampler": "cfg",
            "batch": entry["batch"],
            "seconds": entry["seconds_per_image"] * entry["batch"],
            "seconds_iqr": 0.04 * entry["seconds_per_image"] * entry["batch"],
            "seconds_per_image": entry["seconds_per_image"],
            "images_per_second": 1 / entry["seconds_per_image"],
            "baseline": entry["baseline"],
            "ratio": entry["ratio"],
        }
        for name in CELLS
        for entry in clock(name)
    ]


def reconstruction(**more: Any) -> dict[str, Any]:
    """What the stage `reconstruct` writes."""
    return {
        "tokenizer": "demo-vq",
        "n": 500,
        "mse": 0.011,
        "psnr": 26.31,
        "metric": "rfrechet",
        "score": 1.204,
        "score_real": 0.412,
        "notes": {},
        "used": 0.781,
        "perplexity": 214.2,
        "extractor": "classifier-32",
        "extractor_sha256": "1a2b" * 16,
        "rounding": "round",
        "tokenizer_sha256": "cafe" * 16,
        "dataset": "colour-mnist-32",
        "dataset_sha256": "d00d" * 16,
        "reference_sha256": "99aa" * 16,
        "held_out": False,
        **more,
    }
