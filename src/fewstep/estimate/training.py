"""What a training needs: memory a GPU, and work a step."""

from __future__ import annotations

from fewstep.estimate import parameters
from fewstep.estimate.par import (
    backward_memory as par_backward,
)
from fewstep.estimate.par import (
    tokenizer_backward_memory,
    tokenizer_training_work,
)
from fewstep.estimate.par import (
    training_work as par_work,
)
from fewstep.estimate.seqrf import backward_memory as flow_backward
from fewstep.estimate.seqrf import training_work as flow_work
from fewstep.estimate.tarflow import backward_memory as tarflow_backward
from fewstep.estimate.tarflow import training_work as tarflow_work
from fewstep.estimate.work import Settings, Work


def state_memory(count: int, train: Settings) -> int:
    """Bytes a GPU of weights, gradients, Adam's moments and the average.

    Args:
        count: parameters.
        train: resolved recipe: `gpus`, `ema`, `precision`, PAR's `sharded`.
    """
    gpus = train.get("gpus", 1)
    own = 16 + (4 if train.get("ema") else 0)
    if train.get("sharded") and gpus > 1:
        return int(-(-own * count // gpus))
    # Several processes add up their gradients in buckets of the same size.
    own += 4 if gpus > 1 else 0
    own += 2 if train.get("precision") == "bf16" else 0
    return int(count * own)


def micro_batch(train: Settings) -> int:
    """Examples that a GPU has at once."""
    share = train["batch"] // train.get("gpus", 1) // train.get("accumulate", 1)
    return int(max(1, share))


def training_memory(
    system: str, model: Settings, train: Settings, segments: int = 1, side: int = 0
) -> int:
    """Bytes a GPU while a model is trained.

    Args:
        system: "tarflow", "seqrf", "par", or "tokenizer".
        model: its resolved specification.
        train: resolved recipe.
        segments: time heads (SeqRF).
        side: pixels of an image (tokenizer).
    """
    images, precision = micro_batch(train), train.get("precision", "fp32")
    state = state_memory(parameters(system, model, segments), train)
    if system == "tarflow":
        return state + tarflow_backward(model, images, precision)
    if system == "seqrf":
        return state + flow_backward(model, images, precision)
    if system == "tokenizer":
        return state + tokenizer_backward_memory(model, side, images)
    recompute = bool(train.get("recompute"))
    return state + par_backward(model, images, precision, recompute)


def fitting_accumulation(
    system: str,
    model: Settings,
    train: Settings,
    free: int,
    segments: int = 1,
    side: int = 0,
) -> int | None:
    """Parts of a batch that fit into `free` bytes of each GPU; None: not even one.

    Other arguments as in `training_memory`.
    """
    share = train["batch"] // train.get("gpus", 1)
    parts = train.get("accumulate", 1)
    while parts <= share:
        tried = {**train, "accumulate": parts}
        if training_memory(system, model, tried, segments, side) <= free:
            return int(parts)
        parts *= 2
    return None


def training_work(
    system: str, model: Settings, train: Settings, side: int = 0
) -> list[Work]:
    """What one step costs each GPU; arguments as in `training_memory`."""
    gpus, precision = train.get("gpus", 1), train.get("precision", "fp32")
    images = max(1, train["batch"] // gpus)
    if system == "tarflow":
        return tarflow_work(model, images, precision)
    if system == "seqrf":
        return flow_work(model, images, precision)
    if system == "tokenizer":
        return tokenizer_training_work(model, side, images, precision)
    return par_work(model, images, precision, bool(train.get("recompute")))
