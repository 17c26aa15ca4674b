"""What the inverse of a block learns from the exact pairs of a calibration batch.

Mean parameters, where its iteration may start; weights of corrected iterations.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.tarflow.corrected import Learned, correct, features, iterate, moves
from fewstep.tarflow.guidance import UNGUIDED, BlockEvaluator, Guidance
from fewstep.tarflow.metrics import Convergence, Recorder
from fewstep.tarflow.model import FlowBlock, TarFlow
from fewstep.tarflow.solve import Means


def mean_parameters(
    block: FlowBlock, x: Tensor, y: Tensor | None, guidance: Guidance = UNGUIDED
) -> Means:
    """E[s] and E[u] of each entry, at exact inputs x (B, T, C) in raster order.

    As precise as a plan keeps them: half precision.
    """
    x = block.ordered(x)
    with torch.inference_mode():
        evaluate = BlockEvaluator(block, y, len(x), guidance)
        found = [part.mean(dim=0) for part in evaluate(x[:, :-1], 0)]
    s, u = (torch.cat([torch.zeros_like(part[:1]), part]) for part in found)
    return s.half().float(), u.half().float()


_RIDGE = 1e-2
"""Of the mean square of a feature: weights of little use are left small."""

_SHOWN = 0.75
"""Share of the calibration samples that weights are fitted to; errors are those of all,
so that the largest one is mostly that of a sample which the weights have not seen."""


def fit(move: Tensor, left: Tensor, width: int) -> Tensor:
    """Weights (4C, C), in half precision, that make `left` of the features of `move`.

    Ridge regression in which each sample weighs the same, however far off it is. Where
    numbers are no longer finite there is nothing to learn, and weights are zeros.

    Args:
        move: f(x) - x (B, T, C) in the block's order.
        left: x* - f(x) (B, T, C).
        width: tokens of a row of the image.
    """
    with torch.autocast(move.device.type, enabled=False):
        given = features(move, width)
        size = given.square().mean(dim=(1, 2), keepdim=True).sqrt().clamp(min=1e-12)
        given, wanted = ((part / size).flatten(0, 1) for part in (given, left))
        # Small, and not every device has float64.
        gram, both = ((given.T @ part).cpu().double() for part in (given, wanted))
    if not bool(gram.isfinite().all() and both.isfinite().all()):
        return torch.zeros_like(both, dtype=torch.float32).to(move.device)
    gram.diagonal().add_(_RIDGE * gram.diagonal().mean() + 1e-12)
    weights: Tensor = torch.linalg.solve(gram, both)
    most = torch.finfo(torch.half).max
    return weights.clamp(-most, most).half().float().to(move.device)


def learn(
    evaluate: BlockEvaluator,
    z: Tensor,
    exact: Tensor,
    x: Tensor,
    iterations: int,
) -> tuple[Tensor, Tensor, Convergence]:
    """Weights of so many iterations on exact pairs, and what they leave of the error.

    Args:
        evaluate, z, x: as in `solve_corrected`.
        exact: the solution (B, T, C) in the block's order.
        iterations: how many, K.

    Returns:
        weights (K, 4C, C); the last x (B, T, C); errors and moves by iteration.
    """
    width = math.isqrt(z.shape[1])
    shown = slice(round((1 - _SHOWN) * len(z)), None)  # the first ones have the clock
    record, weights = Recorder(exact, 1), list[Tensor]()
    for number in range(iterations):
        new = iterate(evaluate, z, x, number)
        weights.append(fit((new - x)[shown], (exact - new)[shown], width))
        moved = moves(x, new)
        x = correct(x, new, weights[-1], width)
        record(0, number + 1, x)
        record.found[0].moves[-1] = moved
    return torch.stack(weights), x, record.found[0]


def write_learned(learned: Mapping[int, Learned]) -> dict[str, dict[str, str]]:
    """As JSON: "means" and "corrections" of blocks, base64 of half-precision numbers.

    Means are E[s] and E[u] (2, T, C), corrections (K, 4C, C).
    """
    means = {
        str(block): _written(torch.stack(one.means))
        for block, one in learned.items()
        if one.means is not None
    }
    weights = {
        str(block): _written(one.weights)
        for block, one in learned.items()
        if one.weights is not None
    }
    return {"means": means, "corrections": weights}


def read_learned(planned: Mapping[str, Any], model: TarFlow) -> dict[int, Learned]:
    """What `write_learned` wrote into a plan, on the model's device."""
    device, channels = model.var.device, model.token_dim
    means = dict[int, Means]()
    for block, text in planned.get("means", {}).items():
        s, u = _read(text).view(2, model.tokens, channels).to(device)
        means[int(block)] = (s, u)
    weights = {
        int(block): _read(text).view(-1, 4 * channels, channels).to(device)
        for block, text in planned.get("corrections", {}).items()
    }
    return {
        block: Learned(means.get(block), weights.get(block))
        for block in means.keys() | weights.keys()
    }


def _written(values: Tensor) -> str:
    return base64.b64encode(values.half().cpu().numpy().tobytes()).decode()


def _read(text: str) -> Tensor:
    values = np.frombuffer(base64.b64decode(text), dtype=np.float16)
    return torch.from_numpy(values.copy()).float()
