"""What a training run starts from besides its weights: averages and Adam's moments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewstep.sharding import share_of


@dataclass(frozen=True)
class InitialState:
    """Where a run starts from besides the model's weights; tensors by parameter name.

    Attributes:
        ema: averaged weights; what it does not name (a buffer, a frozen parameter)
            starts as it is in the model. Default: the model's weights.
        exp_avg, exp_avg_sq: AdamW's moments of every trained parameter, both or none.
        adam_count: steps behind these moments, for AdamW's correction of their bias;
            default `TrainOptions.count_offset`. Without moments AdamW counts from 0,
            as its first steps would be too long otherwise.
    """

    ema: Mapping[str, Tensor] | None = None
    exp_avg: Mapping[str, Tensor] | None = None
    exp_avg_sq: Mapping[str, Tensor] | None = None
    adam_count: int | None = None


def initial_average(
    model: nn.Module, given: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """The averaged state dict to start from, on the model's device.

    Raises:
        ValueError: for names or shapes that are not the model's.
    """
    average = {name: v.detach().clone() for name, v in model.state_dict().items()}
    if given is not None:
        _check("ema", given, model, average)
        for name, value in given.items():
            average[name].copy_(share_of(value, average[name]))
    return average


def set_moments(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    initial: InitialState,
    count: int,
) -> None:
    """Give an AdamW the initial moments, if there are any.

    Args:
        optimizer: AdamW on the model's parameters.
        model: gives the parameters their names.
        initial: the moments.
        count: steps behind them where `initial` does not say.

    Raises:
        ValueError: for one moment without the other, names or shapes that are not the
            model's.
    """
    first, second = initial.exp_avg, initial.exp_avg_sq
    if first is None and second is None:
        return
    if first is None or second is None:
        raise ValueError("exp_avg and exp_avg_sq: give both or none")
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    _check("exp_avg", first, model, parameters)
    _check("exp_avg_sq", second, model, parameters)
    steps = count if initial.adam_count is None else initial.adam_count
    for name, parameter in parameters.items():
        state = {"step": torch.tensor(float(steps))}
        for moment, given in (("exp_avg", first), ("exp_avg_sq", second)):
            share = share_of(given[name], parameter)
            state[moment] = torch.zeros_like(parameter).copy_(share)
        optimizer.state[parameter] = state


def _check(
    what: str,
    given: Mapping[str, Tensor],
    model: nn.Module,
    known: Mapping[str, Tensor],
) -> None:
    """Every trained parameter is given, nothing unknown is, and all shapes fit."""
    needed = {name for name, p in model.named_parameters() if p.requires_grad}
    for name in sorted((needed - set(given)) | (set(given) - set(known))):
        raise ValueError(
            f"{what}: {name} is {'unknown' if name in given else 'missing'}"
        )
    for name, value in given.items():
        if value.shape != known[name].shape:
            raise ValueError(
                f"{what}: {name} is {tuple(value.shape)}, "
                f"expected {tuple(known[name].shape)}"
            )
