"""Small transformers whose weights are so large that every input matters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fewstep.par.model import Transformer
from fewstep.par.schedule import Schedule

SIZES: dict[str, Any] = {
    "dim": 16,
    "n_layer": 2,
    "n_head": 2,
    "vocab_size": 13,
    "num_classes": 3,
    "multiple_of": 16,
}
ORDERS = [(3, 1), (4, 4), (6, 4), (8, 16)]
"""Grid and group of orders that are small and unlike."""


def transformer(
    grid: int = 4, group: int = 4, seed: int = 0, **more: Any
) -> Transformer:
    """In evaluation mode; a fresh one has no head and hardly any context."""
    torch.manual_seed(seed)
    gpt = Transformer(grid=grid, ar_token_num=group, **{**SIZES, **more})
    for module in gpt.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=1.5 / module.in_features**0.5)
    return gpt.eval()


def codes(gpt: Transformer, batch: int = 2, seed: int = 0) -> Tensor:
    """Codes (B, g, g) from a seed."""
    shape = (batch, gpt.schedule.grid, gpt.schedule.grid)
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(gpt.vocab_size, shape, generator=draw)


def labels(batch: int = 2) -> Tensor:
    """Classes in turn (B,)."""
    return torch.arange(batch) % SIZES["num_classes"]


def zero_positions(schedule: Schedule) -> list[int]:
    """Positions without a place: the class and the transition tokens."""
    return [0, *range(schedule.group + 1, 2 * schedule.group)]
