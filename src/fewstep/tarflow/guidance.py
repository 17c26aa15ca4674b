"""Classifier-free guidance, and the guided network of one block."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.tarflow.frozen import FrozenBlock
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

    Args:
        block: the block.
        y: labels (B,), -1 = dropped, or None.
        rows: B.
        guidance: `UNGUIDED` evaluates the conditional rows alone.
        cache: keys and values of tokens before a window, of `dtype`.
        dtype: of the linear layers and the attention; None = the block's, or that of
            the active autocast. s and u are float32 whatever it is.

    Attributes:
        guided: whether there are unconditional rows.
        steps, evaluations: calls, and tokens evaluated, so far.
    """

    def __init__(
        self,
        block: FlowBlock,
        y: Tensor | None,
        rows: int,
        guidance: Guidance,
        cache: KeyValueCache | None = None,
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        labelled = y is not None and block.class_embed is not None
        self.guided = guidance.weight > 0 and (labelled or guidance.attn_temp != 1)
        self.cache = cache
        self.positions = block.positions().detach()
        self.network = FrozenBlock(block, dtype or compute_dtype(self.positions))
        embedding = block.embedding(y, rows)
        self.query_scale: Tensor | None = None
        self.steps = self.evaluations = 0
        if self.guided and embedding is not None:
            unconditional = block.embedding(None, rows)
            assert unconditional is not None
            embedding = torch.cat([embedding, unconditional])
        self.rows = 2 * rows if self.guided else rows
        if embedding is None:
            embedding = self.positions.new_zeros(self.rows, 1, 1)
        self.embedding = embedding.detach()
        if not self.guided:
            return
        if guidance.attn_temp != 1:
            scale = self.positions.new_ones(2 * rows, 1, 1, 1)
            scale[rows:] = 1 / guidance.attn_temp
            self.query_scale = scale.to(self.network.dtype)
        self.strength = _strength(guidance, block, self.positions.device)

    def __call__(
        self, x: Tensor, start: int | Tensor, *, spare: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Parameters s, u (B, n, C) of tokens start+1.. from tokens x (B, n, C).

        Args:
            x: the tokens.
            start: number of the first, one or that of each sample (B,).
            spare: leave unconditional rows out: their difference to the conditional
                ones is that of the call before, of the same tokens.
        """
        n, rows = x.shape[1], len(x) if spare else self.rows
        self.steps += 1
        self.evaluations += n
        pick: Tensor | slice
        if isinstance(start, Tensor):
            pick = start[:, None] + torch.arange(n, device=x.device)
            copies = rows // len(x)
            start = start.repeat(copies)
            positions = self.positions[pick].repeat(copies, 1, 1)
        else:
            pick = slice(start, start + n)
            positions = self.positions[pick]
        out = self.network(
            x,
            positions + self.embedding[:rows],
            start=start,
            cache=self.cache,
            query_scale=None if spare else self.query_scale,
        )
        if self.guided:
            if not spare:
                out, free = out.chunk(2)
                self.difference = out - free
            out = torch.addcmul(out, self.difference, self.strength[pick])
        s, u = out.chunk(2, dim=-1)
        return s, u


def _strength(guidance: Guidance, block: FlowBlock, device: torch.device) -> Tensor:
    """g of each entry of s beside u (T, 2C), by the token that it comes from."""
    tokens, channels = block.tokens, block.proj_out.out_features
    g = torch.full((tokens,), guidance.weight, device=device)
    if guidance.annealed:
        g = g * (torch.arange(1, tokens + 1, device=device) / (tokens - 1))
    chosen = torch.tensor([name in guidance.what for name in "ac"], device=device)
    return g[:, None] * chosen.repeat_interleave(channels // 2)


def compute_dtype(like: Tensor) -> torch.dtype:
    """The type that linear layers compute in: the active autocast's, or `like`'s."""
    kind = like.device.type
    if torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return like.dtype
