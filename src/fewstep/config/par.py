"""Experiments with PAR (arXiv 2412.15119) and LlamaGen (arXiv 2406.06525)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import Field

from fewstep.config.base import Count, Fraction, Index, Name, Spec
from fewstep.config.spine import (
    DrawOverrides,
    DrawSpec,
    ExperimentSpec,
    NotNegative,
    Positive,
    PublishedSpec,
    TrainSpec,
)
from fewstep.par.schedule import Schedule
from fewstep.par.sizes import SIZES, parameters

Share = Annotated[float, Field(ge=0, le=1)]


class ParModelSpec(Spec):
    """The transformer; the keys are the arguments of `Transformer`."""

    size: Literal["B", "L", "XL", "XXL", "XXXL", "1B", "3B", "7B"] | None = None
    """LlamaGen's size, which gives `dim`, `n_layer` and `n_head` (exclusive with
    them)."""
    dim: Count | None = None
    """Width."""
    n_layer: Count | None = None
    """Blocks."""
    n_head: Count | None = None
    """Heads; dim / n_head must be a multiple of 4."""
    vocab_size: Count = 16384
    """Entries of the tokenizer's codebook."""
    grid: Count = 24
    """Codes a side; the image has grid x downsample pixels a side."""
    num_classes: Count = 1000
    """Classes of the condition."""
    ar_token_num: Count = 1
    """n, tokens drawn together: a square number whose root divides the grid (1:
    LlamaGen)."""
    multiple_of: Count = 256
    """The hidden width of SwiGLU is rounded up to it."""
    rope_base: Positive = 10000.0
    """Base of the rotary frequencies."""
    norm_eps: Positive = 1e-5
    """Epsilon of RMSNorm."""

    def resolved(self, without: Collection[str] = ()) -> dict[str, Any]:
        """As every spec's, with the size's numbers instead of its name."""
        value = super().resolved((*without, "size"))
        return {**value, **SIZES[self.size]} if self.size else value

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return parameters(self.resolved())

    @property
    def steps(self) -> int:
        """Network calls for one image."""
        return Schedule(self.grid, self.ar_token_num).steps


class ParTrainSpec(TrainSpec):
    """Training of the transformer; a constant rate is `min_lr` = `lr`."""

    codes: str
    """Codes of the images."""
    start: str | None = None
    """Experiment whose weights the training starts from (null: random weights)."""
    weight_decay: NotNegative = 0.05
    """AdamW weight decay."""
    decay: Literal["all", "matrices"] = "matrices"
    """Parameters that decay: all, or those of two dimensions and more."""
    clip: NotNegative = 1.0
    """Largest gradient norm (0: no clipping)."""
    drop_label: Share = 0.1
    """Probability that a label is dropped, which guidance needs."""
    dropout: Fraction = 0.1
    """Dropout after attention and after feed-forward."""
    token_dropout: Fraction = 0.1
    """Dropout of the embedded sequence."""
    attention_dropout: Fraction = 0.0
    """Dropout of the attention's probabilities (the released program: 0)."""
    drop_path: Fraction = 0.0
    """Stochastic depth of the last block, linear from 0."""
    recompute: bool = False
    """Compute activations again in the backward pass: less memory, more time."""
    sharded: bool = False
    """Parameters, gradients and moments spread over the GPUs (FSDP2)."""


class ParSamplingSpec(DrawSpec):
    """How samples are drawn."""

    labels: Literal["balanced", "iid"] = "balanced"
    """Classes in turn, or drawn uniformly."""


class ParSamplingOverrides(DrawOverrides):
    """Fields of `sampling` that one sampler changes."""

    labels: Literal["balanced", "iid"] | None = None
    """See `sampling`."""


class TokenSamplerSpec(Spec):
    """One way to draw tokens."""

    cfg_scale: Positive = 1.0
    """s of guidance: uncond + s (cond - uncond); 1 or less: none."""
    guidance_shape: Literal["constant", "linear", "cosine"] = "constant"
    """s along the passes: constant, or growing from 1."""
    guidance_power: Positive = 1.0
    """Power of the cosine."""
    guidance_first: Share = 0.0
    """Share of the passes before which there is no guidance."""
    guidance_last: Share = 1.0
    """Share of the passes after which there is none."""
    cfg_interval: Annotated[int, Field(ge=-1)] = -1
    """The released program's option: no guidance once more tokens than this were drawn
    since the sequential, or the parallel, part began (-1: always)."""
    temperature: NotNegative = 1.0
    """Divides the logits."""
    top_k: Index = 0
    """Draw from the k likeliest tokens (0: all)."""
    top_p: Share = 1.0
    """Draw from the likeliest tokens that hold this probability (1: all)."""
    batch: Count | None = None
    """Batch size whose time the row tells (null: `sampling.batch`)."""
    sampling: ParSamplingOverrides = Field(default_factory=ParSamplingOverrides)
    """Changes to the experiment's `sampling`."""
    published: PublishedSpec | None = None
    """What a paper reports for this sampler."""


_DRAW = (
    *("cfg_scale", "guidance_shape", "guidance_power", "guidance_first"),
    *("guidance_last", "cfg_interval", "temperature", "top_k", "top_p"),
)


class ParExperiment(ExperimentSpec):
    """A transformer over the codes of a tokenizer, and the ways to draw from it."""

    system: Literal["par"]
    """Which system."""
    tokenizer: str
    """Tokenizer that turns codes into images."""
    model: ParModelSpec
    """Architecture."""
    train: ParTrainSpec | None = None
    """Train the weights instead."""
    samplers: Annotated[dict[Name, TokenSamplerSpec], Field(min_length=1)]
    """Samplers by name, each a target `results/{experiment}_{sampler}_fid.json`."""
    sampling: ParSamplingSpec = Field(default_factory=ParSamplingSpec)
    """Drawing of samples."""

    @property
    def timed_together(self) -> bool:
        """All samplers share their weights."""
        return True

    def resolved(self, without: Collection[str] = ()) -> dict[str, Any]:
        """As every spec's, with the size's numbers and each sampler's sampling."""
        value = super().resolved(without)
        if "model" in value:
            value["model"] = self.model.resolved()
        for name, sampler in value.get("samplers", {}).items():
            sampler["sampling"] = self.sampling_of(name).resolved()
        return value

    def sampling_of(self, sampler: str) -> ParSamplingSpec:
        """`sampling` with the changes of one sampler."""
        changes = self.samplers[sampler].sampling.model_dump(exclude_none=True)
        return self.sampling.model_copy(update=changes)

    def loader(self, sampler: str) -> dict[str, Any]:
        """What loads one sampler, beside its sampling."""
        own = self.samplers[sampler]
        draw = {name: getattr(own, name) for name in _DRAW}
        return {"model": self.model.resolved(), "draw": draw}

    def depends_on_batch(self, sampler: str) -> bool:
        """Whether a sample depends on how many are drawn at once.

        In bf16 the last bit of a logit depends on the number of rows, and one token
        that it moves changes all that are drawn after it.
        """
        return self.sampling_of(sampler).precision == "bf16"

    def row_settings(self, sampler: str) -> dict[str, Any]:
        """Columns of an evaluation's row that say how its images were drawn."""
        own = self.samplers[sampler]
        return {
            "dtype": self.sampling_of(sampler).precision,
            "guidance": own.cfg_scale,
            "guidance_shape": own.guidance_shape,
            "temperature": own.temperature,
            "top_k": own.top_k,
            "top_p": own.top_p,
            "group": self.model.ar_token_num,
        }
