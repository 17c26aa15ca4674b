"""The order of tokens, what each pass reads and draws, and what cannot be cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.par.schedule import Pass, Schedule, misfit

SIDES = st.tuples(st.integers(1, 5), st.integers(1, 6)).filter(
    lambda x: x[0] == 1 or x[1] > 1
)


@st.composite
def fitting(draw: st.DrawFn) -> Schedule:
    """Any square n, and a grid of regions of any side."""
    s, r = draw(SIDES)
    return Schedule(s * r, s * s)


few = settings(max_examples=40, deadline=None)


@given(fitting())
@few
def test_the_order_is_a_permutation_with_its_inverse(schedule: Schedule) -> None:
    """Every cell comes once, and the inverse leads back."""
    order, inverse = schedule.order(), schedule.inverse()
    assert sorted(order) == list(range(schedule.tokens)) == sorted(inverse)
    assert [order[p] for p in inverse] == list(range(schedule.tokens))
    assert [inverse[cell] for cell in order] == list(range(schedule.tokens))


@given(fitting())
@few
def test_slots_come_first_and_regions_within_them(schedule: Schedule) -> None:
    """Token p lies in region p mod n, at slot p div n of it, both in raster order."""
    s, r = schedule.regions, schedule.grid // schedule.regions
    for p, cell in enumerate(schedule.order()):
        row, column = divmod(cell, schedule.grid)
        assert (row // r) * s + column // r == p % schedule.group
        assert (row % r) * r + column % r == p // schedule.group


def test_the_order_of_a_small_grid() -> None:
    """4 x 4 tokens in four regions, as the paper draws them."""
    wanted = [0, 2, 8, 10, 1, 3, 9, 11, 4, 6, 12, 14, 5, 7, 13, 15]
    assert Schedule(4, 4).order() == wanted


@given(st.integers(1, 24))
@few
def test_groups_of_one_are_plain_raster(grid: int) -> None:
    """n = 1 is LlamaGen: raster order, one token a pass."""
    schedule = Schedule(grid)
    assert schedule.order() == schedule.inverse() == list(range(grid**2))
    assert schedule.passes() == [Pass(p, p + 1) for p in range(grid**2)]
    assert schedule.steps == grid**2


@given(fitting())
@few
def test_steps_are_the_passes(schedule: Schedule) -> None:
    """n single ones, then N / n - 1 groups."""
    n, passes = schedule.group, schedule.passes()
    assert schedule.steps == n + schedule.tokens // n - 1 == len(passes)
    assert [one.size for one in passes] == [1] * n + [n] * (len(passes) - n)


@pytest.mark.parametrize(
    ("grid", "group", "steps"),
    [(24, 1, 576), (24, 4, 147), (24, 16, 51), (16, 1, 256), (16, 4, 67), (16, 16, 31)],
)
def test_published_steps(grid: int, group: int, steps: int) -> None:
    """384 and 256 pixels, as the paper counts them."""
    assert Schedule(grid, group).steps == steps


@given(fitting())
@few
def test_passes_draw_every_token_once_and_in_order(schedule: Schedule) -> None:
    """They partition [0, N), each beginning where the last one ended."""
    drawn = [p for one in schedule.passes() for p in range(one.start, one.stop)]
    assert drawn == list(range(schedule.tokens))


@given(fitting())
@few
def test_every_position_holds_what_the_layout_says(schedule: Schedule) -> None:
    """Class, n tokens, n - 1 transition tokens, then the tokens behind the n-th."""
    n, count = schedule.group, schedule.tokens
    layout = [None, *range(n), *[None] * (n - 1), *range(n, count)]
    found = [schedule.source(position) for position in range(len(layout))]
    assert found == layout
    # The last n tokens lie behind the positions that are fed.
    assert len(layout) - count == n
    assert [p for p in found[:count] if p is not None] == list(range(count - n))


@given(fitting())
@few
def test_a_pass_reads_only_what_is_drawn_already(schedule: Schedule) -> None:
    """And what the pass before it drew is read by it at once."""
    passes = schedule.passes()
    for before, one in zip([None, *passes[:-1]], passes, strict=True):
        read = [schedule.source(position) for position in range(one.start, one.stop)]
        tokens = [token for token in read if token is not None]
        assert all(token < one.start for token in tokens)
        assert tokens == (list(range(before.start, before.stop)) if before else [])


@pytest.mark.parametrize(
    ("grid", "group", "line"),
    [
        (8, 2, "groups of 2 tokens: n must be a square number"),
        (8, 8, "groups of 8 tokens: n must be a square number"),
        (8, 0, "groups of 0 tokens: n must be a square number"),
        (8, -4, "groups of -4 tokens: n must be a square number"),
        (8, 9, "a 8x8 grid cannot be cut into 3x3 regions"),
        (7, 4, "a 7x7 grid cannot be cut into 2x2 regions"),
        (2, 16, "a 2x2 grid cannot be cut into 4x4 regions"),
        (4, 16, "groups of 16 tokens are the whole 4x4 grid"),
    ],
)
def test_what_cannot_be_cut_is_said_in_one_line(
    grid: int, group: int, line: str
) -> None:
    """`misfit` has the words, the class raises them."""
    assert misfit(grid, group) == line
    with pytest.raises(ValueError, match=line):
        Schedule(grid, group)


@given(st.integers(1, 12), st.integers(-1, 150))
@few
def test_what_fits_can_be_used(grid: int, group: int) -> None:
    """`misfit` is silent just where n single tokens and then groups fill the grid."""
    square = group in (x * x for x in range(1, 13) if grid % x == 0)
    assert (misfit(grid, group) is None) == (square and (group < grid**2 or group == 1))
