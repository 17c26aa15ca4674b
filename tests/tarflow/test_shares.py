"""The split of the error over blocks: within the bound, and cheapest."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewstep.tarflow import BlockPlan
from fewstep.tarflow.case import BlockCase, Way
from fewstep.tarflow.costs import Costs
from fewstep.tarflow.metrics import Convergence
from fewstep.tarflow.shares import (
    equal_shares,
    fastest_shares,
    known_choices,
)

NUMBER = st.floats(0.01, 10.0)
CHOICES = st.lists(st.tuples(NUMBER, NUMBER), max_size=5)


@given(
    blocks=st.lists(st.tuples(st.floats(0.1, 5.0), NUMBER, CHOICES), max_size=4),
    bound=st.floats(0.1, 10.0),
)
def test_shares_cost_what_the_best_of_all_splits_costs(
    blocks: list[tuple[float, float, list[tuple[float, float]]]], bound: float
) -> None:
    """Gains times shares stay within the bound; no split well within it is cheaper."""
    gains = [gain for gain, _, _ in blocks]
    choices = [[(0.0, alone), *others] for _, alone, others in blocks]
    shares = fastest_shares(gains, choices, bound)
    used = math.fsum(map(math.prod, zip(gains, shares, strict=True)))
    assert used <= bound * (1 + 1e-9)
    cost = sum(
        min(seconds for share, seconds in block if share <= limit)
        for block, limit in zip(choices, shares, strict=True)
    )
    # A part is for all alike, and each block rounds up by a unit at most.
    room = bound * (0.98 - 0.98 * len(blocks) / 400)
    for split in itertools.product(*choices):
        size = sum(gain * share for gain, (share, _) in zip(gains, split, strict=True))
        if size <= room:
            assert cost <= sum(seconds for _, seconds in split) * (1 + 1e-9)


def test_a_dear_block_gets_the_room() -> None:
    """Where one block saves more by the same error, it gets the error."""
    cheap, dear = [(0.0, 2.0), (1.0, 1.0)], [(0.0, 20.0), (1.0, 10.0)]
    first, second = fastest_shares([1.0, 1.0], [cheap, dear], 1.5)
    assert first < 1.0 < second
    first, second = fastest_shares([1.0, 1.0], [cheap, dear], 2.5)
    assert min(first, second) > 1.0


def test_equal_shares_use_the_bound() -> None:
    """A block that images answer to twice as much gets half the tolerance."""
    assert equal_shares([1.0, 2.0], 4.0) == [2.0, 1.0]


def curve_of(*errors: float) -> Convergence:
    """A curve of one sample."""
    return Convergence(
        largest=list(errors), errors=[torch.tensor([each]) for each in errors]
    )


def test_what_is_known_of_a_block() -> None:
    """For, curves, and plans that ran, each with its cost."""
    x = torch.zeros(1, 16, 3)
    block = BlockCase(0, x, x, None, [2], tough=False, parameters=(x, x))
    costs = Costs({1: 1.0, 4: 2.0, 15: 5.0}, draft=2.0, draft_spare=1.0, spare=3.0)
    # What gets worse again counts as bad as it gets.
    block.profiles[2] = curve_of(0.7, 0.07, 0.14, float("nan"))
    weights = torch.zeros(4, 36, 6)
    curve = curve_of(0.7, 0.07)
    block.corrected[Way(2, 2, True)] = weights, curve
    window = BlockPlan(0, 1, 2, 0.01, window=4)
    block.errors[window], block.steps[window] = torch.tensor([0.1]), 6
    found = list(known_choices(block, costs))
    assert found[0] == (0.0, 15.0)
    assert found[1:5] == [(math.inf, 5.0 * count) for count in (4, 3, 2, 1)]
    assert found[5:7] == [
        (pytest.approx(0.07), 2 + 1 + 5 + 3),
        (pytest.approx(0.7), 2 + 1 + 5),
    ]
    assert found[7] == (pytest.approx(0.1), 12.0)
