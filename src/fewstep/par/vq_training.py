"""What a VQ tokenizer is trained on, and how its codebook is kept in use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fewstep import noise
from fewstep.data import Dataset, epoch_order, holdout_split
from fewstep.images import to_model_range
from fewstep.par.tokenizer import VQModel, VQOutput
from fewstep.par.vq_losses import (
    Reconstruction,
    VQLosses,
    codebook_loss,
    commitment_loss,
    entropy_loss,
    reconstruction_loss,
)

_VALIDATION_BATCH = 100
_LATENTS_AN_ENTRY = 16
"""An entry is unused when none of this many latents an entry is nearest to it."""


@dataclass(frozen=True)
class VQBatch:
    """A share of the batch of one step.

    Attributes:
        step: of the run, from 0; None outside training.
        images: (n, 3, H, W) in [-1, 1].
    """

    step: int | None
    images: Tensor


class VQObjective:
    """Reconstruction through a codebook.

    With `revive_every` the entries that no latent is nearest to are moved onto latents,
    at step 0 (where the codebook so begins as latents) and every so many steps. Which
    images are looked at and which latents are taken is decided by (seed, step), and
    all that changes is a parameter: a resume repeats it.

    Args:
        model: the tokenizer.
        dataset: images.
        batch: examples a step over all processes.
        seed: of order, flips and revival.
        flip: mirror half of the images.
        validation: images held out of training (0 = none).
        beta: weight of the commitment.
        entropy_ratio: weight of the entropy term, 0: none.
        reconstruction: "l2" or "l1".
        revive_every: steps between two revivals, 0: none.
    """

    def __init__(
        self,
        model: VQModel,
        dataset: Dataset,
        *,
        batch: int,
        seed: int = 0,
        flip: bool = False,
        validation: int = 0,
        beta: float = 0.25,
        entropy_ratio: float = 0.0,
        reconstruction: Reconstruction = "l2",
        revive_every: int = 0,
    ) -> None:
        self.model: nn.Module = model
        self.tokenizer = model
        self.dataset, self.size, self.seed, self.flip = dataset, batch, seed, flip
        self.beta, self.entropy_ratio = beta, entropy_ratio
        self.reconstruction, self.revive_every = reconstruction, revive_every
        share = validation / len(dataset)
        self.train_index, self.held_out = holdout_split(len(dataset), seed, share)
        self.per_epoch = len(self.train_index) // batch
        self._revived: int | None = None

    def batch(self, step: int, start: int, stop: int) -> VQBatch:
        """Images start..stop-1 of the batch of a step; see `Objective.batch`."""
        epoch, place = divmod(step, self.per_epoch)
        order = epoch_order(len(self.train_index), self.seed, epoch)
        chosen = order[place * self.size + start : place * self.size + stop]
        images = self._images(self.train_index[chosen])
        first = step * self.size + start
        streams = (
            noise.stream(self.seed, "train", first + i) for i in range(len(images))
        )
        if self.flip:
            mirrored = torch.tensor([s.random() < 0.5 for s in streams])
            images[mirrored] = images[mirrored].flip(3)
        return VQBatch(step, images)

    def loss(self, model: nn.Module, batch: VQBatch, device: torch.device) -> Tensor:
        """All terms by their weights; a step that revives does so first."""
        if batch.step is not None and self._due(batch.step):
            self._revive(batch.step, device)
        images = batch.images.to(device, non_blocking=True)
        return self.losses(model(images), images).total(self.beta, self.entropy_ratio)

    def losses(self, out: VQOutput, images: Tensor) -> VQLosses:
        """The terms, in float32, of what the tokenizer made of `images`."""
        with torch.autocast(images.device.type, enabled=False):
            return VQLosses(
                reconstruction_loss(out.images.float(), images, self.reconstruction),
                codebook_loss(out.latents, out.entries),
                commitment_loss(out.latents, out.entries),
                entropy_loss(out.latents, out.rows) if self.entropy_ratio else None,
            )

    def validate(self, model: nn.Module, device: torch.device) -> float | None:
        """Loss on the held-out images."""
        if not len(self.held_out):
            return None
        total = 0.0
        for start in range(0, len(self.held_out), _VALIDATION_BATCH):
            index = self.held_out[start : start + _VALIDATION_BATCH]
            batch = VQBatch(None, self._images(index))
            total += float(self.loss(model, batch, device)) * len(index)
        return total / len(self.held_out)

    def _images(self, index: NDArray[np.int64]) -> Tensor:
        return to_model_range(torch.from_numpy(self.dataset.batch(index)[0]))

    def _due(self, step: int) -> bool:
        """Whether to revive now: once a step, before its first micro-batch."""
        wanted = self.revive_every > 0 and step % self.revive_every == 0
        return wanted and self._revived != step

    def _revive(self, step: int, device: torch.device) -> None:
        """Every process does the same; the first one's rounding counts."""
        draws = noise.stream(self.seed, "revive", step)
        sides = self.dataset.size // self.tokenizer.downsample
        count = -(-_LATENTS_AN_ENTRY * self.tokenizer.codebook_size // sides**2)
        order = draws.permutation(len(self.train_index))[:count]
        training = self.tokenizer.training
        self.tokenizer.eval()
        with torch.no_grad():
            parts = [
                self.tokenizer.latent(self._images(self.train_index[part]).to(device))
                for part in np.array_split(order, -(-len(order) // _VALIDATION_BATCH))
            ]
            latents = torch.cat([part.movedim(1, -1).flatten(0, 2) for part in parts])
            with torch.autocast(device.type, enabled=False):
                revive(self.tokenizer, latents.float(), draws)
        self.tokenizer.train(training)
        weight = self.tokenizer.quantize.embedding.weight
        if torch.distributed.is_initialized():
            torch.distributed.broadcast(weight.data, 0)
        self._revived = step


@torch.no_grad()
def revive(model: VQModel, latents: Tensor, draws: np.random.Generator) -> int:
    """Move codebook entries that are nearest to no latent onto latents.

    Args:
        model: its codebook is changed.
        latents: (N, D), as `VQModel.latent` gives them.
        draws: decides which latents.

    Returns:
        how many entries were moved.
    """
    quantize = model.quantize
    used = torch.bincount(quantize.indices(latents), minlength=model.codebook_size)
    unused = torch.nonzero(used == 0).flatten()
    again = len(unused) > len(latents)
    chosen = torch.from_numpy(draws.choice(len(latents), len(unused), replace=again))
    moved = quantize.unit(latents[chosen.to(latents.device)])
    quantize.embedding.weight[unused] = moved.to(quantize.embedding.weight.dtype)
    return len(unused)
