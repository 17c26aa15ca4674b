"""The published files by the name of their asset: what is in them, how it is wrapped.

Sizes are those of the papers and of the released programs, not of config.yaml, so that
a stand-in that loads also says that the configuration has the right architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Wrapper = Literal["bare", "model", "training", "rectified-flow"]
"""`bare`: the state dict. `model`: {"model", "steps", "args"}. `training`: all that
LlamaGen's training of a tokenizer saves. `rectified-flow`: that of RectifiedFlow."""


@dataclass(frozen=True)
class Weights:
    """A checkpoint.

    Attributes:
        layout: "tarflow", "seqrf", "par" or "vq", whose layout it has.
        model: arguments of the model.
        wrapper: see `Wrapper`.
    """

    layout: Literal["tarflow", "seqrf", "par", "vq"]
    model: Mapping[str, Any]
    wrapper: Wrapper = "bare"

    @property
    def depth(self) -> str:
        """The argument of the model that counts its layers."""
        return _DEPTH[self.layout]


_DEPTH = {
    "tarflow": "layers_per_block",
    "seqrf": "num_res_blocks",
    "par": "n_layer",
    "vq": "num_res_blocks",
}


@dataclass(frozen=True)
class Statistics:
    """A torchmetrics state: sums of the features of `n` real images, and Inception."""

    n: int


@dataclass(frozen=True)
class Inception:
    """The bare state dict of torch-fidelity's network."""


@dataclass(frozen=True)
class AdmBatch:
    """ADM's reference: statistics, spatial ones, and `images` real images."""

    images: int = 10_000
    size: int = 256


Kind = Weights | Statistics | Inception | AdmBatch


def _tarflow(size: int, patch: int, channels: int, classes: int) -> Weights:
    model = {
        "img_size": size,
        "patch_size": patch,
        "channels": channels,
        "num_blocks": 8,
        "layers_per_block": 8,
        "num_classes": classes,
    }
    return Weights("tarflow", model)


_GPT = {
    "B": {"n_layer": 12, "n_head": 12, "dim": 768},
    "L": {"n_layer": 24, "n_head": 16, "dim": 1024},
    "XL": {"n_layer": 36, "n_head": 20, "dim": 1280},
    "XXL": {"n_layer": 48, "n_head": 24, "dim": 1536},
    "3B": {"n_layer": 24, "n_head": 32, "dim": 3200},
}


def _gpt(size: str, group: int, wrapper: Wrapper) -> Weights:
    return Weights("par", {**_GPT[size], "ar_token_num": group}, wrapper)


_CIFAR10 = {
    "img_size": 32,
    "nf": 128,
    "ch_mult": (1, 2, 2, 2),
    "num_res_blocks": 4,
    "attn_resolutions": (16,),
    "sigma_max": 50.0,
    "num_scales": 1000,
}
_CHURCH = {
    "img_size": 256,
    "nf": 128,
    "ch_mult": (1, 1, 2, 2, 2, 2, 2),
    "num_res_blocks": 2,
    "attn_resolutions": (16,),
    "progressive": "output_skip",
    "progressive_input": "input_skip",
    "embedding_type": "fourier",
    "sigma_max": 380.0,
    "num_scales": 2000,
}
_VQ16 = {
    "ch": 128,
    "ch_mult": (1, 1, 2, 2, 4),
    "num_res_blocks": 2,
    "z_channels": 256,
    "codebook_size": 16384,
    "codebook_embed_dim": 8,
}

PUBLISHED: Mapping[str, Kind] = {
    "afhq-model": _tarflow(256, 8, 768, 3),
    "img128-model": _tarflow(128, 4, 1024, 1000),
    "img64uncond-model": _tarflow(64, 2, 768, 0),
    "img64cond-model": _tarflow(64, 4, 1024, 1000),
    "img64cond-patch2-model": _tarflow(64, 2, 768, 1000),
    "afhq-stats": Statistics(14630),
    "img128-stats": Statistics(1281167),
    "img64uncond-stats": Statistics(1281167),
    "img64cond-stats": Statistics(1281167),
    "inception-weights": Inception(),
    "rf-cifar10": Weights("seqrf", _CIFAR10, "rectified-flow"),
    "rf-church": Weights("seqrf", _CHURCH, "rectified-flow"),
    "vq-16": Weights("vq", _VQ16, "training"),
    # Positions are no weights: those of 256 pixels have the shapes of 384.
    "llamagen-b": _gpt("B", 1, "model"),
    "llamagen-b-256": _gpt("B", 1, "model"),
    "llamagen-l": _gpt("L", 1, "model"),
    "llamagen-l-256": _gpt("L", 1, "model"),
    "llamagen-xl": _gpt("XL", 1, "model"),
    "llamagen-xxl": _gpt("XXL", 1, "bare"),
    "llamagen-3b": _gpt("3B", 1, "bare"),
    "par-xl-4x": _gpt("XL", 4, "model"),
    "par-xxl-4x": _gpt("XXL", 4, "model"),
    "par-3b-4x": _gpt("3B", 4, "model"),
    "par-3b-16x": _gpt("3B", 16, "model"),
    "imagenet-256-virtual": AdmBatch(),
}


@dataclass(frozen=True)
class Scale:
    """How much of a published file a stand-in holds.

    Attributes:
        layers: layers a block, residual blocks a level, or transformer layers instead
            of the published number; None: as published.
        blocks: flow blocks (TarFlow); None: as published.
        images: real images (ADM's reference); None: as published.
        model: further arguments of the model to replace, e.g. widths.
    """

    layers: int | None = None
    blocks: int | None = None
    images: int | None = None
    model: Mapping[str, Any] = field(default_factory=dict)

    def of(self, weights: Weights) -> dict[str, Any]:
        """Arguments of the model at this scale."""
        model = dict(weights.model)
        if self.layers is not None:
            model[weights.depth] = self.layers
        if self.blocks is not None and "num_blocks" in model:
            model["num_blocks"] = self.blocks
        return {**model, **self.model}


FULL = Scale()
