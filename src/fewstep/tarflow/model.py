"""The TarFlow model: a stack of causal transformer blocks over image patches.

Shapes: images (B, Cimg, H, W) in [-1, 1]; tokens (B, T, C) with T = (H/p)(W/p) and
C = Cimg p², in raster order, channel-major inside a token (arXiv 2412.06329, §2).
Parameter names and shapes are those of the published checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAD_DIM = 64
"""Width of an attention head in every published model."""


class KeyValueCache:
    """Keys and values of one block's layers, allocated once and written in place.

    Args:
        layers: transformer layers of the block.
        rows: batch rows (twice the samples under guidance).
        heads: attention heads.
        tokens: longest prefix.
        like: a tensor with the wanted device and dtype.

    Attributes:
        limit: prefix that rows at places of their own are given, which must hold them
            all; None: the shortest one that does.
    """

    def __init__(
        self, layers: int, rows: int, heads: int, tokens: int, like: Tensor
    ) -> None:
        shape = (layers, rows, heads, tokens, HEAD_DIM)
        # Zeros: what a row has not written yet is masked, and 0 times NaN is NaN.
        self.keys, self.values = _zeros(shape, like), _zeros(shape, like)
        self.limit: int | None = None

    def stop(self, start: Tensor, n: int) -> int:
        """End of the longest prefix of rows whose n tokens from `start` are in."""
        if self.limit is not None:
            return self.limit
        if start.device.type != "cpu":  # the answer would be waited for
            return self.keys.shape[3]
        return int(start.max()) + n

    def write(
        self, layer: int, start: int | Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Store (rows, heads, n, 64) at `start`; return the prefix up to its end.

        One `start` for all takes the first few rows alone, too.
        """
        if isinstance(start, Tensor):
            at = start[:, None] + torch.arange(k.shape[2], device=k.device)
            index = at[:, None, :, None].expand_as(k)
            self.keys[layer].scatter_(2, index, k)
            self.values[layer].scatter_(2, index, v)
            stop = self.stop(start, k.shape[2])
            return self.keys[layer, :, :, :stop], self.values[layer, :, :, :stop]
        rows, stop = len(k), start + k.shape[2]
        self.keys[layer, :rows, :, start:stop] = k
        self.values[layer, :rows, :, start:stop] = v
        return self.keys[layer, :rows, :, :stop], self.values[layer, :rows, :, :stop]


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Zeros of the device and dtype of `like`, on a CPU in huge pages.

    NumPy asks for them, torch does not; with them reading the cache of a batch is half
    as fast again.
    """
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    room = np.zeros(math.prod(shape) * like.itemsize, np.uint8)
    return torch.from_numpy(room).view(like.dtype).view(shape)


class Attention(nn.Module):
    """Pre-norm causal self-attention with heads of 64."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = channels // HEAD_DIM
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, h: Tensor) -> Tensor:
        """Each token of (B, T, D) attends to those before it and to itself."""
        rows, n, channels = h.shape
        qkv = self.qkv(_float_norm(self.norm, h))
        q, k, v = qkv.view(rows, n, 3, self.heads, HEAD_DIM).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        mixed: Tensor = self.proj(out.transpose(1, 2).reshape(rows, n, channels))
        return mixed


class MLP(nn.Module):
    """Pre-norm MLP of width 4D with the exact GELU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.main = nn.Sequential(
            nn.Linear(channels, 4 * channels),
            nn.GELU(),
            nn.Linear(4 * channels, channels),
        )

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.main(_float_norm(self.norm, h))
        return out


class Layer(nn.Module):
    """One transformer layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention = Attention(channels)
        self.mlp = MLP(channels)


def _float_norm(norm: nn.LayerNorm, h: Tensor) -> Tensor:
    """Layer normalisation in float32 whatever the autocast type."""
    out: Tensor = norm(h.float())
    return out.type_as(h)


class FlowBlock(nn.Module):
    """One autoregressive affine flow: z_t = (x_t - u_t) exp(-s_t).

    (s_t, u_t) come from tokens before t; s_1 = u_1 = 0 (arXiv 2412.06329, Eq. 5).

    Args:
        in_channels: token width C.
        channels: hidden width D, a multiple of 64.
        tokens: sequence length T.
        layers: transformer layers.
        num_classes: 0 = no labels.
        flip: whether the block reads the sequence backwards.

    Attributes:
        compiles: whether the inverse uses torch's compiler.
    """

    attn_mask: Tensor
    compiles: bool = False

    def __init__(
        self,
        in_channels: int,
        channels: int,
        tokens: int,
        layers: int,
        num_classes: int,
        flip: bool,
    ) -> None:
        super().__init__()
        self.flip, self.tokens, self.heads = flip, tokens, channels // HEAD_DIM
        self.pos_embed = nn.Parameter(torch.randn(tokens, channels) * 1e-2)
        if num_classes:
            table = torch.randn(num_classes, 1, channels) * 1e-2
            self.class_embed: nn.Parameter | None = nn.Parameter(table)
        else:
            self.class_embed = None
        # Kept for the published checkpoints, which hold it; the kernels mask by flag.
        self.register_buffer("attn_mask", torch.tril(torch.ones(tokens, tokens)))
        self.proj_in = nn.Linear(in_channels, channels)
        self.proj_out = nn.Linear(channels, 2 * in_channels)
        nn.init.zeros_(self.proj_out.weight)  # the block starts near the identity
        self.attn_blocks = nn.ModuleList(Layer(channels) for _ in range(layers))

    def ordered(self, x: Tensor) -> Tensor:
        """Raster order to the block's own order, or back: (B, T, C)."""
        return x.flip(1) if self.flip else x

    def positions(self) -> Tensor:
        """Position embeddings (T, D) in the block's own order."""
        return self.ordered(self.pos_embed[None])[0]

    def embedding(self, y: Tensor | None, rows: int) -> Tensor | None:
        """Class term (rows, 1, D); a dropped label (-1) or None is the class mean."""
        if self.class_embed is None:
            return None
        mean = self.class_embed.mean(dim=0)
        if y is None:
            return mean.expand(rows, 1, -1)
        chosen = self.class_embed[y.clamp(min=0)]
        return torch.where((y < 0).view(-1, 1, 1), mean, chosen)

    def network(
        self, x: Tensor, positions: Tensor, embedding: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Parameters (s, u) that each token gives to the one after it.

        `fewstep.tarflow.frozen` computes the same for the inverse.

        Args:
            x: (B, T, C) in the block's order.
            positions: (T, D) position embeddings.
            embedding: class term (B, 1, D) or None.

        Returns:
            s and u, each (B, T, C).
        """
        h = self.proj_in(x) + positions
        if embedding is not None:
            h = h + embedding
        for layer in cast("list[Layer]", self.attn_blocks):
            h = h + layer.attention(h)
            h = h + layer.mlp(h)
        s, u = self.proj_out(h).chunk(2, dim=-1)
        return s.float(), u.float()

    def forward(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """Normalising direction.

        Args:
            x: (B, T, C) in raster order.
            y: labels (B,) or None.

        Returns:
            z (B, T, C) in raster order; log-determinant a dimension (B,).
        """
        x = self.ordered(x)
        s, u = self.network(x, self.positions(), self.embedding(y, len(x)))
        s, u = F.pad(s[:, :-1], (0, 0, 1, 0)), F.pad(u[:, :-1], (0, 0, 1, 0))
        z = (x - u) * torch.exp(-s)
        return self.ordered(z), -s.mean(dim=(1, 2))


@dataclass(frozen=True)
class FlowOutput:
    """What the normalising direction gives.

    Attributes:
        z: (B, T, C) final latent in raster order.
        outputs: output of each block, (B, T, C), block 0 first.
        logdets: (B,) sum over blocks of the mean log-determinant a dimension.
    """

    z: Tensor
    outputs: list[Tensor]
    logdets: Tensor

    @property
    def loss(self) -> Tensor:
        """Negative log-likelihood a dimension in nats, without the constant."""
        return 0.5 * self.z.square().mean() - self.logdets.mean()

    def bits_per_dim(self) -> Tensor:
        """Bits per dimension (B,) of 8-bit data dequantised to [-1, 1]."""
        nll = 0.5 * self.z.square().mean(dim=(1, 2)) - self.logdets
        return (nll + 0.5 * math.log(2 * math.pi) + math.log(128)) / math.log(2)


class TarFlow(nn.Module):
    """TarFlow P-Ch-T-K: patch size, channels, blocks and layers a block.

    Args:
        in_channels: image channels Cimg.
        img_size: image height and width, a multiple of `patch_size`.
        patch_size: p.
        channels: hidden width D, a multiple of 64.
        num_blocks: flow blocks; every second one reads the sequence backwards.
        layers_per_block: transformer layers a block.
        num_classes: 0 = unconditional.

    Raises:
        ValueError: for sizes that do not fit.
    """

    var: Tensor

    def __init__(
        self,
        in_channels: int = 3,
        img_size: int = 64,
        patch_size: int = 2,
        channels: int = 768,
        num_blocks: int = 8,
        layers_per_block: int = 8,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        if img_size % patch_size:
            raise ValueError(f"patch_size {patch_size} does not divide {img_size}")
        if channels % HEAD_DIM:
            raise ValueError(f"channels {channels} is not a multiple of {HEAD_DIM}")
        self.in_channels, self.img_size = in_channels, img_size
        self.patch_size, self.num_classes = patch_size, num_classes
        self.tokens = (img_size // patch_size) ** 2
        self.token_dim = in_channels * patch_size**2
        self.register_buffer("var", torch.ones(self.tokens, self.token_dim))
        self.blocks = nn.ModuleList(
            FlowBlock(
                self.token_dim,
                channels,
                self.tokens,
                layers_per_block,
                num_classes,
                flip=bool(number % 2),
            )
            for number in range(num_blocks)
        )

    @property
    def flows(self) -> Sequence[FlowBlock]:
        """The blocks, block 0 first."""
        return cast("Sequence[FlowBlock]", self.blocks)

    def patchify(self, images: Tensor) -> Tensor:
        """(B, Cimg, H, W) to (B, T, C)."""
        return F.unfold(images, self.patch_size, stride=self.patch_size).mT

    def unpatchify(self, tokens: Tensor) -> Tensor:
        """(B, T, C) to (B, Cimg, H, W)."""
        size = (self.img_size, self.img_size)
        return F.fold(tokens.mT, size, self.patch_size, stride=self.patch_size)

    def forward(self, images: Tensor, y: Tensor | None = None) -> FlowOutput:
        """Images (B, Cimg, H, W) in [-1, 1] to the latent.

        Args:
            images: the batch.
            y: labels (B,), -1 = dropped; None = all dropped.
        """
        x = self.patchify(images)
        outputs = []
        logdets = x.new_zeros(len(x))
        for block in self.flows:
            x, logdet = block(x, y)
            outputs.append(x)
            logdets = logdets + logdet
        return FlowOutput(x, outputs, logdets)
