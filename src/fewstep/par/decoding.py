"""From logits to tokens: guidance, filters, draws (LlamaGen, PAR §4.7 of its code)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fewstep.par.schedule import Pass, Schedule

Shape = Literal["constant", "linear", "cosine"]
Choose = Callable[[Tensor, Pass], Tensor]
"""Tokens (B, k) int64 of logits (B, k, V) float32, for one pass."""


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance along the passes.

    Attributes:
        scale: s; logits = uncond + s (cond - uncond), active only above 1.
        shape: "constant"; or s grows from 1 to `scale` along the passes, "linear" or as
            a "cosine" half-wave raised to `power`.
        power: of the cosine; more of it keeps the early passes freer.
        first, last: share of the passes between which guidance is on.
        interval: the released program's option: off once more than this many tokens
            were drawn since a phase began (sequential after its first pass, parallel);
            -1: never.
    """

    scale: float = 1.0
    shape: Shape = "constant"
    power: float = 1.0
    first: float = 0.0
    last: float = 1.0
    interval: int = -1

    def scales(self, schedule: Schedule) -> list[float]:
        """s of every pass; 1: not guided."""
        passes = schedule.passes()
        return [
            max(1.0, self._scale(i / max(1, len(passes) - 1)))
            if self.first <= i / len(passes) < self.last
            and not self._interrupted(one, schedule.group)
            else 1.0
            for i, one in enumerate(passes)
        ]

    def _scale(self, progress: float) -> float:
        if self.shape == "constant":
            return self.scale
        share = progress
        if self.shape == "cosine":
            share = (0.5 * (1 - math.cos(math.pi * progress))) ** self.power
        return 1 + (self.scale - 1) * share

    def _interrupted(self, one: Pass, group: int) -> bool:
        """Off by the released program's interval; its first pass is always guided."""
        if self.interval < 0 or one.start == 0:
            return False
        began = group if one.start >= group > 1 else 1
        return one.start - began > self.interval


def guide(hidden: Tensor, scale: float) -> Tensor:
    """u + s (c - u) of hidden states (2B, L, dim), c first: (B, L, dim).

    The head behind is linear, so this is guidance of the logits at half their cost.
    """
    cond, uncond = hidden.float().chunk(2)
    return torch.lerp(uncond, cond, scale).to(hidden.dtype)


def filter_logits(
    logits: Tensor, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Tensor:
    """Logits over the temperature, with those that may not be drawn at -inf.

    Args:
        logits: (..., V) float32.
        temperature: at least 1e-5 is taken.
        top_k: keep the k largest, and what equals the k-th; 0: all.
        top_p: of these keep the largest until their probability exceeds p, the one
            that crosses it and at least one; 1: all.
    """
    logits = logits / max(temperature, 1e-5)
    if top_k > 0:
        least = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p < 1:
        ordered, index = logits.sort(descending=True)
        chance = ordered.softmax(-1)
        before = chance.cumsum(-1) - chance
        beyond = before > top_p
        beyond[..., 0] = False
        logits = logits.masked_fill(beyond.scatter(-1, index, beyond), -torch.inf)
    return logits


def greedy(logits: Tensor, *_: Pass) -> Tensor:
    """The likeliest token."""
    return logits.argmax(-1)


def by_inversion(uniforms: Tensor) -> Choose:
    """Draw by the inverse of the distribution function.

    One uniform a token is all the chance there is, so that a sample belongs to its own
    stream whatever is drawn beside it.

    Args:
        uniforms: (B, N) float64 in [0, 1), by generation index.
    """

    def choose(logits: Tensor, one: Pass) -> Tensor:
        total = F.softmax(logits, -1).double().cumsum(-1)
        drawn = uniforms[:, one.start : one.stop, None] * total[..., -1:]
        # Below the sum even where the product was rounded up to it.
        below = torch.nextafter(total[..., -1:], torch.zeros_like(drawn))
        index = torch.searchsorted(total, torch.minimum(drawn, below), right=True)
        # Where a logit is NaN no entry is found: the first one, and see `finite`.
        return index[..., 0].where(total[..., -1].isfinite(), 0)

    return choose


def by_multinomial(generator: torch.Generator | None = None) -> Choose:
    """The released program's draw: one `multinomial` a pass over (B k, V) rows."""

    def choose(logits: Tensor, *_: Pass) -> Tensor:
        chance = F.softmax(logits, -1).flatten(0, 1)
        drawn = torch.multinomial(chance, 1, generator=generator)
        return drawn.view(logits.shape[:2])

    return choose
