"""The inverse of a TarFlow: For, Jacobi and GS-Jacobi as one solver.

Inverting a block solves the triangular system x_t = z_t exp(s_t(x_<t)) + u_t(x_<t).
GS-Jacobi (arXiv 2505.12849) cuts the tokens into segments that are solved one after
the other, with Jacobi iterations inside. One segment is plain Jacobi; segments of one
token are `For`, the sequential inverse. After k iterations the first k tokens of a
segment are exact, so as many iterations as tokens always suffice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from fewstep.device import mark_step
from fewstep.tarflow.guidance import UNGUIDED, BlockEvaluator, Guidance
from fewstep.tarflow.model import FlowBlock, KeyValueCache, TarFlow
from fewstep.tarflow.strategy import BlockPlan, Strategy

Mode = Literal["exact", "released"]
"""`exact`: nothing clamped, per-sample tolerance. `released`: clamp and stopping rule
of the published sampler (without its defects)."""

RELEASED_TOL = 1e-6
"""Stopping bound of the published sampler (`ebound`)."""

_CLAMP = 3.0  # of the published sampler
_EXCURSION = 1e4
"""Bound on entries that no iteration has settled yet. An infinity there would reach
settled tokens through 0 * inf in the attention; settled entries are never touched."""

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


def segment_bounds(tokens: int, segments: int) -> list[tuple[int, int]]:
    """Input ranges [start, stop) of each segment; it solves tokens start+1..stop.

    Args:
        tokens: sequence length T.
        segments: 0 or T = one token a segment (For); else that many, equal where
            they divide T, the first ones longer by one where not.
    """
    if segments == 0 or segments >= tokens:
        return [(t, t + 1) for t in range(tokens - 1)]
    size, rest = divmod(tokens, segments)
    edges = [i * size + min(i, rest) for i in range(segments + 1)]
    edges[-1] = tokens - 1  # nothing follows the last token
    return [(a, b) for a, b in pairwise(edges) if b > a]


def initial_guess(z: Tensor, guess: int) -> Tensor:
    """Start of the iteration (B, T, C): 0 = z; 1 = zeros, first token kept."""
    if guess == 0:
        return z.clone()
    x = torch.zeros_like(z)
    x[:, 0] = z[:, 0]
    return x


def jacobi_step(z: Tensor, s: Tensor, u: Tensor) -> Tensor:
    """x_t = z_t exp(s_t) + u_t, the fixed-point map (arXiv 2505.12849)."""
    return z * torch.exp(s) + u


def solve_exact(
    evaluate: Callable[[Tensor, int], tuple[Tensor, Tensor]],
    z: Tensor,
    plan: BlockPlan,
    *,
    tol: float = 0.0,
    on_iteration: Callable[[int, int, Tensor], None] | None = None,
) -> Tensor:
    """Invert one block; with enough iterations every plan equals For.

    A sample is frozen once no entry of its segment moved by more than `tol`, so its
    result does not depend on the others in the batch. The cache holds keys and values
    of final tokens: those of an unsettled segment are renewed by the first iteration
    of the next one.

    Args:
        evaluate: window of x (B, n, C) and its start to (s, u).
        z: (B, T, C) in the block's order.
        plan: segments, iterations, guess.
        tol: largest move of a settled sample; 0 = until nothing moves.
        on_iteration: called with (segment, iteration, x).

    Returns:
        x (B, T, C).
    """
    x = initial_guess(z, plan.guess)
    stale = 0  # cached keys and values before this token are final
    for number, (start, stop) in enumerate(segment_bounds(z.shape[1], plan.segments)):
        window = slice(start + 1, stop + 1)
        active = torch.ones(len(z), 1, 1, dtype=torch.bool, device=z.device)
        length = stop - start
        for k in range(1, min(plan.max_jacobi, length) + 1):
            first = stale if k == 1 else start
            s, u = evaluate(x[:, first:stop], first)
            new = jacobi_step(
                z[:, window], s[:, start - first :], u[:, start - first :]
            )
            if k < length:
                new = _bounded(new, k)
            moved = (new - x[:, window]).abs().amax(dim=(1, 2), keepdim=True)
            x[:, window] = torch.where(active, new, x[:, window])
            if on_iteration is not None:
                on_iteration(number, k, x)
            # After `length` iterations the segment is exact, and so is its cache.
            stale = stop if k == length else start
            active = active & ~(moved <= tol)  # a NaN keeps its sample active
            mark_step(x.device)
            if k < length and not active.any():
                break
    return x


def _bounded(x: Tensor, settled: int) -> Tensor:
    """Entries of a window (B, n, C), those after the first settled ones kept finite."""
    finite = torch.nan_to_num(x, nan=0.0, posinf=_EXCURSION, neginf=-_EXCURSION)
    # A slice would have another shape in each iteration.
    place = torch.arange(x.shape[1], device=x.device)[:, None]
    return torch.where(place < settled, x, finite.clamp(-_EXCURSION, _EXCURSION))


def solve_released(
    evaluate: Callable[[Tensor, int], tuple[Tensor, Tensor]],
    z: Tensor,
    plan: BlockPlan,
    *,
    tol: float = RELEASED_TOL,
    on_iteration: Callable[[int, int, Tensor], None] | None = None,
) -> Tensor:
    """Invert one block as the published sampler does, its defects left out.

    Every iterate is clamped to ±3 (token 0 too in Jacobi mode), keys and values stay
    those of the last iteration's input, and a segment stops when ||x_new - x_old||_F /
    (B C) over the whole batch is at most `tol`. Arguments as in `solve_exact`.
    """
    if plan.is_for:
        return solve_exact(evaluate, z, plan, on_iteration=on_iteration)
    x = initial_guess(z, plan.guess)
    scale = z.shape[0] * z.shape[2]
    for number, (start, stop) in enumerate(segment_bounds(z.shape[1], plan.segments)):
        for k in range(1, plan.max_jacobi + 1):
            old = x
            s, u = evaluate(old[:, start:stop], start)
            x = old.clone()
            x[:, start + 1 : stop + 1] = jacobi_step(
                z[:, start + 1 : stop + 1], s, u
            ).clamp(-_CLAMP, _CLAMP)
            if plan.segments == 1:
                x[:, 0] = x[:, 0].clamp(-_CLAMP, _CLAMP)
            if on_iteration is not None:
                on_iteration(number, k, x)
            mark_step(x.device)
            if torch.linalg.vector_norm(x - old) / scale <= tol:
                break
    return x


def invert_block(
    block: FlowBlock,
    z: Tensor,
    y: Tensor | None,
    plan: BlockPlan,
    *,
    guidance: Guidance = UNGUIDED,
    mode: Mode = "exact",
    tol: float | None = None,
    on_iteration: Callable[[int, int, Tensor], None] | None = None,
) -> tuple[Tensor, int, int]:
    """Invert one block.

    Args:
        block: the block.
        z: its output (B, T, C) in raster order.
        y: labels (B,), -1 = dropped, or None.
        plan: how.
        guidance, mode, tol, on_iteration: as in `invert`.

    Returns:
        its input (B, T, C) in raster order, network calls, token evaluations.
    """
    rows, tokens, _ = z.shape
    evaluate = BlockEvaluator(block, y, rows, guidance)
    if plan.segments != 1:  # plain Jacobi recomputes everything
        evaluate.cache = KeyValueCache(
            len(block.attn_blocks),
            2 * rows if evaluate.guided else rows,
            block.heads,
            tokens,
            like=z.new_empty(0, dtype=_compute_dtype(z)),
        )
    tol = plan.tol if plan.tol is not None else tol
    solve = solve_exact if mode == "exact" else solve_released
    default = 0.0 if mode == "exact" else RELEASED_TOL
    x = solve(
        evaluate,
        block.ordered(z),
        plan,
        tol=default if tol is None else tol,
        on_iteration=on_iteration,
    )
    return block.ordered(x), evaluate.steps, evaluate.evaluations


def _compute_dtype(like: Tensor) -> torch.dtype:
    """The type that keys and values have under the active autocast."""
    kind = like.device.type
    if torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return like.dtype


def invert(
    model: TarFlow,
    noise: Tensor,
    y: Tensor | None = None,
    *,
    strategy: Strategy | None = None,
    guidance: Guidance = UNGUIDED,
    mode: Mode = "exact",
    tol: float | None = None,
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
        on_iteration: called with (block, segment, iteration, x).

    Raises:
        ValueError: for a strategy of another number of blocks or an unknown mode.
    """
    count = len(model.flows)
    strategy = strategy or Strategy.sequential(count, model.tokens)
    if len(strategy.blocks) != count:
        raise ValueError(
            f"the strategy has {len(strategy.blocks)} blocks, the model {count}"
        )
    if mode not in ("exact", "released"):
        raise ValueError(f"mode must be exact or released, not {mode!r}")
    strategy = Strategy(strategy.blocks, model.tokens)
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
                on_iteration=hook,
            )
            latents.append(x)
        images = model.unpatchify(x)
    # Clones made outside inference mode may take part in a backward pass.
    return Inversion(
        images.clone(), [latent.clone() for latent in latents], steps, evaluations
    )


def _bind(on_iteration: OnIteration, block: int) -> Callable[[int, int, Tensor], None]:
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
