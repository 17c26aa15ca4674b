"""Corrected iterations of one block: what a search learns of them, and their plans."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fewstep.device import autocast
from fewstep.tarflow.case import BlockCase, SearchOptions, Way
from fewstep.tarflow.corrected import headed
from fewstep.tarflow.costs import Costs
from fewstep.tarflow.inverse import make_evaluator
from fewstep.tarflow.learned import Lesson, learn
from fewstep.tarflow.metrics import Convergence
from fewstep.tarflow.sampler import TarFlowSampler
from fewstep.tarflow.solve import initial_guess
from fewstep.tarflow.strategy import BlockPlan

_CORRECTED = 6  # corrected iterations that are looked at after a draft
_ALONE = 10  # and without one
_BEHIND = 20  # and behind a front
_FEWEST = 3  # a front is tried where so many behind it are faster than For
_HARD = 2.0  # times For's seconds that a sample behind a front may take
_DRAFTS = 3  # lengths of corrected drafts that are tried
_ROUGH = 1e-2  # an error that bfloat16 does not make much smaller
_FINE = 0.02  # of the tolerance: an error that no block has to be below


def corrected_curves(
    sampler: TarFlowSampler,
    block: BlockCase,
    guess: int,
    usual: int,
    most: float,
    costs: Costs,
    options: SearchOptions,
) -> Iterator[tuple[Way, Convergence]]:
    """Errors of corrected iterations after drafts of a few lengths, and without one.

    Args:
        sampler, block, costs, options: of the search.
        guess: where they start.
        usual: iterations of plain Jacobi that are enough.
        most: seconds that a plan may cost.

    Yields:
        a way, and the curve of the iterations in full precision.
    """
    for spare in (False, True) if costs.spare is not None else (False,):
        lengths = [0]
        if costs.draft is not None and costs.draft < 0.9 * costs.whole:
            longest = max(1, usual - 2)
            if (guess, spare) not in block.drafts:
                block.drafts[guess, spare] = _draft(
                    sampler, block, guess, longest, spare=spare
                )
            last = len(block.drafts[guess, spare].weights)
            lengths = list(range(max(1, last - _DRAFTS + 1), last + 1))
        for draft in lengths:
            way = Way(guess, draft, spare)
            if costs.corrected(way, 1) > most:
                break
            cap = _CORRECTED if draft else _ALONE
            yield way, _known(sampler, block, way, cap, most, costs, options)


def corrected_behind_fronts(
    sampler: TarFlowSampler,
    block: BlockCase,
    sequential: float,
    costs: Costs,
    options: SearchOptions,
) -> Iterator[tuple[Way, Convergence]]:
    """Errors of corrected iterations behind the front of a tough block.

    Args:
        sampler, block, costs, options: of the search.
        sequential: seconds of For.

    Yields:
        as `corrected_curves`.
    """
    for front, (_, spared) in costs.behind.items() if block.tough else ():
        for spare in (False, True) if spared is not None else (False,):
            way = Way(block.guesses[0], 0, spare, front)
            if costs.corrected(way, _FEWEST) < sequential:
                # Each sample has a stop: a hard one may take longer than by For.
                most = _HARD * sequential
                yield way, _known(sampler, block, way, _BEHIND, most, costs, options)


def corrected_plan(way: Way, learnt: int, count: int, tol: float) -> BlockPlan:
    """The plan with so many corrected iterations in full precision, and a stop."""
    count = min(count, learnt)
    first, refine = (way.draft, count) if way.draft else (count, 0)
    return BlockPlan(
        1,
        first,
        way.guess,
        tol,
        refine=refine,
        corrected=True,
        spare=way.spare,
        front=way.front,
    )


def _known(
    sampler: TarFlowSampler,
    block: BlockCase,
    way: Way,
    cap: int,
    most: float,
    costs: Costs,
    options: SearchOptions,
) -> Convergence:
    """The curve of a way, learned at first use: at most `cap` iterations, `most` s."""
    if way not in block.corrected:
        count = sum(costs.corrected(way, each) <= most for each in range(1, cap + 1))
        enough = _FINE * options.tolerance
        block.corrected[way] = _learn(sampler, block, way, count, enough)
    return block.corrected[way][1]


def _draft(
    sampler: TarFlowSampler, block: BlockCase, guess: int, longest: int, *, spare: bool
) -> Lesson:
    """Corrected iterations in bfloat16, until they are as good as bfloat16 is."""
    x = _start(sampler, block, guess)
    way = Way(guess, longest, spare)
    return _lesson(sampler, block, way, x, longest, torch.bfloat16, enough=_ROUGH)


def _learn(
    sampler: TarFlowSampler, block: BlockCase, way: Way, count: int, enough: float
) -> tuple[Tensor, Convergence]:
    """Weights of a draft and of at most `count` more, and what those leave."""
    if not way.draft:
        x = _start(sampler, block, way.guess)
        alone = _lesson(sampler, block, way, x, count, None, enough=enough)
        return alone.weights, alone.curve
    before = block.drafts[way.guess, way.spare]
    x = before.iterates[way.draft - 1]
    after = _lesson(sampler, block, way, x, count, None, enough=enough)
    return torch.cat([before.weights[: way.draft], after.weights]), after.curve


def _lesson(
    sampler: TarFlowSampler,
    block: BlockCase,
    way: Way,
    x: Tensor,
    iterations: int,
    dtype: torch.dtype | None,
    *,
    enough: float,
) -> Lesson:
    """Learn iterations from x on (None: in the sampler's precision)."""
    module = sampler.model.flows[block.number]
    z, exact = module.ordered(block.z), module.ordered(block.x)
    front = way.front
    with torch.inference_mode(), autocast(sampler.device, sampler.precision):
        evaluate = make_evaluator(
            module, block.y, z, sampler.guidance, cached=front > 0, dtype=dtype
        )
        if front:
            z, x = (headed(exact[:, : front + 1], part) for part in (z, x))
            evaluate(x[:, :front], 0)  # keys and values of the front
        return learn(
            evaluate,
            z,
            exact,
            block.parameters,
            x,
            iterations,
            spare=way.spare,
            enough=enough,
            front=front,
        )


def _start(sampler: TarFlowSampler, block: BlockCase, guess: int) -> Tensor:
    """Where iterations begin (B, T, C), in the block's order."""
    z = sampler.model.flows[block.number].ordered(block.z)
    return initial_guess(z, guess, block.means)
