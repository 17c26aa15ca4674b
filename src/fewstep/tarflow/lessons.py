"""Corrected iterations of one block: what a search learns of them, and their plans."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fewstep.device import autocast
from fewstep.tarflow.case import BlockCase, SearchOptions
from fewstep.tarflow.costs import Costs
from fewstep.tarflow.inverse import make_evaluator
from fewstep.tarflow.learned import Lesson, learn
from fewstep.tarflow.metrics import Convergence
from fewstep.tarflow.sampler import TarFlowSampler
from fewstep.tarflow.solve import initial_guess
from fewstep.tarflow.strategy import BlockPlan

_CORRECTED = 6  # corrected iterations that are looked at after a draft
_ALONE = 10  # and without one
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
) -> Iterator[tuple[int, bool, Convergence]]:
    """Errors of corrected iterations after drafts of a few lengths, and without one.

    Args:
        sampler, block, costs, options: of the search.
        guess: where they start.
        usual: iterations of plain Jacobi that are enough.
        most: seconds that a plan may cost.

    Yields:
        iterations of a draft, whether they spare, curve of those after the draft.
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
            if costs.corrected(draft, 1, spare=spare) > most:
                break
            key = guess, draft, spare
            if key not in block.corrected:
                cap = _CORRECTED if draft else _ALONE
                count = sum(
                    costs.corrected(draft, number, spare=spare) <= most
                    for number in range(1, cap + 1)
                )
                enough = _FINE * options.tolerance
                block.corrected[key] = _learn(
                    sampler, block, guess, draft, count, enough, spare=spare
                )
            yield draft, spare, block.corrected[key][1]


def corrected_plan(
    guess: int, draft: int, spare: bool, learnt: int, count: int, tol: float
) -> BlockPlan:
    """The plan with so many corrected iterations in full precision, and a stop."""
    first, refine = (draft, min(count, learnt)) if draft else (min(count, learnt), 0)
    return BlockPlan(1, first, guess, tol, refine=refine, corrected=True, spare=spare)


def _draft(
    sampler: TarFlowSampler, block: BlockCase, guess: int, longest: int, *, spare: bool
) -> Lesson:
    """Corrected iterations in bfloat16, until they are as good as bfloat16 is."""
    x = _start(sampler, block, guess)
    return _lesson(
        sampler, block, x, longest, torch.bfloat16, spare=spare, enough=_ROUGH
    )


def _learn(
    sampler: TarFlowSampler,
    block: BlockCase,
    guess: int,
    draft: int,
    count: int,
    enough: float,
    *,
    spare: bool,
) -> tuple[Tensor, Convergence]:
    """Weights of a draft and of at most `count` more, and what those leave."""
    if not draft:
        x = _start(sampler, block, guess)
        alone = _lesson(sampler, block, x, count, None, spare=spare, enough=enough)
        return alone.weights, alone.curve
    before = block.drafts[guess, spare]
    x = before.iterates[draft - 1]
    after = _lesson(sampler, block, x, count, None, spare=spare, enough=enough)
    return torch.cat([before.weights[:draft], after.weights]), after.curve


def _lesson(
    sampler: TarFlowSampler,
    block: BlockCase,
    x: Tensor,
    iterations: int,
    dtype: torch.dtype | None,
    *,
    spare: bool,
    enough: float,
) -> Lesson:
    """Learn iterations from x on (None: in the sampler's precision)."""
    module = sampler.model.flows[block.number]
    z, exact = module.ordered(block.z), module.ordered(block.x)
    with torch.inference_mode(), autocast(sampler.device, sampler.precision):
        return learn(
            make_evaluator(
                module, block.y, z, sampler.guidance, cached=False, dtype=dtype
            ),
            z,
            exact,
            block.parameters,
            x,
            iterations,
            spare=spare,
            enough=enough,
        )


def _start(sampler: TarFlowSampler, block: BlockCase, guess: int) -> Tensor:
    """Where iterations begin (B, T, C), in the block's order."""
    z = sampler.model.flows[block.number].ordered(block.z)
    return initial_guess(z, guess, block.means)
