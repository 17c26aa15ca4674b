"""NCSN++ / DDPM++ with one time head a segment: the network of RectifiedFlow and SeqRF.

The layers stand in one flat list `all_modules`, in the order and with the names of the
published checkpoints. SeqRF gives the two time layers k heads: head h is rows h·4nf to
(h+1)·4nf of their weights; everything else is shared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewstep.errors import UserError
from fewstep.seqrf.layers import (
    Attention,
    FourierEmbedding,
    Resampler,
    ResBlock,
    ResidualInput,
    SkipInput,
    conv,
    group_norm,
    in_fast_order,
    linear,
    positional_embedding,
    rescaled_sum,
)

Index = int | Tensor | None

_LABELS = 1000  # a label is 0 to 999


@dataclass(frozen=True)
class Architecture:
    """The options of NCSN++ that the published settings use.

    Attributes:
        image_size: height and width in pixels.
        num_channels: colours.
        centered: the model space is [-1, 1]; else it is [0, 1] and the network itself
            maps its input to [-1, 1].
        nf: channels at full resolution.
        ch_mult: factor on nf at each level; every level halves the size.
        num_res_blocks: residual blocks a level.
        attn_resolutions: sizes with attention.
        fir: resample with `fir_kernel` instead of means and repetition.
        fir_kernel: taps of the filter.
        skip_rescale: divide the sums of two branches by √2.
        progressive: output of each level is added up ("output_skip"), or "none".
        progressive_input: the image enters each level ("input_skip", "residual").
        embedding_type: of the time label.
        fourier_scale: standard deviation of the Fourier frequencies.
        scale_by_sigma: divide the output by the label (fourier) or its σ.
        sigma_min, sigma_max, num_scales: of the table of σ.
        dropout: probability, while training.
        init_scale: of layers that are to start closed.

    Raises:
        UserError: for options that do not go together.
    """

    image_size: int
    nf: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    attn_resolutions: tuple[int, ...]
    num_channels: int = 3
    centered: bool = True
    fir: bool = False
    fir_kernel: tuple[int, ...] = (1, 3, 3, 1)
    skip_rescale: bool = True
    progressive: Literal["none", "output_skip"] = "none"
    progressive_input: Literal["none", "input_skip", "residual"] = "none"
    embedding_type: Literal["positional", "fourier"] = "positional"
    fourier_scale: float = 16
    scale_by_sigma: bool = False
    sigma_min: float = 0.01
    sigma_max: float = 50
    num_scales: int = 1000
    dropout: float = 0.0
    init_scale: float = 0.0

    def __post_init__(self) -> None:
        if self.progressive_input == "residual" and not self.fir:
            _refuse("fir", False, "true with progressive_input residual")
        looked_up = self.scale_by_sigma and self.embedding_type == "positional"
        if looked_up and self.num_scales < _LABELS:
            wanted = f"at least {_LABELS} with scale_by_sigma, for labels up to 999"
            _refuse("num_scales", self.num_scales, wanted)


_FIXED = {
    "normalization": "GroupNorm",
    "nonlinearity": "swish",
    "resblock_type": "biggan",
    "attention_type": "ddpm",
    "progressive_combine": "sum",
    "resamp_with_conv": True,
    "conditional": True,
    "conv_size": 3,
}
"""Options with a single value in all published settings; others are refused."""

_CHOICES = {
    "progressive": ("none", "output_skip"),
    "progressive_input": ("none", "input_skip", "residual"),
    "embedding_type": ("positional", "fourier"),
}


def architecture(config: Mapping[str, Any]) -> Architecture:
    """The architecture in a flat configuration (`model.nf`, `data.image_size`, …).

    Raises:
        UserError: for a key that is missing, or an option outside the published ones.
    """
    short = {
        key.split(".", 1)[1]: value
        for key, value in config.items()
        if key.startswith(("model.", "data."))
    }
    for key, wanted in _FIXED.items():
        if short.get(key, wanted) != wanted:
            _refuse(key, short[key], str(wanted))
    for key, choices in _CHOICES.items():
        if short.get(key, choices[0]) not in choices:
            _refuse(key, short[key], " or ".join(choices))
    known = {field.name for field in fields(Architecture)}
    own: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in short.items()
        if key in known
    }
    missing = {"image_size", "nf", "ch_mult", "num_res_blocks", "attn_resolutions"}
    for key in sorted(missing - set(own)):
        where = "data" if key == "image_size" else "model"
        raise UserError("key is missing", where=f"{where}.{key}", expected="a value")
    return Architecture(**own)


def _refuse(key: str, found: object, expected: str) -> None:
    raise UserError(
        f"{found!r} is not supported", where=f"model.{key}", expected=expected
    )


class NCSNpp(nn.Module):
    """The velocity network v(x, label, segment).

    Args:
        arch: the architecture.
        segments: k, the number of time heads.
    """

    sigmas: Tensor

    def __init__(self, arch: Architecture, segments: int = 1) -> None:
        super().__init__()
        self.arch, self.segments = arch, segments
        low, high = math.log(arch.sigma_min), math.log(arch.sigma_max)
        steps = torch.linspace(high, low, arch.num_scales, dtype=torch.float64)
        self.register_buffer("sigmas", steps.exp())
        self.resampler = Resampler(arch.fir_kernel if arch.fir else ())
        self.all_modules = nn.ModuleList(self._layers())

    @classmethod
    def from_flat_config(
        cls, config: Mapping[str, Any], segments: int | None = None
    ) -> NCSNpp:
        """From `model.*` and `data.*` keys of the released configurations.

        Args:
            config: flat dotted keys.
            segments: number of heads; default `training.reflow_t`, or 1.

        Raises:
            UserError: for a missing key or an unsupported option.
        """
        if segments is None:
            segments = int(config.get("training.reflow_t", 1))
        return cls(architecture(config), segments)

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return self.arch.image_size

    @property
    def channels(self) -> int:
        """Colours."""
        return self.arch.num_channels

    @property
    def centered(self) -> bool:
        """Whether the model space is [-1, 1], not [0, 1]."""
        return self.arch.centered

    @property
    def time_names(self) -> tuple[str, ...]:
        """Names of the parameters that have one block of rows a head."""
        first = 1 if self.arch.embedding_type == "fourier" else 0
        return tuple(
            f"all_modules.{number}.{part}"
            for number in (first, first + 1)
            for part in ("weight", "bias")
        )

    # ---- construction, in the order of the checkpoints ----

    def _layers(self) -> Iterator[nn.Module]:
        arch = self.arch
        fourier = arch.embedding_type == "fourier"
        if fourier:
            yield FourierEmbedding(arch.nf, arch.fourier_scale)
        width = 4 * arch.nf
        yield linear(2 * arch.nf if fourier else arch.nf, width, self.segments)
        yield linear(width, width, self.segments)
        yield conv(arch.num_channels, arch.nf)
        skips = [arch.nf]
        yield from self._down_layers(skips)
        channels = skips[-1]
        yield self._block(channels, channels)
        yield self._attention(channels)
        yield self._block(channels, channels)
        yield from self._up_layers(channels, skips)
        if arch.progressive == "none":
            yield group_norm(arch.nf * arch.ch_mult[0])
            yield self._to_image(arch.nf * arch.ch_mult[0])

    def _down_layers(self, skips: list[int]) -> Iterator[nn.Module]:
        """Down to the lowest resolution; `skips` gathers the channels on the way."""
        arch, channels, pyramid = self.arch, skips[-1], self.arch.num_channels
        for level, factor in enumerate(arch.ch_mult):
            for _ in range(arch.num_res_blocks):
                yield self._block(channels, arch.nf * factor)
                channels = arch.nf * factor
                skips.append(channels)
                if self._attends(level):
                    yield self._attention(channels)
            if level == len(arch.ch_mult) - 1:
                return
            yield self._block(channels, channels, "down")
            if arch.progressive_input == "input_skip":
                yield SkipInput(pyramid, channels)
            elif arch.progressive_input == "residual":
                yield ResidualInput(pyramid, channels, self.resampler)
                pyramid = channels
            skips.append(channels)

    def _up_layers(self, channels: int, skips: list[int]) -> Iterator[nn.Module]:
        """Up to full resolution, taking the skips from the end."""
        arch = self.arch
        for level, factor in reversed(list(enumerate(arch.ch_mult))):
            for _ in range(arch.num_res_blocks + 1):
                yield self._block(channels + skips.pop(), arch.nf * factor)
                channels = arch.nf * factor
            if self._attends(level):
                yield self._attention(channels)
            if arch.progressive == "output_skip":
                yield group_norm(channels)
                yield self._to_image(channels)
            if level > 0:
                yield self._block(channels, channels, "up")

    def _block(self, channels: int, out: int, resample: str = "") -> ResBlock:
        arch = self.arch
        return ResBlock(
            channels,
            out,
            4 * arch.nf,
            self.resampler,
            resample=resample,
            dropout=arch.dropout,
            rescale=arch.skip_rescale,
            init_scale=arch.init_scale,
        )

    def _attention(self, channels: int) -> Attention:
        arch = self.arch
        return Attention(
            channels, rescale=arch.skip_rescale, init_scale=arch.init_scale
        )

    def _to_image(self, channels: int) -> nn.Conv2d:
        return conv(channels, self.arch.num_channels, scale=self.arch.init_scale)

    def _attends(self, level: int) -> bool:
        return self.arch.image_size >> level in self.arch.attn_resolutions

    # ---- the forward pass ----

    def forward(self, x: Tensor, label: Tensor, index: Index = None) -> Tensor:
        """Velocity (B, C, H, W), about data minus noise.

        Args:
            x: images in model space (B, C, H, W).
            label: τ·999 of each sample (B,).
            index: segment of each sample (B,), or one for all; None: segment 0.
        """
        arch, layers = self.arch, iter(self.all_modules)
        embedding = self._embedding(label, index, layers)
        if not arch.centered:
            x = 2 * x - 1
        skips = self._down(in_fast_order(x), embedding, layers)
        h = next(layers)(skips[-1], embedding)
        h = next(layers)(h)
        h = next(layers)(h, embedding)
        out = self._up(h, skips, embedding, layers)
        return self._scaled(out.contiguous(), label)

    def _embedding(
        self, label: Tensor, index: Index, layers: Iterator[nn.Module]
    ) -> Tensor:
        """SiLU of the time embedding (B, 4 nf): what every block adds."""
        if self.arch.embedding_type == "fourier":
            h = next(layers)(label)
        else:
            h = positional_embedding(label, self.arch.nf)
        h = F.silu(self._head(cast(nn.Linear, next(layers)), h, index))
        # No activation follows the second layer; each block applies its own.
        return F.silu(self._head(cast(nn.Linear, next(layers)), h, index))

    def _head(self, layer: nn.Linear, h: Tensor, index: Index) -> Tensor:
        """The rows of a time layer that belong to each sample's segment."""
        if self.segments == 1:
            return F.linear(h, layer.weight, layer.bias)
        width = 4 * self.arch.nf
        if isinstance(index, Tensor):
            heads = layer(h).view(len(h), self.segments, width)
            chosen: Tensor = heads[torch.arange(len(h), device=h.device), index]
            return chosen
        rows = slice((index or 0) * width, ((index or 0) + 1) * width)
        return F.linear(h, layer.weight[rows], layer.bias[rows])

    def _down(
        self, x: Tensor, embedding: Tensor, layers: Iterator[nn.Module]
    ) -> list[Tensor]:
        """Features at every skip, the lowest resolution last."""
        arch, pyramid = self.arch, x
        skips = [next(layers)(x)]
        for level in range(len(arch.ch_mult)):
            for _ in range(arch.num_res_blocks):
                h = next(layers)(skips[-1], embedding)
                if self._attends(level):
                    h = next(layers)(h)
                skips.append(h)
            if level == len(arch.ch_mult) - 1:
                break
            h = next(layers)(skips[-1], embedding)
            if arch.progressive_input == "input_skip":
                pyramid = self.resampler.down(pyramid)
                h = next(layers)(pyramid, h)
            elif arch.progressive_input == "residual":
                pyramid = rescaled_sum(next(layers)(pyramid), h, arch.skip_rescale)
                h = pyramid
            skips.append(h)
        return skips

    def _up(
        self,
        h: Tensor,
        skips: list[Tensor],
        embedding: Tensor,
        layers: Iterator[nn.Module],
    ) -> Tensor:
        """From the lowest resolution to the image; empties `skips`."""
        arch, pyramid = self.arch, None
        for level in reversed(range(len(arch.ch_mult))):
            for _ in range(arch.num_res_blocks + 1):
                h = next(layers)(torch.cat([h, skips.pop()], dim=1), embedding)
            if self._attends(level):
                h = next(layers)(h)
            if arch.progressive == "output_skip":
                added = self._image(h, layers)
                pyramid = (
                    added if pyramid is None else self.resampler.up(pyramid) + added
                )
            if level > 0:
                h = next(layers)(h, embedding)
        return self._image(h, layers) if pyramid is None else pyramid

    def _image(self, h: Tensor, layers: Iterator[nn.Module]) -> Tensor:
        """Normalisation, SiLU, convolution to colours."""
        norm = next(layers)
        image: Tensor = next(layers)(h, norm=norm)
        return image

    def _scaled(self, out: Tensor, label: Tensor) -> Tensor:
        if not self.arch.scale_by_sigma:
            return out
        fourier = self.arch.embedding_type == "fourier"
        sigma = label if fourier else self.sigmas[label.long()].to(out.dtype)
        return out / sigma[:, None, None, None]
