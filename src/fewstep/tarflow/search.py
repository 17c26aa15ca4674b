"""The strategy search: per block the fastest plan within a stated error.

Exact pairs of the sampling chain give the error of Jacobi by iteration and sample, for
every guess; a clock gives the cost of evaluating so many tokens at the wanted batch.
The two predict what a plan costs and how far it is off, and a clock decides between the
few that are predicted best. The end-to-end error is split over the blocks by how
strongly an image answers to each. What was chosen is verified on noise that the choice
has not seen; where the error is too large the shares shrink, where there is room they
grow, and in the end there is always For, which is exact.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewstep.device import autocast, has_bf16
from fewstep.progress import Progress
from fewstep.tarflow.candidates import (
    choose,
    forget,
    latest,
    mark,
    stop_of_profile,
)
from fewstep.tarflow.case import BlockCase, Candidate, SearchOptions
from fewstep.tarflow.corrected import Learned
from fewstep.tarflow.costs import Costs, measure_costs
from fewstep.tarflow.inverse import invert_block
from fewstep.tarflow.learned import exact_parameters
from fewstep.tarflow.metrics import Convergence, convergence, rare_error
from fewstep.tarflow.sampler import TarFlowSampler
from fewstep.tarflow.shares import equal_shares, fastest_shares, known_choices
from fewstep.tarflow.strategy import BlockPlan, Strategy
from fewstep.timing import alternate

logger = logging.getLogger(__name__)

_ROUNDS = 5
_SCALE = 2.0  # errors of blocks seldom meet in one value with one sign
_ROOM = 0.5  # of the tolerance: where few samples exceed this the shares grow
_CLOCKED = 5  # evaluations of each width at least: they are short
_PROBED = 2  # samples whose images tell how strongly they answer to a block
_PROBE = 4  # Jacobi iterations that carry a small change through a block
_IGM_TIE = 1.25  # guesses this close are both tried: IGM does not decide there


@dataclass
class SearchResult:
    """The answer.

    Attributes:
        strategy: chosen plan of each block.
        candidates: everything tried.
        profile: (block, guess, curve of Jacobi) of the sampling chain.
        learned: of blocks, what the strategy needs beside its plans.
        error: largest end-to-end error on held-out noise.
        seconds, seconds_for: of the chosen strategy and of For, in turn, same noise.
        tolerance: the bound on that error.
        block_tolerance: largest error in a block that the chosen plans were allowed.
        reason: why this strategy, in words.
    """

    strategy: Strategy
    candidates: list[Candidate]
    profile: list[tuple[int, int, Convergence]]
    learned: dict[int, Learned]
    error: float
    seconds: float
    seconds_for: float
    tolerance: float
    block_tolerance: float
    reason: str

    def summary(self) -> dict[str, Any]:
        """A JSON value without the tables."""
        return {
            "error": self.error,
            "seconds": self.seconds,
            "seconds_for": self.seconds_for,
            "speedup": self.seconds_for / self.seconds,
            "block_tolerance": self.block_tolerance,
            "reason": self.reason,
        }


def search(
    sampler: TarFlowSampler,
    calibration: tuple[Tensor, Tensor | None],
    held_out: tuple[Tensor, Tensor | None],
    igm: Sequence[Sequence[float]],
    tough: Sequence[int],
    options: SearchOptions,
) -> SearchResult:
    """Find the fastest strategy at one batch size.

    Args:
        sampler: model and guidance; its own strategy is not used.
        calibration: noise (N, T, C) and labels (N,) that errors are measured on; the
            first `options.batch` of them also for the clock. A plan of fixed iterations
            is only as good as the hardest sample it has seen: N should not be small.
        held_out: other noise and labels for the verification.
        igm: (blocks, 2) metric of each guess.
        tough: blocks to cut into segments, by their CRM.
        options: see `SearchOptions`.
    """
    sequential = Strategy.sequential(len(sampler.model.flows), sampler.model.tokens)
    latents = _with(sampler, sequential).invert(*calibration).latents
    costs = _costs(sampler, latents[-1], calibration[1], tough, options)
    blocks = _prepare(sampler, latents, calibration[1], igm, tough, costs, options)
    strategy, error, share, candidates = _within_tolerance(
        sampler, blocks, held_out, costs, options
    )
    learned = _learned(blocks, strategy)
    rivals = strategy, sequential
    seconds, seconds_for = _race(sampler, rivals, learned, held_out, options)
    reason = f"error {error:.2g} within {options.tolerance:.2g}"
    if strategy == sequential:
        seconds = seconds_for  # the same plan: what differs is noise
        reason = "For is the fastest plan of every block within the tolerance"
    if share == 0.0:
        reason = f"no other plan met {options.tolerance:.2g} on held-out noise"
    if strategy != sequential and seconds > (1 - options.min_gain) * seconds_for:
        reason = (
            f"For is as fast at this batch: {strategy} took {seconds:.3g} s, "
            f"For {seconds_for:.3g} s"
        )
        forget(candidates, "the whole strategy is not faster than For")
        strategy, error, seconds, learned = sequential, 0.0, seconds_for, {}
    mark(candidates, strategy)
    return SearchResult(
        strategy,
        latest(candidates),
        _curves(blocks),
        learned,
        error,
        seconds,
        seconds_for,
        options.tolerance,
        share,
        reason,
    )


def _costs(
    sampler: TarFlowSampler,
    x: Tensor,
    y: Tensor | None,
    tough: Sequence[int],
    options: SearchOptions,
) -> Costs:
    """What evaluations cost at the wanted batch; x are inputs of block 0."""
    widths = [*options.windows]
    widths += [sampler.model.tokens // g for g in options.segments if g > 1]
    return measure_costs(
        sampler,
        x[: options.batch],
        None if y is None else y[: options.batch],
        widths,
        _fronts(sampler.model.tokens, options) if tough else (),
        drafts=sampler.precision == "fp32" and has_bf16(sampler.device),
        repeats=max(_CLOCKED, options.repeats),
    )


def _fronts(tokens: int, options: SearchOptions) -> list[int]:
    """Tokens of the fronts that are tried."""
    return sorted({tokens // part for part in options.fronts if part > 1} - {0})


def _race(
    sampler: TarFlowSampler,
    rivals: tuple[Strategy, Strategy],
    learned: Mapping[int, Learned],
    held_out: tuple[Tensor, Tensor | None],
    options: SearchOptions,
) -> tuple[float, float]:
    """Median seconds of two whole strategies in turn, at the wanted batch size."""
    z, y = held_out[0][: options.batch], held_out[1]
    y = None if y is None else y[: options.batch]
    samplers = [_with(sampler, strategy, learned) for strategy in rivals]
    timings = alternate(
        {
            "one": lambda: samplers[0].invert(z, y),
            "other": lambda: samplers[1].invert(z, y),
        },
        repeats=options.repeats,
        device=sampler.device,
    )
    return timings["one"].median, timings["other"].median


def _within_tolerance(
    sampler: TarFlowSampler,
    blocks: list[BlockCase],
    held_out: tuple[Tensor, Tensor | None],
    costs: Costs,
    options: SearchOptions,
) -> tuple[Strategy, float, float, list[Candidate]]:
    """Fastest plans whose end-to-end error holds on held-out noise, else For.

    The first split gives all blocks alike; what it tells of them makes the next ones.

    Returns:
        strategy, its error, the largest tolerance of a block (0: no plan but For held),
        all candidates.
    """
    sequential = Strategy.sequential(len(blocks), sampler.model.tokens)
    exact = _with(sampler, sequential).invert(*held_out).images
    gains = [block.gain for block in blocks]
    scale, low, high = _SCALE, 0.0, math.inf
    seen, candidates = set[Strategy](), list[Candidate]()
    best: tuple[float, Strategy, float, float] | None = None
    for number in range(_ROUNDS):
        bound = scale * options.tolerance
        shares = equal_shares(gains, bound)
        if number:
            known = [list(known_choices(block, costs)) for block in blocks]
            shares = fastest_shares(gains, known, bound)
        strategy, tried = sequential, list[Candidate]()
        for block, share in zip(blocks, shares, strict=True):
            plan, rows = choose(sampler, block, share, costs, options, number)
            strategy = strategy.with_block(block.number, plan)
            tried += rows
        learned = _learned(blocks, strategy)
        images = _with(sampler, strategy, learned).invert(*held_out).images
        errors = (images - exact).abs().amax(dim=(1, 2, 3))
        error, rare = float(errors.max()), rare_error(errors)
        words = "round %d: %s, error %.2g, rarely above %.2g"
        logger.info(words, number, strategy, error, rare)
        candidates += tried
        holds = rare <= options.tolerance
        if holds:
            pairs = zip(blocks, strategy.blocks, strict=True)
            seconds = math.fsum(block.relative[plan] for block, plan in pairs)
            found = seconds, strategy, error, max(shares)
            best = found if best is None or seconds < best[0] else best
        else:
            forget(tried, f"end-to-end error {error:.2g} on held-out noise")
        settled = strategy in seen or strategy == sequential
        if settled or (number and holds and rare > _ROOM * options.tolerance):
            break
        seen.add(strategy)
        low, high = (scale, high) if holds else (low, min(scale, high))
        scale = _next_scale(scale, low, high, rare / options.tolerance)
    if best is None:
        return sequential, 0.0, 0.0, candidates
    return *best[1:], candidates


def _next_scale(scale: float, low: float, high: float, error: float) -> float:
    """The next bound on errors, in tolerances: towards an error amid those wanted.

    Args:
        scale: of the last round.
        low, high: the largest that held, 0: none; the smallest that did not.
        error: of the last round, in tolerances.
    """
    if low and high < math.inf:
        return math.sqrt(low * high)
    # Errors grow about as the bound does.
    wanted = 0.5 * (_ROOM + 1) / max(error, 1e-30)
    return scale * min(max(wanted, 0.3), 2.0)


def _curves(blocks: list[BlockCase]) -> list[tuple[int, int, Convergence]]:
    """(block, guess, curve of Jacobi)."""
    return [
        (block.number, guess, block.profiles[guess])
        for block in blocks
        for guess in sorted(block.profiles)
    ]


def _learned(blocks: list[BlockCase], strategy: Strategy) -> dict[int, Learned]:
    """What the strategy needs to know of blocks, beside its plans."""
    pairs = zip(blocks, strategy.blocks, strict=True)
    found = {block.number: block.learned(plan) for block, plan in pairs}
    return {number: one for number, one in found.items() if not one.empty}


def _with(
    sampler: TarFlowSampler,
    strategy: Strategy,
    learned: Mapping[int, Learned] | None = None,
) -> TarFlowSampler:
    """The same sampler with another strategy, exact and without denoising."""
    return TarFlowSampler(
        sampler.model,
        strategy,
        sampler.guidance,
        precision=sampler.precision,
        learned=learned or {},
    )


def _prepare(
    sampler: TarFlowSampler,
    latents: list[Tensor],
    y: Tensor | None,
    igm: Sequence[Sequence[float]],
    tough: Sequence[int],
    costs: Costs,
    options: SearchOptions,
) -> list[BlockCase]:
    """Exact pairs of the sampling chain and the error curves of each block."""
    count = len(sampler.model.flows)
    gains = _gains(sampler, latents, y, options.tolerance)
    # What costs more than For by far need not be looked at.
    most = 1.5 * (sampler.model.tokens - 1) * costs.of(1) / costs.whole
    blocks = []
    progress = Progress("search: profile", count, every=2.0)
    for number, block in enumerate(sampler.model.flows):
        z, x = latents[count - 1 - number], latents[count - number]
        with autocast(sampler.device, sampler.precision):
            parameters = exact_parameters(block, x, y, sampler.guidance)
        case = BlockCase(
            number, x, z, y, [2, *_guesses(igm[number])], number in tough, parameters
        )
        case.gain = gains[number]
        for guess in case.guesses:
            with autocast(sampler.device, sampler.precision):
                (case.profiles[guess],) = convergence(
                    block,
                    x,
                    z,
                    y,
                    guess=guess,
                    iterations=max(2, min(options.max_iterations, int(most) + 1)),
                    tol=stop_of_profile(options.tolerance),
                    guidance=sampler.guidance,
                    learned=Learned(case.means),
                )
        blocks.append(case)
        progress.advance()
    return blocks


def _guesses(igm: Sequence[float]) -> list[int]:
    """The guess of smaller IGM first; the other too where they are close."""
    order = sorted(range(len(igm)), key=lambda g: igm[g])
    close = igm[order[1]] <= _IGM_TIE * igm[order[0]]
    return order if close else order[:1]


def _gains(
    sampler: TarFlowSampler, latents: list[Tensor], y: Tensor | None, size: float
) -> list[float]:
    """Largest change of an image for a change of 1 of each block's x.

    A small change of the tolerance's size, of random signs, is carried down the chain
    by a few Jacobi iterations from the exact solution.
    """
    count, probed = len(sampler.model.flows), min(_PROBED, len(latents[0]))
    labels = None if y is None else y[:probed]
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, latents[0][:probed].shape, generator=generator)
    change = ((2 * signs - 1) * size).to(latents[0])
    changed: list[Tensor] = []  # the changes so far, made after block n-1, n-2, …
    for number in reversed(range(count)):
        x = latents[count - number][:probed]
        if changed:
            with torch.inference_mode(), autocast(sampler.device, sampler.precision):
                moved, _, _ = invert_block(
                    sampler.model.flows[number],
                    torch.cat(changed),
                    None if labels is None else labels.repeat(len(changed)),
                    BlockPlan(1, _PROBE),
                    guidance=sampler.guidance,
                    start_from=x.repeat(len(changed), 1, 1),
                )
            changed = list(moved.chunk(len(changed)))
        changed.append(x + change)
    exact = latents[-1][:probed]
    answers = [float((one - exact).abs().max()) / size for one in changed]
    return [max(answer, 1e-3) for answer in reversed(answers)]
