"""Randomness belongs to (seed, i, purpose)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewstep import noise


@given(
    indices=st.lists(st.integers(0, 2**40), min_size=1, max_size=6),
    seed=st.integers(0, 2**31),
)
def test_a_draw_does_not_depend_on_its_neighbours(
    indices: list[int], seed: int
) -> None:
    """Sample i's noise is the same alone, in any batch and in any order."""
    batch = noise.normal(seed, "noise", indices, (2, 3))
    for row, index in zip(batch, indices, strict=True):
        alone = noise.normal(seed, "noise", [index], (2, 3))[0]
        assert np.array_equal(row, alone)


def test_seed_purpose_index_and_attempt_all_matter() -> None:
    """Changing any one of the four gives another stream."""
    base = noise.stream(0, "noise", 1).random(4)
    others = [
        noise.stream(1, "noise", 1),
        noise.stream(0, "label", 1),
        noise.stream(0, "noise", 2),
        noise.stream(0, "noise", 1, attempt=1),
    ]
    assert all(not np.array_equal(base, other.random(4)) for other in others)


def test_streams_are_pinned() -> None:
    """The numbers behind published tables do not change with a new numpy."""
    drawn = noise.normal(0, "noise", [0, 1], (2,))
    expected = [[-1.1506066, 0.060079519], [-0.17056768, 1.4212677]]
    np.testing.assert_allclose(drawn, np.array(expected), rtol=1e-6)


def test_draws_are_standard_normal() -> None:
    """Mean, variance and correlation between samples are those of N(0, 1)."""
    drawn = noise.normal(3, "noise", range(400), (500,))
    assert abs(drawn.mean()) < 0.01
    assert drawn.std() == pytest.approx(1, abs=0.01)
    assert np.abs(np.corrcoef(drawn[:20]) - np.eye(20)).max() < 0.2


def test_balanced_labels_come_in_turn() -> None:
    """Sample i gets class i mod classes, whatever the seed."""
    assert noise.labels("balanced", 3, range(5), 7).tolist() == [0, 1, 2, 0, 1]


def test_iid_labels_are_uniform_and_belong_to_the_sample() -> None:
    """Independent labels cover all classes alike and do not depend on the batch."""
    drawn = noise.labels("iid", 4, range(2000), 0)
    assert np.bincount(drawn).min() > 430
    assert noise.labels("iid", 4, [1234], 0)[0] == drawn[1234]


def test_unknown_label_policy_is_refused() -> None:
    """A misspelt policy raises and names the two that exist."""
    with pytest.raises(ValueError, match="balanced or iid"):
        noise.labels("uniform", 4, [0], 0)
