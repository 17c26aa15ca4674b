"""RectifiedFlow's PyTorch training checkpoints, and the k-headed variant of one.

A published file holds the raw weights (names with DataParallel's prefix), their moving
average as a nameless list, and Adam's state by parameter number. Names come from the
order of the raw weights; nothing in the file is run.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fewstep.checkpoints import load_weights, read_foreign
from fewstep.errors import UserError
from fewstep.seqrf.model import NCSNpp

_PREFIX = "module."
_BUFFER = "sigmas"
_FROZEN = "all_modules.0.W"
"""The Fourier matrix: a parameter that is never trained."""

_EXPECTED = "a training checkpoint of RectifiedFlow: model, ema, optimizer, step"
_AGAIN = "fetch the file again"


@dataclass(frozen=True)
class RectifiedFlowCheckpoint:
    """A training checkpoint with a name for every tensor; all tensors on the CPU.

    Attributes:
        model: raw weights, as `NCSNpp.state_dict` has them.
        ema: their moving average, of the trainable parameters alone.
        exp_avg: Adam's first moment, of the trainable parameters.
        exp_avg_sq: Adam's second moment, likewise.
        adam_step: updates that Adam has counted.
        ema_decay: rate of the moving average.
        num_updates: updates that the average has counted.
        step: training step.
    """

    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    exp_avg: dict[str, Tensor]
    exp_avg_sq: dict[str, Tensor]
    adam_step: int
    ema_decay: float
    num_updates: int
    step: int


def read_rectified_flow(path: str | Path) -> RectifiedFlowCheckpoint:
    """Read a `.pth` file as RectifiedFlow's training writes it.

    Raises:
        UserError: for a file that is missing, broken, asks for anything but tensors and
            the numpy numbers that such files hold, or does not fit together (the first
            tensor that does not is named).
    """
    where = str(path)
    content = _load(Path(path))
    raw = _part(content, "model", where)
    model = {name.removeprefix(_PREFIX): value for name, value in raw.items()}
    if not model or not all(isinstance(value, Tensor) for value in model.values()):
        raise _misfit("'model' is not a dictionary of tensors", where)
    parameters = [name for name in model if name != _BUFFER]
    average = _part(content, "ema", where)
    first, second, adam_step = _moments(
        _part(content, "optimizer", where), model, parameters, where
    )
    try:
        return RectifiedFlowCheckpoint(
            model=model,
            ema=_average(average["shadow_params"], model, parameters, where),
            exp_avg=first,
            exp_avg_sq=second,
            adam_step=adam_step,
            ema_decay=float(average["decay"]),
            num_updates=int(average["num_updates"]),
            step=int(content["step"]),
        )
    except KeyError as error:
        raise _misfit(f"{error} is missing", where) from error
    except (TypeError, ValueError) as error:
        raise _misfit(f"a count is not a number ({error})", where) from error


def weights(
    checkpoint: RectifiedFlowCheckpoint, which: Literal["ema", "model"] = "ema"
) -> dict[str, Tensor]:
    """The state dict that a `NCSNpp` with one head loads.

    Args:
        checkpoint: what was read.
        which: "ema" for the average (what RectifiedFlow samples with), "model" for the
            raw weights. What has no average (`sigmas`, the Fourier matrix) is the
            model's own.
    """
    if which == "model":
        return dict(checkpoint.model)
    return {**checkpoint.model, **checkpoint.ema}


def split_heads(
    state: Mapping[str, Tensor], time_names: Iterable[str], segments: int
) -> dict[str, Tensor]:
    """The k-headed variant of one-headed tensors: every head starts as a copy.

    The rows of head h are `h * rows … (h + 1) * rows - 1`, SeqRF's order. Adam's
    moments are split in the same way.

    Args:
        state: weights, their average or a moment, by name.
        time_names: the tensors with one block of rows a head (`NCSNpp.time_names`).
        segments: number of heads, k.

    Raises:
        ValueError: for k < 1 or a name that `state` lacks.
    """
    if segments < 1:
        raise ValueError(f"segments must be at least 1, not {segments}")
    split = dict(state)
    for name in time_names:
        if name not in state:
            raise ValueError(f"no tensor {name!r} to split into heads")
        split[name] = torch.cat([state[name]] * segments)
    return split


def check_fits(model: NCSNpp, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load `tensors` into `model`, or say in one line why they do not fit.

    Args:
        model: takes the weights.
        tensors: a state dict.
        where: the file that they come from, for the message.

    Raises:
        UserError: naming both numbers of heads where only these differ, else the first
            tensor that is missing, extra or of another shape.
    """
    heads = _heads(model, tensors)
    if heads not in (None, model.segments):
        raise UserError(
            f"the file has {heads} head{'' if heads == 1 else 's'}, "
            f"segments says {model.segments}",
            where=where,
            expected="one head for each segment",
            do=f"set segments to {heads}, or give the checkpoint of "
            f"{model.segments} segments",
        )
    load_weights(model, tensors, where)


def _heads(model: NCSNpp, tensors: Mapping[str, Tensor]) -> int | None:
    """How many heads like the model's a state dict has; None if it has no such."""
    own = model.state_dict()
    found = set()
    for name in model.time_names:
        rows, rest = divmod(len(own[name]), model.segments)
        theirs = tensors.get(name)
        if theirs is None or theirs.shape[1:] != own[name].shape[1:] or rest:
            return None
        heads, rest = divmod(len(theirs), rows)
        if rest:
            return None
        found.add(heads)
    return found.pop() if len(found) == 1 else None


# Reading


# What numpy itself names for rebuilding one of its numbers.
_SCALAR = np.float64(0).__reduce__()[0]
_ALLOWED: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float64DType,
]
"""What a published file needs beyond tensors: the warm-up code left a numpy number as
the learning rate, spelled as numpy 1 or numpy 2 does."""


def _load(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise UserError("file not found", where=str(path), expected=_EXPECTED)
    # Mapped, Adam's moments are not read where only the average is wanted.
    mapped = zipfile.is_zipfile(path)
    return read_foreign(path, _EXPECTED, _ALLOWED, mmap=mapped)


def _part(content: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = content.get(key)
    if not isinstance(value, Mapping):
        raise _misfit(
            f"{key!r} is {'missing' if value is None else 'no dictionary'}", where
        )
    return value


def _average(
    shadow: Any, model: Mapping[str, Tensor], parameters: list[str], where: str
) -> dict[str, Tensor]:
    """The list of averages by name: it holds the trainable parameters in order."""
    names = [name for name in parameters if name != _FROZEN]
    if not isinstance(shadow, list):
        raise _misfit("the moving average is not a list", where)
    if len(shadow) != len(names):
        raise _misfit(
            f"the moving average holds {len(shadow)} tensors",
            where,
            f"{len(names)}, one for each trainable parameter",
        )
    averages = dict(zip(names, shadow, strict=True))
    _check_shapes(averages, model, "moving average", where)
    return averages


def _moments(
    optimizer: Mapping[str, Any],
    model: Mapping[str, Tensor],
    parameters: list[str],
    where: str,
) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """Adam's moments by name: its state goes by the number among all parameters."""
    try:
        groups = optimizer["param_groups"]
        numbers = [number for group in groups for number in group["params"]]
        state = dict(optimizer["state"])
    except (KeyError, TypeError, ValueError) as error:
        raise _misfit(
            f"the optimizer's state is incomplete ({error})", where
        ) from error
    if len(numbers) != len(parameters):
        raise _misfit(
            f"the optimizer holds {len(numbers)} parameters",
            where,
            f"{len(parameters)}, as many as the model",
        )
    names = dict(zip(numbers, parameters, strict=True))
    entries = {names.get(number, number): entry for number, entry in state.items()}
    wanted = [name for name in parameters if name != _FROZEN]
    for name in (*wanted, *entries):
        if name not in entries:
            raise _misfit(f"the optimizer has no state of {name}", where)
        if name not in wanted:
            raise _misfit(f"the optimizer has a state of {name}", where, "none")
    try:
        first = {name: entries[name]["exp_avg"] for name in wanted}
        second = {name: entries[name]["exp_avg_sq"] for name in wanted}
        steps = {int(entries[name]["step"]) for name in wanted}
    except (KeyError, TypeError, ValueError) as error:
        raise _misfit(
            f"the optimizer's state is incomplete ({error})", where
        ) from error
    _check_shapes(first, model, "first moment", where)
    _check_shapes(second, model, "second moment", where)
    if len(steps) != 1:
        raise _misfit(f"Adam counted {sorted(steps)} steps", where, "one count")
    return first, second, steps.pop()


def _check_shapes(
    tensors: Mapping[str, Any], model: Mapping[str, Tensor], what: str, where: str
) -> None:
    for name, value in tensors.items():
        shape = tuple(value.shape) if isinstance(value, Tensor) else "no tensor"
        if shape != tuple(model[name].shape):
            raise _misfit(
                f"{what} of {name}: {shape}", where, f"{tuple(model[name].shape)}"
            )


def _misfit(what: str, where: str, expected: str = _EXPECTED) -> UserError:
    return UserError(what, where=where, expected=expected, do=_AGAIN)
