"""A small classifier of the workflow's own images: feature extractor and label check.

Inception's weights are a download of 95 MB and a second an image on a CPU; a LeNet-like
network trained on the demo's data takes seconds for both. A Fréchet distance on its
features is never called FID.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save
from torch import nn

from fewstep import noise
from fewstep.checkpoints import read_state_dict
from fewstep.errors import UserError
from fewstep.extractors import (
    CLASSIFIER,
    CPU,
    Features,
    check_images,
    weights_sha256,
)
from fewstep.files import write_bytes
from fewstep.threads import one_thread

FORMAT = "fewstep-classifier-1"
_GRID = 4  # the convolutions end on 4 x 4 positions
_EARLY, _LATE, _HIDDEN = 16, 32, 64
BATCH, LEARNING_RATE, WEIGHT_DECAY = 64, 3e-3, 1e-2


class SmallClassifier(nn.Module):
    """LeNet-like: 3 x 3 convolutions halving the image to 4 x 4, then two layers.

    The pooled features are the 64 penultimate activations, which know shapes, and the
    means over the image of the 16 maps of the first stage, which know colours, contrast
    and noise (the label of a digit does not, so the penultimate layer hardly does).
    Either part is scaled to a mean variance of 1 on the training images: D = 80.

    Args:
        size: side of the images in pixels, at least 8.
        num_classes: number of classes.
    """

    dim = _HIDDEN + _EARLY
    scale: torch.Tensor

    def __init__(self, size: int, num_classes: int) -> None:
        super().__init__()
        stages = max(1, round(math.log2(size / _GRID)))
        widths = [3, _EARLY, *[_LATE] * (stages - 1)]
        self.stages = nn.ModuleList(
            nn.Conv2d(before, after, kernel_size=3, padding=1)
            for before, after in pairwise(widths)
        )
        self.hidden = nn.Linear(widths[-1] * _GRID**2, _HIDDEN)
        self.head = nn.Linear(_HIDDEN, num_classes)
        self.register_buffer("scale", torch.ones(self.dim))

    def forward(self, images: torch.Tensor) -> Features:
        """Pooled features (B, 80) and logits (B, K) of images (B, 3, H, W), uint8."""
        x = (images.float() - 127.5) / 127.5
        early = None
        for stage in self.stages:
            x = F.max_pool2d(F.relu(stage(x)), 2)
            early = x.mean((2, 3)) if early is None else early
        assert early is not None
        grid = F.adaptive_avg_pool2d(x, _GRID)
        late = F.silu(self.hidden(grid.flatten(1)))
        pool = torch.cat([late, early], dim=1) / self.scale
        return Features(pool, self.head(late))


@dataclass(frozen=True)
class ClassifierExtractor:
    """A trained `SmallClassifier` as an `Extractor`; images must have its size."""

    network: SmallClassifier
    manifest: dict[str, Any]
    weights_sha256: str
    name: str = CLASSIFIER
    device: torch.device = CPU
    is_inception: bool = False
    dim: int = SmallClassifier.dim
    resize: str = "none"

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> Features:
        """Features of images (B, 3, H, W), uint8, H = W = the size of training."""
        check_images(images)
        size = self.manifest["size"]
        if images.shape[2:] != (size, size):
            raise ValueError(f"images of {tuple(images.shape[2:])}: expected {size}")
        features: Features = self.network(images.to(self.device))
        return features


def train_classifier(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    num_classes: int,
    size: int,
    seed: int = 0,
    epochs: int = 10,
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Train a `SmallClassifier` on nine tenths of the images, measure it on the rest.

    AdamW, one-cycle learning rate, images shifted by up to a sixteenth of their size.
    It runs on one CPU thread: the order of sums, so the bits, depends on the number.

    Args:
        images: (N, 3, size, size) uint8; a memory map is read batch by batch.
        labels: (N,) in [0, num_classes).
        num_classes: K, at least 2.
        size: side of the images in pixels, at least 8.
        seed: decides the first weights, the held-out tenth, the order and the shifts.
        epochs: passes over the training images, at least 1.

    Returns:
        The state dict, and a manifest with the accuracy on the held-out tenth.

    Raises:
        UserError: for images or labels that cannot be learned from.
    """
    _check_data(images, labels, num_classes, size)
    labels = np.asarray(labels, dtype=np.int64)
    order = noise.stream(seed, "classifier-split", 0).permutation(len(images))
    held, train = np.sort(order[: len(order) // 10]), np.sort(order[len(order) // 10 :])
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SmallClassifier(size, num_classes)
        _fit(network, images, labels, train, seed, epochs)
        network.eval()
        _set_scale(network, images, train)
        accuracy = _accuracy(network, images, labels, held)
        train_accuracy = _accuracy(network, images, labels, train)
    state = {name: tensor.detach() for name, tensor in network.state_dict().items()}
    manifest = {
        "format": FORMAT,
        "size": size,
        "num_classes": num_classes,
        "dim": network.dim,
        "accuracy": accuracy,
        "train_accuracy": train_accuracy,
        "held_out": len(held),
        "trained_on": len(train),
        "seed": seed,
        "epochs": epochs,
        "batch": BATCH,
        "learning_rate": LEARNING_RATE,
        "weight_decay": WEIGHT_DECAY,
        "weights_sha256": weights_sha256(state),
    }
    return state, manifest


def save_classifier(
    path: str | Path, state: Mapping[str, torch.Tensor], manifest: Mapping[str, Any]
) -> None:
    """Write a classifier as safetensors with its manifest in the metadata."""
    # One key: safetensors does not fix the order of several.
    metadata = {"manifest": json.dumps(dict(manifest), allow_nan=False)}
    write_bytes(path, save(dict(state), metadata))


def load_classifier(
    path: str | Path, *, name: str = CLASSIFIER, device: torch.device = CPU
) -> ClassifierExtractor:
    """Read what `save_classifier` wrote.

    Raises:
        UserError: where the file is missing, broken or something else.
    """
    state = read_state_dict(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            manifest = json.loads((file.metadata() or {})["manifest"])
        network = SmallClassifier(manifest["size"], manifest["num_classes"])
        network.load_state_dict(state)
    except (
        *(OSError, LookupError, ValueError, TypeError, RuntimeError),
        safetensors.SafetensorError,
    ) as error:
        raise UserError(
            f"not a classifier of fewstep ({type(error).__name__})",
            where=str(path),
            expected="a .safetensors file with tensors and a manifest that agree",
            do="delete it and train it again",
        ) from error
    network.requires_grad_(False).eval().to(device)
    return ClassifierExtractor(network, manifest, weights_sha256(state), name, device)


def class_agreement(
    logits: torch.Tensor | NDArray[Any], labels: torch.Tensor | NDArray[Any]
) -> float:
    """Share in [0, 1] of samples that are taken for the class that was asked for.

    Args:
        logits: (N, K), N >= 1.
        labels: (N,) classes asked for, in [0, K).
    """
    scores, asked = torch.as_tensor(logits), torch.as_tensor(labels)
    if scores.dim() != 2 or asked.shape != scores.shape[:1] or not len(asked):
        raise ValueError(f"logits {tuple(scores.shape)}, labels {tuple(asked.shape)}")
    if asked.min() < 0 or asked.max() >= scores.shape[1]:
        raise ValueError(f"labels outside [0, {scores.shape[1]})")
    right = scores.cpu().argmax(dim=1) == asked.cpu()
    return float(right.double().mean())


def _check_data(
    images: NDArray[np.uint8], labels: NDArray[np.int64], num_classes: int, size: int
) -> None:
    fault = ""
    if images.shape[1:] != (3, size, size) or images.dtype != np.uint8:
        fault = (
            f"images of {images.dtype} {images.shape}, not uint8 3 x {size} x {size}"
        )
    elif size < 8:
        fault = f"images of {size} pixels, fewer than 8"
    elif len(labels) != len(images) or len(images) < 10:
        fault = f"{len(images)} images and {len(labels)} labels"
    elif num_classes < 2 or labels.min() < 0 or labels.max() >= num_classes:
        span = f"{labels.min()}..{labels.max()}"
        fault = f"labels {span} of {num_classes} classes"
    if fault:
        raise UserError(f"cannot train a classifier on {fault}")


def _fit(
    network: SmallClassifier,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    train: NDArray[np.int64],
    seed: int,
    epochs: int,
) -> None:
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY
    )
    steps = epochs * math.ceil(len(train) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.2
    )
    reach = max(1, images.shape[-1] // 16)
    for epoch in range(epochs):
        draws = noise.stream(seed, "classifier-epoch", epoch)
        order = draws.permutation(train)
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            right, down = draws.integers(0, 2 * reach + 1, size=2).tolist()
            batch = _shift(_take(images, chosen), reach, right, down)
            loss = F.cross_entropy(
                network(batch).logits, torch.from_numpy(labels[chosen])
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()


def _shift(batch: torch.Tensor, reach: int, right: int, down: int) -> torch.Tensor:
    """Move images by up to `reach` pixels, repeating their edges."""
    size = batch.shape[-1]
    # Padding by repetition is not there for bytes.
    padded = F.pad(batch.float(), (reach,) * 4, mode="replicate")
    return padded[:, :, down : down + size, right : right + size]


def _take(images: NDArray[np.uint8], chosen: NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images[chosen]))


@torch.inference_mode()
def _set_scale(
    network: SmallClassifier, images: NDArray[np.uint8], train: NDArray[np.int64]
) -> None:
    """Give either part of the features a mean variance of 1 on the training images."""
    batches = range(0, len(train), BATCH)
    pool = torch.cat(
        [network(_take(images, train[s : s + BATCH])).pool.double() for s in batches]
    )
    for part in (slice(0, _HIDDEN), slice(_HIDDEN, network.dim)):
        spread = pool[:, part].var(dim=0).mean().sqrt()
        network.scale[part] = spread if spread > 0 else 1.0


@torch.inference_mode()
def _accuracy(
    network: SmallClassifier,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    chosen: NDArray[np.int64],
) -> float:
    batches = range(0, len(chosen), BATCH)
    logits = [network(_take(images, chosen[s : s + BATCH])).logits for s in batches]
    return class_agreement(torch.cat(logits), labels[chosen])
