"""Plans of one block: which are worth a clock, what they cost, which is taken."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fewstep.device import autocast
from fewstep.tarflow.inverse import invert_block
from fewstep.tarflow.metrics import GUESSES, Convergence, iterations_to
from fewstep.tarflow.sampler import TarFlowSampler
from fewstep.tarflow.strategy import BlockPlan, Strategy
from fewstep.timing import Timing, alternate


@dataclass(frozen=True)
class SearchOptions:
    """What is searched.

    Attributes:
        tolerance: largest allowed |image - exact image| of any value; images span
            [-1, 1], so one grey level is 2/255.
        batch: batch size of the clock: the first samples of the calibration noise.
        segments: numbers of segments tried on tough blocks (those that fit T).
        max_iterations: most Jacobi iterations a segment that are tried.
        margin: iterations added to the number that the calibration noise needed.
        repeats: timed calls of each candidate; the median counts.
        min_gain: a plan replaces For only when it saves this share of its time.
    """

    tolerance: float = 1 / 255
    batch: int = 16
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
class BlockCase:
    """What is known of one block during a search."""

    number: int
    x: Tensor  # exact input, raster order
    z: Tensor  # its output
    y: Tensor | None
    guesses: list[int]
    tough: bool
    curves: dict[tuple[int, int], list[Convergence]] = field(default_factory=dict)
    measured: dict[BlockPlan, tuple[Timing, float]] = field(default_factory=dict)


def choose(
    sampler: TarFlowSampler,
    block: BlockCase,
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
        if why_not:
            row.error = _floor(block, plan)
        else:
            timing, row.error = _measure(sampler, block, plan, options)
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
    block: BlockCase, tolerance: float, options: SearchOptions
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


def _floor(block: BlockCase, plan: BlockPlan) -> float:
    """The error at which a plan that is not worth a clock ends."""
    curves = block.curves[plan.segments, plan.guess]
    return max(curve.largest[-1] for curve in curves)


def _measure(
    sampler: TarFlowSampler, block: BlockCase, plan: BlockPlan, options: SearchOptions
) -> tuple[Timing, float]:
    """Median time at the wanted batch and largest error of a plan, measured once."""
    if plan not in block.measured:
        timing = alternate(
            {"plan": lambda: _run(sampler, block, plan, options.batch)},
            repeats=options.repeats,
            device=sampler.device,
        )["plan"]
        block.measured[plan] = timing, _error(sampler, block, plan)
    return block.measured[plan]


def _run(
    sampler: TarFlowSampler, block: BlockCase, plan: BlockPlan, batch: int
) -> Tensor:
    """Invert the block for the first samples."""
    y = None if block.y is None else block.y[:batch]
    with torch.inference_mode(), autocast(sampler.device, sampler.precision):
        out, _, _ = invert_block(
            sampler.model.flows[block.number],
            block.z[:batch],
            y,
            plan,
            guidance=sampler.guidance,
        )
    return out


def _error(sampler: TarFlowSampler, block: BlockCase, plan: BlockPlan) -> float:
    """Largest error over all samples.

    Jacobi's is on its curve. Segments start from what their predecessors left, while
    their curves start from solved ones, so they are run.
    """
    if plan.is_for:
        return 0.0
    if plan.segments == 1:
        (curve,) = block.curves[1, plan.guess]
        return curve.largest[min(plan.max_jacobi, len(curve.largest)) - 1]
    found = _run(sampler, block, plan, len(block.z))
    return float((found - block.x).abs().max())


def latest(candidates: list[Candidate]) -> list[Candidate]:
    """One row a plan and block: a later round judges the same plan anew."""
    plans = {
        (row.block, row.mode, row.segments, row.max_jacobi, row.guess): row
        for row in candidates
    }
    return list(plans.values())


def forget(candidates: list[Candidate], reason: str) -> None:
    """Say of the plans that were taken so far why they are not after all."""
    for row in candidates:
        row.reason = row.reason or reason


def mark(candidates: list[Candidate], strategy: Strategy) -> None:
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
