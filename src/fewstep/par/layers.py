"""Layers of LlamaGen's transformer (arXiv 2406.06525), with a key/value cache."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewstep.par.order import rotate
from fewstep.par.sizes import swiglu_width


class RMSNorm(nn.Module):
    """x / rms(x) in float32, back in x's type, times a weight."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to the same."""
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * scale).to(x.dtype) * self.weight


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) * w3 x)."""

    def __init__(self, dim: int, multiple_of: int, dropout: float) -> None:
        super().__init__()
        width = swiglu_width(dim, multiple_of)
        self.w1 = nn.Linear(dim, width, bias=False)
        self.w3 = nn.Linear(dim, width, bias=False)
        self.w2 = nn.Linear(width, dim, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, dim) to the same."""
        mixed: Tensor = self.dropout(self.w2(F.silu(self.w1(x)) * self.w3(x)))
        return mixed


def put_now(store: Tensor, key: Tensor, value: Tensor, start: int) -> None:
    """Write (R, H, L, D) at position `start` of the first rows of a layer's cache."""
    rows, stop = len(key), start + key.shape[2]
    store[0, :rows, :, start:stop] = key
    store[1, :rows, :, start:stop] = value


put = torch.library.custom_op("fewstep::put", put_now, mutates_args=("store",))
"""`put_now` for the compiler, which else copies the whole cache at every write."""
put.register_fake(lambda *_: None)


class LayerCache:
    """Keys and values (2, R, H, N, D) of one layer, filled from the left."""

    def __init__(self, store: Tensor) -> None:
        self.store = store

    def extend(self, start: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write (R, H, L, D) at `start`; keys and values of all positions so far."""
        rows, stop = len(key), start + key.shape[2]
        write = put if torch.compiler.is_compiling() else put_now
        write(self.store, key, value, start)
        return self.store[0, :rows, :, :stop], self.store[1, :rows, :, :stop]


class Attention(nn.Module):
    """Self-attention with one fused projection and 2D rotary positions."""

    def __init__(self, dim: int, heads: int, dropout: float, probability: float):
        super().__init__()
        self.heads, self.probability = heads, probability
        self.wqkv = nn.Linear(dim, 3 * dim, bias=False)
        self.wo = nn.Linear(dim, dim, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        table: Tensor,
        mask: Tensor | None,
        cache: LayerCache | None = None,
        start: int = 0,
    ) -> Tensor:
        """(B, L, dim) to the same; with a cache after the positions before `start`.

        Args:
            x: input.
            table: rotary (L, D / 2, 2).
            mask: (L, L) bool, or None: everything is seen.
            cache: of this layer.
            start: position of x[:, 0].
        """
        parts = self.wqkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        (query, key), value = rotate(parts[:2], table), parts[2]
        if cache is not None:
            key, value = cache.extend(start, key, value)
        mixed = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=self.probability if self.training else 0.0,
        )
        out: Tensor = self.dropout(self.wo(mixed.transpose(1, 2).flatten(2)))
        return out


class DropPath(nn.Module):
    """Stochastic depth: a sample skips the branch with probability `rate`."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, dim) to the same."""
        if not self.training or not self.rate:
            return x
        keep = torch.rand(len(x), 1, 1, device=x.device) >= self.rate
        return x * keep / (1 - self.rate)


class Block(nn.Module):
    """Pre-norm: x += Attn(norm x), then x += FFN(norm x)."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        multiple_of: int = 256,
        eps: float = 1e-5,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention = Attention(dim, heads, dropout, attention_dropout)
        self.feed_forward = FeedForward(dim, multiple_of, dropout)
        self.attention_norm = RMSNorm(dim, eps)
        self.ffn_norm = RMSNorm(dim, eps)
        self.drop_path = DropPath(drop_path)

    def forward(
        self,
        x: Tensor,
        table: Tensor,
        mask: Tensor | None,
        cache: LayerCache | None = None,
        start: int = 0,
    ) -> Tensor:
        """As `Attention.forward`."""
        mixed = self.attention(self.attention_norm(x), table, mask, cache, start)
        x = x + self.drop_path(mixed)
        out: Tensor = x + self.drop_path(self.feed_forward(self.ffn_norm(x)))
        return out
