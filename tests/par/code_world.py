"""What the tests of codes share: images, an exact tokenizer, sets of shards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fewstep.data import Dataset
from fewstep.par.code_plan import CodePlan
from fewstep.par.code_sources import BuiltSource
from fewstep.par.code_store import write_codes, write_shard
from fewstep.par.codes import CodeData, collect

PLAN = CodePlan(count=22, shard=8, views=2, grid=2, codebook_size=256, num_classes=3)
ORIGIN = {"tokenizer_sha256": "a" * 64, "dataset": "tiny", "dataset_sha256": "b" * 64}
AGAIN = "delete it and run again: only this shard is made anew"


class Levels(nn.Module):
    """A tokenizer whose codes are the rounded mean levels of 4 x 4 pixels."""

    downsample, codebook_size = 4, 256

    def __init__(self) -> None:
        super().__init__()
        self.quantize = self
        self.sizes: list[int] = []

    def latent(self, images: Tensor) -> Tensor:
        """(B, 1, h, w) of images (B, 3, H, W) in [-1, 1]."""
        self.sizes.append(len(images))
        levels = (images.double() + 1) * 127.5
        return F.avg_pool2d(levels.mean(1, keepdim=True), 4)

    def indices(self, z: Tensor) -> Tensor:
        """Codes (...) of latents (..., 1)."""
        return z[..., 0].round().long()


def level_codes(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The codes of `Levels`, (n, 4) of uint8 (n, 3, 8, 8), in plain NumPy."""
    means = images.reshape(-1, 3, 2, 4, 2, 4).mean(axis=(1, 3, 5)).round()
    return means.astype(np.int64).reshape(-1, 4)


def dataset(count: int = 22, size: int = 8) -> Dataset:
    """Random images of three classes."""
    images = np.random.default_rng(0).integers(
        0, 256, (count, 3, size, size), dtype=np.uint8
    )
    about = {"size": size, "num_classes": 3, "sha256": "b" * 64}
    return Dataset(images, np.arange(count, dtype=np.int64) * 7 % 3, about)


def source(count: int = 22) -> BuiltSource:
    """`dataset`, plain and mirrored."""
    return BuiltSource(dataset(count), "flip")


def make(folder: Path, plan: CodePlan = PLAN, **options: Any) -> Path:
    """All shards of a plan and their manifest; gives its path."""
    for number in range(plan.shards):
        make_one(folder, number, plan, **options)
    collect(sorted(folder.glob("shard-*.json")), folder / "codes.json")
    return folder / "codes.json"


def make_one(
    folder: Path, number: int = 1, plan: CodePlan = PLAN, **options: Any
) -> Path:
    """One shard; gives its path."""
    chosen = {"vq": Levels(), "source": source(), "origin": ORIGIN, **options}
    path = folder / f"shard-{number:05d}.arrow"
    write_shard(chosen.pop("vq"), chosen.pop("source"), plan, number, path, **chosen)
    return path


def store(folder: Path, codes: NDArray[Any], shard: int, **changes: Any) -> Path:
    """Store given codes (images, views, N), labels 0; gives the manifest's path."""
    count, views, tokens = codes.shape
    plan = CodePlan(count, shard, views, int(tokens**0.5), 65536, 1)
    plan = replace(plan, **changes)
    for number in range(plan.shards):
        rows = plan.indices(number)
        part, path = codes[rows.start : rows.stop], folder / f"{number}.arrow"
        write_codes(plan, number, path, part, np.zeros(len(rows)), origin=ORIGIN)
    collect(list(folder.glob("*.json")), folder / "codes.json")
    return folder / "codes.json"


def everything(data: CodeData) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All codes (images, views, N) and the labels (images,)."""
    image, view = np.divmod(np.arange(len(data) * data.views), data.views)
    codes, labels = data.batch(image, view)
    return codes.reshape(len(data), data.views, -1), labels[:: data.views]


def released(folder: Path, count: int = 5, views: int = 2) -> NDArray[np.int64]:
    """A released folder of codes below 50, labels i mod 3; gives the codes."""
    codes = np.random.default_rng(1).integers(0, 50, (count, 1, views, 4))
    for kind in ("codes", "labels"):
        (folder / f"tiny8_{kind}").mkdir(parents=True)
    for index, one in enumerate(codes):
        np.save(folder / "tiny8_codes" / f"{index}.npy", one)
        np.save(folder / "tiny8_labels" / f"{index}.npy", np.array([index % 3]))
    return codes[:, 0]


def tiny_tokenizer() -> dict[str, Any]:
    """Arguments of a real tokenizer, 4 x 4 pixels a code."""
    return {
        "ch": 32,
        "ch_mult": [1, 1, 2],
        "num_res_blocks": 1,
        "z_channels": 32,
        "codebook_size": 64,
        "codebook_embed_dim": 4,
    }


def out_of_memory(limit: int) -> Levels:
    """`Levels` on a device that holds `limit` views."""

    class Small(Levels):
        def latent(self, images: Tensor) -> Tensor:
            if len(images) > limit:
                raise torch.OutOfMemoryError("full")
            return super().latent(images)

    return Small()
