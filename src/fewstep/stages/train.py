"""Stage: train a model, or prepare a published checkpoint of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fewstep import checkpoints, files
from fewstep.data import Dataset, open_dataset
from fewstep.device import pick_device
from fewstep.errors import UserError
from fewstep.provenance import row_fields
from fewstep.results import TRAINING
from fewstep.results.store import write_rows
from fewstep.tarflow.model import TarFlow
from fewstep.tarflow.training import NoiseOptions, TarFlowObjective
from fewstep.training import TrainOptions, TrainState, leave_group, train


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
    return TrainOptions(
        steps=spec["steps"] or spec["epochs"] * per_epoch,
        warmup_steps=warmup,
        betas=(spec["betas"][0], spec["betas"][1]),
        grad_clip=spec["clip"],
        seed=spec["seed"],
        save_every=spec["save_every"],
        log_every=spec["log_every"],
        **{name: spec[name] for name in names},
    )


def train_tarflow(
    spec: dict[str, Any], dataset: Path, work: Path, out: Path, curve: Path
) -> None:
    """Train a TarFlow from scratch.

    Args:
        spec: resolved `name`, `model`, `noise`, `train` of the experiment.
        dataset: folder of the dataset.
        work: folder of the unfinished run's checkpoint.
        out: `model.safetensors`; its manifest goes beside it.
        curve: Parquet file of the training curve.
    """
    data = open_dataset(dataset)
    recipe = spec["train"]
    torch.manual_seed(recipe["seed"])
    model = TarFlow(**spec["model"])
    objective = TarFlowObjective(
        model,
        data,
        NoiseOptions(**spec["noise"]),
        batch=recipe["batch"],
        seed=recipe["seed"],
        drop_label=recipe["drop_label"],
        flip=recipe["flip"],
        validation=round(recipe["holdout"] * len(data)),
    )
    if not objective.per_epoch:
        raise UserError(
            f"batch {recipe['batch']} is larger than {len(objective.train_index)} "
            "training images",
            where=f"experiments.{spec['name']}.train.batch",
        )
    tensors, state = train(
        objective,
        train_options(recipe, objective.per_epoch),
        work,
        key=run_key(spec, data),
        device=pick_device(),
        label=f"train {spec['name']}",
    )
    if not leave_group():
        return
    _write_curve(spec["name"], state, curve)
    kept = {name: t for name, t in tensors.items() if not name.endswith("attn_mask")}
    checkpoints.write_state_dict(out, kept, _manifest(spec, data, state))


def run_key(spec: dict[str, Any], data: Dataset) -> str:
    """Identity of a training run: what decides its weights."""
    recipe = {k: v for k, v in spec["train"].items() if k not in _COSMETIC}
    decisive = {
        "model": spec["model"],
        "noise": spec["noise"],
        "train": recipe,
        "code": spec.get("code", ""),
        "images": data.sha256,
        "labels": data.manifest.get("labels_sha256"),
    }
    return files.sha256_json(decisive)


_COSMETIC = ("save_every", "log_every", "gpus")


def _manifest(spec: dict[str, Any], data: Dataset, state: TrainState) -> dict[str, Any]:
    return {
        "experiment": spec["name"],
        "model": spec["model"],
        "noise": spec["noise"],
        "train": spec["train"],
        "dataset": data.name,
        "dataset_sha256": data.sha256,
        "steps": state.step,
        "seconds": round(state.seconds, 1),
        "last": state.curve[-1] if state.curve else {},
        "code_digest": spec.get("code", ""),
        "provenance": row_fields(pick_device()),
    }


def _write_curve(experiment: str, state: TrainState, path: Path) -> None:
    """The rows of the training table."""
    rows = [
        TRAINING.new_row(
            experiment=experiment,
            step=int(point["step"]),
            loss=point["loss"],
            validation_loss=point.get("validation_loss"),
            lr=point["lr"],
            seconds=point["seconds"],
        )
        for point in state.curve
    ]
    write_rows(path, TRAINING, rows)
