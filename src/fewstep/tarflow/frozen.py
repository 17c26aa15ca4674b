"""A block's network as plain functions of weights that do not change any more.

The inverse evaluates a block thousands of times. What depends on the weights alone is
made once, and no gradient is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.device import masks_by_name
from fewstep.device.compiled import compiled
from fewstep.device.packed import (
    can_pack,
    in_columns,
    numpy_multiplies,
    pack_weight,
    packed_linear,
)
from fewstep.tarflow.model import HEAD_DIM, FlowBlock, KeyValueCache, Layer

_SMALL = 2**16
"""Numbers in a weight from which on `F.linear`, which costs least a call, is slower."""

_FEW_HEADS = 8
"""Heads of all rows up to which torch's attention of one query is no slower."""


def _by_numpy(x: Tensor) -> bool:
    """Whether NumPy is the faster way: its kernels keep one core busy."""
    few = torch.get_num_threads() <= 2
    return few and x.device.type == "cpu" and x.dtype == torch.float32


class FrozenLinear:
    """A linear layer with weights of a type, on a CPU in a layout that suits it.

    Where rows are few, it takes half to two thirds of the time of `F.linear`, which
    reads weights as they lie; oneDNN's GELU costs no pass of its own. One or two rows
    are left to NumPy's matrix-vector products, which read weights faster still.

    Args:
        linear: the layer.
        dtype: of the weights.
        plain: leave the layout as it is.
    """

    def __init__(
        self, linear: nn.Linear, dtype: torch.dtype, *, plain: bool = False
    ) -> None:
        self.weight = linear.weight.detach().to(dtype)
        self.bias = linear.bias.detach().to(dtype)
        self.packs = not plain and _packs(self.weight)

    def __call__(self, x: Tensor, *, gelu: bool = False) -> Tensor:
        if not self.packs:
            out = F.linear(x, self.weight, self.bias)
            return F.gelu(out) if gelu else out
        few = _by_numpy(x) and x.shape[:-1].numel() <= 2
        weight = self.columns if few else self.packed
        return packed_linear(x, weight, self.bias, gelu=gelu)

    @cached_property
    def columns(self) -> Tensor:
        """The weight for NumPy."""
        return in_columns(self.weight)

    @cached_property
    def packed(self) -> Tensor:
        """The weight for many rows."""
        one = numpy_multiplies(self.weight)  # one layout for any number of rows
        return self.columns if one else pack_weight(self.weight)


def _packs(weight: Tensor) -> bool:
    """Whether this CPU has a packed layout for weights of this type that pays."""
    large = weight.dtype == torch.bfloat16 or weight.numel() > _SMALL
    return large and can_pack(weight)


def _attend_one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of one query (B, heads, 1, 64) to keys and values (B, heads, L, 64).

    NumPy's matrix-vector products read a cache at up to three times the speed of
    torch's kernels, which multiply matrices.
    """
    query = (q * HEAD_DIM**-0.5).numpy().swapaxes(2, 3)
    logits = torch.from_numpy(np.matmul(k.numpy(), query)[..., 0])
    weights = logits.softmax(dim=-1).numpy()[:, :, None]
    return torch.from_numpy(np.matmul(weights, v.numpy()))


def _attend_in_parts(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention of q (B, heads, n, 64) with a mask (n, L), some heads at a time.

    torch's kernel for a CPU gains nothing by bfloat16; matrix products do. A part's
    logits fit a core's cache. Keys and values are filled up to the mask's L.
    """
    k, v = (F.pad(each, (0, 0, 0, mask.shape[1] - each.shape[2])) for each in (k, v))
    queries, keys, values = (each.flatten(0, 1) for each in (q, k, v))
    step = max(1, 2**19 // mask.numel())
    parts = []
    for first in range(0, len(queries), step):
        part = slice(first, first + step)
        logits = torch.baddbmm(mask, queries[part], keys[part].mT, alpha=HEAD_DIM**-0.5)
        parts.append(torch.bmm(logits.softmax(dim=-1), values[part]))
    return torch.cat(parts).view(q.shape)


class FrozenLayer:
    """One transformer layer; `Layer` says what it computes.

    Args:
        layer: the layer.
        dtype: as in `FrozenBlock`.
        in_parts: whether `_attend_in_parts` is the faster way.
        compiles: whether what stands around the attention is compiled.
    """

    def __init__(
        self, layer: Layer, dtype: torch.dtype, *, in_parts: bool, compiles: bool
    ) -> None:
        self.heads, self.dtype, self.in_parts = layer.attention.heads, dtype, in_parts
        self.halves: Halves = compiled_halves() if compiles else (_before, _after)
        self.norms = [
            (norm.weight.detach(), norm.bias.detach(), norm.eps)
            for norm in (layer.attention.norm, layer.mlp.norm)
        ]
        self.qkv, self.proj, self.widen, self.narrow = (
            FrozenLinear(cast("nn.Linear", linear), dtype, plain=compiles)
            for linear in (
                *(layer.attention.qkv, layer.attention.proj),
                *(layer.mlp.main[0], layer.mlp.main[2]),
            )
        )

    def __call__(
        self,
        h: Tensor,
        number: int,
        start: int | Tensor,
        cache: KeyValueCache | None,
        mask: Tensor | None,
        query_scale: Tensor | None,
    ) -> None:
        """Add the layer's output to h (R, n, D); `FrozenBlock` says what is given."""
        rows, n, channels = h.shape
        qkv = self.halves[0](self, h).view(rows, n, 3, self.heads, HEAD_DIM)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()
        if query_scale is not None:
            q = q * query_scale
        if cache is not None:
            k, v = cache.write(number, start, k, v)
        many = q[..., 0].numel() > _FEW_HEADS
        if mask is None and n == 1 and many and _by_numpy(q):
            out = _attend_one(q, k, v)
        elif self.in_parts and mask is not None and mask.dim() == 2:
            out = _attend_in_parts(q, k, v, mask)
        else:
            causal = mask is None and n > 1
            out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
        self.halves[1](self, h, out.transpose(1, 2).reshape(rows, n, channels))

    def norm(self, which: int, h: Tensor) -> Tensor:
        """The norm before the attention (0) or the MLP (1)."""
        return F.layer_norm(h, [h.shape[2]], *self.norms[which]).to(self.dtype)


Halves = tuple[
    Callable[[FrozenLayer, Tensor], Tensor],
    Callable[[FrozenLayer, Tensor, Tensor], None],
]
"""A layer up to its attention, and from it on."""


def _before(layer: FrozenLayer, h: Tensor) -> Tensor:
    """What the attention mixes: queries, keys and values (R, n, 3D)."""
    return layer.qkv(layer.norm(0, h))


def _after(layer: FrozenLayer, h: Tensor, mixed: Tensor) -> None:
    """Add to h (R, n, D) what the attention mixed, and the MLP of the sum."""
    h.add_(layer.proj(mixed))
    h.add_(layer.narrow(layer.widen(layer.norm(1, h), gelu=True)))


@cache
def compiled_halves() -> Halves:
    """`_before` and `_after`, compiled once for the layers of all blocks.

    The attention between them has good kernels of its own, and the compiler would copy
    the cache at every write.
    """
    return compiled(_before), compiled(_after)


class FrozenBlock:
    """`FlowBlock.network` without gradients.

    Args:
        block: the block.
        dtype: of the linear layers and the attention; hidden states and norms are
            float32, as under autocast.
    """

    def __init__(self, block: FlowBlock, dtype: torch.dtype) -> None:
        self.dtype, compiles = dtype, block.compiles
        self.proj_in = FrozenLinear(block.proj_in, dtype, plain=compiles)
        self.proj_out = FrozenLinear(block.proj_out, dtype, plain=compiles)
        self.in_parts = dtype == torch.bfloat16 and self.proj_in.packs
        self.layers = [
            FrozenLayer(layer, dtype, in_parts=self.in_parts, compiles=compiles)
            for layer in cast("list[Layer]", block.attn_blocks)
        ]

    def __call__(
        self,
        x: Tensor,
        added: Tensor,
        *,
        start: int | Tensor = 0,
        cache: KeyValueCache | None = None,
        query_scale: Tensor | None = None,
    ) -> Tensor:
        """Parameters that tokens start.. give to the token after each.

        Args:
            x: (B, n, C) tokens start..start+n-1 in the block's order.
            added: (R, n, D) positions and class terms; R is B or a multiple.
            start: first token, one or that of each row (R,).
            cache: where keys and values of tokens before it are; None: start is 0.
            query_scale: (R, 1, 1, 1) factor on the logits (1 / temperature).

        Returns:
            s beside u, float32 (R, n, 2C): of tokens start+1..start+n.
        """
        h = self.proj_in(x.to(self.dtype)).repeat(len(added) // len(x), 1, 1) + added
        mask = self._mask(x, start, cache)
        for number, layer in enumerate(self.layers):
            layer(h, number, start, cache, mask, query_scale)
        return self.proj_out(h.to(self.dtype)).float()

    def _mask(
        self, x: Tensor, start: int | Tensor, cache: KeyValueCache | None
    ) -> Tensor | None:
        """What tokens start.. see, as a term of the logits; None: all, or causally.

        Where the device has kernels for it, a causal mask after a prefix is a name.
        """
        n, device = x.shape[1], x.device
        places = isinstance(start, Tensor)
        if not places and (n == 1 or (start == 0 and not self.in_parts)):
            return None
        if not places and masks_by_name(device):
            # Here, for it takes two seconds: it brings the compiler along.
            from torch.nn.attention.bias import causal_lower_right

            return causal_lower_right(n, start + n)
        last = torch.arange(n, device=device)[:, None]
        if isinstance(start, Tensor):
            assert cache is not None, "rows at places of their own need a cache"
            last, stop = last + start[:, None, None, None], cache.stop(start, n)
        else:
            last, stop = last + start, start + n
            if self.in_parts:
                stop += -stop % 32  # rows of an odd length take half as long again
        hidden = torch.arange(stop, device=device) > last
        mask = torch.zeros(hidden.shape, dtype=self.dtype, device=device)
        return mask.masked_fill_(hidden, -torch.inf)
