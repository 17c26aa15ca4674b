"""Encoder and decoder of the VQ tokenizer: VQGAN's, with attention at the lowest level.

arXiv 2012.09841, as LlamaGen configures it. Images are (B, 3, H, W).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

GROUPS, EPS = 32, 1e-6


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels, eps=EPS)


class ResBlock(nn.Module):
    """Norm, swish, convolution, twice; the skip is 1x1 where the channels differ."""

    def __init__(self, before: int, after: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = _norm(before)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.norm2 = _norm(after)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        if before != after:
            self.nin_shortcut = nn.Conv2d(before, after, 1)
        self.same = before == after

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) to (B, after, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        skip: Tensor = x if self.same else self.nin_shortcut(x)
        out: Tensor = skip + h
        return out


class AttentionBlock(nn.Module):
    """Single-head attention over all pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        h = self.norm(x)
        q, k, v = (f(h).flatten(2).mT[:, None] for f in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v)[:, 0].mT
        out: Tensor = x + self.proj_out(mixed.view_as(x))
        return out


class Downsample(nn.Module):
    """Half the size; a zero is put to the right and below."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H / 2, W / 2)."""
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Twice the size: every pixel four times, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, 2 H, 2 W)."""
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Level(nn.Module):
    """Residual blocks of one resolution, and the way to the next one."""

    def __init__(
        self,
        before: int,
        after: int,
        blocks: int,
        dropout: float,
        *,
        attention: bool,
        downsample: bool = False,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        sizes = [before] + [after] * (blocks - 1)
        self.res = nn.ModuleList(ResBlock(size, after, dropout) for size in sizes)
        count = blocks if attention else 0
        self.attn = nn.ModuleList(AttentionBlock(after) for _ in range(count))
        if downsample:
            self.downsample = Downsample(after)
        if upsample:
            self.upsample = Upsample(after)
        self.moves = downsample or upsample

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) to the next level's size."""
        for number, block in enumerate(self.res):
            x = block(x)
            if len(self.attn):
                x = self.attn[number](x)
        if self.moves:
            x = self.downsample(x) if hasattr(self, "downsample") else self.upsample(x)
        return x


def _middle(channels: int, dropout: float) -> nn.ModuleList:
    return nn.ModuleList(
        [
            ResBlock(channels, channels, dropout),
            AttentionBlock(channels),
            ResBlock(channels, channels, dropout),
        ]
    )


class Encoder(nn.Module):
    """Images to a latent image."""

    def __init__(
        self,
        ch: int,
        ch_mult: tuple[int, ...],
        num_res_blocks: int,
        z_channels: int,
        dropout: float,
    ) -> None:
        super().__init__()
        widths = [ch * factor for factor in ch_mult]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(3, ch, 3, padding=1)
        self.conv_blocks = nn.ModuleList(
            Level(
                before,
                after,
                num_res_blocks,
                dropout,
                attention=level == last,
                downsample=level < last,
            )
            for level, (before, after) in enumerate(
                zip([ch, *widths[:-1]], widths, strict=True)
            )
        )
        self.mid = _middle(widths[-1], dropout)
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, z_channels, h, w)."""
        x = self.conv_in(x)
        for part in (*self.conv_blocks, *self.mid):
            x = part(x)
        out: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return out


class Decoder(nn.Module):
    """A latent image to images; `conv_blocks.0` is the lowest level."""

    def __init__(
        self,
        ch: int,
        ch_mult: tuple[int, ...],
        num_res_blocks: int,
        z_channels: int,
        dropout: float,
    ) -> None:
        super().__init__()
        widths = [ch * factor for factor in reversed(ch_mult)]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(z_channels, widths[0], 3, padding=1)
        self.mid = _middle(widths[0], dropout)
        self.conv_blocks = nn.ModuleList(
            Level(
                before,
                after,
                num_res_blocks + 1,
                dropout,
                attention=level == 0,
                upsample=level < last,
            )
            for level, (before, after) in enumerate(
                zip([widths[0], *widths[:-1]], widths, strict=True)
            )
        )
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """(B, z_channels, h, w) to (B, 3, H, W)."""
        x = self.conv_in(z)
        for part in (*self.mid, *self.conv_blocks):
            x = part(x)
        out: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return out
