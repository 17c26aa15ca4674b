"""From logits to tokens: the released filters, exact draws, guidance along passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from fewstep.par.decoding import (
    Choose,
    Guidance,
    by_inversion,
    by_multinomial,
    filter_logits,
    greedy,
    guide,
)
from fewstep.par.schedule import Pass, Schedule

Golden = Callable[[str], dict[str, Any]]

few = settings(max_examples=40, deadline=None)
ALMOST_ONE = 1 - 2.0**-53
"""The largest number that a stream gives."""


def random_logits(*shape: int, seed: int = 0) -> Tensor:
    """Spread as those of a trained model."""
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- filters ----


def test_released_filters(golden_par: Golden) -> None:
    """Eight settings: what is kept exactly, its probabilities to the last bits."""
    case = golden_par("filter_probs")
    assert len(case["outputs"]["cases"]) == 8
    for wanted in case["outputs"]["cases"].values():
        given = {key: wanted[key] for key in ("temperature", "top_k", "top_p")}
        found = filter_logits(case["inputs"]["logits"], **given)
        assert torch.equal(found > -torch.inf, wanted["kept"]), given
        torch.testing.assert_close(
            found.softmax(-1), wanted["probs"], atol=1e-6, rtol=0
        )


def slow_kept(row: list[float], top_k: int, top_p: float) -> set[int]:
    """Which of a row's entries remain: the k largest, of these the head of mass p."""
    ordered = sorted(range(len(row)), key=lambda i: -row[i])
    if top_k:
        least = row[ordered[min(top_k, len(row)) - 1]]
        ordered = [i for i in ordered if row[i] >= least]
    chance = np.exp(np.array([row[i] for i in ordered]) - max(row))
    chance, mass, kept = chance / chance.sum(), 0.0, set()
    for i, share in zip(ordered, chance, strict=True):
        assume(abs(mass - top_p) > 1e-6)
        if kept and mass > top_p:
            break
        kept.add(i)
        mass += share
    return kept


@given(
    st.lists(st.integers(-40, 40), min_size=1, max_size=12, unique=True),
    st.integers(0, 15),
    st.floats(0.01, 1),
)
@few
def test_filters_are_their_definition(
    tenths: list[int], top_k: int, top_p: float
) -> None:
    """Against a loop over the sorted row."""
    row = [x / 10 for x in tenths]
    kept = slow_kept(row, top_k, top_p) if top_p < 1 else slow_kept(row, top_k, 2)
    found = filter_logits(torch.tensor(row), top_k=top_k, top_p=top_p)
    assert set((found > -torch.inf).nonzero()[:, 0].tolist()) == kept


def test_rows_are_filtered_one_by_one() -> None:
    """Whatever stands beside them, in any number of dimensions."""
    logits = random_logits(3, 4, 20)
    options: dict[str, Any] = {"temperature": 0.8, "top_k": 9, "top_p": 0.7}
    whole = filter_logits(logits, **options)
    for i in range(3):
        for k in range(4):
            assert torch.equal(whole[i, k], filter_logits(logits[i, k], **options))
    assert torch.equal(filter_logits(logits), logits)


def test_ties_with_the_last_kept_survive() -> None:
    """Four equal entries stay together where the second largest is asked."""
    found = filter_logits(torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0]), top_k=2)
    assert (found > -torch.inf).tolist() == [True, True, False, True, True]


def test_temperature_comes_before_the_nucleus() -> None:
    """A cold row needs fewer tokens for the same mass; no temperature is below 1e-5."""
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    kept = [
        int((filter_logits(logits, temperature=t, top_p=0.7) > -torch.inf).sum())
        for t in (0.2, 1.0, 10.0)
    ]
    assert kept == [1, 2, 3]
    cold = filter_logits(logits, temperature=0.0)
    assert torch.equal(cold, filter_logits(logits, temperature=1e-5))


# ---- draws ----


def drawn(choose: Choose, logits: Tensor, start: int = 0) -> Tensor:
    """Tokens of a pass that begins at `start`."""
    return choose(logits, Pass(start, start + logits.shape[1]))


def test_greedy_takes_the_largest() -> None:
    """Of every row, and nothing from chance."""
    logits = random_logits(2, 3, 9)
    assert torch.equal(drawn(greedy, logits), logits.argmax(-1))


def test_inversion_draws_from_the_distribution() -> None:
    """Frequencies of 40,000 draws pass a chi-square test."""
    logits = filter_logits(random_logits(1, 1, 9), top_k=6)
    uniforms = np.random.default_rng(0).random((40_000, 1))
    choose = by_inversion(torch.from_numpy(uniforms))
    found = drawn(choose, logits.expand(40_000, -1, -1))
    chance = logits[0, 0].double().softmax(-1).numpy()
    counts = np.bincount(found.flatten(), minlength=9)
    assert counts[chance == 0].sum() == 0
    alive = chance > 0
    assert alive.sum() == 6
    assert chisquare(counts[alive], chance[alive] * 40_000).pvalue > 0.01


@given(
    st.lists(st.integers(-200, 0), min_size=1, max_size=10),
    st.sets(st.integers(0, 9)),
    st.floats(0, ALMOST_ONE) | st.sampled_from([0.0, 5e-324, 0.5, ALMOST_ONE]),
)
@few
def test_nothing_without_mass_is_drawn(
    tenths: list[int], dead: set[int], uniform: float
) -> None:
    """The first and the last token with mass at the ends, by the sums in between."""
    logits = torch.tensor([x / 10 for x in tenths])
    alive = [i for i in range(len(tenths)) if i not in dead]
    assume(alive)
    logits[[i for i in dead if i < len(tenths)]] = -torch.inf
    choose = by_inversion(torch.tensor([[uniform]], dtype=torch.float64))
    found = int(drawn(choose, logits.view(1, 1, -1)))
    assert found in alive
    if uniform == 0:
        assert found == alive[0]
    if uniform == ALMOST_ONE:
        assert found == alive[-1]
    mass = logits.double().softmax(-1).cumsum(-1)
    wanted = next((i for i in alive if mass[i] > uniform), alive[-1])
    near = [float(m) for m in mass if abs(float(m) - uniform) < 1e-6]
    assert found == wanted or near


def test_a_token_has_its_own_number() -> None:
    """Column p of the uniforms draws token p of the generation order."""
    logits = torch.zeros(2, 3, 10)
    numbers = torch.tensor(
        [[0.05, 0.95, 0.25, 0.35, 0.45], [0.65, 0.15, 0.0, 0.99, 0.5]]
    )
    choose = by_inversion(numbers.double())
    assert drawn(choose, logits[:, :1]).tolist() == [[0], [6]]
    assert drawn(choose, logits, 2).tolist() == [[2, 3, 4], [0, 9, 5]]


def test_a_row_ignores_its_neighbours() -> None:
    """Alone, in a batch or in another order it is the same token."""
    logits, uniforms = random_logits(5, 4, 50), torch.rand(5, 4, dtype=torch.float64)
    whole = drawn(by_inversion(uniforms), logits)
    for chosen in ([3], [4, 0], [2, 1, 3]):
        found = drawn(by_inversion(uniforms[chosen]), logits[chosen])
        assert torch.equal(found, whole[chosen])


def test_the_released_draw_goes_row_by_row() -> None:
    """One `multinomial` a pass over (B k, V), rows of an image together."""
    logits = random_logits(3, 4, 9)
    choose = by_multinomial(torch.Generator().manual_seed(5))
    found = [drawn(choose, logits[:, :1]), drawn(choose, logits)]
    draw = torch.Generator().manual_seed(5)
    for tokens, part in zip(found, (logits[:, :1], logits), strict=True):
        rows = part.softmax(-1).reshape(-1, 9)
        wanted = torch.multinomial(rows, 1, generator=draw)
        assert torch.equal(tokens.flatten(), wanted[:, 0])
        assert tokens.shape == part.shape[:2]


def test_the_released_draw_may_be_the_global_one() -> None:
    """Without a generator it is torch's own."""
    logits = random_logits(3, 4, 9)
    torch.manual_seed(5)
    found = drawn(by_multinomial(), logits)
    generator = torch.Generator().manual_seed(5)
    assert torch.equal(found, drawn(by_multinomial(generator), logits))


# ---- guidance ----


def scales(schedule: Schedule, **options: Any) -> list[float]:
    """s of every pass at scale 3."""
    return Guidance(3.0, **options).scales(schedule)


SEVEN = Schedule(4, 4)
"""4 single passes and 3 groups: 7."""


def test_constant_guidance() -> None:
    """The same at every pass; at 1 and below there is none."""
    assert scales(SEVEN) == [3.0] * 7
    assert Guidance().scales(SEVEN) == [1.0] * 7
    assert Guidance(1.0).scales(SEVEN) == Guidance(0.5).scales(SEVEN) == [1.0] * 7


def test_growing_guidance() -> None:
    """From 1 at the first pass to the scale at the last, straight or as a wave."""
    assert scales(SEVEN, shape="linear") == pytest.approx(
        [1, 4 / 3, 5 / 3, 2, 7 / 3, 8 / 3, 3]
    )
    wave = [0, 0.0669873, 0.25, 0.5, 0.75, 0.9330127, 1]
    assert scales(SEVEN, shape="cosine") == pytest.approx([1 + 2 * x for x in wave])
    assert scales(SEVEN, shape="cosine", power=2.0) == pytest.approx(
        [1 + 2 * x * x for x in wave]
    )


def test_guidance_between_two_shares() -> None:
    """Passes from `first` on and before `last`, counted from 0."""
    on = {"first": 2 / 7, "last": 5 / 7}
    assert scales(SEVEN, **on) == [1, 1, 3, 3, 3, 1, 1]
    assert scales(SEVEN, first=0.5) == [1, 1, 1, 1, 3, 3, 3]
    assert scales(SEVEN, last=0.5) == [3, 3, 3, 3, 1, 1, 1]
    assert scales(SEVEN, first=1.0) == scales(SEVEN, last=0.0) == [1.0] * 7
    inside = scales(SEVEN, shape="linear", **on)
    assert inside == pytest.approx([1, 1, 5 / 3, 2, 7 / 3, 1, 1])


@pytest.mark.parametrize(
    ("interval", "single", "groups"),
    [
        (-1, [3, 3, 3, 3], [3, 3, 3]),
        (0, [3, 3, 1, 1], [3, 1, 1]),
        (1, [3, 3, 3, 1], [3, 1, 1]),
        (3, [3, 3, 3, 3], [3, 1, 1]),
        (4, [3, 3, 3, 3], [3, 3, 1]),
        (8, [3, 3, 3, 3], [3, 3, 3]),
    ],
)
def test_the_released_interval(
    interval: int, single: list[float], groups: list[float]
) -> None:
    """Tokens since the phase began; the first pass is always guided."""
    assert scales(SEVEN, interval=interval) == single + groups


def test_the_released_interval_in_raster_order() -> None:
    """One phase behind the first pass."""
    assert scales(Schedule(3), interval=2) == [3, 3, 3, 3, 1, 1, 1, 1, 1]


def test_guided_hidden_states_are_guided_logits() -> None:
    """The head is linear: u + s (c - u) before it or behind it."""
    head = torch.nn.Linear(8, 20, bias=False)
    hidden = torch.randn(6, 4, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cond, uncond = head(hidden).chunk(2)
        for scale in (1.2, 1.7, 4.0):
            found = head(guide(hidden, scale))
            wanted = uncond + scale * (cond - uncond)
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
        assert torch.equal(guide(hidden, 1.0), hidden[:3])


def test_guidance_reckons_in_float32() -> None:
    """bfloat16 comes back as bfloat16, rounded once."""
    hidden = torch.randn(4, 2, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = guide(hidden, 1.7)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, guide(hidden.float(), 1.7).bfloat16())
