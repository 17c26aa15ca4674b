"""Stage: train a TarFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fewstep import checkpoints, files
from fewstep.data import Dataset, open_dataset
from fewstep.device import pick_device
from fewstep.errors import UserError
from fewstep.stages.training import (
    COSMETIC,
    history_of,
    manifest_of,
    train_options,
    write_curve,
)
from fewstep.tarflow.model import TarFlow
from fewstep.tarflow.training import NoiseOptions, TarFlowObjective
from fewstep.training import closing_group, train


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
    with closing_group() as first:
        if not first:
            return
        write_curve(spec["name"], state, curve)
        kept = {
            name: t for name, t in tensors.items() if not name.endswith("attn_mask")
        }
        checkpoints.write_state_dict(
            out, kept, _manifest(spec, data), history_of(spec, state)
        )


def run_key(spec: dict[str, Any], data: Dataset) -> str:
    """Identity of a training run: what decides its weights."""
    recipe = {k: v for k, v in spec["train"].items() if k not in COSMETIC}
    decisive = {
        "model": spec["model"],
        "noise": spec["noise"],
        "train": recipe,
        "code": spec.get("code", ""),
        "images": data.sha256,
        "labels": data.manifest.get("labels_sha256"),
    }
    return files.sha256_json(decisive)


def _manifest(spec: dict[str, Any], data: Dataset) -> dict[str, Any]:
    return {
        **manifest_of(spec),
        "noise": spec["noise"],
        "dataset": data.name,
        "dataset_sha256": data.sha256,
    }
