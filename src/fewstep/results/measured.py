"""The tables of TarFlow and of timing; apart from those that no such stage writes."""

from __future__ import annotations

from fewstep.results.columns import Row, Table, flag, integer, number, text
from fewstep.results.common import EXPERIMENT, ORIGIN, SAMPLER

MODES = ("for", "jacobi", "gs-jacobi", "window", "front", "mixed")

_BLOCK = integer(
    "block", "number of the flow's block, 0 the nearest to the image", required=True
)
_SEGMENTS = integer(
    "segments", "equal segments of the sequence; 1: not segmented", required=True
)
_MACHINE = (
    text("device", "cpu, cuda, tpu or xla", required=True),
    text("hardware", "name of the processor, the GPU or the TPU"),
    integer("threads", "CPU threads of torch", required=True, minimum=1),
)

BLOCKS = Table(
    name="blocks",
    description="How hard each block is to invert in parallel: IGM (which initial "
    "guess) and CRM (how far Jacobi contracts), GS-Jacobi paper.",
    columns=(
        EXPERIMENT,
        _BLOCK,
        integer(
            "position", "place in the published lists: last block first", required=True
        ),
        text(
            "variant",
            "formula: released (the published program's) or derivation",
            "released",
            "derivation",
            required=True,
        ),
        text("norm", "matrix norm", "1", "2", "fro", required=True),
        integer("num_mc", "images behind the means", required=True, minimum=1),
        integer("seed", "seed that chose the images", required=True),
        number("igm_z", "initial guess metric of the block's input z, latent units"),
        number("igm_zeros", "initial guess metric of zeros, latent units"),
        text("guess", "the guess with the smaller metric", "z", "zeros"),
        number("crm_data", "first factor of CRM: norm of the mean of the scaled data"),
        number("crm_scale", "second factor: norm of the scale rows of proj_out"),
        number("crm_shift", "summand: norm of the shift rows of proj_out"),
        number("crm", "convergence ranking metric", required=True),
        number(
            "crm_percent", "its share of the sum over blocks, percent", required=True
        ),
        integer("profile_iterations", "Jacobi iterations to the tolerance, measured"),
        number("profile_tolerance", "that tolerance, largest absolute error"),
        flag("tough", "whether the block is to be segmented"),
        *ORIGIN,
    ),
    key=("experiment", "block", "variant", "norm"),
)

STRATEGIES = Table(
    name="strategies",
    description="Every plan that the strategy search considered, chosen or not.",
    version=2,
    columns=(
        EXPERIMENT,
        text("sampler", "sampler that the search is for", required=True),
        integer(
            "block",
            "block that the plan inverts; -1: all blocks together",
            required=True,
            minimum=-1,
        ),
        text("mode", "how the block is inverted", *MODES, required=True),
        _SEGMENTS,
        integer("iterations", "most iterations of a segment; For: 0", required=True),
        integer("window", "tokens in a sliding window; 0: no window", required=True),
        integer("refine", "iterations in full precision after a draft in bfloat16"),
        flag("corrected", "whether learned weights correct the iterations"),
        flag("spare", "whether every other one spares unconditional rows"),
        integer("front", "tokens solved one by one before the iterations; 0: none"),
        number("stop", "a sample ends when no token moved more than this"),
        text("guess", "start: z, zeros, means, ...; For: none", required=True),
        integer("batch", "images in the measured batch", required=True, minimum=1),
        number("seconds", "one batch: median, s; empty: ruled out by prediction"),
        number("predicted", "one batch, from the profile and the costs, s"),
        number("evaluations", "token evaluations per token"),
        number(
            "error", "largest absolute difference to the exact inverse", finite=False
        ),
        number("error_rms", "root mean square of the difference", finite=False),
        number("tolerance", "largest error allowed", required=True),
        flag("chosen", "whether the search took it", required=True),
        text("reason", "why it was chosen or not", required=True),
        text("strategy", "the plan in the paper's notation (block -1)"),
        *_MACHINE,
        *ORIGIN,
    ),
    key=(
        "experiment",
        "sampler",
        "block",
        "batch",
        "mode",
        "segments",
        "iterations",
        "window",
        "guess",
    ),
)

CONVERGENCE = Table(
    name="convergence",
    description="Error of a block's Jacobi iterates against its exact inverse.",
    columns=(
        EXPERIMENT,
        _BLOCK,
        text(
            "source",
            "what is inverted: data (a forward pass of real images: exact pairs) or "
            "sampling (noise)",
            "data",
            "sampling",
            required=True,
        ),
        text("start", "initial guess: z, zeros, mean, ...", required=True),
        _SEGMENTS,
        integer("iteration", "iterations done; 0: the guess itself", required=True),
        number(
            "error_max",
            "largest absolute error; infinite if it overflowed",
            required=True,
            finite=False,
        ),
        number("error_rms", "root mean square error", finite=False),
        number(
            "error_median", "median over images of their largest error", finite=False
        ),
        integer("n", "images behind the row", required=True, minimum=1),
        *ORIGIN,
    ),
    key=("experiment", "source", "start", "segments", "block", "iteration"),
)


def _check_timing(row: Row) -> None:
    """A ratio has a partner, and a partner a ratio."""
    if (row["ratio"] is None) != (row["baseline"] is None):
        raise ValueError("columns 'ratio' and 'baseline' are given together or not")


TIMING = Table(
    name="timing",
    description="Sampling alone, timed side by side after warm-up: same job, device "
    "and noise for every sampler of an experiment.",
    columns=(
        EXPERIMENT,
        SAMPLER,
        integer("batch", "images per batch", required=True, minimum=1),
        number("seconds", "one batch: median over repeats, s", required=True),
        number("seconds_iqr", "their interquartile range, s", required=True),
        number("seconds_per_image", "seconds / batch, s", required=True),
        number("images_per_second", "batch / seconds", required=True),
        integer("repeats", "timed repeats", required=True, minimum=1),
        integer("warmup", "repeats before the clock", required=True),
        text("baseline", "sampler that the ratio is measured against"),
        number("ratio", "baseline's seconds / this sampler's; above 1 is faster"),
        number("iterations", "token evaluations per token and block, mean"),
        number("error_to_exact", "largest absolute difference to the exact inverse"),
        number("peak_memory_mb", "peak memory, 10^6 bytes"),
        text("strategy", "sampling plan in the paper's notation"),
        *_MACHINE,
        text("torch", "torch version", required=True),
        *ORIGIN,
    ),
    key=("experiment", "sampler", "batch", "device", "threads"),
    rule=_check_timing,
)
