"""The notation and the lists, both ways."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewstep.tarflow import BlockPlan, Strategy

PUBLISHED = [
    ("[7-8-32-10]", 1024, [8, 1, 1, 1, 1, 1, 1, 1], [32] + [10] * 7),
    ("[6-8-32-10]", 1024, [1, 8, 1, 1, 1, 1, 1, 1], [10, 32] + [10] * 6),
    ("[0/6-8-32-20]", 1024, [1, 8, 1, 1, 1, 1, 1, 8], [20, 32, *[20] * 5, 32]),
    ("[0/7-256/8-1/13-6]", 256, [8, 1, 1, 1, 1, 1, 1, 0], [13, *[6] * 6, 1]),
]


@pytest.mark.parametrize(("text", "tokens", "num_gs", "max_jacobi"), PUBLISHED)
def test_published_notation_gives_the_published_lists(
    text: str, tokens: int, num_gs: list[int], max_jacobi: list[int]
) -> None:
    """The four published strategies read and write as the README prints them."""
    strategy = Strategy.parse(text, num_blocks=8, tokens=tokens)
    assert strategy.to_lists() == (num_gs, max_jacobi, [0] * 8)
    assert str(strategy) == text
    assert Strategy.from_lists(num_gs, max_jacobi, tokens=tokens) == strategy


def test_guess_list_runs_from_the_last_block() -> None:
    """Position 0 of the guess list is the last block, as in the released lists."""
    strategy = Strategy.parse(
        "[7-8-32-10]", num_blocks=8, tokens=1024, guess=[0, 0, 0, 0, 0, 1, 1, 0]
    )
    assert [plan.guess for plan in strategy.blocks] == [0, 1, 1, 0, 0, 0, 0, 0]


def test_for_reads_and_writes() -> None:
    """`For` is sequential everywhere, however the lists say it."""
    strategy = Strategy.parse("For", num_blocks=3, tokens=16)
    assert str(strategy) == "For" and all(plan.is_for for plan in strategy.blocks)
    assert Strategy.from_lists([16, 0, 20], [0, 9, 2], [1, 0, 1], 16) == strategy


plans = st.one_of(
    st.just(BlockPlan()),
    st.builds(
        BlockPlan, st.sampled_from([1, 2, 4, 8]), st.integers(1, 40), st.integers(0, 1)
    ),
)
ways = st.one_of(
    plans,
    st.builds(BlockPlan, window=st.integers(1, 20), guess=st.integers(0, 1)),
    st.builds(
        BlockPlan,
        st.sampled_from([1, 2, 4]),
        st.integers(1, 9),
        st.integers(0, 1),
        refine=st.integers(0, 4),
    ),
    st.builds(BlockPlan, window=st.integers(2, 9), refine=st.integers(1, 4)),
    st.builds(BlockPlan, refine=st.integers(1, 4)),
)


@given(blocks=st.lists(ways, min_size=1, max_size=9))
def test_notation_round_trips(blocks: list[BlockPlan]) -> None:
    """What is written reads back as the same strategy, guesses given."""
    strategy = Strategy(tuple(blocks), 16)
    guess = strategy.to_lists()[2]
    text = str(strategy)
    again = Strategy.parse(text, num_blocks=len(blocks), tokens=16, guess=guess)
    assert again == strategy


def test_windows_and_drafts_read_as_they_are_written() -> None:
    """`wN` is a window, `a+b` a draft of a iterations and b in full precision."""
    strategy = Strategy.parse("[0/3-w4/T-1/1+2-3+2]", num_blocks=4, tokens=16)
    assert strategy.blocks == (
        BlockPlan(window=4),
        BlockPlan(1, 3, refine=2),
        BlockPlan(1, 3, refine=2),
        BlockPlan(refine=2),
    )
    assert str(strategy) == "[0/3-w4/16-1/1+2-3+2]"


def test_a_window_has_two_other_names() -> None:
    """One token wide it is For, as wide as the sequence Jacobi to the end."""
    narrow, wide = Strategy((BlockPlan(window=1), BlockPlan(window=15)), 16).blocks
    assert narrow == BlockPlan()
    assert wide == BlockPlan(1, 16)


@pytest.mark.parametrize("wrong", [{"window": -1}, {"refine": -1}, {"guess": 3}])
def test_impossible_plans_are_refused(wrong: dict[str, int]) -> None:
    """Negative numbers and unknown guesses raise, and so does a cut window."""
    with pytest.raises(ValueError, match="must be 0"):
        BlockPlan(**wrong)
    with pytest.raises(ValueError, match="no segments"):
        BlockPlan(2, window=4)


@given(blocks=st.lists(plans, min_size=1, max_size=9))
def test_lists_round_trip(blocks: list[BlockPlan]) -> None:
    """The released program's lists keep every plan that it knows."""
    strategy = Strategy(tuple(blocks), 16)
    assert Strategy.from_lists(*strategy.to_lists(), tokens=16) == strategy


@given(blocks=st.lists(ways, min_size=1, max_size=9))
def test_a_dict_keeps_every_plan(blocks: list[BlockPlan]) -> None:
    """JSON values keep windows and drafts too."""
    strategy = Strategy(tuple(blocks), 16)
    assert Strategy.from_dict(strategy.to_dict()) == strategy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("7-8-32-10", "is not"),
        ("[9-8-32-10]", "block 9 does not exist"),
        ("[7-7-32-10]", "7 segments do not divide 1024"),
        ("[0/7-8/8/8-1-6]", "GS has 3 numbers for 2 blocks"),
        ("[7/7-8-1-6]", "stacked twice"),
        ("[7-8-32-0]", "Else must be 1 or more"),
        ("[7-0-32-10]", "0 segments"),
    ],
)
def test_nonsense_says_what_is_wrong(text: str, message: str) -> None:
    """A malformed notation raises one sentence."""
    with pytest.raises(ValueError, match=message):
        Strategy.parse(text, num_blocks=8, tokens=1024)


def test_lists_must_have_one_number_a_block() -> None:
    """Lists of different lengths, and impossible plans, are refused."""
    with pytest.raises(ValueError, match="2, 1 and 2"):
        Strategy.from_lists([0, 1], [1], [0, 0])
    with pytest.raises(ValueError, match="guess has 2 entries for 8"):
        Strategy.parse("[7-8-1-1]", num_blocks=8, tokens=64, guess=[0, 1])
    with pytest.raises(ValueError, match="zeros"):
        Strategy.from_lists([1, 1], [1, 1], [0, 2])
    for plan in ((-1, 1, 0), (1, 0, 0), (1, 1, 3)):
        with pytest.raises(ValueError, match="must be"):
            BlockPlan(*plan)


def test_with_block_changes_one_plan() -> None:
    """Replacing a block's plan leaves the others."""
    changed = Strategy.sequential(3, 16).with_block(1, BlockPlan(1, 5))
    assert [plan.mode for plan in changed.blocks] == ["for", "jacobi", "for"]
    assert str(changed) == "[0/2-16-1-5]"


def test_strategies_need_no_torch() -> None:
    """Reading a configuration's strategy does not import torch."""
    program = (
        "import sys; from fewstep.tarflow import Strategy; "
        "Strategy.parse('For', num_blocks=1, tokens=4); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
