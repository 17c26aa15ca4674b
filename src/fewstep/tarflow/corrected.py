"""Jacobi whose iterations guess what they leave from what they moved.

An iteration x -> f(x) leaves x* - f(x) = J (x* - x) and terms of second order, and
f(x) - x is what is known of x* - x. Much of J is the same for all samples: what a token
takes over from the tokens right before it, from the one above it, and from the mean of
all before it. So x* - f(x) is guessed linearly from the moves of those tokens, with
weights that exact pairs of a calibration batch give for every iteration. Token t is
guessed from tokens before it alone, so it is exact once they are.

With guidance every other iteration leaves the unconditional rows out and takes their
difference to the conditional ones from the iteration before, where it is nearly the
same: half the work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fewstep.tarflow.guidance import BlockEvaluator
from fewstep.tarflow.solve import Means, OnStep, bounded, jacobi_step


@dataclass(frozen=True)
class Learned:
    """What a calibration batch told of a block.

    Attributes:
        means: for the guess from means; None: not known.
        weights: of corrected iterations (K, 4C, C), those of a draft first; None: none.
    """

    means: Means | None = None
    weights: Tensor | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing is known."""
        return self.means is None and self.weights is None


def features(move: Tensor, width: int) -> Tensor:
    """Moves of tokens t-1, t-2, t-width, and the mean move of all before t.

    Args:
        move: (B, T, C) in the block's order.
        width: tokens of a row of the image.

    Returns:
        (B, T, 4C); zeros where there is no such token.
    """
    tokens = move.shape[1]
    lagged = [F.pad(move, (0, 0, lag, 0))[:, :tokens] for lag in (1, 2, width)]
    count = torch.arange(tokens, device=move.device).clamp(min=1)
    mean = lagged[0].cumsum(dim=1) / count[:, None]
    return torch.cat([*lagged, mean], dim=2)


def iterate(evaluate: BlockEvaluator, z: Tensor, x: Tensor, number: int) -> Tensor:
    """f(x) (B, T, C); odd numbers leave the unconditional rows out."""
    s, u = evaluate(x[:, :-1], 0, spare=number % 2 == 1)
    return torch.cat([x[:, :1], jacobi_step(z[:, 1:], s, u)], dim=1)


def correct(old: Tensor, new: Tensor, weights: Tensor, width: int) -> Tensor:
    """f(x) and the guess of what it leaves (B, T, C), from x, f(x), weights (4C, C)."""
    return bounded(new + features(new - old, width) @ weights)


def solve_corrected(
    evaluate: BlockEvaluator,
    z: Tensor,
    x: Tensor,
    weights: Tensor,
    tol: float = 0.0,
    on_iteration: OnStep | None = None,
) -> Tensor:
    """As many iterations as there are weights (K, 4C, C), or fewer.

    Args:
        evaluate: the block's network, without a cache.
        z, x: its output and where to begin (B, T, C), in the block's order.
        weights: of every iteration.
        tol: an iteration that moves no entry of a sample by more is the sample's last;
            what a correction adds is no part of the move. 0 = none is.
        on_iteration: called with (0, iteration, x).

    Returns:
        x (B, T, C).
    """
    width = math.isqrt(z.shape[1])
    ended = torch.zeros(len(z), dtype=torch.bool, device=z.device)
    for number, each in enumerate(weights):
        new = iterate(evaluate, z, x, number)
        still = moves(x, new) <= tol
        x = torch.where(ended[:, None, None], x, correct(x, new, each, width))
        if on_iteration is not None:
            on_iteration(0, number + 1, x)
        ended |= still
        if tol and bool(ended.all()):
            break
    return x


def moves(old: Tensor, new: Tensor) -> Tensor:
    """Largest move of an entry of each sample (B,)."""
    return (new - old).abs().amax(dim=(1, 2))
