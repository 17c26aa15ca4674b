"""Linear layers on a CPU with weights laid out as its fastest products read them.

A call of few rows takes as long as its weights are read: in the usual layout about
twice as long (benchmarks/LOG.md). torch lays weights out for oneDNN like this for its
own compiler; nothing here is compiled. Without AVX-512, NumPy's OpenBLAS multiplies on
one thread faster than oneDNN and MKL do, whatever the number of rows.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from fewstep.threads import hold_numpy_to_one

_FEW = 16
"""Rows up to which one call less pays for a slower GELU."""

_VECTORS = 2
"""Rows that are multiplied one by one, as vectors."""


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


def numpy_multiplies(weight: Tensor) -> bool:
    """Whether NumPy's products with a weight on a CPU are the fastest now."""
    alone = torch.get_num_threads() == 1
    return alone and weight.dtype == torch.float32 and not _wide()


def in_columns(weight: Tensor) -> Tensor:
    """The float32 weight (out, in), laid out (in, out) for NumPy; the shape stays."""
    return weight.detach().T.contiguous().T


def pack_weight(weight: Tensor) -> Tensor:
    """The weight (out, in) in the best layout now; shape, type and device stay."""
    if numpy_multiplies(weight):
        return in_columns(weight)
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
    return packed


def packed_linear(
    x: Tensor, packed: Tensor, bias: Tensor | None = None, *, gelu: bool = False
) -> Tensor:
    """(..., in) to (..., out), with the exact GELU behind it or without.

    oneDNN's GELU needs no pass of its own, but without AVX-512 it takes thrice as long
    as torch's, which then is the faster one for all but a few rows.

    Args:
        x: float32 or bfloat16 on a CPU.
        packed: from `pack_weight` or `in_columns`.
        bias: (out,).
        gelu: whether GELU follows.
    """
    few = x.shape[:-1].numel() <= _FEW
    apart = gelu and not (packed.is_mkldnn and (few or _wide()))
    if packed.is_mkldnn:
        after = "gelu" if gelu and not apart else "none"
        out: Tensor = torch.ops.mkldnn._linear_pointwise.default(
            x, packed, bias, after, [], "none"
        )
    else:
        out = _by_numpy(x, packed, bias)
    if apart:
        torch.ops.aten.gelu_(out)
    return out


def _by_numpy(x: Tensor, columns: Tensor, bias: Tensor | None) -> Tensor:
    """x W' + b by OpenBLAS; its products of vectors read a weight fastest."""
    rows = x.reshape(-1, x.shape[-1])
    out = x.new_empty(len(rows), len(columns))
    if len(rows) <= _VECTORS:
        np.matmul(rows[:, None].numpy(), columns.T.numpy(), out=out[:, None].numpy())
    else:
        hold_numpy_to_one()
        np.matmul(rows.numpy(), columns.T.numpy(), out=out.numpy())
    if bias is not None:
        out.add_(bias)
    return out.view(*x.shape[:-1], -1)


@cache
def _wide() -> bool:
    """Whether this processor has AVX-512."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")
