"""Plans of one block: what they would cost, which get a clock, which is taken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from fewstep.device import autocast
from fewstep.tarflow.costs import Costs
from fewstep.tarflow.inverse import invert_block
from fewstep.tarflow.metrics import Convergence, convergence, iterations_to
from fewstep.tarflow.sampler import TarFlowSampler
from fewstep.tarflow.solve import Means
from fewstep.tarflow.strategy import BlockPlan, Strategy
from fewstep.timing import Timing, alternate

_CLOCKED = 3  # plans of a block that the clock decides between, beside For
_REFINING = 4  # iterations after a draft that are looked at
_SPARED = 0.6  # windows need at least this share of the evaluations of Jacobi
_HOPELESS = 1.3  # plans predicted this much slower than the best, or For, get no clock
_MARGIN = 0.7  # of a block's tolerance: what a fixed number of iterations may leave
_NOT_EXACT = "error above tolerance"


@dataclass(frozen=True)
class SearchOptions:
    """What is searched.

    Attributes:
        tolerance: largest allowed |image - exact image| of any value; images span
            [-1, 1], so one grey level is 2/255.
        batch: batch size of the clock: the first samples of the calibration noise.
        segments: numbers of segments tried on tough blocks (those that fit T).
        windows: widths of sliding windows that are tried, in tokens.
        max_iterations: most Jacobi iterations a segment that are tried.
        margin: iterations that a cap leaves above where the calibration noise stopped.
        repeats: timed calls of each candidate; the median counts.
        min_gain: a plan replaces For only when it saves this share of its time.
    """

    tolerance: float = 1 / 255
    batch: int = 16
    segments: tuple[int, ...] = (2, 4, 8)
    windows: tuple[int, ...] = (8, 16, 32, 64)
    max_iterations: int = 64
    margin: int = 2
    repeats: int = 3
    min_gain: float = 0.05


@dataclass
class Candidate:
    """One plan that was considered for one block; a row of the strategies table."""

    block: int
    plan: BlockPlan
    seconds: float | None
    predicted: float
    error: float | None
    tolerance: float
    chosen: bool
    reason: str
    round: int = 0


@dataclass(frozen=True)
class Tried:
    """A plan with its predicted seconds and its error on the calibration noise."""

    plan: BlockPlan
    predicted: float
    error: float | None
    reason: str = ""


@dataclass
class BlockCase:
    """What is known of one block during a search.

    Attributes:
        number: of the block.
        x, z: exact input and output (N, T, C) in raster order.
        y: labels (N,) or None.
        guesses: worth a try, the most promising first.
        tough: whether to cut it into segments.
        means: for the guess from means.
        gain: largest change of an image for a change of 1 of x.
        profiles: Jacobi's error by iteration, by guess and iterations of a draft.
        clocks, errors: what was measured, by plan.
        hopeless: windows (width, 0) and segments (0, number) that were far too slow.
    """

    number: int
    x: Tensor
    z: Tensor
    y: Tensor | None
    guesses: list[int]
    tough: bool
    means: Means
    gain: float = 1.0
    profiles: dict[tuple[int, int], Convergence] = field(default_factory=dict)
    clocks: dict[BlockPlan, Timing] = field(default_factory=dict)
    errors: dict[BlockPlan, tuple[float, int]] = field(default_factory=dict)
    hopeless: set[tuple[int, int]] = field(default_factory=set)


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
        tried.append(_try(sampler, block, plan, least, tried, costs, tolerance))
        if tried[-1].reason == _NOT_EXACT and plan.tol is not None:
            tighter = replace(plan, tol=plan.tol / 4)
            tried.append(_try(sampler, block, tighter, least, tried, costs, tolerance))
    _give_up(block, tried)
    limit = _HOPELESS * sequential.predicted
    fit = [one for one in tried[1:] if not one.reason and one.predicted < limit]
    best = sorted(fit, key=lambda one: one.predicted)[:_CLOCKED]
    _clock(sampler, block, [sequential.plan, *(one.plan for one in best)], options)
    seconds = {one.plan: block.clocks[one.plan].median for one in [sequential, *best]}
    winner = min(seconds, key=lambda plan: seconds[plan])
    if seconds[winner] > (1 - options.min_gain) * seconds[sequential.plan]:
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
        if one.plan in block.errors and one.predicted > _HOPELESS * best:
            block.hopeless.add((one.plan.window, one.plan.segments))


# -- Jacobi: everything is in the profile ------------------------------------------


def _jacobi_plans(
    sampler: TarFlowSampler,
    block: BlockCase,
    tolerance: float,
    costs: Costs,
    options: SearchOptions,
) -> Iterator[Tried]:
    """Jacobi from every guess, and with drafts from the guess that needs least."""
    tried: list[Tried] = []
    for guess in block.guesses:
        profile = block.profiles[guess, 0]
        plan = BlockPlan(1, options.max_iterations, guess)
        tried += _by_profile(profile, plan, tolerance, 0.0, costs, options)
    yield from tried
    fit = [one for one in tried if not one.reason]
    if costs.draft is None or costs.draft > 0.9 * costs.whole or not fit:
        return
    least = min(fit, key=lambda one: one.predicted)
    usual = max(1, round(least.predicted / costs.whole))
    most = _HOPELESS * (block.z.shape[1] - 1) * costs.of(1)
    for draft in range(max(1, usual - 2), usual + 1):
        if draft * costs.draft + costs.whole > most:
            return
        profile = _drafted(sampler, block, least.plan.guess, draft, tolerance)
        plan = BlockPlan(1, draft, least.plan.guess, refine=_REFINING)
        spent = draft * costs.draft
        yield from _by_profile(profile, plan, tolerance, spent, costs, options)


def _by_profile(
    profile: Convergence,
    plan: BlockPlan,
    tolerance: float,
    spent: float,
    costs: Costs,
    options: SearchOptions,
) -> Iterator[Tried]:
    """The plan with as many iterations as all samples need, and with a stop for each.

    The first has a margin in the error, the second in the stop; a stop costs a sample
    one iteration that tells it to end, but easy samples end sooner.
    """
    needed = iterations_to(profile.largest, _MARGIN * tolerance)
    if needed is not None:
        error = profile.largest[needed - 1]
        cost = spent + needed * costs.whole
        yield Tried(_with_iterations(plan, needed, 0.0), cost, error)
    stop = loosest(profile, tolerance)
    if stop is not None:
        tol, ends, error = stop
        cap = int(ends.max()) + options.margin
        batches = torch.split(ends.double(), options.batch)
        usual = float(torch.stack([part.max() for part in batches]).mean())
        cost = spent + usual * costs.whole
        yield Tried(_with_iterations(plan, cap, tol), cost, error)
    if needed is None and stop is None:
        cost = spent + len(profile.largest) * costs.whole
        why = "does not converge within tolerance"
        yield Tried(plan, cost, profile.largest[-1], why)


def _with_iterations(plan: BlockPlan, count: int, tol: float) -> BlockPlan:
    """The plan with so many iterations in full precision, and a stop."""
    if plan.refine:
        return replace(plan, refine=count, tol=tol)
    return replace(plan, max_jacobi=count, tol=tol)


def loosest(
    profile: Convergence, tolerance: float
) -> tuple[float, Tensor, float] | None:
    """Largest stopping tolerance that leaves every sample within `tolerance`.

    A sample ends with the iteration that moves it no more than that. Tried are powers
    of two times `tolerance`; the answer is one below the largest that would do, for
    samples that the profile has not seen.

    Returns:
        tolerance of a move; iterations of each sample (N,); largest error left. None
        where some sample does not get there in the profile.
    """
    errors, moves = torch.stack(profile.errors), torch.stack(profile.moves)
    fits = []
    for power in range(3, -7, -1):
        tol = tolerance * 2.0**power
        still = moves <= tol
        if not bool(still.any(dim=0).all()):
            break
        ends = still.int().argmax(dim=0)
        left = float(errors.gather(0, ends[None]).max())
        if left <= tolerance:
            fits.append((tol, ends + 1, left))
            if len(fits) == 2:
                break
    return fits[-1] if fits else None


def stop_of_profile(tolerance: float) -> float:
    """Where a profile ends: below any stop that is tried, above float32's noise."""
    return max(tolerance / 200, 2e-6)


def _drafted(
    sampler: TarFlowSampler, block: BlockCase, guess: int, draft: int, tolerance: float
) -> Convergence:
    """The profile of the iterations after a draft, measured once."""
    if (guess, draft) not in block.profiles:
        with autocast(sampler.device, sampler.precision):
            (block.profiles[guess, draft],) = convergence(
                sampler.model.flows[block.number],
                block.x,
                block.z,
                block.y,
                guess=guess,
                iterations=_REFINING,
                draft=draft,
                tol=stop_of_profile(tolerance),
                guidance=sampler.guidance,
                means=block.means,
            )
    return block.profiles[guess, draft]


# -- Windows and segments: a run tells -----------------------------------------------


def _cached_plans(
    block: BlockCase, tolerance: float, costs: Costs, options: SearchOptions
) -> Iterator[tuple[BlockPlan, float]]:
    """Windows, and segments of tough blocks, with the least they can cost.

    A window does not settle tokens with much fewer evaluations than Jacobi.
    """
    tokens, guess = block.z.shape[1], block.guesses[0]
    profile = block.profiles[guess, 0]
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
) -> Tried:
    """Run a plan on the calibration noise, unless it cannot be the fastest."""
    best = min(one.predicted for one in tried if not one.reason)
    if least > best and plan not in block.errors:
        return Tried(plan, least, None, "predicted slower")
    if plan not in block.errors:
        found, steps = _run(sampler, block, plan, len(block.z))
        block.errors[plan] = float((found - block.x).abs().max()), steps
    error, steps = block.errors[plan]
    width = plan.window or block.z.shape[1] // plan.segments
    reason = "" if error <= tolerance else _NOT_EXACT
    return Tried(plan, steps * costs.of(width), error, reason)


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
            means=block.means,
        )
    return out, steps


def _clock(
    sampler: TarFlowSampler,
    block: BlockCase,
    plans: list[BlockPlan],
    options: SearchOptions,
) -> None:
    """Median times of plans in turn at the wanted batch, where one has none yet."""
    if all(plan in block.clocks for plan in plans):
        return
    calls = {
        str(place): partial(_run, sampler, block, plan, options.batch)
        for place, plan in enumerate(plans)
    }
    clocks = alternate(calls, repeats=options.repeats, device=sampler.device)
    for place, plan in enumerate(plans):
        block.clocks[plan] = clocks[str(place)]


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
