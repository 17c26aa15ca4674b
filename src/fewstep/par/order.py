"""Order, positions and mask of a PAR model as tensors (arXiv 2412.15119, §3.2-3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.par.schedule import Schedule


def to_generation(codes: Tensor, schedule: Schedule) -> Tensor:
    """Raster codes (B, g, g) or (B, N) in generation order (B, N)."""
    return codes.flatten(1)[:, torch.tensor(schedule.order(), device=codes.device)]


def to_raster(tokens: Tensor, schedule: Schedule) -> Tensor:
    """Tokens (B, N) of the generation order as a grid (B, g, g)."""
    inverse = torch.tensor(schedule.inverse(), device=tokens.device)
    return tokens[:, inverse].view(-1, schedule.grid, schedule.grid)


def attention_mask(schedule: Schedule, length: int | None = None) -> Tensor:
    """Who may attend to whom: (L, L) bool, True = row attends to column.

    Causal over the first n positions; from there on each group of n sees itself and all
    before it.

    Args:
        schedule: the order.
        length: L; default N, the positions that are ever fed.
    """
    n, length = schedule.group, length or schedule.tokens
    row = torch.arange(length)
    last = torch.where(row < n, row, n + (row - n) // n * n + n - 1)
    return torch.arange(length) <= last[:, None]


def rotary_angles(grid: int, head_dim: int, base: float = 10000.0) -> Tensor:
    """Angles (N, head_dim / 2) of the grid's cells in raster order.

    The first half turns with the row, the second with the column; frequencies are
    base^(-2k / half), half = head_dim / 2 (LlamaGen, 2D RoPE).
    """
    half = head_dim // 2
    frequency = base ** (-torch.arange(0, half, 2, dtype=torch.float32) / half)
    turns = torch.outer(torch.arange(grid, dtype=torch.float32), frequency)
    rows = turns[:, None].expand(grid, grid, -1)
    columns = turns[None].expand(grid, grid, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)


def rotary_table(
    schedule: Schedule,
    head_dim: int,
    base: float = 10000.0,
    length: int | None = None,
) -> Tensor:
    """(cos, sin) of every position of the sequence: (L, head_dim / 2, 2) float32.

    A token has the angle of its own cell. The class and the transition tokens have
    cos = sin = 0, which makes their queries and keys zero: so the released models were
    trained.

    Args:
        schedule: the order.
        head_dim: features of a head, a multiple of 4.
        base: of the frequencies.
        length: L; default N. Positions after N + n - 1 hold no token.
    """
    angles, order = rotary_angles(schedule.grid, head_dim, base), schedule.order()
    table = torch.zeros(length or schedule.tokens, head_dim // 2, 2)
    for position in range(len(table)):
        token = schedule.source(position)
        if token is not None:
            angle = angles[order[token]]
            table[position] = torch.stack([angle.cos(), angle.sin()], dim=-1)
    return table


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn neighbouring pairs (2i, 2i + 1) of features, in float32.

    (a, b) -> (a cos - b sin, b cos + a sin).

    Args:
        x: (..., L, D).
        table: (L, D / 2, 2).
    """
    wide = x.float()
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        # One complex product has the same bits and a tenth of the time. The compiler
        # cannot fuse it, and not every accelerator has it.
        turns = torch.view_as_complex(table.float())
        pairs = torch.view_as_complex(wide.view(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)
    a, b = wide[..., ::2], wide[..., 1::2]
    cos, sin = table.unbind(-1)
    turned = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1)
    return turned.flatten(-2).to(x.dtype)
