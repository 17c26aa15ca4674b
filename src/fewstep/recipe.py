"""The recipe of a training run: its options, its learning rate, its averaging."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainOptions:
    """The recipe.

    Attributes:
        steps: optimiser steps.
        batch: examples a step over all processes.
        lr: peak learning rate.
        start_lr: rate of the first step of the linear warm-up.
        min_lr: rate at the end of the cosine; `lr` for a constant rate.
        warmup_steps: steps of the warm-up.
        weight_decay, betas: of AdamW.
        decay: what decays: "all" parameters, or "matrices" alone: those of two
            dimensions and more, embeddings among them (LlamaGen).
        grad_clip: largest gradient norm, 0 = no clipping.
        ema: decay of the averaged weights that are kept in the end, 0 = none.
        ema_warmup: average less at first, see `ema_decay`.
        count_offset: steps that the weights have behind them; the counters of warm-up,
            averaging and imported Adam moments go on from there (SeqRF's
            `initial_count`). The cosine counts the steps of this run alone.
        accumulate: micro-batches into which each process cuts its share of the batch;
            changes the result by rounding, and which units a dropout drops.
        sharded: with several processes each keeps a part of weights, averages and
            moments (`fewstep.sharding`); changes the result by rounding.
        precision: "fp32", or "bf16" autocast.
        seed: of every draw.
        save_every: steps between two checkpoints.
        log_every: steps between two points of the curve.
        snapshot_every: steps between two calls of `on_snapshot`, 0 = none.
    """

    steps: int
    batch: int
    lr: float
    start_lr: float = 1e-6
    min_lr: float = 1e-6
    warmup_steps: int = 0
    weight_decay: float = 1e-4
    decay: Literal["all", "matrices"] = "all"
    betas: tuple[float, float] = (0.9, 0.95)
    grad_clip: float = 0.0
    ema: float = 0.0
    ema_warmup: bool = False
    count_offset: int = 0
    accumulate: int = 1
    sharded: bool = False
    precision: str = "fp32"
    seed: int = 0
    save_every: int = 1000
    log_every: int = 50
    snapshot_every: int = 0


def learning_rate(step: int, options: TrainOptions) -> float:
    """Linear warm-up, then half a cosine to `min_lr`.

    Args:
        step: steps of this run, from 0. The warm-up counts `count_offset` too, so
            weights with more steps behind them than it lasts get none; the cosine
            begins where this run's share of the warm-up ends.
        options: the recipe.
    """
    count = options.count_offset + step
    if count < options.warmup_steps:
        share = count / options.warmup_steps
        return options.start_lr + (options.lr - options.start_lr) * share
    warm = max(0, options.warmup_steps - options.count_offset)
    share = min(1.0, (step - warm) / max(1, options.steps - warm))
    cosine = 0.5 * (1 + math.cos(math.pi * share))
    return options.min_lr + (options.lr - options.min_lr) * cosine


def ema_decay(step: int, options: TrainOptions) -> float:
    """Decay of the average after step `step` of this run, which counts from 0.

    With `ema_warmup` min(ema, (1 + n) / (10 + n)), n = count_offset + step, so that
    the weights of the beginning are soon forgotten.
    """
    if not options.ema_warmup:
        return options.ema
    n = options.count_offset + step
    return min(options.ema, (1 + n) / (10 + n))
