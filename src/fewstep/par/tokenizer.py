"""The VQ tokenizer of LlamaGen (arXiv 2406.06525): images to codes, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewstep.par.usage import usage
from fewstep.par.vq_layers import Decoder, Encoder

CODEBOOK_USED = 65536
"""Length of the list of recent codes that the released checkpoints carry."""
_DISTANCES = 2**26
"""Distances to codebook entries at a time: 256 MB in float32."""


class Quantizer(nn.Module):
    """A codebook of unit vectors; the nearest one is the one of largest cosine.

    The stored rows need not have unit length: they are normalised when they are read.
    """

    def __init__(self, size: int, dim: int, normalised: bool = True) -> None:
        super().__init__()
        self.normalised = normalised
        self.embedding = nn.Embedding(size, dim)
        nn.init.uniform_(self.embedding.weight, -1 / size, 1 / size)
        if normalised:
            self.embedding.weight.data = F.normalize(self.embedding.weight.data, dim=-1)
        hook = self.register_load_state_dict_pre_hook
        hook(_drop_usage)  # type: ignore[no-untyped-call]

    def rows(self) -> Tensor:
        """The codebook as it is used: (K, D)."""
        weight = self.embedding.weight
        return F.normalize(weight, dim=-1) if self.normalised else weight

    def unit(self, z: Tensor) -> Tensor:
        """Latents as they are compared: (..., D), channels last."""
        return F.normalize(z, dim=-1) if self.normalised else z

    @torch.no_grad()
    def indices(self, z: Tensor) -> Tensor:
        """Nearest entry of latents (..., D): (...) int64."""
        z, rows = self.unit(z), self.rows()
        lengths = rows.square().sum(-1)
        flat = z.reshape(-1, z.shape[-1])
        parts = torch.split(flat, max(1, _DISTANCES // len(rows)))
        # In place: of all distances there is one copy, and of few at a time.
        nearest = [(2 * p @ rows.T).neg_().add_(lengths).argmin(-1) for p in parts]
        return torch.cat(nearest).view(z.shape[:-1])

    def lookup(self, codes: Tensor) -> Tensor:
        """Entries (..., D) of codes (...)."""
        return F.embedding(codes, self.rows())


def straight_through(latents: Tensor, entries: Tensor) -> Tensor:
    """The entries, with the gradient of the latents (arXiv 1711.00937, §3.2).

    Args:
        latents: (..., D).
        entries: (..., D), nearest codebook entries.
    """
    return latents + (entries - latents).detach()


@dataclass(frozen=True)
class VQOutput:
    """What training needs of images that went through the codebook.

    Attributes:
        images: (B, 3, H, W), decoded.
        latents: (B, h, w, D) float32, as they are compared.
        entries: (B, h, w, D) float32, the nearest entries.
        codes: (B, h, w) int64.
        rows: (K, D) float32, the whole codebook.
    """

    images: Tensor
    latents: Tensor
    entries: Tensor
    codes: Tensor
    rows: Tensor


class VQModel(nn.Module):
    """Encoder, codebook, decoder.

    Args:
        ch: channels at full resolution, a multiple of 32.
        ch_mult: factor on `ch` at each level; each level after the first halves the
            size. Encoder and decoder have the same.
        num_res_blocks: residual blocks a level; the decoder has one more.
        z_channels: channels of the latent image.
        codebook_size: K.
        codebook_embed_dim: D.
        codebook_l2_norm: entries of unit length.
        downsample: the factor that `ch_mult` gives, to be checked; None: not checked.
        dropout: while training.
        note: free text that presets carry; without influence.

    Raises:
        ValueError: for a `downsample` other than that of `ch_mult`.
    """

    def __init__(
        self,
        ch: int = 128,
        ch_mult: Sequence[int] = (1, 1, 2, 2, 4),
        num_res_blocks: int = 2,
        z_channels: int = 256,
        codebook_size: int = 16384,
        codebook_embed_dim: int = 8,
        codebook_l2_norm: bool = True,
        downsample: int | None = None,
        dropout: float = 0.0,
        note: str = "",
    ) -> None:
        super().__init__()
        self.downsample = 2 ** (len(ch_mult) - 1)
        if downsample not in (None, self.downsample):
            raise ValueError(
                f"downsample {downsample} with {len(ch_mult)} levels: "
                f"expected {self.downsample}"
            )
        self.codebook_size, self.note = codebook_size, note
        sizes = (ch, tuple(ch_mult), num_res_blocks, z_channels, dropout)
        self.encoder, self.decoder = Encoder(*sizes), Decoder(*sizes)
        self.quantize = Quantizer(codebook_size, codebook_embed_dim, codebook_l2_norm)
        self.quant_conv = nn.Conv2d(z_channels, codebook_embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(codebook_embed_dim, z_channels, 1)

    def forward(self, images: Tensor) -> VQOutput:
        """Images (B, 3, H, W) in [-1, 1] to codes and back, for training.

        The decoder's gradient passes the codebook by (`straight_through`), and codes
        are chosen in float32 under autocast too.
        """
        z = self.latent(images).movedim(1, -1)
        with torch.autocast(images.device.type, enabled=False):
            latents, rows = self.quantize.unit(z.float()), self.quantize.rows()
            codes = self.quantize.indices(latents)
            entries = F.embedding(codes, rows)
        quantized = straight_through(latents, entries).movedim(-1, 1)
        decoded = self.decode_latent(quantized)
        return VQOutput(decoded, latents, entries, codes, rows)

    def latent(self, images: Tensor) -> Tensor:
        """Before the codebook: images (B, 3, H, W) in [-1, 1] to (B, D, h, w)."""
        z: Tensor = self.quant_conv(self.encoder(images))
        return z

    def encode(self, images: Tensor) -> Tensor:
        """Codes (B, h, w) int64 of images (B, 3, H, W) in [-1, 1].

        Raises:
            ValueError: for sides that the downsampling does not divide.
        """
        if images.shape[-1] % self.downsample or images.shape[-2] % self.downsample:
            raise ValueError(
                f"images of {tuple(images.shape[-2:])} pixels: "
                f"expected multiples of {self.downsample}"
            )
        return self.quantize.indices(self.latent(images).movedim(1, -1))

    def decode(self, indices: Tensor) -> Tensor:
        """Images (B, 3, H, W), about [-1, 1], of codes (B, h, w) or (B, h * h).

        Raises:
            ValueError: for codes outside the codebook, and for a flat list of codes
                that is no square.
        """
        if indices.dim() == 2:
            side = math.isqrt(indices.shape[1])
            if side**2 != indices.shape[1]:
                raise ValueError(f"{indices.shape[1]} codes an image: not a square")
            indices = indices.view(-1, side, side)
        least, most = int(indices.min()), int(indices.max())
        if not 0 <= least <= most < self.codebook_size:
            raise ValueError(
                f"codes {least} to {most}: expected 0 to {self.codebook_size - 1}"
            )
        return self.decode_latent(self.quantize.lookup(indices).movedim(-1, 1))

    def decode_latent(self, quantized: Tensor) -> Tensor:
        """Images of codebook entries (B, D, h, w)."""
        images: Tensor = self.decoder(self.post_quant_conv(quantized))
        return images


def _drop_usage(
    _module: nn.Module, state: dict[str, Any], prefix: str, *_: Any
) -> None:
    """Leave out the statistic of recent codes: training's own, and no weight."""
    state.pop(f"{prefix}codebook_used", None)


def codebook_usage(codes: Tensor, size: int) -> dict[str, float]:
    """How a codebook of `size` entries is used by codes of any shape; see `usage`."""
    return usage(torch.bincount(codes.flatten(), minlength=size).cpu().numpy())
