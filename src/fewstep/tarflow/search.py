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
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from fewstep.progress import Progress
from fewstep.tarflow.inverse import invert_block
from fewstep.tarflow.metrics import (
    GUESSES,
    Convergence,
    convergence,
    iterations_to,
)
from fewstep.tarflow.sampler import TarFlowSampler
from fewstep.tarflow.strategy import BlockPlan, Strategy
from fewstep.timing import Timing, alternate

logger = logging.getLogger(__name__)

_ROUNDS = 5
_IGM_TIE = 1.25  # guesses this close are both tried: IGM does not decide there


@dataclass(frozen=True)
class SearchOptions:
    """What is searched.

    Attributes:
        tolerance: largest allowed |image - exact image| of any value; images span
            [-1, 1], so one grey level is 2/255.
        segments: numbers of segments tried on tough blocks (those that fit T).
        max_iterations: most Jacobi iterations a segment that are tried.
        margin: iterations added to the number that the calibration batch needed.
        repeats: timed calls of each candidate; the median counts.
        min_gain: a plan replaces For only when it saves this share of its time.
    """

    tolerance: float = 1 / 255
    segments: tuple[int, ...] = (2, 4, 8)
    max_iterations: int = 64
    margin: int = 1
    repeats: int = 3
    min_gain: float = 0.05


@dataclass
class Candidate:
    """One plan that was tried on one block; a row of the strategies table."""

    block: int
    mode: str
    segments: int
    max_jacobi: int
    guess: str
    seconds: float | None
    error: float | None
    tolerance: float
    chosen: bool
    reason: str
    round: int = 0


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


@dataclass
class _Block:
    """What is known of one block during a search."""

    number: int
    x: Tensor  # exact input, raster order
    z: Tensor  # its output
    guesses: list[int]
    tough: bool
    seconds_for: float = 0.0
    curves: dict[tuple[int, int], list[Convergence]] = field(default_factory=dict)
    measured: dict[BlockPlan, tuple[Timing, float]] = field(default_factory=dict)


def search(
    sampler: TarFlowSampler,
    calibration: tuple[Tensor, Tensor | None],
    held_out: tuple[Tensor, Tensor | None],
    igm: Sequence[Sequence[float]],
    tough: Sequence[int],
    options: SearchOptions,
) -> SearchResult:
    """Find the fastest strategy at the batch size of the calibration noise.

    Args:
        sampler: model and guidance; its own strategy is not used.
        calibration: noise (B, T, C) and labels (B,) for profile and clock.
        held_out: other noise and labels of the same size for the verification.
        igm: (blocks, 2) metric of each guess.
        tough: blocks to cut into segments, by their CRM.
        options: see `SearchOptions`.
    """
    model = sampler.model
    sequential = Strategy.sequential(len(model.flows), model.tokens)
    blocks = _prepare(sampler, calibration, igm, tough, options)
    exact = _with(sampler, sequential).invert(*held_out).images
    share, candidates = options.tolerance, []
    for round_number in range(_ROUNDS):
        strategy = sequential
        for block in blocks:
            plan, tried = _choose(
                sampler, block, calibration[1], share, options, round_number
            )
            strategy = strategy.with_block(block.number, plan)
            candidates += tried
        images = _with(sampler, strategy).invert(*held_out).images
        error = float((images - exact).abs().max())
        logger.info("round %d: %s, error %.2g", round_number, strategy, error)
        if error <= options.tolerance:
            break
        _forget(candidates, f"end-to-end error {error:.2g} on held-out noise")
        share /= 4
    else:
        strategy, error = sequential, 0.0
    timings = alternate(
        {
            "for": lambda: _with(sampler, sequential).invert(*held_out),
            "found": lambda: _with(sampler, strategy).invert(*held_out),
        },
        repeats=options.repeats,
        device=sampler.device,
    )
    seconds, seconds_for = timings["found"].median, timings["for"].median
    reason = f"error {error:.2g} within {options.tolerance:.2g}"
    if strategy != sequential and seconds > (1 - options.min_gain) * seconds_for:
        reason = (
            f"For is as fast at this batch: {strategy} took {seconds:.3g} s, "
            f"For {seconds_for:.3g} s"
        )
        _forget(candidates, "the whole strategy is not faster than For")
        strategy, error, seconds = sequential, 0.0, seconds_for
    _mark(candidates, strategy)
    profile = [
        (b.number, guess, segments, curves)
        for b in blocks
        for (segments, guess), curves in sorted(b.curves.items())
    ]
    return SearchResult(
        strategy,
        _latest(candidates),
        profile,
        error,
        seconds,
        seconds_for,
        options.tolerance,
        share,
        reason,
    )


def _latest(candidates: list[Candidate]) -> list[Candidate]:
    """One row a plan and block: a later round judges the same plan anew."""
    plans = {
        (row.block, row.mode, row.segments, row.max_jacobi, row.guess): row
        for row in candidates
    }
    return list(plans.values())


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
) -> list[_Block]:
    """Exact pairs of the sampling chain and the error curves of each block."""
    count = len(sampler.model.flows)
    chain = _with(sampler, Strategy.sequential(count, sampler.model.tokens)).invert(
        *calibration
    )
    blocks = []
    progress = Progress("search: profile", count, every=2.0)
    for number in range(count):
        z, x = chain.latents[count - 1 - number], chain.latents[count - number]
        block = _Block(
            number,
            x,
            z,
            _guesses(igm[number]),
            number in tough,
        )
        for guess in block.guesses:
            for segments in _segment_choices(sampler, block, options):
                block.curves[segments, guess] = convergence(
                    sampler.model.flows[number],
                    x,
                    z,
                    calibration[1],
                    guess=guess,
                    segments=segments,
                    iterations=options.max_iterations,
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
    sampler: TarFlowSampler, block: _Block, options: SearchOptions
) -> list[int]:
    """Jacobi for every block, segments for tough ones."""
    tokens = sampler.model.tokens
    fitting = [g for g in options.segments if 1 < g < tokens and tokens % g == 0]
    return [1, *fitting] if block.tough else [1]


def _choose(
    sampler: TarFlowSampler,
    block: _Block,
    y: Tensor | None,
    tolerance: float,
    options: SearchOptions,
    round_number: int,
) -> tuple[BlockPlan, list[Candidate]]:
    """The cheapest plan of one block within `tolerance`, and all that were tried."""
    rows: list[tuple[BlockPlan, Candidate]] = []
    for plan, why_not in _plans(block, tolerance, options):
        row = Candidate(
            block.number,
            plan.mode,
            plan.segments,
            plan.max_jacobi,
            GUESSES[plan.guess],
            None,
            None,
            tolerance,
            chosen=False,
            reason=why_not,
            round=round_number,
        )
        rows.append((plan, row))
        if not why_not:
            timing, row.error = _measure(sampler, block, y, plan, options)
            row.seconds = timing.median
    usable = [
        (plan, row)
        for plan, row in rows
        if row.seconds is not None and row.error is not None and row.error <= tolerance
    ]
    best_plan, best = min(usable, key=lambda pair: pair[1].seconds or 0.0)
    sequential = next(row for plan, row in rows if plan.is_for)
    assert best.seconds is not None
    assert sequential.seconds is not None
    if best.seconds > (1 - options.min_gain) * sequential.seconds:
        best_plan, best = BlockPlan(), sequential
    for _, row in rows:
        if row is not best and not row.reason:
            exact = row.error is not None and row.error <= tolerance
            row.reason = "slower" if exact else "error above tolerance"
    return best_plan, [row for _, row in rows]


def _plans(
    block: _Block, tolerance: float, options: SearchOptions
) -> list[tuple[BlockPlan, str]]:
    """Plans worth a clock, and those that the curves rule out with the reason."""
    plans: list[tuple[BlockPlan, str]] = [(BlockPlan(), "")]
    for (segments, guess), curves in sorted(block.curves.items()):
        lengths = [len(curve.largest) for curve in curves]
        needed = [iterations_to(curve.largest, tolerance) for curve in curves]
        if any(k is None for k in needed):
            plan = BlockPlan(segments, max(lengths), guess)
            plans.append((plan, "does not converge within tolerance"))
            continue
        most = max(k for k in needed if k is not None)
        size = block.z.shape[1] // segments
        plan = BlockPlan(segments, min(most + options.margin, size), guess)
        plans.append((plan, ""))
    return plans


def _measure(
    sampler: TarFlowSampler,
    block: _Block,
    y: Tensor | None,
    plan: BlockPlan,
    options: SearchOptions,
) -> tuple[Timing, float]:
    """Median time and largest error of a plan on the calibration batch, once each."""
    if plan not in block.measured:
        found: list[Tensor] = []

        bf16 = sampler.precision == "bf16"
        kind = sampler.device.type

        def call() -> None:
            with (
                torch.inference_mode(),
                torch.autocast(kind, torch.bfloat16, enabled=bf16),
            ):
                out, _, _ = invert_block(
                    sampler.model.flows[block.number],
                    block.z,
                    y,
                    plan,
                    guidance=sampler.guidance,
                )
            found[:] = [out]

        timing = alternate(
            {"plan": call}, repeats=options.repeats, device=sampler.device
        )["plan"]
        block.measured[plan] = timing, float((found[0] - block.x).abs().max())
    return block.measured[plan]


def _forget(candidates: list[Candidate], reason: str) -> None:
    """Say of the plans that were taken so far why they are not after all."""
    for row in candidates:
        row.reason = row.reason or reason


def _mark(candidates: list[Candidate], strategy: Strategy) -> None:
    """Mark the plans that are in the answer."""
    for row in candidates:
        plan = strategy.blocks[row.block]
        mine = (row.mode, row.segments, row.max_jacobi, row.guess)
        row.chosen = mine == (
            plan.mode,
            plan.segments,
            plan.max_jacobi,
            GUESSES[plan.guess],
        )
        if row.chosen:
            row.reason = "cheapest within tolerance"


def candidate_rows(candidates: list[Candidate]) -> list[dict[str, Any]]:
    """Rows of the strategies table."""
    return [asdict(row) for row in candidates]
