"""What the training stages of all systems share: recipe, curve, manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewstep.device import pick_device
from fewstep.provenance import row_fields
from fewstep.results import TRAINING
from fewstep.results.parquet import write_rows
from fewstep.training import TrainOptions, TrainState

COSMETIC = ("save_every", "log_every", "gpus", "nodes", "sharded", "recompute")
"""Keys of a recipe that decide nothing about the weights."""


_OPTIONAL = ("ema_warmup", "count_offset", "accumulate", "decay", "sharded")


def train_options(spec: dict[str, Any], per_epoch: int) -> TrainOptions:
    """The recipe in steps; `spec` is a resolved `TrainSpec`.

    Args:
        spec: epochs are turned into steps with
        per_epoch: steps an epoch.
    """
    warmup = spec["warmup_steps"]
    if warmup is None:
        warmup = round((spec["warmup_epochs"] or 0) * per_epoch)
    names = ("batch", "lr", "start_lr", "min_lr", "weight_decay", "ema", "precision")
    more = {name: spec[name] for name in _OPTIONAL if name in spec}
    return TrainOptions(
        steps=spec["steps"] or spec["epochs"] * per_epoch,
        warmup_steps=warmup,
        betas=(spec["betas"][0], spec["betas"][1]),
        grad_clip=spec["clip"],
        seed=spec["seed"],
        save_every=spec["save_every"],
        log_every=spec["log_every"],
        snapshot_every=(spec.get("snapshots") or {}).get("every", 0),
        **{name: spec[name] for name in names},
        **more,
    )


_WHOLE = ("step", "images", "score_n")


def write_curve(
    experiment: str, state: TrainState, path: Path, score_metric: str | None = None
) -> None:
    """The rows of the training table; `score_metric` names the snapshots' score."""
    rows = []
    for point in state.curve:
        values: dict[str, Any] = dict(point)
        for name in _WHOLE:
            if name in values:
                values[name] = int(values[name])
        if "score" in values:
            values["score_metric"] = score_metric
        rows.append(TRAINING.new_row(experiment=experiment, **values))
    write_rows(path, TRAINING, rows)


def manifest_of(spec: dict[str, Any]) -> dict[str, Any]:
    """What every trained model's manifest says: what decides its weights."""
    return {
        "experiment": spec["name"],
        "model": spec["model"],
        "train": {k: v for k, v in spec["train"].items() if k not in COSMETIC},
    }


def history_of(spec: dict[str, Any], state: TrainState) -> dict[str, Any]:
    """When, where and how fast it was trained: not in the file of weights."""
    return {
        "code_digest": spec.get("code", ""),
        "cosmetic": {k: v for k, v in spec["train"].items() if k in COSMETIC},
        "steps": state.step,
        "seconds": round(state.seconds, 1),
        "last": state.curve[-1] if state.curve else {},
        "provenance": row_fields(pick_device()),
    }
