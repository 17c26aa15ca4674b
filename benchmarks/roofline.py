"""How fast this device could be: multiplications and memory traffic, measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from benchmarks.clock import once

from fewstep.tarflow import TarFlow

_TRIES = 5


@cache
def rates(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Operations a second of a matrix product, and bytes a second of a copy."""
    side = 1024 if device.type == "cpu" else 8192
    a = torch.ones(side, side, device=device, dtype=dtype)
    product = _best(lambda: a @ a, device)
    size = 2**25 if device.type == "cpu" else 2**30
    source = torch.ones(size, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    copy = _best(lambda: target.copy_(source), device)
    return 2 * side**3 / product, 2 * size / copy


def _best(call: Callable[[], object], device: torch.device) -> float:
    """Fastest wall seconds of some calls."""
    call()
    return min(once(call, device)[1] for _ in range(_TRIES))


def floor(
    model: TarFlow,
    rows: int,
    steps: Sequence[int],
    evaluations: Sequence[int],
    dtype: torch.dtype = torch.float32,
) -> float:
    """Least seconds of an inverse on the model's device.

    Each block's products at the rate of a large one, or its memory traffic (the weights
    once a step, of the keys and values before it, on average half of a sequence's,
    once a step) at that of a copy, whichever takes longer.

    Args:
        model: the flow.
        rows: sequences that are evaluated at once: twice the batch under guidance.
        steps: network calls of each block.
        evaluations: token evaluations of each block, a row.
        dtype: of the products.
    """
    flops, traffic = rates(model.var.device, dtype)
    size = torch.empty((), dtype=dtype).element_size()
    seconds = 0.0
    for block, calls, tokens in zip(model.flows, steps, evaluations, strict=True):
        weights = sum(p.numel() for p in block.parameters() if p.dim() == 2)
        layers, width = len(block.attn_blocks), block.proj_in.out_features
        pairs = tokens * model.tokens / 2  # a token attends to half of them on average
        work = 2 * rows * (tokens * weights + 2 * layers * width * pairs)
        held = rows * layers * model.tokens * width  # half of keys, half of values
        moved = size * calls * (weights + held)
        seconds += max(work / flops, moved / traffic)
    return seconds
