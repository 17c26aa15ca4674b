"""What the inverse of a block learns from the exact pairs of a calibration batch.

Mean parameters, where its iteration may start; weights of corrected iterations.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fewstep.tarflow.corrected import (
    Iteration,
    Learned,
    again,
    correct,
    features,
    iterate,
)
from fewstep.tarflow.guidance import UNGUIDED, BlockEvaluator, Guidance
from fewstep.tarflow.metrics import Convergence, Recorder
from fewstep.tarflow.model import FlowBlock, TarFlow
from fewstep.tarflow.solve import Means


def exact_parameters(
    block: FlowBlock, x: Tensor, y: Tensor | None, guidance: Guidance = UNGUIDED
) -> tuple[Tensor, Tensor]:
    """s and u at exact inputs x (B, T, C) in raster order, those of token 0 zeros."""
    x = block.ordered(x)
    with torch.inference_mode():
        evaluate = BlockEvaluator(block, y, len(x), guidance)
        s, u = (F.pad(part, (0, 0, 1, 0)) for part in evaluate(x[:, :-1], 0))
    return s, u


def mean_parameters(s: Tensor, u: Tensor) -> Means:
    """E[s] and E[u] of each entry (T, C), as precise as a plan keeps them: half."""
    return s.mean(dim=0).half().float(), u.mean(dim=0).half().float()


_RIDGE = 1e-3
"""Of the mean square of a feature: weights of little use are left small."""

_FOLDS = 6
"""Parts of the calibration samples: what is noted of one comes from weights that were
fitted to the others. Fitted to all they make errors of those ten times smaller, and of
others not."""


def fit(given: Tensor, wanted: Tensor) -> Tensor:
    """Weights (F, D), in half precision, that make `wanted` of `given`.

    Ridge regression in which each sample weighs the same, however far off it is. Where
    numbers are no longer finite there is nothing to learn, and weights are zeros.

    Args:
        given: features (B, T, F).
        wanted: (B, T, D).
    """
    with torch.autocast(given.device.type, enabled=False):
        size = given.square().mean(dim=(1, 2), keepdim=True).sqrt().clamp(min=1e-12)
        given, wanted = ((part / size).flatten(0, 1) for part in (given, wanted))
        # Small, and not every device has float64.
        gram, both = ((given.T @ part).cpu().double() for part in (given, wanted))
    if not bool(gram.isfinite().all() and both.isfinite().all()):
        return torch.zeros_like(both, dtype=torch.float32).to(given.device)
    gram.diagonal().add_(_RIDGE * gram.diagonal().mean() + 1e-12)
    weights: Tensor = torch.linalg.solve(gram, both)
    most = torch.finfo(torch.half).max
    return weights.clamp(-most, most).half().float().to(given.device)


@dataclass(frozen=True)
class Lesson:
    """Corrected iterations on exact pairs.

    Attributes:
        weights: of every iteration (K, 12C, 2C).
        iterates: x (B, T, C) after every iteration.
        curve: errors and moves by iteration.
    """

    weights: Tensor
    iterates: list[Tensor]
    curve: Convergence


def learn(
    evaluate: BlockEvaluator,
    z: Tensor,
    exact: Tensor,
    parameters: tuple[Tensor, Tensor],
    x: Tensor,
    iterations: int,
    *,
    spare: bool = False,
    enough: float = 0.0,
    front: int = 0,
) -> Lesson:
    """Learn the weights of iterations, each on what those before it leave.

    The weights are fitted to all samples; iterates and errors are what samples show
    that they were not fitted to.

    Args:
        evaluate, z, x, spare, front: as in `solve_corrected`.
        exact: the solution (B, T, C) in the block's order.
        parameters: s and u there, see `exact_parameters`.
        iterations: most of them.
        enough: an error that need not get smaller.
    """
    width = math.isqrt(z.shape[1])
    record, weights, iterates = Recorder(exact, 1), list[Tensor](), list[Tensor]()
    for number in range(iterations):
        found = iterate(evaluate, z, x, number, spare=spare, front=front)
        left = torch.cat([parameters[0] - found.s, parameters[1] - found.u], dim=2)
        weights.append(_fitted(found, left, width))
        x = _by_others(found, left, width)
        iterates.append(x)
        record(0, number + 1, x, found.largest)
        if record.found[0].largest[-1] <= enough:
            break
    return Lesson(torch.stack(weights), iterates, record.found[0])


def _fitted(found: Iteration, left: Tensor, width: int) -> Tensor:
    """Weights (12C, 2C) that guess what an iteration leaves of s and u (B, T, 2C)."""
    given = features(found.move, width)
    first = fit(given, left)
    second = fit(again(found, given, given @ first, width), left)
    return torch.cat([first, second])


def _by_others(found: Iteration, left: Tensor, width: int) -> Tensor:
    """x (B, T, C), each sample corrected by weights that it had no part in."""
    x = torch.empty_like(found.new)
    part = torch.arange(len(x), device=x.device) % _FOLDS
    for fold in range(_FOLDS):
        mine, others = part == fold, part != fold
        weights = _fitted(found.of(others), left[others], width)
        x[mine] = correct(found.of(mine), weights, width)
    return x


def write_learned(learned: Mapping[int, Learned]) -> dict[str, dict[str, str]]:
    """As JSON: "means" and "corrections" of blocks, base64 of half-precision numbers.

    Means are E[s] and E[u] (2, T, C), corrections (K, 12C, 2C).
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
        int(block): _read(text).view(-1, 12 * channels, 2 * channels).to(device)
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
