"""The table of evaluations: one row for an experiment, a sampler and a seed."""

from __future__ import annotations

import math

from fewstep.results.columns import Row, Table, flag, integer, number, text, time
from fewstep.results.verdicts import VERDICTS

_WHO = (
    text("experiment", "name of the experiment in config.yaml", required=True),
    text("system", "what makes the images: tarflow, seqrf or par", required=True),
    text("sampler", "name of the sampler within the experiment", required=True),
    integer("seed", "sampling seed", required=True),
    integer("n", "number of images scored, or to score", required=True, minimum=1),
    text(
        "labels",
        "how class labels are dealt: balanced (i mod classes), iid (uniform), or none",
        "balanced",
        "iid",
        "none",
    ),
)
_PROTOCOL = (
    text(
        "protocol",
        "short name of the way of scoring (extractor, weights, its resize, the "
        "samples' resize where there is one, rounding, real levels, reference, "
        "labels); only rows with the same protocol and the same n are compared",
    ),
    text("extractor", "feature extractor"),
    text("extractor_sha256", "hash of the extractor's weights"),
    text("reference_sha256", "hash of the real images' statistics"),
)
_SCORES = (
    text(
        "metric",
        "proper name of the score: fid with Inception features, else frechet",
        "fid",
        "frechet",
        required=True,
    ),
    number("fid", "Fréchet Inception distance; null if not from Inception", minimum=-1),
    number("frechet", "Fréchet distance on another extractor's features", minimum=-1),
    number(
        "sfid",
        "Fréchet distance on Inception's spatial features (2,023), ADM's convention",
        minimum=-1,
    ),
    number("kid", "kernel distance, unbiased (may be negative)", minimum=None),
    number("kid_std", "its standard deviation over subsets"),
    number("isc", "Inception score, or its analogue on another extractor's classes"),
    number("isc_std", "its standard deviation over splits"),
    number("precision", "share of images inside the real manifold (k = 3), 0 to 1"),
    number("recall", "share of real images inside the images' manifold, 0 to 1"),
    number("class_agreement", "share classified as the class asked for, 0 to 1"),
    text(
        "notes",
        "scores that could not be computed, and why; how many images precision and "
        "recall rest on; what a search says of its plan",
    ),
)
_WORK = (
    text("mode", "exact, or released: clamp and stopping rule as published"),
    number("tol", "tolerance of early stopping; null: none"),
    text("dtype", "fp32, or bf16 autocast"),
    number("guidance", "guidance weight; 0: off"),
    number("temperature", "factor on the noise"),
    number("self_denoise", "multiplier of the denoising step; 0: off"),
    text("strategy", "sampling plan in the paper's notation, e.g. [7-8-32-10], or For"),
    number("steps", "sequential network calls for one batch, mean over batches"),
    number("iterations", "token evaluations per token and block, mean; For: 1"),
    number("nfe", "network evaluations per image, for samplers that integrate an ODE"),
    text("solver", "ODE solver: euler, heun, heun_released or rk45"),
    integer("segments", "segments of the flow, k; 1: not segmented", minimum=1),
    number("straightness", "of the paths as a whole; 0: straight (table straightness)"),
    number("seq_straightness", "the same within segments"),
    integer("group", "tokens drawn in one step, n (PAR); 1: one by one", minimum=1),
    integer("top_k", "most likely tokens that are drawn from; 0: all"),
    number("top_p", "share of probability that is drawn from; 1: all"),
    text("guidance_shape", "course of the guidance weight over the steps"),
    integer("train_step", "training step of the checkpoint; null: the final one"),
    integer("nan_events", "images in which a NaN or an infinity turned up"),
    integer("redrawn", "images drawn again with a new attempt number"),
    number("clipped", "share of values outside [-1, 1] before they became bytes"),
    number(
        "error_to_exact",
        "largest absolute difference to the exact inverse, pixels "
        "in [-1, 1], same noise",
    ),
)
_SPEED = (
    number("seconds_per_image", "sampling alone, after warm-up: median, s"),
    number("images_per_second", "the same as a rate"),
    number("seconds_end_to_end_per_image", "with drawing the noise and denoising, s"),
    integer("timing_batch", "images per batch when timed", minimum=1),
    number("seconds_batch1", "seconds an image at batch 1; null if not timed"),
    number("images_per_second_best", "largest rate over the timed batches"),
    integer("best_batch", "images per batch at that rate", minimum=1),
    text(
        "baseline",
        "sampler that the speed-up is measured against: same job, device, "
        "batch and noise",
    ),
    number("speedup", "baseline's seconds / this sampler's seconds; above 1 is faster"),
    number(
        "peak_memory_mb",
        "peak memory while sampling, 10^6 bytes (GPU: allocated; else: resident)",
    ),
    integer("batch", "images per batch when sampling for the score", minimum=1),
    text("device", "cpu, cuda, tpu or xla"),
    text("hardware", "name of the processor, the GPU or the TPU"),
    text("driver", "version of the driver of the GPU or TPU"),
    integer("threads", "CPU threads of torch", minimum=1),
    integer("world_size", "processes that shared the work", minimum=1),
)
_ORIGIN = (
    text("torch", "torch version"),
    text("torch_fidelity", "torch-fidelity version"),
    text("python", "Python version"),
    text("fewstep", "fewstep version"),
    text("commit", "git commit of fewstep; null outside a repository"),
    flag("dirty", "whether the working tree differed from the commit"),
    text("code_digest", "digest of the library code behind the row"),
    text("checkpoint_sha256", "hash of the model's weights"),
    text("dataset_sha256", "hash of the real images"),
    text(
        "assets",
        "published files behind the weights and the score: JSON, name to SHA-256",
    ),
)
_PUBLISHED = (
    number("published_value", "what was published for this cell"),
    text("published_source", "where: paper or page, with the table"),
    text(
        "published_table",
        "the published table that has this cell; published_value is null where its "
        "number could not be verified",
    ),
    integer("published_n", "number of images behind the published value", minimum=1),
    number("difference", "our value minus the published one", minimum=None),
    text("verdict", "comparison with the published value", *VERDICTS),
    text("verdict_reason", "the numbers or the obstacle behind the verdict"),
)
_OUTCOME = (
    text(
        "status",
        "ok, or failed: a failed cell keeps its row",
        "ok",
        "failed",
        required=True,
    ),
    text("error", "what went wrong, one line"),
    text("job", "of a failed row: the job that failed, e.g. sample afhq/gsj, seed 1"),
    text("log", "of a failed row: that job's log"),
    time("created_utc", "when the row was made, UTC", required=True),
)


_OF_A_SCORE = ("labels", "protocol", "extractor")
"""What a row that failed may lack: its cell did not get that far."""


def is_inception(extractor: str) -> bool:
    """Whether a score on this extractor's features may be called FID."""
    return "inception" in extractor.lower()


def _check_evaluation(row: Row) -> None:
    """What an evaluation must obey beyond its columns' types."""
    other = "frechet" if row["metric"] == "fid" else "fid"
    if row[other] is not None:
        raise ValueError(f"column {other!r} must be null where metric is not {other}")
    if row["status"] == "failed":
        if row["error"] is None:
            raise ValueError("column 'error' must say why the status is failed")
    else:
        for name in (*_OF_A_SCORE, row["metric"]):
            if row[name] is None:
                raise ValueError(f"column {name!r} must not be null")
    named = row["extractor"] is not None
    if named and row["metric"] == "fid" and not is_inception(row["extractor"]):
        raise ValueError(f"column 'fid' needs Inception, not {row['extractor']!r}")
    if (row["speedup"] is None) != (row["baseline"] is None):
        raise ValueError("columns 'speedup' and 'baseline' are given together or not")
    if row["speedup"] is not None and row["timing_batch"] is None:
        raise ValueError("column 'timing_batch' must say where 'speedup' was measured")
    _check_difference(row)


def _check_difference(row: Row) -> None:
    """The difference is that of the row's own numbers, and stands where both do."""
    value, published = row[row["metric"]], row["published_value"]
    if value is None or published is None or row["difference"] is None:
        if row["difference"] is not None:
            raise ValueError("column 'difference' needs a value and a published one")
        return
    if not math.isclose(row["difference"], value - published, abs_tol=1e-6):
        raise ValueError("column 'difference' is not the value minus 'published_value'")


EVALUATIONS = Table(
    name="evaluations",
    description="One row an evaluation: the score of one sampler's images, with how "
    "they were made, how fast, by what code, and what was published.",
    columns=_WHO
    + _PROTOCOL
    + _SCORES
    + _WORK
    + _SPEED
    + _ORIGIN
    + _PUBLISHED
    + _OUTCOME,
    key=("experiment", "sampler", "seed"),
    version=4,
    rule=_check_evaluation,
)
