"""Experiments with TarFlow (arXiv 2412.06329) and GS-Jacobi (arXiv 2505.12849)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from fewstep.config.base import Bits, Count, Counts, Index, Indices, Name, Spec
from fewstep.config.spine import (
    DrawOverrides,
    DrawSpec,
    ExperimentSpec,
    NotNegative,
    Positive,
    PublishedSpec,
)

SEQUENTIAL, SEARCHED = "for", "auto"


class TarFlowModelSpec(Spec):
    """The architecture P-Ch-T-K; the keys are the arguments of `TarFlow`."""

    img_size: Count
    """Height and width of the images; must be the dataset's size."""
    patch_size: Count
    """Side of a patch; T = (img_size / patch_size)^2 tokens."""
    channels: Count
    """Width of the transformer, a multiple of 64 (the head dimension)."""
    num_blocks: Count
    """Autoregressive blocks, alternating in direction."""
    layers_per_block: Count
    """Attention layers in each block."""
    num_classes: Index
    """Classes of the condition (0: unconditional)."""
    in_channels: Count = 3
    """Colour channels."""

    @property
    def tokens(self) -> int:
        """Sequence length T."""
        return (self.img_size // self.patch_size) ** 2


class NoiseSpec(Spec):
    """Noise on the training images."""

    kind: Literal["gaussian", "uniform"] = "gaussian"
    """gaussian: for samples; uniform: dequantisation, for likelihoods."""
    std: NotNegative = 0.0
    """Standard deviation in model range [-1, 1] (gaussian only)."""


def _no_bool(value: Any) -> Any:
    """True is not the norm 1, although Python says that they are equal."""
    return "true" if value is True else value


class RankSpec(Spec):
    """IGM and CRM: which block is tough, and which initial guess is better."""

    num_mc: Count = 1000
    """Images of the dataset that the means run over."""
    norm: Annotated[Literal[1, 2, "fro"], BeforeValidator(_no_bool)] = 2
    """Matrix norm: largest column sum, spectral or Frobenius."""
    seed: Index = 0
    """Seed that draws the images."""
    batch: Count = 64
    """Images a forward pass; no influence beyond rounding."""


_WINDOWS = (8, 16, 32, 64)


class SearchSpec(Spec):
    """The search for the fastest plan of each block."""

    tolerance: Positive = 0.004
    """Largest error of an image against the exact inverse, images spanning [-1, 1]; the
    default is half a grey level."""
    batch: Count = 16
    """Batch size at which the plans are timed."""
    calibration: Count = 64
    """Samples that errors are measured on, and as many others for the verification."""
    segments: Counts | None = None
    """Numbers of segments that are tried (null: powers of two that divide T)."""
    windows: Counts | None = None
    """Widths of sliding windows that are tried, in tokens (null: 8, 16, 32, 64, as far
    as they are shorter than half of the sequence)."""
    max_iterations: Count = 64
    """Most Jacobi iterations that are tried in a segment."""
    tough_factor: Positive = 1.5
    """A block is tough when its CRM is this many times the mean of the blocks."""
    seed: Index = 0
    """Seed of the noise that plans are measured on, never that of an evaluation."""
    repeats: Count = 3
    """Timed runs of each plan."""


class SamplingSpec(DrawSpec):
    """How samples are drawn, whatever the solver."""

    guidance: NotNegative = 0.0
    """Guidance weight w: (1 + w) conditional - w unconditional (0: off)."""
    guide_what: Literal["a", "c", "ac"] = "ac"
    """What is guided: log-scale (a), shift (c) or both."""
    annealed: bool = True
    """Guidance grows from 0 to w along the tokens of a block."""
    attn_temp: Positive = 1.0
    """Attention temperature of the unconditional pass."""
    temperature: Positive = 1.0
    """Standard deviation of the noise."""
    labels: Literal["balanced", "iid"] = "balanced"
    """Classes in turn, or drawn uniformly."""
    self_denoise: NotNegative = 0.0
    """Multiplier of the denoising step after sampling (1: Tweedie, 0: off)."""


class SamplingOverrides(DrawOverrides):
    """Fields of `sampling` that one sampler changes."""

    guidance: NotNegative | None = None
    """See `sampling`."""
    guide_what: Literal["a", "c", "ac"] | None = None
    """See `sampling`."""
    annealed: bool | None = None
    """See `sampling`."""
    attn_temp: Positive | None = None
    """See `sampling`."""
    temperature: Positive | None = None
    """See `sampling`."""
    labels: Literal["balanced", "iid"] | None = None
    """See `sampling`."""
    self_denoise: NotNegative | None = None
    """See `sampling`."""


class StrategyLists(Spec):
    """The released program's lists; position i is block n-1-i (inverse order)."""

    num_gs: Indices
    """Segments: 0 or T = For, 1 = Jacobi, more = GS-Jacobi."""
    max_jacobi: Indices
    """Most iterations a segment."""
    guess: Bits | None = None
    """Start: 0 = the block's input, 1 = zeros (null: 0 everywhere)."""


class CrmRule(Spec):
    """Segment the blocks whose CRM is high, few iterations for the others."""

    segments: Count
    """Segments of each tough block."""
    max_jacobi: Count
    """Most iterations in each of them."""
    otherwise: Count = Field(alias="else")
    """Most Jacobi iterations of the other blocks."""


class CrmStrategy(Spec):
    """A strategy in the published style, from the model's own CRM."""

    crm: CrmRule
    """How the CRM becomes a strategy; `search.tough_factor` says what is tough."""


def _strategy_kind(value: Any) -> str:
    """Which form of `strategy` was written; decides whose errors are shown."""
    if isinstance(value, CrmStrategy) or (isinstance(value, dict) and "crm" in value):
        return "<crm>"
    if isinstance(value, StrategyLists | dict):
        return "<lists>"
    return "<text>"


def _no_list(value: Any) -> Any:
    """Without quotes, `[7-8-32-10]` is a YAML list of one text."""
    if isinstance(value, list):
        raise PydanticCustomError("quotes", 'text in quotes, such as "[7-8-32-10]"')
    return value


StrategySpec = Annotated[
    Annotated[str, BeforeValidator(_no_list), Tag("<text>")]
    | Annotated[StrategyLists, Tag("<lists>")]
    | Annotated[CrmStrategy, Tag("<crm>")],
    Discriminator(_strategy_kind),
]


class SamplerSpec(Spec):
    """One way to invert the flow."""

    strategy: StrategySpec
    """`for`, `auto` (searched), the paper's notation such as "[7-8-32-10]", lists
    {num_gs, max_jacobi, guess}, or {crm: {segments, max_jacobi, else}}."""
    guess: Bits | None = None
    """With the paper's notation: start of each block in inverse order (0 = the block's
    input, 1 = zeros; null: 0 everywhere)."""
    mode: Literal["exact", "released"] = "exact"
    """released: the +-3 clamp and the stopping rule of the published program."""
    tol: Positive | None = None
    """Stop early: exact, when no entry of a sample moves more than this (null: when
    none moves); released, its own norm over the batch (null: 1e-6)."""
    batch: Count | None = None
    """Batch size that the sampler is for: the search runs at it, and the row's time is
    of it (null: `search.batch`, and for the time `sampling.batch`)."""
    sampling: SamplingOverrides = Field(default_factory=SamplingOverrides)
    """Changes to the experiment's `sampling`."""
    published: PublishedSpec | None = None
    """What a paper reports for this sampler."""


class TarFlowExperiment(ExperimentSpec):
    """A TarFlow, and the samplers that invert it."""

    system: Literal["tarflow"]
    """Which system."""
    model: TarFlowModelSpec
    """Architecture."""
    noise: NoiseSpec
    """Training noise; its variance also scales the denoising step."""
    samplers: Annotated[dict[Name, SamplerSpec], Field(min_length=1)]
    """Samplers by name, each a target `results/{experiment}_{sampler}_fid.json`."""
    rank: RankSpec = Field(default_factory=RankSpec)
    """Block metrics."""
    search: SearchSpec = Field(default_factory=SearchSpec)
    """Strategy search."""
    sampling: SamplingSpec = Field(default_factory=SamplingSpec)
    """Drawing of samples."""

    def resolved(self, without: Collection[str] = ()) -> dict[str, Any]:
        """As every spec's, with what the search tries and each sampler's sampling."""
        value = super().resolved(without)
        if "search" in value:
            value["search"]["segments"] = list(self.search_segments())
            value["search"]["windows"] = list(self.search_windows())
        for name, sampler in value.get("samplers", {}).items():
            sampler["sampling"] = self.sampling_of(name).resolved()
        return value

    def sampling_of(self, sampler: str) -> SamplingSpec:
        """`sampling` with the changes of one sampler."""
        changes = self.samplers[sampler].sampling.model_dump(exclude_none=True)
        return self.sampling.model_copy(update=changes)

    def loader(self, sampler: str) -> dict[str, Any]:
        """What loads one sampler, beside its sampling."""
        own = self.samplers[sampler]
        return {
            "model": self.model.resolved(),
            "noise": self.noise.resolved(),
            "mode": own.mode,
            "tol": own.tol,
        }

    def depends_on_batch(self, sampler: str) -> bool:
        """Whether a sample depends on how many are drawn at once."""
        return self.samplers[sampler].mode == "released"

    def row_settings(self, sampler: str) -> dict[str, Any]:
        """Columns of an evaluation's row that say how its images were drawn."""
        own, sampling = self.samplers[sampler], self.sampling_of(sampler)
        return {
            "mode": own.mode,
            "tol": own.tol,
            "dtype": sampling.precision,
            "guidance": sampling.guidance,
            "temperature": sampling.temperature,
            "self_denoise": sampling.self_denoise,
        }

    def search_windows(self) -> list[int]:
        """Widths of windows that the search tries."""
        if self.search.windows is not None:
            return list(self.search.windows)
        return [width for width in _WINDOWS if 2 * width < self.model.tokens]

    def search_segments(self) -> tuple[int, ...]:
        """Numbers of segments (2 or more, fewer than T) that the search tries."""
        if self.search.segments is not None:
            return self.search.segments
        tokens = self.model.tokens
        powers = (2**k for k in range(1, tokens.bit_length()))
        return tuple(g for g in powers if g < tokens and tokens % g == 0)
