"""What a TarFlow is trained on: noisy images, dropped labels, the likelihood."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fewstep import noise
from fewstep.data import Dataset, epoch_order, holdout_split
from fewstep.images import to_model_range
from fewstep.tarflow.model import FlowOutput, TarFlow

_VALIDATION_BATCH = 250


@dataclass(frozen=True)
class NoiseOptions:
    """Noise added to training images (arXiv 2412.06329, §2.4).

    Attributes:
        kind: "gaussian" (x + std N(0, 1)) or "uniform" (dequantisation).
        std: of the Gaussian.
    """

    kind: str = "gaussian"
    std: float = 0.05


def dequantise(x: Tensor, u: Tensor) -> Tensor:
    """Uniform dequantisation of 8-bit images: ((x+1) 255/2 + u) / 256 * 2 - 1."""
    return ((x + 1) * (255 / 2) + u) / 256 * 2 - 1


class TarFlowObjective:
    """Maximum likelihood of noisy images.

    Args:
        model: the flow.
        dataset: images and labels.
        noise_options: what is added.
        batch: examples a step over all processes.
        seed: of order, flips, noise and dropped labels.
        drop_label: probability that a label is replaced by -1.
        flip: mirror half of the images.
        validation: images held out of training (0 = none).
    """

    def __init__(
        self,
        model: TarFlow,
        dataset: Dataset,
        noise_options: NoiseOptions,
        *,
        batch: int,
        seed: int = 0,
        drop_label: float = 0.0,
        flip: bool = False,
        validation: int = 0,
    ) -> None:
        self.model: nn.Module = model
        self.dataset, self.noise = dataset, noise_options
        self.size, self.seed, self.drop_label = batch, seed, drop_label
        self.flip, self.labelled = flip, model.num_classes > 0
        share = validation / len(dataset)
        self.train_index, self.held_out = holdout_split(len(dataset), seed, share)
        self.per_epoch = len(self.train_index) // batch

    def batch(self, step: int, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        """Noisy images (n, 3, H, W) and labels (n,); see `Objective.batch`."""
        epoch, place = divmod(step, self.per_epoch)
        order = epoch_order(len(self.train_index), self.seed, epoch)
        chosen = order[place * self.size + start : place * self.size + stop]
        first = step * self.size
        return self._noisy(
            self.train_index[chosen], range(first + start, first + stop), "train"
        )

    def _noisy(
        self, index: np.ndarray, draws: range, purpose: str
    ) -> tuple[Tensor, Tensor | None]:
        """Images at `index`; example j draws from its own stream draws[j]."""
        raw, labels = self.dataset.batch(index)
        x = to_model_range(torch.from_numpy(raw))
        extra = np.empty(x.shape, dtype=np.float32)
        mirrored = np.zeros(len(x), dtype=bool)
        for row, number in enumerate(draws):
            stream = noise.stream(self.seed, purpose, number)
            if stream.random() < self.drop_label:
                labels[row] = -1
            mirrored[row] = self.flip and stream.random() < 0.5
            if self.noise.kind == "uniform":
                stream.random(dtype=np.float32, out=extra[row])
            else:
                stream.standard_normal(dtype=np.float32, out=extra[row])
        flipped = torch.from_numpy(mirrored)
        x[flipped] = x[flipped].flip(3)
        drawn = torch.from_numpy(extra)
        if self.noise.kind == "uniform":
            x = dequantise(x, drawn)
        else:
            x = x + self.noise.std * drawn
        return x, torch.from_numpy(labels) if self.labelled else None

    def loss(
        self,
        model: nn.Module,
        batch: tuple[Tensor, Tensor | None],
        device: torch.device,
    ) -> Tensor:
        """Negative log-likelihood a dimension in nats, without the constant."""
        x, y = batch
        y = None if y is None else y.to(device, non_blocking=True)
        out: FlowOutput = model(x.to(device, non_blocking=True), y)
        return out.loss

    def validate(self, model: nn.Module, device: torch.device) -> float | None:
        """Loss on the held-out images with their labels, the same noise each time."""
        if not len(self.held_out):
            return None
        total = 0.0
        for start in range(0, len(self.held_out), _VALIDATION_BATCH):
            index = self.held_out[start : start + _VALIDATION_BATCH]
            draws = range(start, start + len(index))
            total += float(
                self.loss(model, self._noisy(index, draws, "validate"), device)
            ) * len(index)
        return total / len(self.held_out)
