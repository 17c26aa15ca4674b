"""Plans of one block: what they would cost, which get a clock, which is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from fewstep.device import autocast
from fewstep.tarflow.case import BlockCase, Candidate, SearchOptions, Tried
from fewstep.tarflow.costs import Costs
from fewstep.tarflow.inverse import invert_block
from fewstep.tarflow.lessons import (
    corrected_behind_fronts,
    corrected_curves,
    corrected_plan,
)
from fewstep.tarflow.metrics import Convergence, iterations_to, rare_error
from fewstep.tarflow.sampler import TarFlowSampler
from fewstep.tarflow.strategy import BlockPlan, Strategy
from fewstep.timing import alternate

_CLOCKED = 3  # plans of a block that the clock decides between, beside For
_SPARED = 0.6  # windows need at least this share of the evaluations of Jacobi
_HOPELESS = 1.3  # plans predicted this much slower than the best, or For, get no clock
_RACED = 0.5  # seconds that For runs for at least: short plans have more turns
_TURNS = 20  # at most
_NOT_EXACT = "error above tolerance"


def choose(
    sampler: TarFlowSampler,
    block: BlockCase,
    tolerance: float,
    costs: Costs,
    options: SearchOptions,
    round_number: int,
) -> tuple[BlockPlan, list[Candidate]]:
    """The fastest plan of one block within `tolerance`, and all that were considered.

    Predictions leave a few plans, and those the clock decides between.
    """
    sequential = Tried(BlockPlan(), (block.z.shape[1] - 1) * costs.of(1), 0.0)
    tried = [sequential, *_jacobi_plans(sampler, block, tolerance, costs, options)]
    for plan, least in _cached_plans(block, tolerance, costs, options):
        tried.append(
            _try(sampler, block, plan, least, tried, costs, tolerance, options)
        )
        if tried[-1].reason == _NOT_EXACT and plan.tol is not None:
            tighter = replace(plan, tol=plan.tol / 4)
            tried.append(
                _try(sampler, block, tighter, least, tried, costs, tolerance, options)
            )
    _give_up(block, tried)
    limit = _HOPELESS * sequential.predicted
    fit = [one for one in tried[1:] if not one.reason and one.predicted < limit]
    best = sorted(fit, key=lambda one: one.predicted)[:_CLOCKED]
    turns = min(_TURNS, round(_RACED / sequential.predicted))
    options = replace(options, repeats=max(options.repeats, turns))
    _clock(sampler, block, [sequential.plan, *(one.plan for one in best)], options)
    seconds = {one.plan: block.clocks[one.plan].median for one in [sequential, *best]}
    winner = min(seconds, key=lambda plan: block.relative[plan])
    if block.relative[winner] > 1 - options.min_gain:
        winner = sequential.plan
    rows = []
    for one in tried:
        reason = one.reason
        if not reason and one.plan != winner:
            reason = "slower" if one.plan in seconds else "predicted slower"
        clocked = seconds.get(one.plan)
        rows.append(
            Candidate(
                block.number,
                one.plan,
                clocked,
                one.predicted,
                one.error,
                tolerance,
                chosen=False,
                reason=reason,
                round=round_number,
            )
        )
    return winner, rows


def _give_up(block: BlockCase, tried: list[Tried]) -> None:
    """Note which windows and segments need no further look in later rounds."""
    best = min(one.predicted for one in tried if not one.reason)
    for one in tried:
        if one.plan in block.steps and one.predicted > _HOPELESS * best:
            block.hopeless.add((one.plan.window, one.plan.segments))


# -- Jacobi: everything is in the profile ------------------------------------------


def _jacobi_plans(
    sampler: TarFlowSampler,
    block: BlockCase,
    tolerance: float,
    costs: Costs,
    options: SearchOptions,
) -> Iterator[Tried]:
    """Jacobi from every guess, and corrected from the guess that needs least."""
    tried: list[Tried] = []
    for guess in block.guesses:
        tried += _by_profile(
            block.profiles[guess],
            partial(_jacobi, guess),
            lambda count: count * costs.whole,
            tolerance,
            options,
        )
    yield from tried
    sequential = (block.z.shape[1] - 1) * costs.of(1)
    curves = [corrected_behind_fronts(sampler, block, sequential, costs, options)]
    fit = [one for one in tried if not one.reason]
    if fit:
        least = min(fit, key=lambda one: one.predicted)
        usual = max(1, round(least.predicted / costs.whole))
        most = _HOPELESS * min(least.predicted, sequential)
        guess = least.plan.guess
        curves.append(
            corrected_curves(sampler, block, guess, usual, most, costs, options)
        )
    for way, curve in chain(*curves):
        yield from _by_profile(
            curve,
            partial(corrected_plan, way, len(curve.largest)),
            partial(costs.corrected, way),
            tolerance,
            options,
        )


def _jacobi(guess: int, count: int, tol: float) -> BlockPlan:
    """The plan with so many iterations, and a stop."""
    return BlockPlan(1, count, guess, tol)


def _by_profile(
    profile: Convergence,
    plan: Callable[[int, float], BlockPlan],
    cost: Callable[[int], float],
    tolerance: float,
    options: SearchOptions,
) -> Iterator[Tried]:
    """The plan with as many iterations as all samples need, and with a stop for each.

    A stop costs a sample one iteration that tells it to end, but easy samples end
    sooner and hard ones get what they need.

    Args:
        profile: errors and moves by iteration.
        plan: of so many iterations and a stop.
        cost: seconds of so many iterations.
        tolerance: of the block.
        options: of the search.
    """
    needed = iterations_to(profile.rare, tolerance)
    if needed is not None:
        error = profile.largest[needed - 1]
        yield Tried(plan(needed, 0.0), cost(needed), error)
    stop = loosest(profile, tolerance)
    if stop is not None:
        tol, ends, error = stop
        most = [int(part.max()) for part in torch.split(ends, options.batch)]
        usual = sum(cost(count) for count in most) / len(most)
        yield Tried(plan(max(most) + options.margin, tol), usual, error)
    if needed is None and stop is None:
        count = len(profile.largest)
        why = "does not converge within tolerance"
        failed = plan(options.max_iterations, tolerance)
        yield Tried(failed, cost(count), profile.largest[-1], why)


def loosest(
    profile: Convergence, tolerance: float
) -> tuple[float, Tensor, float] | None:
    """Largest stopping tolerance that leaves every sample within `tolerance`.

    A sample ends with the iteration that moves it no more than that. Within `tolerance`
    have to be those in the profile and, by them, all but a few others. Tried are powers
    of the root of two times `tolerance`.

    Returns:
        tolerance of a move; iterations of each sample (N,); largest error left. None
        where some sample does not get there in the profile.
    """
    errors, moves = torch.stack(profile.errors), torch.stack(profile.moves)
    for power in range(6, -13, -1):
        tol = tolerance * 2.0 ** (power / 2)
        still = moves <= tol
        if not bool(still.any(dim=0).all()):
            break
        ends = still.int().argmax(dim=0)
        left = errors.gather(0, ends[None])[0]
        if rare_error(left) <= tolerance:
            return tol, ends + 1, float(left.max())
    return None


def stop_of_profile(tolerance: float) -> float:
    """Where a profile ends: below any stop that is tried, above float32's noise."""
    return max(tolerance / 200, 2e-6)


# -- Windows and segments: a run tells -----------------------------------------------


def _cached_plans(
    block: BlockCase, tolerance: float, costs: Costs, options: SearchOptions
) -> Iterator[tuple[BlockPlan, float]]:
    """Windows, and segments of tough blocks, with the least they can cost.

    A window does not settle tokens with much fewer evaluations than Jacobi.
    """
    tokens, guess = block.z.shape[1], block.guesses[0]
    profile = block.profiles[guess]
    few = max(1.0, _SPARED * sum(e > tolerance for e in profile.largest))
    for width in options.windows:
        if width < tokens - 1 and (width, 0) not in block.hopeless:
            least = tokens / width * min(width, few) * costs.of(width)
            yield BlockPlan(0, 1, guess, tolerance / 2, window=width), least
    if not block.tough:
        return
    for segments in options.segments:
        fits = 1 < segments < tokens and tokens % segments == 0
        if fits and (0, segments) not in block.hopeless:
            size = tokens // segments
            least = segments * min(size, few) * costs.of(size)
            cap = min(size, options.max_iterations)
            yield BlockPlan(segments, cap, guess, tolerance / 2), least


def _try(
    sampler: TarFlowSampler,
    block: BlockCase,
    plan: BlockPlan,
    least: float,
    tried: list[Tried],
    costs: Costs,
    tolerance: float,
    options: SearchOptions,
) -> Tried:
    """Run a plan on the calibration noise, unless it cannot be the fastest.

    The first batch of it tells how many steps a batch takes.
    """
    best = min(one.predicted for one in tried if not one.reason)
    if least > best and plan not in block.steps:
        return Tried(plan, least, None, "predicted slower")
    if plan not in block.steps:
        _, block.steps[plan] = _run(sampler, block, plan, options.batch)
    width = plan.window or block.z.shape[1] // plan.segments
    predicted = block.steps[plan] * costs.of(width)
    if predicted > best and plan not in block.errors:
        return Tried(plan, predicted, None, "predicted slower")
    if plan not in block.errors:
        found, _ = _run(sampler, block, plan, len(block.z))
        block.errors[plan] = (found - block.x).abs().amax(dim=(1, 2))
    errors = block.errors[plan]
    reason = "" if rare_error(errors) <= tolerance else _NOT_EXACT
    return Tried(plan, predicted, float(errors.max()), reason)


def _run(
    sampler: TarFlowSampler, block: BlockCase, plan: BlockPlan, batch: int
) -> tuple[Tensor, int]:
    """Invert the block for the first samples; also the network's calls."""
    y = None if block.y is None else block.y[:batch]
    with torch.inference_mode(), autocast(sampler.device, sampler.precision):
        out, steps, _ = invert_block(
            sampler.model.flows[block.number],
            block.z[:batch],
            y,
            plan,
            guidance=sampler.guidance,
            learned=block.learned(plan),
        )
    return out, steps


def _clock(
    sampler: TarFlowSampler,
    block: BlockCase,
    plans: list[BlockPlan],
    options: SearchOptions,
) -> None:
    """Times of plans in turn at the wanted batch, For first, where one has none yet.

    Races are at different times, so what counts is the part of For's time, and the
    least of each: what other work on the machine adds is none of the plan's.
    """
    if all(plan in block.clocks for plan in plans):
        return
    calls = {
        str(place): partial(_run, sampler, block, plan, options.batch)
        for place, plan in enumerate(plans)
    }
    clocks = alternate(calls, repeats=options.repeats, device=sampler.device)
    for place, plan in enumerate(plans):
        block.clocks[plan] = clocks[str(place)]
        least = [min(clocks[str(n)].seconds) for n in (place, 0)]
        block.relative[plan] = least[0] / least[1]


def latest(candidates: list[Candidate]) -> list[Candidate]:
    """One row a plan and block: a later round judges the same plan anew."""
    return list({(row.block, row.plan): row for row in candidates}.values())


def forget(candidates: list[Candidate], reason: str) -> None:
    """Say of the plans that were taken so far why they are not after all."""
    for row in candidates:
        row.reason = row.reason or reason


def mark(candidates: list[Candidate], strategy: Strategy) -> None:
    """Mark the plans that are in the answer."""
    for row in candidates:
        row.chosen = row.plan == strategy.blocks[row.block]
        if row.chosen:
            row.reason = "fastest within tolerance"
        elif not row.reason:
            row.reason = "fastest at another split of the tolerance"
