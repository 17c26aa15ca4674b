"""The inverse of a TarFlow: its blocks, solved one after the other.

`fewstep.tarflow.solve` has the solver of one block. A plan may let it make a draft in
bfloat16 first; Jacobi iterations in full precision then take the draft's error away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from fewstep.device import replays
from fewstep.tarflow.corrected import Learned, headed, solve_corrected
from fewstep.tarflow.guidance import (
    UNGUIDED,
    BlockEvaluator,
    Guidance,
    compute_dtype,
)
from fewstep.tarflow.model import FlowBlock, KeyValueCache, TarFlow
from fewstep.tarflow.replay import solve_replayed
from fewstep.tarflow.solve import (
    RELEASED_TOL,
    Means,
    OnStep,
    initial_guess,
    solve_exact,
    solve_released,
)
from fewstep.tarflow.strategy import BlockPlan, Strategy

Mode = Literal["exact", "released"]
"""`exact`: nothing clamped, per-sample tolerance. `released`: clamp and stopping rule
of the published sampler (without its defects)."""

_DRAFT_TOL = 1e-2
"""Moves in a draft below this are the noise of bfloat16."""

OnIteration = Callable[[int, int, int, Tensor], None]
"""(block, segment, iteration from 1, x (B, T, C) in the block's order)."""


@dataclass
class Inversion:
    """What an inversion gives.

    Attributes:
        images: (B, Cimg, H, W), not clipped.
        latents: the scaled noise, then the output of each inverted block (last block
            first), each (B, T, C) in raster order.
        steps: network calls of each block, block 0 first.
        evaluations: token evaluations of each block, block 0 first.
    """

    images: Tensor
    latents: list[Tensor] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    evaluations: list[int] = field(default_factory=list)


def invert_block(
    block: FlowBlock,
    z: Tensor,
    y: Tensor | None,
    plan: BlockPlan,
    *,
    guidance: Guidance = UNGUIDED,
    mode: Mode = "exact",
    tol: float | None = None,
    learned: Learned | None = None,
    start_from: Tensor | None = None,
    on_iteration: OnStep | None = None,
) -> tuple[Tensor, int, int]:
    """Invert one block.

    Args:
        block: the block.
        z: its output (B, T, C) in raster order.
        y: labels (B,), -1 = dropped, or None.
        plan: how.
        guidance, mode, tol, on_iteration: as in `invert`.
        learned: what plans from a search know of the block.
        start_from: x to begin with (B, T, C) in raster order; None: the plan's guess.

    Returns:
        its input (B, T, C) in raster order, network calls, token evaluations.
    """
    given, z = plan.tol if plan.tol is not None else tol, block.ordered(z)
    if mode == "released":
        evaluate = make_evaluator(block, y, z, guidance, cached=plan.segments != 1)
        bound = RELEASED_TOL if given is None else given
        x = solve_released(evaluate, z, plan, tol=bound, on_iteration=on_iteration)
        return block.ordered(x), evaluate.steps, evaluate.evaluations
    learned = learned or Learned()
    x, bound = _start(block, z, plan, learned.means, start_from), given or 0.0
    weights = _weights(plan, learned)
    steps = evaluations = 0
    for part, low in _parts(plan):
        cached = part.segments != 1 or part.front > 0
        evaluate = make_evaluator(block, y, z, guidance, cached=cached, dtype=low)
        hook = on_iteration if low is None else None
        if weights is None:
            tol = bound if low is None else max(bound, _DRAFT_TOL)
            x = _solve(evaluate, z, part, tol, x, hook)
        else:
            now, weights = weights[: part.max_jacobi], weights[part.max_jacobi :]
            tol = bound if low is None else 0.0
            x = _solve_corrected(evaluate, z, plan, x, now, tol, hook)
        steps += evaluate.steps
        evaluations += evaluate.evaluations
    return block.ordered(x), steps, evaluations


def _solve(
    evaluate: BlockEvaluator,
    z: Tensor,
    plan: BlockPlan,
    tol: float,
    x: Tensor | None,
    hook: OnStep | None,
) -> Tensor:
    """`solve_exact`; For by recorded steps where nobody looks at each of them."""
    if plan.is_for and hook is None and replays(z.device):
        return solve_replayed(evaluate, z)
    return solve_exact(evaluate, z, plan, tol=tol, start_from=x, on_iteration=hook)


def _solve_corrected(
    evaluate: BlockEvaluator,
    z: Tensor,
    plan: BlockPlan,
    x: Tensor,
    weights: Tensor,
    tol: float,
    hook: OnStep | None,
) -> Tensor:
    """`solve_corrected`, behind the plan's front: the segment before it, by For."""
    front = plan.front
    if front:
        first = then = None
        if hook is not None:
            first = partial(_with_rest, hook, x)
            then = partial(_renumbered, hook, 1)
        head = _solve(evaluate, z[:, : front + 1], BlockPlan(), 0.0, None, first)
        z, x, hook = headed(head, z), headed(head, x), then
    return solve_corrected(
        evaluate, z, x, weights, tol, hook, spare=plan.spare, front=front
    )


def _with_rest(hook: OnStep, x: Tensor, segment: int, k: int, head: Tensor) -> None:
    """Tell of the first tokens beside those that are not solved yet."""
    hook(segment, k, headed(head, x))


def _renumbered(hook: OnStep, number: int, _: int, k: int, x: Tensor) -> None:
    """Tell of a segment by another number."""
    hook(number, k, x)


def _parts(plan: BlockPlan) -> list[tuple[BlockPlan, torch.dtype | None]]:
    """A draft and Jacobi in full precision, or the plan alone."""
    if not plan.refine:
        return [(plan, None)]
    return [(plan, torch.bfloat16), (BlockPlan(1, plan.refine), None)]


def _weights(plan: BlockPlan, learned: Learned) -> Tensor | None:
    """Of the plan's corrected iterations (K, 12C, 2C)."""
    if not plan.corrected:
        return None
    count = plan.max_jacobi + plan.refine
    if learned.weights is None or len(learned.weights) < count:
        raise ValueError(f"{count} corrected iterations need weights for as many")
    return learned.weights[:count]


def _start(
    block: FlowBlock,
    z: Tensor,
    plan: BlockPlan,
    means: Means | None,
    start_from: Tensor | None,
) -> Tensor:
    """What the first iteration begins with (B, T, C), in the block's order."""
    if start_from is not None:
        return block.ordered(start_from)
    return initial_guess(z, plan.guess, means)


def make_evaluator(
    block: FlowBlock,
    y: Tensor | None,
    z: Tensor,
    guidance: Guidance,
    *,
    cached: bool,
    dtype: torch.dtype | None = None,
) -> BlockEvaluator:
    """The block's network; without a cache all is computed anew at each step."""
    dtype = dtype or compute_dtype(z)
    evaluate = BlockEvaluator(block, y, len(z), guidance, dtype=dtype)
    if cached:
        rows, tokens = 2 * len(z) if evaluate.guided else len(z), z.shape[1]
        evaluate.cache = KeyValueCache(
            len(block.attn_blocks), rows, block.heads, tokens, z.new_empty(0).to(dtype)
        )
    return evaluate


def invert(
    model: TarFlow,
    noise: Tensor,
    y: Tensor | None = None,
    *,
    strategy: Strategy | None = None,
    guidance: Guidance = UNGUIDED,
    mode: Mode = "exact",
    tol: float | None = None,
    learned: Mapping[int, Learned] | None = None,
    on_iteration: OnIteration | None = None,
) -> Inversion:
    """Turn noise (B, T, C) into images, the last block first.

    Args:
        model: the flow.
        noise: standard normal; scaled by sqrt(var) before the first block.
        y: labels (B,), -1 = dropped; None = all dropped.
        strategy: plan of each block; None = For.
        guidance: see `Guidance`.
        mode: `exact` or `released`.
        tol: stopping tolerance where a plan has none of its own. Exact: largest move
            of any entry of a sample, default 0. Released: see `solve_released`.
        learned: of blocks, what plans from a search need.
        on_iteration: called with (block, segment, iteration, x).

    Raises:
        ValueError: for a strategy of another number of blocks or an unknown mode.
    """
    if mode not in ("exact", "released"):
        raise ValueError(f"mode must be exact or released, not {mode!r}")
    strategy, count = _for_model(strategy, model), len(model.flows)
    steps, evaluations = [0] * count, [0] * count
    with torch.inference_mode():
        x = noise * model.var.sqrt()
        latents = [x]
        for number in reversed(range(count)):
            hook = None if on_iteration is None else _bind(on_iteration, number)
            x, steps[number], evaluations[number] = invert_block(
                model.flows[number],
                x,
                y,
                strategy.blocks[number],
                guidance=guidance,
                mode=mode,
                tol=tol,
                learned=(learned or {}).get(number),
                on_iteration=hook,
            )
            latents.append(x)
        images = model.unpatchify(x)
    # Clones made outside inference mode may take part in a backward pass.
    return Inversion(
        images.clone(), [latent.clone() for latent in latents], steps, evaluations
    )


def _for_model(strategy: Strategy | None, model: TarFlow) -> Strategy:
    """The strategy with the model's tokens; None is For."""
    count = len(model.flows)
    strategy = strategy or Strategy.sequential(count)
    if len(strategy.blocks) != count:
        raise ValueError(
            f"the strategy has {len(strategy.blocks)} blocks, the model {count}"
        )
    return Strategy(strategy.blocks, model.tokens)


def _bind(on_iteration: OnIteration, block: int) -> OnStep:
    return lambda segment, k, x: on_iteration(block, segment, k, x)


def reverse(
    model: TarFlow,
    noise: Tensor,
    y: Tensor | None = None,
    *,
    strategy: Strategy | None = None,
    guidance: float = 0.0,
    guide_what: str = "ac",
    attn_temp: float = 1.0,
    annealed: bool = False,
    mode: Mode = "exact",
    tol: float | None = None,
) -> Tensor:
    """Images (B, Cimg, H, W), not clipped, from noise (B, T, C); see `invert`."""
    return invert(
        model,
        noise,
        y,
        strategy=strategy,
        guidance=Guidance(guidance, guide_what, attn_temp, annealed),
        mode=mode,
        tol=tol,
    ).images


def mean_steps(evaluations: Sequence[int], tokens: int) -> float:
    """Token evaluations a token and block (For: (T-1)/T, nearly 1)."""
    return math.fsum(evaluations) / (tokens * len(evaluations))
