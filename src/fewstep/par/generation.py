"""Parallel generation: n tokens one by one, then n a step (arXiv 2412.15119, §3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fewstep import noise
from fewstep.device import mark_step
from fewstep.par.decoding import (
    Choose,
    Guidance,
    by_inversion,
    by_multinomial,
    filter_logits,
    guide,
)
from fewstep.par.decoding import (
    greedy as likeliest,
)
from fewstep.par.layers import LayerCache
from fewstep.par.model import Transformer
from fewstep.par.order import to_raster
from fewstep.par.schedule import Pass


@dataclass(frozen=True)
class DrawOptions:
    """How tokens are drawn from their logits; see `filter_logits`."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


class Cache:
    """Keys and values of every layer (2, R, H, N, D), made once and used again.

    Args:
        gpt: gives shapes, device and type.
        rows: R, sequences at a time: twice the images under guidance.
    """

    def __init__(self, gpt: Transformer, rows: int) -> None:
        weight = gpt.output.weight
        shape = (len(gpt.layers), 2, rows, gpt.heads, gpt.schedule.tokens, gpt.head_dim)
        # Every slot is written before it is read.
        store = torch.empty(shape, device=weight.device, dtype=weight.dtype)
        self.rows, self.layers = rows, [LayerCache(layer) for layer in store]


@dataclass(frozen=True)
class Tokens:
    """Tokens (B, N) int64 in generation order, and in which images a logit was NaN."""

    tokens: Tensor
    broken: Tensor


@torch.inference_mode()
def generate_tokens(
    gpt: Transformer,
    labels: Tensor,
    choose: Choose,
    *,
    guidance: Guidance | None = None,
    options: DrawOptions | None = None,
    cache: Cache | None = None,
) -> Tokens:
    """Draw the tokens of images in generation order.

    Args:
        gpt: in evaluation mode.
        labels: (B,) classes; `num_classes` is no class.
        choose: takes tokens from filtered logits.
        guidance: None: none.
        options: filters.
        cache: of at least the rows that are needed; None: a new one.
    """
    options, batch = options or DrawOptions(), len(labels)
    passes = gpt.schedule.passes()
    scales = (guidance or Guidance()).scales(gpt.schedule)
    # The unconditional half is fed as long as a later pass still needs it.
    guided = max((i for i, scale in enumerate(scales) if scale > 1), default=-1) + 1
    rows = 2 * batch if guided else batch
    cache = cache if cache and cache.rows >= rows else Cache(gpt, rows)
    both = torch.cat([labels, torch.full_like(labels, gpt.num_classes)])
    tokens = labels.new_zeros(batch, gpt.schedule.tokens)
    broken = torch.zeros_like(labels, dtype=torch.bool)
    for number, (one, scale) in enumerate(zip(passes, scales, strict=True)):
        halves = 2 if number < guided else 1
        x = _input(gpt, tokens, both[: halves * batch], one)
        hidden = gpt.step(x, one.start, cache.layers)
        hidden = guide(hidden, scale) if scale > 1 else hidden[:batch]
        logits = gpt.output(hidden).float()
        broken |= logits.amax((1, 2)).isnan()
        logits = filter_logits(logits, **vars(options))
        tokens[:, one.start : one.stop] = choose(logits, one)
        mark_step(tokens.device)
    return Tokens(tokens, broken)


def _input(gpt: Transformer, tokens: Tensor, labels: Tensor, one: Pass) -> Tensor:
    """What a pass feeds, for one or both halves: (rows, L, dim)."""
    if one.start == 0:
        fed: Tensor = gpt.cls_embedding(labels)[:, None]
        return fed
    fed = gpt.embed(tokens, one.start, one.stop)
    return fed.repeat(len(labels) // len(tokens), 1, 1)


def uniforms(
    seed: int,
    indices: Sequence[int],
    count: int,
    attempt: int = 0,
    purpose: str = "noise",
) -> Tensor:
    """(B, count) float64 in [0, 1), each row from the stream of its sample."""
    rows = [noise.stream(seed, purpose, i, attempt).random(count) for i in indices]
    return torch.from_numpy(np.stack(rows))


def generate(
    gpt: Transformer,
    labels: Tensor,
    *,
    cfg_scale: float = 1.0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    greedy: bool = False,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    cfg_interval: int = -1,
    guidance: Guidance | None = None,
    generator: torch.Generator | None = None,
    cache: Cache | None = None,
) -> Tensor:
    """Draw codes (B, g, g) in raster order.

    Args:
        gpt: the model; evaluation mode is set and left.
        labels: (B,) int64, 0 <= label <= num_classes.
        cfg_scale: s of guidance; 1 or less: none.
        temperature, top_k, top_p: see `filter_logits`.
        greedy: take the likeliest token instead of drawing.
        seed: of the draws; sample i draws from the stream (seed, i) alone.
        indices: numbers of the samples; None: 0 .. B-1.
        cfg_interval: the released program's, see `Guidance`.
        guidance: instead of `cfg_scale` and `cfg_interval`.
        generator: draw as the released program does, from this generator.
        cache: see `Cache`.

    Raises:
        ValueError: for labels out of range, or a number of indices other than theirs.
    """
    _check(labels, indices, gpt.num_classes)
    device = gpt.output.weight.device
    if greedy:
        choose: Choose = likeliest
    elif generator is not None:
        choose = by_multinomial(generator)
    else:
        numbers = range(len(labels)) if indices is None else indices
        chance = uniforms(seed, numbers, gpt.schedule.tokens)
        choose = by_inversion(chance.to(device))
    training = gpt.training
    gpt.eval()
    try:
        drawn = generate_tokens(
            gpt,
            labels.to(device),
            choose,
            guidance=guidance or Guidance(cfg_scale, interval=cfg_interval),
            options=DrawOptions(temperature, top_k, top_p),
            cache=cache,
        )
    finally:
        gpt.train(training)
    return to_raster(drawn.tokens, gpt.schedule)


def _check(labels: Tensor, indices: Sequence[int] | None, classes: int) -> None:
    """Raise ValueError for labels out of range, or not one index a label."""
    if indices is not None and len(indices) != len(labels):
        raise ValueError(f"{len(indices)} indices for {len(labels)} labels")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) <= classes:
        raise ValueError(
            f"labels {int(labels.min())} to {int(labels.max())}: "
            f"expected 0 to {classes}"
        )
