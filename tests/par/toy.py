"""Codes small enough to train on in a test."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fewstep.par.model import Transformer


class ToyCodes:
    """Codes (images, views, N) and labels in memory, with what a manifest says."""

    def __init__(
        self, codes: NDArray[np.int64], labels: NDArray[np.int64], classes: int
    ) -> None:
        self.codes, self.labels, self.classes = codes, labels, classes
        self.views, self.tokens = codes.shape[1:]
        self.grid = round(self.tokens**0.5)
        self.largest = int(codes.max(initial=0))
        self.codebook_size, self.sha256 = self.largest + 1, "c" * 64
        origin = {"tokenizer_sha256": "t" * 64, "dataset": "toy"}
        self.manifest: dict[str, Any] = {"origin": origin}

    def __len__(self) -> int:
        return len(self.codes)

    def batch(
        self, images: NDArray[np.int64], views: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self.codes[images, views], self.labels[images]


def numbered(count: int = 40, views: int = 2) -> ToyCodes:
    """Codes [i, v, i, v]: they tell the image and its view."""
    i, v = np.meshgrid(np.arange(count), np.arange(views), indexing="ij")
    return ToyCodes(np.stack([i, v, i, v], -1), np.arange(count) % 3, 3)


def patterned(count: int = 64, grid: int = 4, vocab: int = 11) -> ToyCodes:
    """Diagonal stripes that begin with the class, an eighth of them changed."""
    draw, labels = np.random.default_rng(0), np.arange(count) % 3
    place = np.arange(grid)[:, None] + np.arange(grid)
    whole = (labels[:, None] + place.flatten()) % vocab
    codes = np.stack([whole, whole], axis=1)
    changed = draw.random(codes.shape) < 0.125
    return ToyCodes(
        np.where(changed, draw.integers(vocab, size=codes.shape), codes), labels, 3
    )


def transformer(grid: int = 4, vocab: int = 11, **more: Any) -> Transformer:
    """Two blocks of width 16, from a fixed seed."""
    torch.manual_seed(0)
    sizes = {"dim": 16, "n_layer": 2, "n_head": 2, "multiple_of": 16}
    return Transformer(vocab_size=vocab, grid=grid, num_classes=3, **{**sizes, **more})
