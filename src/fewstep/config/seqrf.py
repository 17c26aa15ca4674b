"""Experiments with rectified flows (arXiv 2209.03003) and SeqRF (arXiv 2402.06461)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import Field, Strict, model_validator

from fewstep.config.base import Count, Counts, Index, Name, NamedSpec, Spec
from fewstep.config.spine import (
    DrawOverrides,
    DrawSpec,
    ExperimentSpec,
    NotNegative,
    Positive,
    Precision,
    PublishedSpec,
    TrainSpec,
)

ErrorNorm = Literal["sample", "batch"]
FIXED_STEP = ("euler", "heun", "heun_released")


class FlowModelSpec(Spec):
    """NCSN++ / DDPM++; the keys are those of the released configurations."""

    img_size: Count
    """Height and width of the images; must be the dataset's size."""
    nf: Count
    """Channels at full resolution, a multiple of 4."""
    ch_mult: Counts
    """Factor on `nf` at each level; each level after the first halves the size."""
    num_res_blocks: Count
    """Residual blocks a level."""
    attn_resolutions: Annotated[tuple[Count, ...], Strict(False)] = ()
    """Sizes of the levels that have attention."""
    centered: bool = True
    """Images span [-1, 1]; false: [0, 1], and the network maps its input itself."""
    fir: bool = False
    """Resample with a low-pass filter instead of means and repetition."""
    fir_kernel: Counts = (1, 3, 3, 1)
    """Taps of that filter."""
    skip_rescale: bool = True
    """Divide the sum of two branches by the root of 2."""
    progressive: Literal["none", "output_skip"] = "none"
    """output_skip: the image is the sum of what every level draws."""
    progressive_input: Literal["none", "input_skip", "residual"] = "none"
    """How the shrunken image enters each level."""
    embedding_type: Literal["positional", "fourier"] = "positional"
    """Embedding of the time."""
    fourier_scale: Positive = 16.0
    """Standard deviation of the Fourier frequencies."""
    scale_by_sigma: bool = False
    """Divide the output by the time label."""
    sigma_min: Positive = 0.01
    """Smallest entry of the table of sigmas that the checkpoints carry."""
    sigma_max: Positive = 50.0
    """Its largest entry."""
    num_scales: Count = 1000
    """Its length."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout while training."""
    init_scale: NotNegative = 0.0
    """Initial scale of the layers that start closed."""

    @property
    def num_classes(self) -> int:
        """These models know no classes."""
        return 0


class AdaptiveSpec(Spec):
    """SeqRF-Ada: the segments in which the teacher's paths are straightest."""

    steps: Count = 500
    """Euler steps of a trajectory, the grid on which the edges lie."""
    samples: Count = 128
    """Trajectories."""
    seed: Index = 0
    """Seed of their noise."""


class PairsSpec(NamedSpec):
    """Reflow pairs: both ends of the teacher's path across one segment each."""

    teacher: str
    """Experiment whose flow makes the pairs."""
    segments: Count
    """k; pair i belongs to segment i mod k."""
    count: Count
    """Pairs over all segments."""
    adaptive: AdaptiveSpec | None = None
    """Edges of the segments by SeqRF-Ada (null: equal segments)."""
    tol: Positive = 1e-4
    """Relative and absolute tolerance of RK45."""
    error_norm: ErrorNorm = "sample"
    """Error control: of every sample, or of the whole batch as the released program."""
    flip: bool = True
    """Mirror half of the images."""
    dtype: Literal["float32", "float16"] = "float32"
    """Numbers in the files."""
    mode: Literal["exact", "released"] | None = None
    """Length of the teacher's path (null: as its weights were trained)."""
    precision: Precision = "fp32"
    """bf16: the network under autocast, where the device has it."""
    compile: bool = False
    """Compile the network first, which takes a minute or two: for a GPU. A CPU needs a
    C++ compiler, and with a large network gains nothing."""
    seed: Index = 0
    """Seed of images, flips and noise."""
    shard_size: Count = 10000
    """Pairs a file; each is a job of its own."""
    batch: Count = 256
    """Pairs integrated at once; no influence with error_norm sample."""


class SnapshotSpec(Spec):
    """Weights kept on the way, and their score."""

    every: Count
    """Steps between two snapshots."""
    sampler: str | None = None
    """Sampler of the experiment that scores each snapshot (null: none does)."""
    n: Count = 10000
    """Samples of that score; it is named by them and never compared with others."""


class FlowTrainSpec(TrainSpec):
    """Training of a flow; Adam with a constant rate is `min_lr` = `lr`."""

    objective: Literal["flow", "reflow", "distill", "step_distill"] = "flow"
    """flow: rectified flow from data; reflow: straight lines between pairs; distill:
    their noisy ends only, one step a segment; step_distill: an N-step sampler on one
    segment."""
    pairs: str | None = None
    """Reflow pairs (all objectives but flow)."""
    pair_count: Count | None = None
    """Use the first so many pairs (null: all)."""
    start: str | None = None
    """Experiment whose weights the training starts from (null: random weights). The
    released program distils from the teacher; its student is the other choice."""
    distill_steps: Count = 1
    """N of step_distill."""
    loss: Literal["sum_half", "mean"] = "sum_half"
    """Reduction over an image: half the sum of squares (SeqRF), or their mean."""
    optimizer: Literal["fresh", "imported"] = "fresh"
    """imported: Adam's moments and raw weights of the published checkpoint at `start`,
    as the released program does."""
    count_offset: Index = 0
    """Steps that warm-up, Adam and average count as done before the first."""
    snapshots: SnapshotSpec | None = None
    """Weights kept on the way."""


class SolverSpec(Spec):
    """One way to solve the flow's ODE from noise to image."""

    solver: Literal["euler", "heun", "heun_released", "rk45"]
    """heun_released: the program's variant, whose second slope is half a step ahead."""
    steps: Count | None = None
    """Steps over all segments (Euler and Heun); Heun evaluates twice a step."""
    tol: Positive | None = None
    """Relative and absolute tolerance (rk45)."""
    error_norm: ErrorNorm = "sample"
    """Error control of rk45: of every sample, or of the batch as SciPy's."""
    mode: Literal["exact", "released"] | None = None
    """Length of the path: exact 1, released 0.999 (null: as the weights were trained,
    which is 0.999 for the checkpoints of RectifiedFlow)."""
    train_step: Count | None = None
    """Weights of this training step, kept by `train.snapshots` (null: the last)."""
    batch: Count | None = None
    """Batch size whose time the row tells (null: `sampling.batch`)."""
    sampling: DrawOverrides = Field(default_factory=DrawOverrides)
    """Changes to the experiment's `sampling`."""
    published: PublishedSpec | None = None
    """What a paper reports for this sampler."""


class SweepSpec(Spec):
    """Samplers repeated on weights of several training steps."""

    steps: Counts
    """Training steps; sampler `x` at step 5000 is called `x-at5000`."""
    samplers: Annotated[tuple[Name, ...], Strict(False)]
    """Samplers that are repeated."""


class TrajectorySpec(Spec):
    """Paths from noise to image: their straightness and their picture."""

    count: Count = 64
    """Samples behind the straightness."""
    steps: Count = 128
    """Euler steps of the reference path."""
    compare: Annotated[tuple[Count, ...], Strict(False)] = ()
    """Also its sequential straightness in so many equal segments, beside that of flows
    that have them; each must divide `steps`."""
    shown: Count = 4
    """Samples in the picture."""
    seed: Index = 0
    """Seed of their noise."""


class SeqRFExperiment(ExperimentSpec):
    """A flow, straightened or not, and the solvers that sample it."""

    system: Literal["seqrf"]
    """Which system."""
    model: FlowModelSpec
    """Architecture."""
    train: FlowTrainSpec | None = None
    """Train the weights instead."""
    segments: Count = 1
    """k, the number of time heads; must be that of the pairs."""
    samplers: Annotated[dict[Name, SolverSpec], Field(min_length=1)]
    """Samplers by name, each a target `results/{experiment}_{sampler}_fid.json`."""
    sweep: SweepSpec | None = None
    """More samplers: on weights of earlier training steps."""
    sampling: DrawSpec = Field(default_factory=DrawSpec)
    """Drawing of samples."""
    trajectory: TrajectorySpec = Field(default_factory=TrajectorySpec)
    """Straightness and paths."""

    @model_validator(mode="after")
    def _swept(self) -> SeqRFExperiment:
        for swept, (name, step) in self.swept().items():
            if name in self.samplers:
                change = {"train_step": step, "published": None}
                made = self.samplers[name].model_copy(update=change)
                self.samplers.setdefault(swept, made)
        return self

    def swept(self) -> dict[str, tuple[str, int]]:
        """Samplers that `sweep` adds: their own sampler and training step."""
        if self.sweep is None:
            return {}
        steps, names = self.sweep.steps, self.sweep.samplers
        return {f"{name}-at{step}": (name, step) for name in names for step in steps}

    @property
    def timed_together(self) -> bool:
        """All samplers share their weights."""
        return True

    def resolved(self, without: Collection[str] = ()) -> dict[str, Any]:
        """As every spec's, with each sampler's sampling."""
        value = super().resolved(without)
        for name, sampler in value.get("samplers", {}).items():
            sampler["sampling"] = self.sampling_of(name).resolved()
        return value

    def sampling_of(self, sampler: str) -> DrawSpec:
        """`sampling` with the changes of one sampler."""
        changes = self.samplers[sampler].sampling.model_dump(exclude_none=True)
        return self.sampling.model_copy(update=changes)

    def loader(self, sampler: str) -> dict[str, Any]:
        """What loads one sampler, beside its sampling."""
        own = self.samplers[sampler]
        names = ("solver", "steps", "tol", "error_norm", "mode")
        return {
            "model": self.model.resolved(),
            "segments": self.segments,
            **{name: getattr(own, name) for name in names},
        }

    def depends_on_batch(self, sampler: str) -> bool:
        """Whether a sample depends on how many are drawn at once."""
        own = self.samplers[sampler]
        return own.solver == "rk45" and own.error_norm == "batch"

    def row_settings(self, sampler: str) -> dict[str, Any]:
        """Columns of an evaluation's row that say how its images were drawn."""
        own = self.samplers[sampler]
        return {
            "mode": own.mode,
            "tol": own.tol,
            "dtype": self.sampling_of(sampler).precision,
            "solver": own.solver,
            "segments": self.segments,
            "train_step": own.train_step,
        }
