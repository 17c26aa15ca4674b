"""The strategy search: per block the cheapest plan within a stated error.

From IGM the initial guess, from CRM the blocks that are tough enough to be cut into
segments, and from a measured batch everything else: exact pairs of the sampling chain
give the error by iteration of each candidate (one run gives all iterations), a clock
gives its cost. What was chosen is verified end to end on noise that the choice has not
seen; where the error is too large the share of each block shrinks, and in the end there
is always For, which is exact.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fewstep.device import autocast
from fewstep.progress import Progress
from fewstep.tarflow.candidates import (
    BlockCase,
    Candidate,
    SearchOptions,
    choose,
    forget,
    latest,
    mark,
)
from fewstep.tarflow.metrics import GUESSES, Convergence, convergence
from fewstep.tarflow.sampler import TarFlowSampler
from fewstep.tarflow.strategy import Strategy
from fewstep.timing import alternate

logger = logging.getLogger(__name__)

_ROUNDS = 5
_IGM_TIE = 1.25  # guesses this close are both tried: IGM does not decide there


@dataclass
class SearchResult:
    """The answer.

    Attributes:
        strategy: chosen plan of each block.
        candidates: everything tried.
        profile: (block, guess, segments, curve of each segment) of the sampling chain.
        error: largest end-to-end error on held-out noise.
        seconds, seconds_for: of the chosen strategy and of For, in turn, same noise.
        tolerance: the bound on that error.
        block_tolerance: error share that the chosen plans met.
        reason: why this strategy, in words.
    """

    strategy: Strategy
    candidates: list[Candidate]
    profile: list[tuple[int, int, int, list[Convergence]]]
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
    blocks = _prepare(sampler, calibration, igm, tough, options)
    strategy, error, share, candidates = _within_tolerance(
        sampler, blocks, held_out, options
    )
    seconds, seconds_for = _race(sampler, (strategy, sequential), held_out, options)
    reason = f"error {error:.2g} within {options.tolerance:.2g}"
    if strategy == sequential:
        seconds = seconds_for  # the same plan: what differs is noise
        reason = "For is the cheapest plan of every block within the tolerance"
    if share == 0.0:
        reason = f"no other plan met {options.tolerance:.2g} on held-out noise"
    if strategy != sequential and seconds > (1 - options.min_gain) * seconds_for:
        reason = (
            f"For is as fast at this batch: {strategy} took {seconds:.3g} s, "
            f"For {seconds_for:.3g} s"
        )
        forget(candidates, "the whole strategy is not faster than For")
        strategy, error, seconds = sequential, 0.0, seconds_for
    mark(candidates, strategy)
    return SearchResult(
        strategy,
        latest(candidates),
        _curves(blocks),
        error,
        seconds,
        seconds_for,
        options.tolerance,
        share,
        reason,
    )


def _race(
    sampler: TarFlowSampler,
    rivals: tuple[Strategy, Strategy],
    held_out: tuple[Tensor, Tensor | None],
    options: SearchOptions,
) -> tuple[float, float]:
    """Median seconds of two whole strategies in turn, at the wanted batch size."""
    z, y = held_out[0][: options.batch], held_out[1]
    y = None if y is None else y[: options.batch]
    samplers = [_with(sampler, strategy) for strategy in rivals]
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
    options: SearchOptions,
) -> tuple[Strategy, float, float, list[Candidate]]:
    """Cheapest plans whose end-to-end error holds on held-out noise, else For.

    Returns:
        strategy, its error, the blocks' share of the tolerance (0: no plan but For
        held), all candidates.
    """
    sequential = Strategy.sequential(len(blocks), sampler.model.tokens)
    exact = _with(sampler, sequential).invert(*held_out).images
    share, candidates = options.tolerance, []
    for round_number in range(_ROUNDS):
        strategy = sequential
        for block in blocks:
            plan, tried = choose(sampler, block, share, options, round_number)
            strategy = strategy.with_block(block.number, plan)
            candidates += tried
        images = _with(sampler, strategy).invert(*held_out).images
        error = float((images - exact).abs().max())
        logger.info("round %d: %s, error %.2g", round_number, strategy, error)
        if error <= options.tolerance:
            return strategy, error, share, candidates
        forget(candidates, f"end-to-end error {error:.2g} on held-out noise")
        share /= 4
    return sequential, 0.0, 0.0, candidates


def _curves(
    blocks: list[BlockCase],
) -> list[tuple[int, int, int, list[Convergence]]]:
    """(block, guess, segments, curve of each segment)."""
    return [
        (block.number, guess, segments, curves)
        for block in blocks
        for (segments, guess), curves in sorted(block.curves.items())
    ]


def _with(sampler: TarFlowSampler, strategy: Strategy) -> TarFlowSampler:
    """The same sampler with another strategy, exact and without denoising."""
    return TarFlowSampler(
        sampler.model, strategy, sampler.guidance, precision=sampler.precision
    )


def _prepare(
    sampler: TarFlowSampler,
    calibration: tuple[Tensor, Tensor | None],
    igm: Sequence[Sequence[float]],
    tough: Sequence[int],
    options: SearchOptions,
) -> list[BlockCase]:
    """Exact pairs of the sampling chain and the error curves of each block."""
    count = len(sampler.model.flows)
    chain = _with(sampler, Strategy.sequential(count, sampler.model.tokens)).invert(
        *calibration
    )
    blocks = []
    progress = Progress("search: profile", count, every=2.0)
    for number in range(count):
        z, x = chain.latents[count - 1 - number], chain.latents[count - number]
        block = BlockCase(
            number,
            x,
            z,
            calibration[1],
            _guesses(igm[number]),
            number in tough,
        )
        for guess in block.guesses:
            for segments in _segment_choices(sampler, block, options):
                with autocast(sampler.device, sampler.precision):
                    block.curves[segments, guess] = convergence(
                        sampler.model.flows[number],
                        x,
                        z,
                        calibration[1],
                        guess=guess,
                        segments=segments,
                        iterations=options.max_iterations,
                        tol=options.tolerance / 1000,
                        guidance=sampler.guidance,
                    )
        blocks.append(block)
        progress.advance()
    return blocks


def _guesses(igm: Sequence[float]) -> list[int]:
    """The guess of smaller IGM first; the other too where they are close."""
    order = sorted(range(len(GUESSES)), key=lambda g: igm[g])
    close = igm[order[1]] <= _IGM_TIE * igm[order[0]]
    return order if close else order[:1]


def _segment_choices(
    sampler: TarFlowSampler, block: BlockCase, options: SearchOptions
) -> list[int]:
    """Jacobi for every block, segments for tough ones."""
    tokens = sampler.model.tokens
    fitting = [g for g in options.segments if 1 < g < tokens and tokens % g == 0]
    return [1, *fitting] if block.tough else [1]
