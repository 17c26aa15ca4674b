"""Images, tokenizers and checkpoints small enough for a test."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fewstep import files
from fewstep.data import Dataset, open_dataset
from fewstep.errors import UserError
from fewstep.par.model import Transformer
from fewstep.par.tokenizer import VQModel

Tensors = dict[str, Tensor]

MODEL: dict[str, Any] = {
    "ch": 32,
    "ch_mult": [1, 1],
    "num_res_blocks": 1,
    "z_channels": 8,
    "codebook_size": 32,
    "codebook_embed_dim": 4,
    "codebook_l2_norm": True,
    "dropout": 0.0,
}


def model(seed: int = 0, **changes: Any) -> VQModel:
    """A tokenizer of 8 x 8 images, 4 x 4 codes."""
    torch.manual_seed(seed)
    return VQModel(**{**MODEL, **changes})


def write_images(folder: Path, count: int = 40, size: int = 8) -> Path:
    """Two colours an image, cut at another place each; classes in order."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    images = np.empty((count, 3, size, size), dtype=np.uint8)
    for image in images:
        left, right = draw.integers(0, 256, (2, 3, 1, 1))
        cut = draw.integers(1, size)
        image[:, :, :cut], image[:, :, cut:] = left, right
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", np.arange(count, dtype=np.int64) * 4 // count)
    manifest = {
        "name": "halves",
        "size": size,
        "channels": 3,
        "count": count,
        "num_classes": 4,
        "classes": list("abcd"),
        "sha256": files.sha256_file(folder / "images.npy"),
        "labels_sha256": files.sha256_file(folder / "labels.npy"),
    }
    files.write_json(folder / "dataset.json", manifest)
    return folder


def images(folder: Path, count: int = 40) -> Dataset:
    """The same, opened."""
    return open_dataset(write_images(folder, count))


def train_spec(**changes: Any) -> dict[str, Any]:
    """The spec of a tokenizer's training, as the graph resolves it."""
    loss = {
        "beta": 0.25,
        "entropy_ratio": 0.0,
        "reconstruction": "l2",
        "revive_every": 2,
    }
    train = {
        "batch": 4,
        "lr": 2e-3,
        "min_lr": 1e-6,
        "start_lr": 1e-6,
        "steps": 6,
        "epochs": None,
        "warmup_steps": 0,
        "warmup_epochs": None,
        "weight_decay": 1e-4,
        "betas": [0.9, 0.95],
        "clip": 1.0,
        "ema": 0.0,
        "precision": "fp32",
        "seed": 0,
        "flip": True,
        "holdout": 0.2,
        "save_every": 1,
        "log_every": 1,
    }
    for part in (loss, train):
        part.update({key: changes.pop(key) for key in part if key in changes})
    spec = {"name": "tried", "model": MODEL, "loss": loss, "train": train}
    return {**spec, "code": "c0de", **changes}


SIZES: dict[str, Any] = {
    "dim": 16,
    "n_layer": 1,
    "n_head": 2,
    "vocab_size": 8,
    "grid": 4,
    "num_classes": 3,
    "multiple_of": 16,
}


ARGS = argparse.Namespace(gpt_model="GPT-XL", spe_token_num=3, cfg=1.5, data_path=None)


def ddp(state: Tensors) -> Any:
    """As LlamaGen's and PAR's training saves it."""
    average = {name: value + 1 for name, value in state.items()}
    optimizer = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": []}
    more = {"optimizer": optimizer, "steps": 7, "args": ARGS, "ema": average}
    return {"model": OrderedDict(state), **more}


def weights_of(group: int = 4) -> Tensors:
    """Weights of a small transformer, all of them random."""
    torch.manual_seed(0)
    state = Transformer(**SIZES, ar_token_num=group).state_dict()
    return {name: torch.randn_like(value) for name, value in state.items()}


def saved(content: Any, folder: Path) -> Path:
    """The file of a content."""
    torch.save(content, folder / "checkpoint.pt")
    return folder / "checkpoint.pt"


def complaint(act: Callable[[], Any]) -> str:
    """The one line of a user's mistake."""
    with pytest.raises(UserError) as caught:
        act()
    line = str(caught.value)
    assert "\n" not in line
    return line


def assert_equal(found: Tensors, wanted: Tensors) -> None:
    """Equal names, and numbers equal to the bit, in float32."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], value), name
