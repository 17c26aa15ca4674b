"""Order, mask and rotary table as tensors: released ones, and by slow definition."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.par.order import (
    attention_mask,
    rotary_angles,
    rotary_table,
    rotate,
    to_generation,
    to_raster,
)
from fewstep.par.schedule import Schedule
from tests.par.random_models import ORDERS, transformer, zero_positions
from tests.par.test_schedule import fitting

Golden = Callable[[str], dict[str, Any]]

few = settings(max_examples=20, deadline=None)


# ---- order ----


def test_the_released_order(golden_par: Golden) -> None:
    """The permutation, and codes that were put through it."""
    case = golden_par("train_n16_grid8")
    schedule, wanted = Schedule(8, 16), case["outputs"]
    raster, found = case["inputs"]["codes_raster"], wanted["codes_generation_order"]
    assert schedule.order() == wanted["order"].tolist()
    assert torch.equal(to_generation(raster, schedule), found)
    assert torch.equal(to_raster(found, schedule), raster)


@given(fitting(), st.integers(0, 3))
@few
def test_generation_order_and_back(schedule: Schedule, batch: int) -> None:
    """Grids and flat codes go one way, grids come back."""
    count, g = schedule.tokens, schedule.grid
    codes = torch.arange(batch * count).view(batch, g, g)
    tokens = to_generation(codes, schedule)
    assert tokens.shape == (batch, count)
    assert torch.equal(tokens, to_generation(codes.flatten(1), schedule))
    assert torch.equal(to_raster(tokens, schedule), codes)


# ---- mask ----


def slow_mask(n: int, length: int) -> list[list[bool]]:
    """Row by row: causal among the first n, then up to the end of the own group."""
    rows = []
    for i in range(length):
        last = i if i < n else n + n * ((i - n) // n + 1) - 1
        rows.append([j <= last for j in range(length)])
    return rows


def test_the_released_mask(golden_par: Golden) -> None:
    """Of all positions, the ones behind N that are never fed too."""
    found = attention_mask(Schedule(8, 16), 80)
    assert torch.equal(found, golden_par("train_n16_grid8")["outputs"]["mask"])


@given(fitting(), st.booleans())
@few
def test_the_mask_is_its_definition(schedule: Schedule, tail: bool) -> None:
    """Row by row, with and without the positions that are never fed."""
    length = schedule.tokens + schedule.group if tail else schedule.tokens
    found = attention_mask(schedule, length if tail else None)
    assert found.dtype == torch.bool
    assert found.tolist() == slow_mask(schedule.group, length)


@given(fitting())
@few
def test_a_pass_sees_itself_and_all_before(schedule: Schedule) -> None:
    """So no mask is needed where a pass is fed alone, behind what was fed before."""
    mask = attention_mask(schedule)
    for one in schedule.passes():
        assert mask[one.start : one.stop, : one.stop].all()
        assert not mask[one.start : one.stop, one.stop :].any()


@given(fitting())
@few
def test_the_first_n_rows_are_causal(schedule: Schedule) -> None:
    """The sequential part; with n = 1 it is the whole mask."""
    n, mask = schedule.group, attention_mask(schedule)
    assert torch.equal(mask[:n], torch.ones_like(mask).tril()[:n])
    assert n > 1 or torch.equal(mask, torch.ones_like(mask).tril())


# ---- rotary positions ----


def test_the_released_rotary_table(golden_par: Golden) -> None:
    """Every row of it, to the last bits."""
    wanted = golden_par("train_n16_grid8")["outputs"]["rope_table"]
    found = rotary_table(Schedule(8, 16), 16, length=len(wanted))
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("grid", "group"), ORDERS)
@pytest.mark.parametrize(("head_dim", "base"), [(4, 10000.0), (12, 100.0)])
def test_a_token_turns_by_its_own_cell(
    grid: int, group: int, head_dim: int, base: float
) -> None:
    """First the row's angles, then the column's, at base^(-2k / half)."""
    schedule, half = Schedule(grid, group), head_dim // 2
    table = rotary_table(schedule, head_dim, base)
    assert table.shape == (schedule.tokens, half, 2)
    order = schedule.order()
    for position, found in enumerate(table):
        token = schedule.source(position)
        if token is None:
            continue
        row, column = divmod(order[token], grid)
        frequencies = [base ** (-2 * k / half) for k in range(half // 2)]
        angles = [place * f for place in (row, column) for f in frequencies]
        wanted = torch.tensor([[math.cos(a), math.sin(a)] for a in angles])
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("grid", "group", "head_dim"),
    [(24, 1, 64), (24, 4, 64), (24, 16, 100), (8, 4, 8), (8, 16, 8), (3, 1, 4)],
)
def test_class_and_transition_rows_are_zero_and_no_others(
    grid: int, group: int, head_dim: int
) -> None:
    """cos = sin = 0 at 0 and n + 1 .. 2n - 1; elsewhere every pair has length 1."""
    schedule = Schedule(grid, group)
    table = rotary_table(schedule, head_dim)
    zeros = zero_positions(schedule)
    assert len(zeros) == group
    assert (table[zeros] == 0).all()
    others = [p for p in range(schedule.tokens) if p not in zeros]
    lengths = table[others].square().sum(-1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


@pytest.mark.parametrize(("grid", "group"), ORDERS)
def test_a_model_carries_the_whole_table(grid: int, group: int) -> None:
    """Its rows begin with the class's, so that no position has its neighbour's."""
    gpt = transformer(grid, group)
    assert torch.equal(gpt.rotary, rotary_table(gpt.schedule, gpt.head_dim))
    for position, row in enumerate(gpt.rotary):
        assert (row == 0).all() == (position in zero_positions(gpt.schedule))


def test_raster_order_has_raster_positions() -> None:
    """n = 1: behind the class position p holds cell p - 1."""
    angles = rotary_angles(5, 8)
    wanted = torch.stack([angles.cos(), angles.sin()], dim=-1)
    table = rotary_table(Schedule(5), 8)
    assert (table[0] == 0).all()
    assert torch.equal(table[1:], wanted[:-1])


# ---- rotation ----


def turned_by_hand(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Neighbouring features as complex numbers times exp(i angle)."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles))


def test_rotation_is_a_complex_product() -> None:
    """Pairs are neighbours (2i, 2i + 1); lengths stay."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 25, 8, generator=draw)
    angles = rotary_angles(5, 8)
    found = rotate(x, torch.stack([angles.cos(), angles.sin()], dim=-1))
    wanted = turned_by_hand(x, angles).flatten(-2)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.norm(dim=-1), x.norm(dim=-1))


def test_products_know_the_distance_alone() -> None:
    """Query and key moved together by any rows and columns give the same product."""
    draw, g = torch.Generator().manual_seed(1), 6
    query, key = torch.randn(2, 1, 1, 1, 8, generator=draw)
    angles = rotary_angles(g, 8)
    table = torch.stack([angles.cos(), angles.sin()], dim=-1)
    every = (1, 1, g * g, 8)
    q, k = rotate(query.expand(every), table), rotate(key.expand(every), table)
    products = (q @ k.mT).view(g, g, g, g)  # query's row and column, then the key's
    shifted = products[1:, 2:, 1:, 2:]
    torch.testing.assert_close(products[:-1, :-2, :-1, :-2], shifted, atol=1e-5, rtol=0)
    assert products[0, 0].std() > 0.1


def test_zero_rows_silence_queries_and_keys() -> None:
    """What a class or a transition token asks and offers is exactly nothing."""
    schedule = Schedule(4, 4)
    x = torch.ones(1, 1, schedule.tokens, 8)
    silent = (rotate(x, rotary_table(schedule, 8)) == 0).all(-1)[0, 0]
    assert silent.nonzero()[:, 0].tolist() == [0, 5, 6, 7]


def test_rotation_reckons_in_float32() -> None:
    """bfloat16 comes back as bfloat16, rounded once."""
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(1, 2, 16, 8, generator=draw).bfloat16()
    table = rotary_table(Schedule(4), 8)
    found = rotate(x, table)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, rotate(x.float(), table).bfloat16())
    coarse = rotate(x, table.bfloat16())
    assert torch.equal(coarse, rotate(x, table.bfloat16().float()))


def test_rotation_has_the_same_bits_where_it_is_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The compiler is given real numbers; queries and keys may be turned together."""
    x = torch.randn(2, 3, 2, 16, 8, generator=torch.Generator().manual_seed(3))
    table = rotary_table(Schedule(4, 4), 8)
    found = rotate(x.permute(0, 2, 1, 3, 4), table).permute(0, 2, 1, 3, 4)
    assert torch.equal(found, torch.stack([rotate(one, table) for one in x]))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(found, rotate(x, table))
