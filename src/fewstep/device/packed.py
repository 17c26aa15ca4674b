"""Linear layers on a CPU with weights laid out as oneDNN reads them best.

A call of few rows takes as long as its weights are read: in the usual layout about
twice as long (benchmarks/LOG.md). torch lays weights out like this for its own
compiler; nothing here is compiled.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

_FEW = 16
"""Rows up to which one call less pays for a slower GELU."""


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
    """(..., in) to (..., out), with the exact GELU behind it or without.

    oneDNN's GELU needs no pass of its own, but without AVX-512 it takes thrice as long
    as torch's, which then is the faster one for all but a few rows.
    """
    apart = gelu and x.shape[:-1].numel() > _FEW and not _wide()
    after = "gelu" if gelu and not apart else "none"
    out: Tensor = torch.ops.mkldnn._linear_pointwise.default(
        x, packed, bias, after, [], "none"
    )
    if apart:
        torch.ops.aten.gelu_(out)
    return out


@cache
def _wide() -> bool:
    """Whether this processor has AVX-512."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")
