"""The recipe: learning rates and the decay of averaged weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.recipe import TrainOptions, ema_decay, learning_rate

OPTIONS = TrainOptions(
    steps=12, batch=4, lr=0.1, start_lr=0.0, min_lr=0.01, warmup_steps=2, ema=0.9
)


def test_learning_rate_warms_up_and_cools_down() -> None:
    """Linear from start_lr to lr, then a cosine to min_lr."""
    rates = [learning_rate(step, OPTIONS) for step in range(13)]
    assert rates[0] == 0 and rates[1] == pytest.approx(0.05)
    assert rates[2] == pytest.approx(0.1) == max(rates)
    assert rates[7] == pytest.approx(0.055)
    assert rates[12] == pytest.approx(0.01)


def test_a_count_offset_shortens_the_warm_up_alone() -> None:
    """Warm-up goes on from the offset; the cosine ends with the run all the same."""
    rates = [learning_rate(s, replace(OPTIONS, count_offset=1)) for s in range(13)]
    assert rates[0] == pytest.approx(0.05) and rates[1] == pytest.approx(0.1)
    assert rates[12] == pytest.approx(0.01)
    late = replace(OPTIONS, count_offset=800_001)
    assert learning_rate(0, late) == pytest.approx(0.1)
    assert learning_rate(6, late) == pytest.approx(0.055)
    assert learning_rate(12, late) == pytest.approx(0.01)


def test_a_constant_rate_is_a_cosine_to_itself() -> None:
    """With min_lr = lr the rate stays at lr after the warm-up, to the bit."""
    constant = replace(OPTIONS, min_lr=0.1)
    assert {learning_rate(step, constant) for step in range(2, 15)} == {0.1}


def test_average_forgets_its_beginning() -> None:
    """The decay is (1 + n) / (10 + n), n with the offset, but never above ema."""
    assert ema_decay(0, OPTIONS) == 0.9
    warm = replace(OPTIONS, ema_warmup=True)
    assert ema_decay(0, warm) == pytest.approx(0.1)
    assert ema_decay(0, replace(warm, count_offset=20)) == pytest.approx(0.7)
    assert ema_decay(15, replace(warm, count_offset=5)) == pytest.approx(0.7)
    assert ema_decay(1000, warm) == 0.9


@settings(deadline=None, max_examples=50)
@given(offset=st.integers(0, 20), warmup=st.integers(0, 20), steps=st.integers(1, 30))
def test_rates_stay_between_their_bounds(offset: int, warmup: int, steps: int) -> None:
    """Whatever the counters, a rate lies between the given ones and ends at min_lr."""
    options = replace(OPTIONS, count_offset=offset, warmup_steps=warmup, steps=steps)
    rates = [learning_rate(step, options) for step in range(steps + 1)]
    assert all(-1e-12 <= rate <= 0.1 + 1e-12 for rate in rates)
    if steps > max(0, warmup - offset):
        assert rates[-1] == pytest.approx(0.01)
