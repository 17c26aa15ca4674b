"""Tokenizers and the codes that they make of images (LlamaGen, arXiv 2406.06525)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict

from fewstep.config.base import Count, Counts, Index, NamedSpec, Spec
from fewstep.config.spine import NotNegative, Precision, TrainSpec

Ranges = Annotated[tuple[Annotated[float, Field(ge=1)], ...], Strict(False)]


class VQModelSpec(Spec):
    """A VQ tokenizer; the keys are the arguments of `VQModel`. Default: VQ-16."""

    ch: Count = 128
    """Channels at full resolution, a multiple of 32."""
    ch_mult: Annotated[Counts, Field(min_length=1)] = (1, 1, 2, 2, 4)
    """Factor on `ch` at each level; each level after the first halves the size
    (VQ-8: 1, 2, 2, 4)."""
    num_res_blocks: Count = 2
    """Residual blocks a level; the decoder has one more."""
    z_channels: Count = 256
    """Channels of the latent image."""
    codebook_size: Annotated[int, Field(ge=2, le=65536)] = 16384
    """Entries of the codebook."""
    codebook_embed_dim: Count = 8
    """Length of an entry."""
    codebook_l2_norm: bool = True
    """Entries of unit length."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout while training."""

    @property
    def downsample(self) -> int:
        """Pixels a code, along a side."""
        return int(2 ** (len(self.ch_mult) - 1))


class TokenizerTrainSpec(TrainSpec):
    """Training of a tokenizer, without perceptual or adversarial loss."""

    beta: NotNegative = 0.25
    """Weight of the commitment loss."""
    entropy_ratio: NotNegative = 0.0
    """Weight of the entropy loss, which spreads the use of the codebook."""
    reconstruction: Literal["l2", "l1"] = "l2"
    """Distance of image and reconstruction."""
    revive_every: Index = 0
    """Steps between two revivals of entries that nothing uses (0: none)."""


class ReconstructionSpec(Spec):
    """How well a tokenizer gives images back."""

    reference: str
    """Reference statistics."""
    n: Count = 50000
    """Most images; of a training here those that it held out, if any."""
    batch: Count = 64
    """Images at once; no influence beyond rounding."""


class TokenizerSpec(NamedSpec):
    """A tokenizer: published, shipped, or trained here."""

    dataset: str
    """Dataset that it is trained on, or judged by."""
    model: VQModelSpec = Field(default_factory=VQModelSpec)
    """Architecture."""
    checkpoint: str | None = None
    """Asset name, or path with a slash, of weights (exclusive with `train`)."""
    train: TokenizerTrainSpec | None = None
    """Train the weights instead."""
    reconstruction: ReconstructionSpec | None = None
    """Scores of its reconstructions (null: none)."""


class CodesSpec(NamedSpec):
    """The codes of a dataset's images, which PAR is trained on."""

    tokenizer: str
    """What makes the codes."""
    dataset: str | None = None
    """Images (exclusive with `released`); a `folder` is read file by file."""
    released: str | None = None
    """Folder of codes that LlamaGen's program wrote: `*_codes/{i}.npy`, `*_labels`."""
    count: Count | None = None
    """Images in `released`; a file that is missing is an error."""
    views: Literal["plain", "flip", "ten-crop"] = "flip"
    """plain: the centre square; flip: and its mirror; ten-crop: four corners and the
    centre of a larger square, mirrored too (folders only)."""
    crop_ranges: Annotated[Ranges, Field(min_length=1)] = (1.1,)
    """ten-crop: side of the larger square over that of a view, one set of ten each."""
    shard_size: Count = 10000
    """Images a file; each file is a job of its own."""
    batch: Count = 64
    """Views encoded at once; no influence beyond rounding."""
    precision: Precision = "fp32"
    """bf16: the encoder under autocast, where the device has it."""

    @property
    def is_released(self) -> bool:
        """Whether the codes exist already, in the released program's files."""
        return self.released is not None
