"""The stage that trains a transformer on codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from fewstep import checkpoints
from fewstep.errors import UserError
from fewstep.par.model import Transformer
from fewstep.stages import train_par as stage
from fewstep.stages.train_par import build_model, run_key, train_par
from fewstep.stages.training import COSMETIC, train_options
from tests.par.code_world import released
from tests.par.toy import ToyCodes, patterned

MODEL = {
    "dim": 16,
    "n_layer": 2,
    "n_head": 2,
    "multiple_of": 16,
    "vocab_size": 11,
    "grid": 4,
    "num_classes": 3,
    "ar_token_num": 4,
}
TRAIN: dict[str, Any] = {
    "steps": 6,
    "epochs": None,
    "warmup_steps": None,
    "warmup_epochs": 1.0,
    "batch": 8,
    "lr": 3e-3,
    "start_lr": 0.0,
    "min_lr": 0.0,
    "weight_decay": 0.05,
    "betas": [0.9, 0.95],
    "clip": 1.0,
    "ema": 0.9,
    "precision": "fp32",
    "seed": 0,
    "save_every": 2,
    "log_every": 3,
    "gpus": 1,
    "holdout": 0.125,
    "drop_label": 0.1,
    "codes": "stripes",
    "start": None,
    "decay": "matrices",
    "sharded": False,
    "accumulate": 2,
    "dropout": 0.1,
    "token_dropout": 0.1,
    "drop_path": 0.0,
    "attention_dropout": 0.0,
    "recompute": False,
}


def spec(**train: Any) -> dict[str, Any]:
    return {"name": "tried", "model": MODEL, "train": {**TRAIN, **train}, "code": "x"}


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> ToyCodes:
    """Codes of stripes under every path."""
    codes = patterned()
    monkeypatch.setattr(stage, "open_codes", lambda *_, **__: codes)
    return codes


def run(folder: Path, start: Path | None = None, **train: Any) -> Path:
    """Train in a folder; the file of weights."""
    out = folder / "model.safetensors"
    paths = (folder / "codes.json", start, folder / "work", out, folder / "c.parquet")
    train_par(spec(**train), *paths)
    return out


def test_weights_manifest_and_curve(data: ToyCodes, tmp_path: Path) -> None:
    """The file loads strictly; what it says of its origin is in it and beside it."""
    out = run(tmp_path)
    model = Transformer(**MODEL)  # type: ignore[arg-type]
    checkpoints.load_weights(model, checkpoints.read_state_dict(out), where=str(out))
    about = checkpoints.read_manifest(out)
    expected = {"codes": "stripes", "codes_sha256": "c" * 64, "dataset": "toy"}
    expected |= {"tokenizer_sha256": "t" * 64, "start_sha256": None}
    decisive = {key: value for key, value in TRAIN.items() if key not in COSMETIC}
    expected |= {"experiment": "tried", "model": MODEL, "train": decisive}
    assert about == expected
    beside = json.loads(out.with_suffix(".json").read_text())
    assert beside["steps"] == 6 and beside["codes"] == "stripes"
    cosmetic = {key: TRAIN[key] for key in COSMETIC if key in TRAIN}
    assert beside["cosmetic"] == cosmetic and cosmetic
    curve = pd.read_parquet(tmp_path / "c.parquet")
    assert curve["step"].tolist() == [3, 6] and curve["validation_loss"].notna().all()


def test_the_file_of_weights_is_what_decides_it(data: ToyCodes, tmp_path: Path) -> None:
    """How it is watched, saved and spread changes no byte of it; the recipe does."""
    spread = {"gpus": 8, "sharded": True, "recompute": True}
    one = run(tmp_path / "a").read_bytes()
    assert run(tmp_path / "b", save_every=5, log_every=1, **spread).read_bytes() == one
    assert run(tmp_path / "c", lr=1e-3).read_bytes() != one


def test_a_run_starts_from_given_weights(data: ToyCodes, tmp_path: Path) -> None:
    """`start` gives the first weights and is in the manifest, not random ones."""
    first = run(tmp_path / "first")
    again = run(tmp_path / "again", first, lr=1e-9, ema=0.0)
    one, other = (checkpoints.read_state_dict(path) for path in (first, again))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=1e-6)
    assert len(checkpoints.read_manifest(again)["start_sha256"]) == 64


def test_a_start_of_another_group_is_one_line(data: ToyCodes, tmp_path: Path) -> None:
    """Weights of another n name the tensor that does not fit."""
    first = run(tmp_path / "first")
    with pytest.raises(UserError, match=r"spe_tok_embeddings.*do not fit"):
        build_model({**spec(), "model": {**MODEL, "ar_token_num": 1}}, first)


def test_dropouts_of_the_recipe_are_the_model_s() -> None:
    """Dropouts and recomputing come from `train`; weights from its seed."""
    rates = {"dropout": 0.3, "token_dropout": 0.2, "attention_dropout": 0.1}
    model = build_model(spec(**rates, drop_path=0.4, recompute=True), None)
    assert model.token_dropout.p == 0.2 and model.recompute
    block = model.get_submodule("layers.1")
    assert block.get_submodule("attention").probability == 0.1
    assert block.get_submodule("feed_forward.dropout").p == 0.3  # type: ignore[comparison-overlap]
    assert block.get_submodule("drop_path").rate == 0.4
    same, other = build_model(spec(), None), build_model(spec(seed=1), None)
    weight = model.tok_embeddings.weight
    assert torch.equal(same.tok_embeddings.weight, weight)
    assert not torch.equal(other.tok_embeddings.weight, weight)


def test_the_recipe_s_options_reach_the_loop() -> None:
    """What decays, micro-batches and sharding are passed on."""
    options = train_options(spec(sharded=True)["train"], per_epoch=7)
    assert (options.decay, options.sharded, options.accumulate) == ("matrices", True, 2)
    assert options.warmup_steps == 7


ABOUT = {"codes_sha256": "c", "start_sha256": None}


@pytest.mark.parametrize("key", ["gpus", "sharded", "save_every", "log_every"])
def test_run_identity_ignores_where_and_how_often(key: str) -> None:
    """A run goes on with other GPUs, sharded or not."""
    assert run_key(spec(**{key: 9}), ABOUT) == run_key(spec(), ABOUT)


def test_run_identity_is_what_decides_the_weights() -> None:
    """Recipe, model, codes, start and code make another run each."""
    others = [
        run_key(spec(dropout=0.5), ABOUT),
        run_key({**spec(), "model": {**MODEL, "dim": 32}}, ABOUT),
        run_key({**spec(), "weights_code": "y"}, ABOUT),
        run_key(spec(), {**ABOUT, "codes_sha256": "d"}),
        run_key(spec(), {**ABOUT, "start_sha256": "s"}),
    ]
    assert len({run_key(spec(), ABOUT), *others}) == 6
    assert run_key({**spec(), "code": "y"}, ABOUT) == run_key(spec(), ABOUT)


def test_a_batch_that_is_too_large_names_the_experiment(
    data: ToyCodes, tmp_path: Path
) -> None:
    """One line says which experiment's batch does not fit its images."""
    with pytest.raises(UserError, match=r"experiments\.tried: batch 64.*56 training"):
        run(tmp_path, batch=64)


def test_a_released_folder_trains(tmp_path: Path) -> None:
    """Codes in LlamaGen's own files train as ours do; those outside are one line."""
    released(tmp_path / "set")
    model = {**MODEL, "grid": 2, "vocab_size": 50, "ar_token_num": 1}
    small = spec(steps=2, batch=4, holdout=0.2, ema=0.0)
    out = tmp_path / "model.safetensors"
    paths = tmp_path / "set", None, tmp_path / "work", out, tmp_path / "c.parquet"
    train_par({**small, "model": model}, *paths)
    assert checkpoints.read_manifest(out)["dataset"] == "tiny8"
    tight = {**small, "model": {**model, "vocab_size": 20}, "code": "y"}
    with pytest.raises(UserError, match=r"codes.*expected 0 to 19"):
        train_par(tight, *paths)
