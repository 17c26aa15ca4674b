"""Stage: train a VQ tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fewstep import checkpoints, files
from fewstep.data import Dataset, open_dataset
from fewstep.device import pick_device
from fewstep.errors import UserError
from fewstep.par.tokenizer import VQModel
from fewstep.par.vq_training import VQObjective
from fewstep.stages.training import (
    COSMETIC,
    history_of,
    manifest_of,
    train_options,
    write_curve,
)
from fewstep.training import closing_group, train


def train_tokenizer(
    spec: dict[str, Any], dataset: Path, work: Path, out: Path, curve: Path
) -> None:
    """Train a VQ tokenizer from scratch.

    Args:
        spec: resolved `name`, `model`, `loss` (`beta`, `entropy_ratio`,
            `reconstruction`, `revive_every`), `train` and `code` of the tokenizer,
            and `weights_code`, the digest of the code that decides the weights.
        dataset: folder of the dataset.
        work: folder of the unfinished run's checkpoint.
        out: `….safetensors`; its manifest goes beside it.
        curve: Parquet file of the training curve.

    Raises:
        UserError: for images that the model cannot halve, or too large a batch.
    """
    data = open_dataset(dataset)
    recipe, where = spec["train"], f"tokenizers.{spec['name']}"
    torch.manual_seed(recipe["seed"])
    model = VQModel(**spec["model"])
    if data.size % model.downsample:
        raise UserError(
            f"images of {data.size} pixels and a tokenizer of 1/{model.downsample}",
            where=f"{where}.model.ch_mult",
            expected=f"a size that {model.downsample} divides",
        )
    objective = VQObjective(
        model,
        data,
        batch=recipe["batch"],
        seed=recipe["seed"],
        flip=recipe["flip"],
        validation=round(recipe["holdout"] * len(data)),
        **spec["loss"],
    )
    if not objective.per_epoch:
        raise UserError(
            f"batch {recipe['batch']} is larger than {len(objective.train_index)} "
            "training images",
            where=f"{where}.train.batch",
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
        checkpoints.write_state_dict(
            out, tensors, _manifest(spec, data), history_of(spec, state)
        )


def run_key(spec: dict[str, Any], data: Dataset) -> str:
    """Identity of a training run: what decides its weights."""
    decisive = {
        "model": spec["model"],
        "loss": spec["loss"],
        "train": {k: v for k, v in spec["train"].items() if k not in COSMETIC},
        "code": spec.get("weights_code", ""),
        "images": data.sha256,
    }
    return files.sha256_json(decisive)


def _manifest(spec: dict[str, Any], data: Dataset) -> dict[str, Any]:
    about = manifest_of(spec)
    return {
        "tokenizer": about.pop("experiment"),
        **about,
        "loss": spec["loss"],
        "dataset": data.name,
        "dataset_sha256": data.sha256,
    }
