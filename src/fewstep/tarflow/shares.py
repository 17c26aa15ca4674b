"""How much of the error each block may leave: the split that makes the flow fastest."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from fewstep.tarflow.case import BlockCase
from fewstep.tarflow.costs import Costs
from fewstep.tarflow.metrics import rare_error

_UNITS = 400  # that the bound is divided into
_SPREAD = 0.02  # of the bound: for all blocks alike

Choice = tuple[float, float]
"""Tolerance of a block, and seconds of the fastest plan within it."""


def equal_shares(gains: Sequence[float], bound: float) -> list[float]:
    """Tolerances that use the same part of the bound: gain times share is the same."""
    return [bound / (len(gains) * gain) for gain in gains]


def fastest_shares(
    gains: Sequence[float], choices: Sequence[Iterable[Choice]], bound: float
) -> list[float]:
    """Tolerances of blocks that cost least together, gains times shares <= bound.

    A knapsack: `_UNITS` of the bound, block by block. What the choices leave of it goes
    to all blocks alike.

    Args:
        gains: largest change of an image for a change of 1 of each block's x.
        choices: of each block; one of them has a tolerance of 0.
        bound: on the sum of gain times tolerance.
    """
    unit = (1 - _SPREAD) * bound / _UNITS
    # Least seconds of the blocks so far with at most so many units, and their shares.
    best: list[tuple[float, list[float]]] = [(0.0, [])] * (_UNITS + 1)
    for gain, block in zip(gains, choices, strict=True):
        sized = [
            (math.ceil(gain * share / unit - 1e-9), share, seconds)
            for share, seconds in _frontier(block)
            if gain * share <= bound
        ]
        best = [
            min(
                (best[room - size][0] + seconds, [*best[room - size][1], share])
                for size, share, seconds in sized
                if size <= room
            )
            for room in range(_UNITS + 1)
        ]
    shares = best[-1][1]
    left = bound - math.fsum(map(math.prod, zip(gains, shares, strict=True)))
    extra = equal_shares(gains, left)
    return [share + more for share, more in zip(shares, extra, strict=True)]


def _frontier(choices: Iterable[Choice]) -> Iterator[Choice]:
    """The choices that no other one beats in both, by tolerance."""
    least = math.inf
    for share, seconds in sorted(choices):
        if seconds < least:
            least = seconds
            yield share, seconds


def known_choices(block: BlockCase, costs: Costs) -> Iterator[Choice]:
    """What the search knows of a block: For, curves of iterations, plans it ran."""
    tokens = block.z.shape[1]
    yield 0.0, (tokens - 1) * costs.of(1)
    for profile in block.profiles.values():
        for count, share in _settled(profile.rare):
            yield share, count * costs.whole
    for way, (_, curve) in block.corrected.items():
        for count, share in _settled(curve.rare):
            yield share, costs.corrected(way, count)
    for plan, errors in block.errors.items():
        width = plan.window or tokens // plan.segments
        # Its stop is half the tolerance that it was made for.
        share = max(rare_error(errors), 2 * (plan.tol or 0.0))
        yield share, block.steps[plan] * costs.of(width)


def _settled(errors: Sequence[float]) -> Iterator[tuple[int, float]]:
    """Iterations, and the tolerance for which the error stays small from there on."""
    worst = 0.0
    for count in range(len(errors), 0, -1):
        error = errors[count - 1]
        worst = max(worst, math.inf if math.isnan(error) else error)
        yield count, worst
