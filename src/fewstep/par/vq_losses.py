"""What a VQ tokenizer learns from: reconstruction, codebook, commitment, entropy.

VQ-VAE (arXiv 1711.00937), VQGAN (2012.09841), LlamaGen (2406.06525). Their perceptual
and adversarial terms are left out: the perceptual one needs a pretrained network whose
weights cannot be had offline. So this trains small tokenizers for small images; that
of ImageNet is LlamaGen's published one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Reconstruction = Literal["l2", "l1"]

ENTROPY_TEMPERATURE = 0.01
"""Of the soft assignments in the entropy term (LlamaGen)."""


@dataclass(frozen=True)
class VQLosses:
    """The terms of a tokenizer's loss, scalars, unweighted.

    Attributes:
        reconstruction: mean error of the pixels, in the model's range.
        codebook: squared distance of the entries to the latents, which stand still.
        commitment: the same number, pulling the latents to the entries.
        entropy: see `entropy_loss`; None where it is not wanted.
    """

    reconstruction: Tensor
    codebook: Tensor
    commitment: Tensor
    entropy: Tensor | None = None

    def total(self, beta: float = 0.25, entropy_ratio: float = 0.0) -> Tensor:
        """reconstruction + codebook + beta commitment + entropy_ratio entropy."""
        loss = self.reconstruction + self.codebook + beta * self.commitment
        return loss if self.entropy is None else loss + entropy_ratio * self.entropy


def codebook_loss(latents: Tensor, entries: Tensor) -> Tensor:
    """Mean squared error that moves the entries alone."""
    return F.mse_loss(entries, latents.detach())


def commitment_loss(latents: Tensor, entries: Tensor) -> Tensor:
    """Mean squared error that moves the latents alone."""
    return F.mse_loss(latents, entries.detach())


def entropy_loss(
    latents: Tensor, rows: Tensor, temperature: float = ENTROPY_TEMPERATURE
) -> Tensor:
    """Sure assignments that use the whole codebook: E H(p) - H(E p), in nats.

    p is the softmax over the codebook of -|z - e|² / temperature; the mean is over the
    latents that are given, so a share of a batch has its own. At least -ln K.

    Args:
        latents: z (..., D).
        rows: e (K, D), the whole codebook.
        temperature: above 0.
    """
    z = latents.flatten(0, -2)
    affinity = 2 * z @ rows.T - rows.square().sum(-1)
    log_chance = F.log_softmax(affinity / temperature, -1)
    chance = log_chance.exp()
    each = -(chance * log_chance).sum(-1).mean()
    average = chance.mean(0)
    whole = -(average * average.clamp(min=1e-12).log()).sum()
    return each - whole


def reconstruction_loss(
    images: Tensor, wanted: Tensor, kind: Reconstruction = "l2"
) -> Tensor:
    """Mean squared ("l2") or absolute ("l1") error of images of any shape.

    Raises:
        ValueError: for another kind.
    """
    if kind == "l2":
        return F.mse_loss(images, wanted)
    if kind == "l1":
        return F.l1_loss(images, wanted)
    raise ValueError(f"unknown reconstruction {kind!r}: l2 or l1")
