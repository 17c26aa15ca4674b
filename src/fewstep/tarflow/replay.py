"""For in steps of one shape, which a device may be given as a single launch.

A step of For is some hundred small kernels; a GPU is done with each before the next one
is launched. A step that reads and writes the same tensors at every call is recorded
once and replayed: its place is a tensor too, so nothing of it is decided on the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.device import replayable
from fewstep.tarflow.guidance import BlockEvaluator
from fewstep.tarflow.solve import jacobi_step

PART = 128
"""Tokens that share a step: it attends to all of the cache up to their end, so a short
part saves reading, and a long one recording."""


def solve_replayed(evaluate: BlockEvaluator, z: Tensor, part: int = PART) -> Tensor:
    """Invert one block token by token: `solve_exact` with the plan of For.

    Args:
        evaluate: the block's network with an empty cache for all tokens.
        z: its output (B, T, C), in the block's order.
        part: tokens that share a step.

    Returns:
        x (B, T, C).
    """
    cache, tokens = evaluate.cache, z.shape[1]
    assert cache is not None, "For needs a cache"
    x = z.clone()
    place = torch.zeros(len(z), dtype=torch.int64, device=z.device)

    def step() -> None:
        at = place[:, None, None].expand(-1, 1, z.shape[2])
        s, u = evaluate(x.gather(1, at), place)
        x.scatter_(1, at + 1, jacobi_step(z.gather(1, at + 1), s, u))
        place.add_(1)

    for first in range(0, tokens - 1, part):
        cache.limit = min(first + part, tokens)
        place.fill_(first)
        run = replayable(step, z.device)
        place.fill_(first)  # recording may have taken steps
        for _ in range(first, min(first + part, tokens - 1)):
            run()
    evaluate.steps = evaluate.evaluations = tokens - 1
    return x
