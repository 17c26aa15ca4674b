"""Stage: train a PAR transformer on codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fewstep import checkpoints, files
from fewstep.device import pick_device
from fewstep.errors import UserError
from fewstep.par.codes import CodeData, open_codes
from fewstep.par.model import Transformer
from fewstep.par.objective import CodesObjective
from fewstep.stages.training import (
    COSMETIC,
    history_of,
    manifest_of,
    train_options,
    write_curve,
)
from fewstep.training import closing_group, train

MODEL_KEYS = ("dropout", "token_dropout", "attention_dropout", "drop_path", "recompute")
"""Keys of `train` that are arguments of the transformer."""


def train_par(
    spec: dict[str, Any],
    codes: Path,
    start: Path | None,
    work: Path,
    out: Path,
    curve: Path,
) -> None:
    """Train a transformer, from random weights or from others'.

    Args:
        spec: resolved `name`, `model`, `train` and `code` of the experiment, and
            `weights_code`, the digest of the code that decides the weights.
        codes: `codes.json`, or a released folder of codes.
        start: `model.safetensors` to start from; None: random weights of the seed.
        work: folder of the unfinished run's checkpoint.
        out: `model.safetensors`; its manifest goes beside it.
        curve: Parquet file of the training curve.

    Raises:
        UserError: for codes or a start that do not fit the model.
    """
    recipe = spec["train"]
    model = build_model(spec, start)
    data = open_codes(
        codes, codebook_size=model.vocab_size, num_classes=model.num_classes
    )
    objective = _objective(spec, model, data)
    about = _manifest(spec, data, start)
    tensors, state = train(
        objective,
        train_options(recipe, objective.per_epoch),
        work,
        key=run_key(spec, about),
        device=pick_device(),
        label=f"train {spec['name']}",
    )
    with closing_group() as first:
        if not first:
            return
        write_curve(spec["name"], state, curve)
        checkpoints.write_state_dict(out, tensors, about, history_of(spec, state))


def build_model(spec: dict[str, Any], start: Path | None) -> Transformer:
    """The transformer of the experiment with the dropouts of its recipe.

    Raises:
        UserError: for weights to start from that are another model's.
    """
    recipe = spec["train"]
    extra = {key: recipe[key] for key in MODEL_KEYS if key in recipe}
    torch.manual_seed(recipe["seed"])
    model = Transformer(**spec["model"], **extra)
    if start is not None:
        tensors = checkpoints.read_state_dict(start)
        checkpoints.load_weights(model, tensors, where=str(start))
    return model


def _objective(
    spec: dict[str, Any], model: Transformer, data: CodeData
) -> CodesObjective:
    recipe = spec["train"]
    try:
        return CodesObjective(
            model,
            data,
            batch=recipe["batch"],
            seed=recipe["seed"],
            drop_label=recipe["drop_label"],
            validation=round(recipe["holdout"] * len(data)),
        )
    except UserError as error:
        where = f"experiments.{spec['name']}"
        raise UserError(
            error.what, where=where, expected=error.expected, do=error.do
        ) from error


def run_key(spec: dict[str, Any], about: dict[str, Any]) -> str:
    """Identity of a training run: what decides its weights.

    Args:
        spec: see `train_par`.
        about: the manifest, for the hashes of what the run reads.
    """
    recipe = {k: v for k, v in spec["train"].items() if k not in COSMETIC}
    decisive = {
        "model": spec["model"],
        "train": recipe,
        "code": spec.get("weights_code", ""),
        "codes": about["codes_sha256"],
        "start": about["start_sha256"],
    }
    return files.sha256_json(decisive)


def _manifest(
    spec: dict[str, Any], data: CodeData, start: Path | None
) -> dict[str, Any]:
    origin = data.manifest.get("origin") or {}
    return {
        **manifest_of(spec),
        "codes": spec["train"].get("codes"),
        "codes_sha256": data.sha256,
        "dataset": origin.get("dataset"),
        "tokenizer_sha256": origin.get("tokenizer_sha256"),
        "start_sha256": files.sha256_file(start) if start else None,
    }
