"""Layers of NCSN++ / DDPM++ (Song et al., arXiv 2011.13456), in plain PyTorch.

Submodules carry the names that the published checkpoints use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewstep.errors import UserError
from fewstep.seqrf import winograd

GROUP_NORM_EPS = 1e-6
_SQRT_HALF = 1 / math.sqrt(2)
_CLOSED = 1e-10  # variance scale that stands for an initial scale of 0


def variance_scaling_(weight: Tensor, fan_in: int, fan_out: int, scale: float) -> None:
    """Fill in place: uniform of variance scale / mean(fan_in, fan_out)."""
    bound = math.sqrt(3 * (scale or _CLOSED) / ((fan_in + fan_out) / 2))
    nn.init.uniform_(weight, -bound, bound)


def conv(
    channels: int, out: int, kernel: int = 3, stride: int = 1, *, scale: float = 1.0
) -> Conv:
    """A convolution that keeps the size at stride 1, as NCSN++ initialises it."""
    padding = kernel // 2 if stride == 1 else 0
    layer = Conv(channels, out, kernel, stride, padding)
    area = kernel * kernel
    variance_scaling_(layer.weight, channels * area, out * area, scale)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def lean(x: Tensor) -> bool:
    """Whether x is an inference on a CPU in float32, which has faster forms here."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()  # a compiler has better ones
    )


def in_fast_order(x: Tensor) -> Tensor:
    """x (B, C, H, W) with the channels last in memory where that is faster."""
    return x.contiguous(memory_format=torch.channels_last) if lean(x) else x


class Norm(nn.GroupNorm):
    """Group normalisation, with SiLU behind it where asked for."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) normalised."""
        if not lean(x):
            return super().forward(x)
        found = torch.empty_like(x, memory_format=torch.channels_last)
        self._normalise(x.permute(0, 2, 3, 1), found.permute(0, 2, 3, 1))
        return found

    def silu(self, x: Tensor) -> Tensor:
        """SiLU of the normalised x (B, C, H, W)."""
        return F.silu(self(x), inplace=lean(x))

    def silu_into(self, pixels: Tensor, found: Tensor) -> None:
        """The same for pixels (n, H, W, C), written to `found` of the same shape."""
        self._normalise(pixels, found)
        F.silu(found, inplace=True)

    def _normalise(self, pixels: Tensor, found: Tensor) -> None:
        torch.sub(pixels, self._mean(pixels), out=found)
        scale = (self._mean(found.square()) + self.eps).rsqrt() * self.weight
        torch.addcmul(self.bias, found, scale, out=found)

    def _mean(self, pixels: Tensor) -> Tensor:
        """Mean of each group, for each of its channels: (n, H, W, C) to (n, 1, 1, C).

        By plain sums: torch's own kernels for channels that come last are slower.
        """
        batch, height, width, channels = pixels.shape
        each = channels // self.num_groups
        sums = pixels.sum((1, 2)).view(batch, self.num_groups, each).sum(2, True)
        means = (sums / (height * width * each)).expand(-1, -1, each)
        return means.reshape(batch, 1, 1, channels)


def _copy(pixels: Tensor, found: Tensor) -> None:
    found.copy_(pixels)


class Conv(nn.Conv2d):
    """A convolution that takes the cheapest form for inference on a CPU.

    The weights that `winograd` needs, four times as large, are kept beside the layer's
    and made again when these change. A change through `.data` is not seen.
    """

    _ready: tuple[Tensor, int, Tensor] | None = None

    def forward(
        self, x: Tensor, added: Tensor | None = None, norm: Norm | None = None
    ) -> Tensor:
        """x (B, C, H, W), after `norm` and SiLU; `added` (B, K) goes to every pixel."""
        if lean(x) and self.stride == (1, 1):
            if winograd.pays(x, self.weight):
                return self._fast(x, added, norm)
            if self.kernel_size == (1, 1) and added is None and norm is None:
                weight = self.weight[:, :, 0, 0]
                mixed = F.linear(x.permute(0, 2, 3, 1), weight, self.bias)
                return mixed.permute(0, 3, 1, 2)
            x, norm = x if norm is None else norm.silu(x), None
            if self.weight.numel() > x.numel():
                # Else every call would bring the weights into the order of x.
                x = x.contiguous()
        elif self._ready is not None and torch.is_grad_enabled():
            self._ready = None  # a fused optimiser would step unseen
        out: Tensor = super().forward(x if norm is None else norm.silu(x))
        return out if added is None else out + added[:, :, None, None]

    def _transformed(self) -> Tensor:
        weight = self.weight
        version = 0 if weight.is_inference() else weight._version
        if self._ready is not None:
            old, seen, found = self._ready
            if old.data_ptr() == weight.data_ptr() and seen == version:
                return found
        # The alias keeps the memory: no other weights can come to lie there.
        self._ready = weight.detach(), version, winograd.transform(weight)
        return self._ready[2]

    def _fast(self, x: Tensor, added: Tensor | None, norm: Norm | None) -> Tensor:
        assert self.bias is not None
        more = self.bias[None] if added is None else self.bias + added
        fill = _copy if norm is None else norm.silu_into
        return winograd.convolve(x, self._transformed(), more, fill)


def linear(features: int, out: int, heads: int = 1) -> nn.Linear:
    """A linear layer; with several heads, head h has rows h·out to (h+1)·out."""
    layer = nn.Linear(features, heads * out)
    variance_scaling_(layer.weight, features, out, 1.0)
    nn.init.zeros_(layer.bias)
    return layer


def group_norm(channels: int) -> Norm:
    """Group normalisation over min(channels / 4, 32) groups.

    Raises:
        UserError: for channels that do not divide into them.
    """
    groups = min(channels // 4, 32)
    if groups == 0:
        raise UserError(
            f"{channels} channels are too few to normalise",
            where="model.nf",
            expected="at least 4",
        )
    if channels % groups:
        raise UserError(
            f"{channels} channels do not divide into {groups} groups",
            where="model.nf",
            expected="layers whose channels do",
            do="take a multiple of 32",
        )
    return Norm(groups, channels, eps=GROUP_NORM_EPS)


def rescaled_sum(x: Tensor, h: Tensor, rescale: bool) -> Tensor:
    """x + h, divided by √2 where the variance is to be kept."""
    total = x + h
    return total.mul_(_SQRT_HALF) if rescale else total


def positional_embedding(label: Tensor, dim: int) -> Tensor:
    """[sin, cos] of label · 10000^(-i / (dim/2 - 1)): (B,) to (B, dim)."""
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=label.device)
    angles = label[:, None] * torch.exp(-math.log(10000) / (half - 1) * steps)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class FourierEmbedding(nn.Module):
    """[sin, cos] of 2π W ln(label) with frozen W: (B,) to (B, 2 dim)."""

    def __init__(self, dim: int, scale: float) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(dim) * scale, requires_grad=False)

    def forward(self, label: Tensor) -> Tensor:
        angles = 2 * math.pi * label.log()[:, None] * self.W
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class Resampler(nn.Module):
    """Halves or doubles the side of an image without weights.

    Args:
        fir_kernel: taps of a separable low-pass filter (StyleGAN2's resampling);
            empty: 2x2 means down, repetition up.
    """

    kernel: Tensor

    def __init__(self, fir_kernel: Sequence[int] = ()) -> None:
        super().__init__()
        self.fir = bool(fir_kernel)
        taps = torch.tensor(list(fir_kernel) or [1], dtype=torch.float32)
        kernel = torch.outer(taps, taps)
        # A true filter flips its kernel; these are symmetric or meant as written.
        kernel = (kernel / kernel.sum()).flip(0, 1)
        self.register_buffer("kernel", kernel, persistent=False)

    def filter(self, x: Tensor, pads: tuple[int, int], stride: int = 1) -> Tensor:
        """The filter on zero-padded images, (before, after) on both axes."""
        channels = x.shape[1]
        weight = self.kernel.to(x.dtype).expand(channels, 1, -1, -1)
        padded = F.pad(x, (*pads, *pads))
        return F.conv2d(padded, weight, stride=stride, groups=channels)

    def down(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H/2, W/2)."""
        return self.filter(x, (1, 1), stride=2) if self.fir else F.avg_pool2d(x, 2)

    def up(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, 2H, 2W)."""
        if not self.fir:
            return F.interpolate(x, scale_factor=2, mode="nearest")
        batch, channels, height, width = x.shape
        spread = x.new_zeros(batch, channels, 2 * height, 2 * width)
        spread[:, :, ::2, ::2] = 4 * x
        return self.filter(spread, (2, 1))


class ResBlock(nn.Module):
    """BigGAN++ residual block, with a time embedding between its convolutions.

    Args:
        channels: of the input.
        out: of the output.
        embedding: features of the time embedding.
        resampler: of `resample`.
        resample: "" , "up" or "down", of both branches.
        dropout: probability, while training.
        rescale: divide the sum of the branches by √2.
        init_scale: of the last convolution.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        embedding: int,
        resampler: Resampler,
        *,
        resample: str = "",
        dropout: float,
        rescale: bool,
        init_scale: float,
    ) -> None:
        super().__init__()
        self.resampler, self.resample, self.rescale = resampler, resample, rescale
        self.GroupNorm_0 = group_norm(channels)
        self.Conv_0 = conv(channels, out)
        self.Dense_0 = linear(embedding, out)
        self.GroupNorm_1 = group_norm(out)
        self.dropout = nn.Dropout(dropout)
        self.Conv_1 = conv(out, out, scale=init_scale)
        shortcut = channels != out or bool(resample)
        self.Conv_2 = conv(channels, out, 1) if shortcut else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, channels, H, W) and SiLU(time embedding) (B, E)."""
        added = self.Dense_0(embedding)
        if self.resample:
            h = self.Conv_0(self._resampled(self.GroupNorm_0.silu(x)), added)
        else:
            h = self.Conv_0(x, added, self.GroupNorm_0)
        if self.training:
            h = self.Conv_1(self.dropout(self.GroupNorm_1.silu(h)))
        else:
            h = self.Conv_1(h, norm=self.GroupNorm_1)
        return rescaled_sum(self._shortcut(x), h, self.rescale)

    def _resampled(self, x: Tensor) -> Tensor:
        resampled: Tensor = getattr(self.resampler, self.resample)(x)
        return resampled

    def _shortcut(self, x: Tensor) -> Tensor:
        """x with the size and the channels of the output."""
        if self.Conv_2 is None:
            return x
        if self.resample == "up" and not self.resampler.fir:
            # Repeating pixels later is the same, from a quarter of them.
            x = self.Conv_2(x)
            return self._resampled(x)
        x = self._resampled(x) if self.resample else x
        mixed: Tensor = self.Conv_2(x)
        return mixed


class Mix(nn.Module):
    """A 1x1 convolution stored as a matrix (in, out)."""

    def __init__(self, channels: int, out: int, scale: float = 0.1) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.empty(channels, out))
        variance_scaling_(self.W.data, channels, out, scale)
        self.b = nn.Parameter(torch.zeros(out))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return F.linear(x, self.W.T, self.b)


class Attention(nn.Module):
    """Self-attention with one head over all positions."""

    def __init__(self, channels: int, *, rescale: bool, init_scale: float) -> None:
        super().__init__()
        self.rescale = rescale
        self.GroupNorm_0 = group_norm(channels)
        self.NIN_0 = Mix(channels, channels)
        self.NIN_1 = Mix(channels, channels)
        self.NIN_2 = Mix(channels, channels)
        self.NIN_3 = Mix(channels, channels, init_scale)

    def forward(self, x: Tensor) -> Tensor:
        h = self.GroupNorm_0(x).flatten(2).transpose(1, 2)
        mixes = (self.NIN_0, self.NIN_1, self.NIN_2)
        weight = torch.cat([mix.W for mix in mixes], dim=1)
        mixed = F.linear(h, weight.T, torch.cat([mix.b for mix in mixes]))
        # With an axis for the one head: else the fused kernels are not taken.
        query, key, value = mixed[:, None].chunk(3, dim=-1)
        h = self.NIN_3(F.scaled_dot_product_attention(query, key, value)[:, 0])
        return rescaled_sum(x, h.transpose(1, 2).reshape(x.shape), self.rescale)


class SkipInput(nn.Module):
    """Adds the shrunken image to the features through a 1x1 convolution."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.Conv_0 = conv(channels, out, 1)

    def forward(self, pyramid: Tensor, h: Tensor) -> Tensor:
        mixed: Tensor = self.Conv_0(pyramid) + h
        return mixed


class ResidualInput(nn.Module):
    """Filters and convolves the pyramid to half its size (residual input)."""

    def __init__(self, channels: int, out: int, resampler: Resampler) -> None:
        super().__init__()
        self.resampler = resampler
        self.Conv2d_0 = conv(channels, out, 3, stride=2)

    def forward(self, pyramid: Tensor) -> Tensor:
        shrunken: Tensor = self.Conv2d_0(self.resampler.filter(pyramid, (2, 2)))
        return shrunken
