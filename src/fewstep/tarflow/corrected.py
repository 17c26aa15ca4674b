"""Jacobi whose iterations guess what they leave from what they moved.

An iteration evaluates s and u at x; at the solution x* they are s* and u*, and
f(x) - x is what is known of x* - x. Much of the Jacobian is the same for all samples:
what s and u of a token take over from the tokens right before it, from the one above,
and from the mean of all before it. So s* - s and u* - u are guessed linearly from the
moves of those tokens, and once more from these moves and from what the first guess adds
to f(x), with weights that exact pairs of a calibration batch give for every iteration.
Token t is guessed from tokens before it alone, so it is exact once they are.

With guidance every other iteration may leave the unconditional rows out and take their
difference to the conditional ones from the iteration before: half the work, where that
difference has nearly settled.

In a tough block tokens settle from the front on, however many are evaluated. There the
first few are solved one by one, and the iterations go over those behind them.
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
        weights: of corrected iterations (K, 12C, 2C), those of a draft first, each the
            (4C, 2C) of the first guess and the (8C, 2C) of the second; None: none.
    """

    means: Means | None = None
    weights: Tensor | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing is known."""
        return self.means is None and self.weights is None


@dataclass(frozen=True)
class Iteration:
    """What an iteration starts from and finds, each (B, T, C) in the block's order.

    Attributes:
        z: the block's output.
        s, u: at x, those of token 0 zeros: it passes unchanged.
        new: f(x).
        move: f(x) - x.
    """

    z: Tensor
    s: Tensor
    u: Tensor
    new: Tensor
    move: Tensor

    def shifted(self, change: Tensor) -> Tensor:
        """x (B, T, C) with another s and u: `change` (B, T, 2C) is added."""
        s, u = change.chunk(2, dim=2)
        return bounded(jacobi_step(self.z, self.s + s, self.u + u))

    def of(self, samples: Tensor) -> Iteration:
        """Those of some samples, a mask (B,)."""
        parts = (self.z, self.s, self.u, self.new, self.move)
        return Iteration(*(part[samples] for part in parts))

    @property
    def largest(self) -> Tensor:
        """Largest move of an entry of each sample (B,)."""
        return self.move.abs().amax(dim=(1, 2))


def headed(head: Tensor, x: Tensor) -> Tensor:
    """x (B, T, C) with `head` (B, n, C) in place of its first n tokens."""
    return torch.cat([head, x[:, head.shape[1] :]], dim=1)


def iterate(
    evaluate: BlockEvaluator,
    z: Tensor,
    x: Tensor,
    number: int,
    *,
    spare: bool,
    front: int = 0,
) -> Iteration:
    """An iteration from x (B, T, C); `spare`: odd ones leave unconditional rows out.

    Tokens up to `front` are solved, in z as in x (see `headed`), and `evaluate` has a
    cache that holds those before it. They pass unchanged, as token 0 always does.
    """
    out = evaluate(x[:, front:-1], front, spare=spare and number % 2 == 1)
    s, u = (F.pad(part, (0, 0, front + 1, 0)) for part in out)
    new = bounded(jacobi_step(z, s, u))
    return Iteration(z, s, u, new, new - x)


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


def correct(found: Iteration, weights: Tensor, width: int) -> Tensor:
    """The guess of x* (B, T, C) after an iteration, by its weights (12C, 2C)."""
    given = features(found.move, width)
    first, second = weights[: given.shape[2]], weights[given.shape[2] :]
    return found.shifted(again(found, given, given @ first, width) @ second)


def again(found: Iteration, given: Tensor, change: Tensor, width: int) -> Tensor:
    """What the second guess knows (B, T, 8C): the first's features and its effect."""
    added = found.shifted(change) - found.new
    return torch.cat([given, features(added, width)], dim=2)


def solve_corrected(
    evaluate: BlockEvaluator,
    z: Tensor,
    x: Tensor,
    weights: Tensor,
    tol: float = 0.0,
    on_iteration: OnStep | None = None,
    *,
    spare: bool = False,
    front: int = 0,
) -> Tensor:
    """As many iterations as there are weights (K, 12C, 2C), or fewer.

    Args:
        evaluate: the block's network, without a cache unless there is a front.
        z, x: its output and where to begin (B, T, C), in the block's order.
        weights: of every iteration.
        tol: an iteration that moves no entry of a sample by more is the sample's last;
            what a correction adds is no part of the move. 0 = none is.
        on_iteration: called with (0, iteration, x).
        spare: every other iteration leaves the unconditional rows out.
        front: tokens of z and x up to this one are solved; see `iterate`.

    Returns:
        x (B, T, C).
    """
    width = math.isqrt(z.shape[1])
    ended = torch.zeros(len(z), dtype=torch.bool, device=z.device)
    for number, each in enumerate(weights):
        found = iterate(evaluate, z, x, number, spare=spare, front=front)
        x = torch.where(ended[:, None, None], x, correct(found, each, width))
        if on_iteration is not None:
            on_iteration(0, number + 1, x)
        if tol:
            ended |= found.largest <= tol
            if bool(ended.all()):
                break
    return x
