"""Linear layers on a CPU with weights laid out as oneDNN reads them best.

A call of few rows takes as long as its weights are read: in the usual layout about
twice as long (benchmarks/LOG.md). torch lays weights out like this for its own
compiler; nothing here is compiled.
"""

from __future__ import annotations

import torch
from torch import Tensor


def can_pack(weight: Tensor) -> bool:
    """Whether this machine has such a layout for a weight of its type and device."""
    there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    x86 = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    known = there and x86 and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if weight.device.type != "cpu" or not known:
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def pack_weight(weight: Tensor) -> Tensor:
    """The weight (out, in) in oneDNN's layout; shape, type and device stay."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
    return packed


def packed_linear(
    x: Tensor, packed: Tensor, bias: Tensor | None = None, *, gelu: bool = False
) -> Tensor:
    """(..., in) to (..., out); the exact GELU behind it costs no pass of its own."""
    after = "gelu" if gelu else "none"
    out: Tensor = torch.ops.mkldnn._linear_pointwise.default(
        x, packed, bias, after, [], "none"
    )
    return out
