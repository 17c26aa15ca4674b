"""The optimiser of a training run: AdamW, with or without decay of vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fewstep.recipe import TrainOptions
from fewstep.sharding import is_sharded, share_of


def adamw(model: nn.Module, options: TrainOptions) -> torch.optim.AdamW:
    """AdamW on all parameters of a model, in groups of a fixed order.

    Args:
        model: sharded already, if it is to be.
        options: rate, betas, and what decays.
    """
    return torch.optim.AdamW(
        _groups(model, options),
        lr=options.lr,
        betas=options.betas,
        weight_decay=options.weight_decay,
        foreach=_foreach(model),
    )


def _groups(model: nn.Module, options: TrainOptions) -> list[dict[str, Any]]:
    """Parameters by their decay, each group in the model's order."""
    parameters = list(model.parameters())
    if options.decay == "all":
        return [{"params": parameters}]
    matrices = [one for one in parameters if one.dim() >= 2]
    others = [one for one in parameters if one.dim() < 2]
    return [{"params": matrices}, {"params": others, "weight_decay": 0.0}]


def _foreach(model: nn.Module) -> bool | None:
    """Torch's own choice; of shards it would update one after the other."""
    return True if is_sharded(model) else None


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state dict of whole tensors into an optimiser, sharded or not."""
    groups = optimizer.param_groups
    parameters: list[Tensor] = [one for group in groups for one in group["params"]]
    own = {
        number: {
            name: share_of(value, parameters[number])
            if value.shape == parameters[number].shape
            else value
            for name, value in values.items()
        }
        for number, values in state["state"].items()
    }
    how = [group["foreach"] for group in groups]
    optimizer.load_state_dict({**state, "state": own})
    # The file may come from a run that was sharded otherwise.
    for group, foreach in zip(optimizer.param_groups, how, strict=True):
        group["foreach"] = foreach
