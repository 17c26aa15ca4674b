"""What the experiments of all systems say: training, evaluation, timing, trace."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict

from fewstep.config.base import (
    Count,
    Counts,
    Fraction,
    Index,
    Indices,
    NamedSpec,
    Spec,
    Texts,
)
from fewstep.config.resources import Resources

Precision = Literal["fp32", "bf16"]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class TrainSpec(Spec):
    """Training: AdamW, linear warm-up, then a cosine to `min_lr`."""

    batch: Count
    """Images a step, over all devices together."""
    lr: Positive
    """Peak learning rate."""
    steps: Count | None = None
    """Length in optimiser steps (exclusive with `epochs`)."""
    epochs: Count | None = None
    """Length in passes over the dataset."""
    warmup_steps: Index | None = None
    """Linear warm-up in steps (exclusive with `warmup_epochs`; neither: none)."""
    warmup_epochs: NotNegative | None = None
    """Linear warm-up in passes over the dataset."""
    start_lr: NotNegative = 1e-6
    """Learning rate at the start of the warm-up."""
    min_lr: NotNegative = 1e-6
    """Learning rate at the end of the cosine."""
    weight_decay: NotNegative = 1e-4
    """AdamW weight decay, on all parameters."""
    betas: Annotated[tuple[Fraction, Fraction], Strict(False)] = (0.9, 0.95)
    """AdamW betas."""
    clip: NotNegative = 0.0
    """Largest gradient norm (0: no clipping)."""
    drop_label: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability that a label is dropped, which guidance needs."""
    ema: Fraction = 0.0
    """Decay of the moving average of the weights (0: none)."""
    ema_warmup: bool = False
    """Variable rate of the average: min(ema, (1 + n) / (10 + n)) at step n."""
    accumulate: Count = 1
    """Parts of a batch whose gradients are added before a step."""
    precision: Precision = "fp32"
    """bf16: autocast where the device has it."""
    seed: Index = 0
    """Seed of weights, order, noise and dropped labels."""
    flip: bool = False
    """Mirror images at random."""
    holdout: Fraction = 0.0
    """Share of the dataset that is kept for the validation loss."""
    gpus: Count = 1
    """GPUs that a training job asks for; more than one start under torchrun. They have
    no influence beyond rounding."""
    nodes: Count = 1
    """Nodes that share them evenly: 32 GPUs on 4 nodes are 8 on each."""
    save_every: Count = 1000
    """Steps between two checkpoints of the run, from which it resumes."""
    log_every: Count = 50
    """Steps between two points of the training curve."""


class ProtocolSpec(Spec):
    """How samples become the bytes that are scored."""

    rounding: Literal["truncate", "round", "half_up"] = "truncate"
    """255 * 0.5 * (x + 1) to whole levels: cut off (TarFlow, SeqRF), to the nearest, or
    to the nearest with a half upwards (half_up: 127.5 x + 128 cut off, PAR)."""
    resize: Count | None = None
    """Side in pixels to which samples are resized before that, bicubic without
    antialiasing (PAR: 384 to 256); null: not at all."""


class EvaluationSpec(Spec):
    """What is scored, and against what."""

    reference: str
    """Reference statistics."""
    n: Count
    """Samples a score."""
    seeds: Indices = (0,)
    """One score for each; mean and standard deviation are reported."""
    kid: bool = False
    """Also KID (needs real features in the reference)."""
    kid_subset_size: Count = 1000
    """Samples a subset of KID."""
    kid_subsets: Count = 100
    """Subsets of KID."""
    precision_recall: bool = False
    """Also precision and recall (needs real features in the reference)."""
    sfid: bool = False
    """Also sFID, on 2,023 spatial features (needs spatial statistics in the
    reference)."""
    isc_splits: Count = 10
    """Splits of the Inception score."""
    batch: Count = 64
    """Images a call of the feature extractor; no influence on the score."""
    protocol: ProtocolSpec = Field(default_factory=ProtocolSpec)
    """Pixel path."""


class TimingSpec(Spec):
    """Seconds of sampling alone, all samplers in one job on one device."""

    batches: Counts = (1, 16)
    """Batch sizes that are timed."""
    repeats: Count = 5
    """Timed runs each; the median is reported."""
    warmup: Index = 1
    """Runs before the clock starts."""
    baseline: str = "for"
    """Sampler that the speed-ups are relative to; `experiment/sampler` for one of
    another experiment of the same system."""


class TraceSpec(Spec):
    """The filmstrip noise, block by block, image, denoised."""

    count: Count = 4
    """Samples shown."""
    seed: Index = 0
    """Seed of their noise."""


class OtherScores(Spec):
    """What was published beside the main score, for the same samples."""

    isc: Positive | None = None
    """Inception score."""
    precision: Share | None = None
    """Precision (k = 3)."""
    recall: Share | None = None
    """Recall (k = 3)."""


class PublishedSpec(Spec):
    """What a paper or its code reports for one sampler."""

    value: NotNegative | None
    """The score; null where the table is known but its number could not be verified."""
    source: str
    """Paper or repository."""
    table: str
    """Table or section in it."""
    n: Count
    """Samples behind the score."""
    sd: NotNegative | None = None
    """Standard deviation, if reported."""
    others: OtherScores | None = None
    """Scores beside it."""
    seconds: Positive | None = None
    """Seconds for `n` samples."""
    seconds_batch1: Positive | None = None
    """Seconds of one image at batch 1."""
    unit: str = ""
    """The time as printed, and how it became seconds."""
    hardware: str = ""
    """Devices of the published time."""
    statistics: Literal["file", "dataset"] = "file"
    """Real images behind it: a file that was published with it, or the dataset."""
    other_protocol: str = ""
    """Why it cannot be compared with ours, such as another Inception network."""
    note: str = ""
    """Known defects of the published program, among others."""
    assumed: Texts = ()
    """What the source does not state and this preset assumes."""


class DrawSpec(Spec):
    """How samples are drawn, whatever the sampler."""

    precision: Precision = "fp32"
    """bf16: autocast where the device has it."""
    compile: bool = False
    """Compile the network first, which takes a minute or two: for a GPU. A CPU needs a
    C++ compiler, and with a large network gains nothing."""
    batch: Count = 64
    """Samples drawn at once."""
    shard_size: Count = 256
    """Samples a file; a killed job loses at most one."""
    jobs: Count = 1
    """Jobs that share the samples of one seed, each with a GPU of its own. They have no
    influence on the samples."""
    nan_policy: Literal["fail", "redraw"] = "fail"
    """On NaN: stop, or draw that sample anew; either way it is counted."""
    max_redraws: Count = 10
    """Most redraws of one sample (nan_policy redraw)."""


class DrawOverrides(Spec):
    """Fields of `sampling` that one sampler changes."""

    precision: Precision | None = None
    """See `sampling`."""
    compile: bool | None = None
    """See `sampling`."""
    batch: Count | None = None
    """See `sampling`."""
    shard_size: Count | None = None
    """See `sampling`."""
    nan_policy: Literal["fail", "redraw"] | None = None
    """See `sampling`."""
    max_redraws: Count | None = None
    """See `sampling`."""


class ExperimentSpec(NamedSpec):
    """What an experiment of any system says."""

    dataset: str
    """Dataset of the model."""
    evaluation: EvaluationSpec
    """Scores."""
    description: str = ""
    """One line for the report."""
    checkpoint: str | None = None
    """Asset name, or path with a slash, of trained weights (exclusive with `train`)."""
    train: TrainSpec | None = None
    """Train the weights instead."""
    timing: TimingSpec = Field(default_factory=TimingSpec)
    """Timing."""
    trace: TraceSpec = Field(default_factory=TraceSpec)
    """Trace."""
    resources: Resources = Field(default_factory=dict)
    """What jobs ask a cluster for, where the estimate does not suit: by job, which is
    prepare, train, pairs (at the teacher), rank, search, trace, trajectories, sample,
    timing or score."""

    @property
    def timed_together(self) -> bool:
        """Whether one clock times all samplers, which share their weights."""
        return False
