"""One solver of a TarFlow block: For, Jacobi, GS-Jacobi and sliding windows.

Inverting a block solves the triangular system x_t = z_t exp(s_t(x_<t)) + u_t(x_<t).
A step evaluates a window of tokens past the finished prefix; the first token behind
the prefix is exact after it, and so are those that did not have to move. A window of
one token that slides is `For`, the sequential inverse. One that covers the sequence is
Jacobi. Windows that do not slide before they are solved are the segments of GS-Jacobi
(arXiv 2505.12849). As many steps as tokens always suffice.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from fewstep.device import mark_step
from fewstep.tarflow.strategy import BlockPlan

RELEASED_TOL = 1e-6
"""Stopping bound of the published sampler (`ebound`)."""

_CLAMP = 3.0  # of the published sampler
_EXCURSION = 1e4
"""Bound on entries that no step has settled yet. An infinity there would reach settled
tokens through 0 * inf in the attention; settled entries are never touched."""

Evaluate = Callable[[Tensor, "int | Tensor"], tuple[Tensor, Tensor]]
"""Window of x (B, n, C) and its first token, one or (B,), to s and u (B, n, C)."""

Means = tuple[Tensor, Tensor]
"""E[s], E[u] over a calibration batch (T, C) in the block's order; token 0: zeros."""

OnStep = Callable[[int, int, Tensor], None]
"""(segment, iteration from 1, x (B, T, C) in the block's order)."""


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


def initial_guess(z: Tensor, guess: int, means: Means | None = None) -> Tensor:
    """Start of the iteration (B, T, C): 0 = z; 1 = zeros, first token kept; 2 = means.

    Args:
        z: (B, T, C) in the block's order.
        guess: which.
        means: of guess 2: E[s] and E[u] of each entry, and z exp(E[s]) + E[u] starts.
    """
    if guess == 0:
        return z.clone()
    if guess == 2:
        if means is None:
            raise ValueError("a guess from means needs the means")
        return jacobi_step(z, *means)
    x = torch.zeros_like(z)
    x[:, 0] = z[:, 0]
    return x


def jacobi_step(z: Tensor, s: Tensor, u: Tensor) -> Tensor:
    """x_t = z_t exp(s_t) + u_t, the fixed-point map (arXiv 2505.12849)."""
    return z * torch.exp(s) + u


def settle(
    old: Tensor,
    new: Tensor,
    tokens: Tensor,
    final: Tensor,
    tol: float,
    *,
    cached: bool = True,
) -> tuple[Tensor, Tensor]:
    """What a step makes of a window, and which tokens are final after it.

    The first token that is not final yet was computed from final ones alone. Where it
    moved by at most `tol` it keeps its old value, which is the one that its keys and
    values in the cache were made of, and the same holds of the token after it, and so
    on. The first that moved more takes its new value: all before it were final, so it
    is exact. The window's last token was no input, so it has nothing in the cache to
    keep to.

    Without a cache there is nothing to keep to at all, nor to gain by an early end of
    some tokens: every one takes its new value until none moves more than `tol`.

    Args:
        old, new: values of the window's tokens before and after the step (B, n, C).
        tokens: their numbers, (n,) or (B, n).
        final: number of each sample's last final token (B,).
        tol: largest move of a token that is final, in any entry.
        cached: whether keys and values of final tokens are kept.

    Returns:
        values (B, n, C); numbers of the last final tokens (B,).
    """
    pending = tokens > final[:, None]
    moves = pending & ~((new - old).abs().amax(dim=2) <= tol)  # a NaN moves
    if not cached:
        moves = moves.any(dim=1, keepdim=True) & pending
    moves[:, -1] = True
    exact = moves.int().argmax(dim=1, keepdim=True)
    number = tokens.expand(len(old), -1).gather(1, exact)
    value = torch.where((tokens > number)[..., None], bounded(new), new)
    keeps = ~pending | (tokens < number) if cached else ~pending
    value = torch.where(keeps[..., None], old, value)
    return value, torch.maximum(final, number[:, 0])


def bounded(x: Tensor) -> Tensor:
    """Entries that no step has settled yet, kept finite."""
    finite = torch.nan_to_num(x, nan=0.0, posinf=_EXCURSION, neginf=-_EXCURSION)
    return finite.clamp(-_EXCURSION, _EXCURSION)


def stretches(tokens: int, plan: BlockPlan) -> list[tuple[int, int, int, int]]:
    """(start, stop, width, most): windows of a width pass over inputs [start, stop).

    A sliding window passes over the whole sequence, and For is the one of one token.
    A segment of GS-Jacobi, or of Jacobi the whole sequence, is as wide as it is long,
    and ends after `most` steps.
    """
    if plan.is_for or plan.window:
        return [(0, tokens - 1, max(plan.window, 1), tokens - 1)]
    bounds = segment_bounds(tokens, plan.segments)
    return [(a, b, b - a, plan.max_jacobi) for a, b in bounds]


def solve_exact(
    evaluate: Evaluate,
    z: Tensor,
    plan: BlockPlan,
    *,
    tol: float = 0.0,
    start_from: Tensor | None = None,
    on_iteration: OnStep | None = None,
) -> Tensor:
    """Invert one block; with enough iterations every plan equals For.

    A window that slides follows each sample at its own pace, and one as wide as its
    segment shrinks from the left: every token ends within `tol` of what the tokens
    before it in the result make of it. The whole sequence is evaluated whole until no
    token of a sample moves more than `tol`. `plan.max_jacobi` may end either before.
    No sample depends on another.

    Args:
        evaluate: window of x (B, n, C) and its start, one or (B,), to (s, u).
        z: (B, T, C) in the block's order.
        plan: window or segments, iterations, guess.
        tol: largest move of a token that is taken for final; 0 = none.
        start_from: x to begin with (B, T, C), first token kept; None: the plan's guess.
        on_iteration: called with (segment, iteration, x).

    Returns:
        x (B, T, C).
    """
    x = (initial_guess(z, plan.guess) if start_from is None else start_from).clone()
    cached = plan.segments != 1
    first = 0  # keys and values of tokens before this one are final
    for number, stretch in enumerate(stretches(z.shape[1], plan)):
        start, stop, width, most = stretch
        slides = width < stop - start
        final = torch.full((len(z),), start, device=z.device)
        last = start
        for k in range(1, most + 1):
            at: int | Tensor = first
            n = min(width, stop - first) if slides else stop - first
            if slides and first != last:  # a full window for each sample
                at, n = final.clamp(max=stop - width), width
            x, final = _step(
                evaluate, x, z, final, at, n, tol, cached=cached, alone=width == 1
            )
            if on_iteration is not None:
                on_iteration(number, k, x)
            mark_step(x.device)
            # One token at a time, nothing has to be asked of the device.
            settled = [k + start] if width == 1 else final.tolist()
            first, last = min(settled), max(settled)
            if first >= stop:
                break
            if not cached:
                first = start  # the same shapes at every step
    return x


def _step(
    evaluate: Evaluate,
    x: Tensor,
    z: Tensor,
    final: Tensor,
    at: int | Tensor,
    n: int,
    tol: float,
    *,
    cached: bool,
    alone: bool,
) -> tuple[Tensor, Tensor]:
    """x (B, T, C) after n tokens from `at` were evaluated, and the final tokens.

    A token that is always alone in its window is exact: there is nothing to settle.
    """
    if isinstance(at, int):
        inputs, outputs = slice(at, at + n), slice(at + 1, at + n + 1)
        s, u = evaluate(x[:, inputs], at)
        new = jacobi_step(z[:, outputs], s, u)
        if n > 1 or not alone:
            tokens = torch.arange(at + 1, at + n + 1, device=x.device)
            new, final = settle(x[:, outputs], new, tokens, final, tol, cached=cached)
        x[:, outputs] = new
        return x, final
    tokens = at[:, None] + torch.arange(1, n + 1, device=x.device)
    index = tokens[..., None].expand(-1, -1, x.shape[2])
    s, u = evaluate(x.gather(1, index - 1), at)
    new = jacobi_step(z.gather(1, index), s, u)
    new, final = settle(x.gather(1, index), new, tokens, final, tol, cached=cached)
    return x.scatter(1, index, new), final


def solve_released(
    evaluate: Evaluate,
    z: Tensor,
    plan: BlockPlan,
    *,
    tol: float = RELEASED_TOL,
    on_iteration: OnStep | None = None,
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
