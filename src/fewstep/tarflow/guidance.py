"""Classifier-free guidance, and the guided network of one block."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.tarflow.model import FlowBlock, KeyValueCache


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance of the affine parameters (arXiv 2412.06329, §3.3).

    Attributes:
        weight: w; 0 = off.
        what: which parameters: "a" = log-scale s, "c" = shift u, "ac" = both.
        attn_temp: temperature of the unconditional pass's attention.
        annealed: g_t = w t / (T-1) for token t in the block's order, else g_t = w.
    """

    weight: float = 0.0
    what: str = "ac"
    attn_temp: float = 1.0
    annealed: bool = False

    def __post_init__(self) -> None:
        if self.what not in ("a", "c", "ac"):
            raise ValueError(f"guide_what must be a, c or ac, not {self.what!r}")
        if not self.attn_temp > 0:
            raise ValueError(f"attn_temp must be positive, not {self.attn_temp}")


UNGUIDED = Guidance()


class BlockEvaluator:
    """The (guided) network of one block as a function of a window of its input.

    Conditional and unconditional rows run as one batch. Where the unconditional pass
    would repeat the conditional one (no labels and temperature 1) it is left out:
    s + g (s - s) = s.
    """

    def __init__(
        self,
        block: FlowBlock,
        y: Tensor | None,
        rows: int,
        guidance: Guidance,
        cache: KeyValueCache | None = None,
    ) -> None:
        labelled = y is not None and block.class_embed is not None
        self.guided = guidance.weight > 0 and (labelled or guidance.attn_temp != 1)
        self.block, self.guidance, self.cache = block, guidance, cache
        self.positions = block.positions()
        self.embedding = block.embedding(y, rows)
        self.query_scale: Tensor | None = None
        self.steps = self.evaluations = 0
        if not self.guided:
            return
        if self.embedding is not None:
            unconditional = block.embedding(None, rows)
            assert unconditional is not None
            self.embedding = torch.cat([self.embedding, unconditional])
        if guidance.attn_temp != 1:
            scale = torch.ones(2 * rows, 1, 1, 1, device=self.positions.device)
            scale[rows:] = 1 / guidance.attn_temp
            self.query_scale = scale

    def __call__(self, x: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Parameters s, u (B, n, C) of tokens start+1.. from tokens x (B, n, C)."""
        n = x.shape[1]
        self.steps += 1
        self.evaluations += n
        s, u = self.block.network(
            torch.cat([x, x]) if self.guided else x,
            self.positions[start : start + n],
            self.embedding,
            start=start,
            cache=self.cache,
            query_scale=self.query_scale,
        )
        return self._guide(s, u, start) if self.guided else (s, u)

    def _guide(self, s: Tensor, u: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """s + g (s - s_unc) and u + g (u - u_unc)."""
        (s, s_unc), (u, u_unc) = s.chunk(2), u.chunk(2)
        g: float | Tensor = self.guidance.weight
        if self.guidance.annealed:
            t = torch.arange(start + 1, start + s.shape[1] + 1, device=s.device)
            g = g * (t / (self.block.tokens - 1))[:, None]
        if "a" in self.guidance.what:
            s = s + g * (s - s_unc)
        if "c" in self.guidance.what:
            u = u + g * (u - u_unc)
        return s, u
