"""A transformer for drawing on a CPU: linear layers with packed weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewstep.device.packed import pack_weight, packed_linear
from fewstep.par.layers import FeedForward


class PackedLinear(nn.Module):
    """`nn.Linear` without bias, for inference alone.

    Args:
        weight: (out, in) float32 or bfloat16 on a CPU.

    Attributes:
        weight: the packed one, of the same shape, type and device.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = pack_weight(weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return packed_linear(x, self.weight)


class PackedFeedForward(nn.Module):
    """`FeedForward` in evaluation; w1 and w3 are one product."""

    def __init__(self, layer: FeedForward) -> None:
        super().__init__()
        self.w13 = PackedLinear(torch.cat([layer.w1.weight, layer.w3.weight]))
        self.w2 = PackedLinear(layer.w2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, dim) to the same."""
        gate, up = self.w13(x).chunk(2, dim=-1)
        out: Tensor = self.w2(F.silu(gate) * up)
        return out


def pack(module: nn.Module) -> None:
    """Put packed layers in the place of a module's linear ones.

    The old weights go layer by layer, so that they are never all held twice. What is
    left can draw, and neither be trained nor saved.
    """
    for name, child in list(module.named_children()):
        if isinstance(child, FeedForward):
            setattr(module, name, PackedFeedForward(child))
        elif isinstance(child, nn.Linear):
            setattr(module, name, PackedLinear(child.weight))
        else:
            pack(child)
