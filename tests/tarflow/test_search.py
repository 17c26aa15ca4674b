"""The strategy search: within tolerance, cheapest by the clock, For as the way out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import pytest
import torch

from fewstep.tarflow import BlockPlan, Strategy, TarFlow, candidates, costs
from fewstep.tarflow import search as searching
from fewstep.tarflow.candidates import loosest
from fewstep.tarflow.case import SearchOptions
from fewstep.tarflow.corrected import Learned
from fewstep.tarflow.costs import Costs
from fewstep.tarflow.guidance import Guidance
from fewstep.tarflow.learned import (
    exact_parameters,
    mean_parameters,
    read_learned,
    write_learned,
)
from fewstep.tarflow.metrics import Convergence
from fewstep.tarflow.sampler import TarFlowSampler
from fewstep.tarflow.search import SearchResult, search
from fewstep.timing import Timing
from tests.tarflow.conftest import random_model

MODEL = random_model(scale=0.02)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A clock by token evaluations: cost a call, a token and a row, no real time.

    A draft costs a share of that.
    """
    cost = {"call": 1.0, "token": 0.0, "row": 0.0, "draft": 1.0}
    from fewstep.tarflow.guidance import BlockEvaluator

    spent = {"seconds": 0.0}
    original = BlockEvaluator.__call__

    def counted(
        self: BlockEvaluator, x: torch.Tensor, start: int | torch.Tensor, **more: bool
    ) -> object:
        rows = len(x) if more.get("spare") else self.rows
        seconds = cost["call"] + cost["token"] * x.shape[1] + cost["row"] * rows
        low = self.network.dtype == torch.bfloat16
        spent["seconds"] += seconds * (cost["draft"] if low else 1.0)
        return original(self, x, start, **more)

    def alternate(calls: Mapping[str, Callable[[], object]], **_: object) -> object:
        taken = {}
        for name, call in calls.items():
            spent["seconds"] = 0.0
            call()
            taken[name] = Timing(spent["seconds"], 0.0, (spent["seconds"],))
        return taken

    monkeypatch.setattr(BlockEvaluator, "__call__", counted)
    monkeypatch.setattr(searching, "alternate", alternate)
    monkeypatch.setattr(candidates, "alternate", alternate)
    monkeypatch.setattr(costs, "alternate", alternate)
    return cost


def run(tolerance: float, precision: str = "fp32") -> SearchResult:
    """A search on four samples with block 1 declared tough."""
    sampler = TarFlowSampler(MODEL, Strategy.sequential(3, 16), precision=precision)
    noise = [
        torch.randn(4, 16, 12, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 1)
    ]
    igm = [[1.0, 1.1], [1.0, 9.0], [9.0, 1.0]]
    options = SearchOptions(
        tolerance, batch=2, segments=(2, 4, 5), windows=(4, 64), repeats=1
    )
    return search(sampler, (noise[0], None), (noise[1], None), igm, [1], options)


@pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-3])
def test_answer_is_within_tolerance_on_held_out_noise(
    clock: dict[str, float], tolerance: float
) -> None:
    """The chosen strategy's images differ from For's by at most the tolerance."""
    result = run(tolerance)
    sampler = TarFlowSampler(MODEL, result.strategy, learned=result.learned)
    noise = torch.randn(4, 16, 12, generator=torch.Generator().manual_seed(1))
    exact = TarFlowSampler(MODEL, Strategy.sequential(3, 16)).invert(noise, None)
    error = float((sampler.invert(noise, None).images - exact.images).abs().max())
    assert error == pytest.approx(result.error, abs=1e-6)
    assert error <= tolerance


def test_calls_cost_more_than_tokens_makes_it_parallel(clock: dict[str, float]) -> None:
    """Where a call costs the same whatever its width, Jacobi wins every block."""
    result = run(1e-2)
    assert all(not plan.is_for for plan in result.strategy.blocks)
    assert result.seconds < 0.5 * result.seconds_for


def test_tokens_cost_makes_it_sequential(clock: dict[str, float]) -> None:
    """Where only tokens cost, nothing beats For, and the reason says so."""
    clock.update(call=0.0, token=1.0)
    result = run(1e-2)
    assert result.strategy == Strategy.sequential(3, 16)
    assert result.error == 0.0
    chosen = [row for row in result.candidates if row.chosen]
    assert [row.plan for row in chosen] == [BlockPlan()] * 3


def test_every_candidate_has_a_row_with_its_reason(clock: dict[str, float]) -> None:
    """One chosen plan a block; each other row says why not; segments only if tough."""
    result = run(1e-2)
    for block in range(3):
        rows = [row for row in result.candidates if row.block == block]
        assert sum(row.chosen for row in rows) == 1
        assert all(row.reason for row in rows)
        assert any(row.plan.is_for for row in rows)
        assert any(row.plan.mode == "gs-jacobi" for row in rows) == (block == 1)
        # 64 tokens are more than there are.
        assert {row.plan.window for row in rows} == {0, 4}
    # 5 segments do not divide 16 tokens.
    assert {row.plan.segments for row in result.candidates} == {0, 1, 2, 4}


def test_guesses_follow_igm(clock: dict[str, float]) -> None:
    """A clear IGM settles z or zeros, a close one lets both be tried; means always."""
    profile = run(1e-2).profile
    tried = {block: {g for b, g, _ in profile if b == block} for block in range(3)}
    assert tried == {0: {0, 1, 2}, 1: {0, 2}, 2: {1, 2}}


def test_unreachable_tolerance_falls_back_to_for(clock: dict[str, float]) -> None:
    """A tolerance below float32's reach leaves the exact inverse."""
    result = run(1e-12)
    assert result.strategy == Strategy.sequential(3, 16)
    assert result.error == 0.0
    assert result.reason.startswith(("For is the fastest plan", "no other plan met"))


def test_bf16_is_searched_against_bf16(clock: dict[str, float]) -> None:
    """Curves and pairs are made in the sampler's own precision, so plans converge."""
    result = run(4e-3, precision="bf16")
    assert result.error <= 4e-3
    assert not any(row.plan.refine for row in result.candidates)


@pytest.mark.parametrize(("call", "token"), [(1.0, 0.0), (6.0, 1.0), (0.0, 1.0)])
def test_no_fixed_strategy_is_faster(
    clock: dict[str, float], call: float, token: float
) -> None:
    """At any cost of calls and tokens the answer beats or equals every fixed plan."""
    clock.update(call=call, token=token)
    result, tolerance = run(1e-2), 1e-2
    noise = torch.randn(4, 16, 12, generator=torch.Generator().manual_seed(1))
    exact = TarFlowSampler(MODEL, Strategy.sequential(3, 16)).invert(noise, None).images
    plans = [BlockPlan(1, 16, guess) for guess in (0, 1)]
    plans += [BlockPlan(), BlockPlan(4, 4), BlockPlan(window=4)]
    for plan in plans:
        sampler = TarFlowSampler(MODEL, Strategy((plan,) * 3, 16), tol=tolerance / 2)
        error = (sampler.invert(noise, None).images - exact).abs().max()
        out = sampler.invert(noise[:2], None)
        seconds = sum(out.steps) * call + sum(out.evaluations) * token
        if error <= tolerance:
            assert result.seconds <= 1.05 * seconds


def guided(count: int) -> tuple[SearchResult, torch.Tensor, torch.Tensor]:
    """A search with guidance on so many samples; held-out noise and its labels."""
    sampler = TarFlowSampler(MODEL, Strategy.sequential(3, 16), Guidance(0.5))
    noise = [
        torch.randn(count, 16, 12, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 1)
    ]
    labels = torch.arange(count) % 3
    igm, options = [[1.0, 9.0]] * 3, SearchOptions(1e-2, batch=2, windows=(), repeats=1)
    pairs = [(each, labels) for each in noise]
    return search(sampler, *pairs, igm, [], options), noise[1], labels


def test_corrected_plans_win_where_they_save_calls(clock: dict[str, float]) -> None:
    """With guidance and a price on rows the answer has corrected blocks, and holds."""
    clock.update(call=0.0, row=1.0)
    result, noise, labels = guided(48)
    assert any(plan.corrected for plan in result.strategy.blocks)
    for block, plan in enumerate(result.strategy.blocks):
        weights = result.learned[block].weights
        count = plan.max_jacobi + plan.refine
        assert (0 if weights is None else len(weights)) == count * plan.corrected
    exact = TarFlowSampler(MODEL, Strategy.sequential(3, 16), Guidance(0.5))
    chosen = TarFlowSampler(
        MODEL, result.strategy, Guidance(0.5), learned=result.learned
    )
    wanted = exact.invert(noise, labels).images
    error = float((chosen.invert(noise, labels).images - wanted).abs().max())
    assert error == pytest.approx(result.error, abs=1e-6)
    assert error <= 1e-2


def test_a_better_split_of_the_error_costs_less(
    clock: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rounds that split the error anew never cost calls, and mostly save some."""
    tolerances = [1e-2, 3e-3, 1e-3, 3e-4, 1e-4]
    best = [run(tolerance) for tolerance in tolerances]
    monkeypatch.setattr(searching, "_ROUNDS", 1)
    first = [run(tolerance) for tolerance in tolerances]
    for one, other, tolerance in zip(best, first, tolerances, strict=True):
        assert one.error <= tolerance
        assert one.seconds <= other.seconds
    assert sum(one.seconds for one in best) < sum(one.seconds for one in first)


def test_sparing_is_tried_and_has_its_rows(clock: dict[str, float]) -> None:
    """With guidance corrected plans that spare and that do not stand side by side."""
    clock.update(call=0.0, row=1.0)
    found = guided(16)[0].candidates
    plans = [row.plan for row in found if row.plan.corrected]
    assert {plan.spare for plan in plans} == {False, True}
    plain = run(1e-2).candidates  # without guidance there is nothing to spare
    assert any(row.plan.corrected for row in plain)
    assert not any(row.plan.spare for row in plain)


def test_a_tough_block_is_tried_behind_fronts(clock: dict[str, float]) -> None:
    """Half, a quarter, an eighth of a tough block are tried as fronts, with rows."""
    clock.update(call=1.0, token=0.1)
    rows = [row for row in run(1e-2).candidates if row.plan.front]
    assert {row.block for row in rows} == {1}
    assert {row.plan.front for row in rows} == {2, 4, 8}
    for row in rows:
        # Stops let easy samples end sooner: no more than all of the iterations.
        behind = 15 - row.plan.front
        most = row.plan.front * 1.1 + row.plan.max_jacobi * (1 + 0.1 * behind)
        assert row.predicted <= most + 1e-9
        assert row.seconds is None or row.seconds <= most + 1e-9


def test_a_front_is_taken_where_it_saves_most(clock: dict[str, float]) -> None:
    """An answer with a front holds on held-out noise, and comes back from its plan."""
    clock.update(call=1.0, token=0.1)
    sampler = TarFlowSampler(MODEL, Strategy.sequential(3, 16))
    noise = [
        torch.randn(12, 16, 12, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 1)
    ]
    pairs = [(each, None) for each in noise]
    options = SearchOptions(3e-3, batch=1, segments=(), windows=(), repeats=1)
    result = search(sampler, *pairs, [[1.0, 9.0]] * 3, [0, 1, 2], options)
    assert any(plan.front for plan in result.strategy.blocks)
    plan = json.loads(
        json.dumps(
            {"strategy": result.strategy.to_dict(), **write_learned(result.learned)}
        )
    )
    chosen = TarFlowSampler(
        MODEL,
        Strategy.from_dict(plan["strategy"]),
        learned=read_learned(plan, MODEL),
    )
    wanted = sampler.invert(noise[1], None).images
    error = float((chosen.invert(noise[1], None).images - wanted).abs().max())
    assert error == pytest.approx(result.error, abs=1e-6)
    assert error <= 3e-3


def test_cheap_drafts_come_before_corrected_iterations(clock: dict[str, float]) -> None:
    """Where bfloat16 costs a fifth, the answer has corrected drafts, and holds."""
    clock.update(draft=0.2)
    result = run(1e-2)
    drafts = [p for p in result.strategy.blocks if p.corrected and p.refine]
    assert drafts
    assert result.error <= 1e-2
    for block, plan in enumerate(result.strategy.blocks):
        if plan.corrected:
            weights = result.learned[block].weights
            assert weights is not None
            assert len(weights) == plan.max_jacobi + plan.refine
    plans = [row.plan for row in result.candidates if row.plan.corrected]
    tried = {plan.max_jacobi for plan in plans}
    assert len(tried) > 1  # drafts of more than one length


def test_costs_lie_on_a_line_between_measured_widths() -> None:
    """What was measured is given back; between two widths the line counts."""
    found = Costs({1: 1.0, 8: 4.5, 16: 5.0})
    assert [found.of(n) for n in (1, 8, 16)] == [1.0, 4.5, 5.0]
    assert found.of(4) == pytest.approx(2.5)
    assert found.of(12) == pytest.approx(4.75)
    assert found.whole == 5.0


def profile(errors: list[list[float]], moves: list[list[float]]) -> Convergence:
    """A profile of two samples."""
    return Convergence(
        largest=[max(pair) for pair in errors],
        errors=[torch.tensor(pair) for pair in errors],
        moves=[torch.tensor(pair) for pair in moves],
    )


def test_the_stopping_tolerance_leaves_every_sample_within_the_error() -> None:
    """The loosest stop of which few samples of any noise would leave more."""
    inf = float("inf")
    curve = profile(
        [[1.0, 1.0], [0.5, 0.04], [0.05, 0.005], [0.004, 0.0]],
        [[inf, inf], [0.9, 0.9], [0.5, 0.05], [0.05, 0.005]],
    )
    found = loosest(curve, 0.1)
    assert found is not None
    tol, ends, error = found
    # Stops at 0.8 and 0.57 leave 0.05 and 0.005: within 0.1, but others may be off by
    # 0.28, for the logarithm of the error varies that much.
    assert tol == pytest.approx(0.4)
    assert ends.tolist() == [4, 3]
    assert error == pytest.approx(0.005)
    assert loosest(curve, 1e-3) is None


def test_an_image_answers_to_its_last_block_as_it_is(tiny: TarFlow) -> None:
    """The gain of block 0 is 1: its x is the image; others' are positive numbers."""
    noise = torch.randn(2, 16, 12, generator=torch.Generator().manual_seed(3))
    latents = TarFlowSampler(tiny, Strategy.sequential(3, 16)).invert(noise, None)
    sampler = TarFlowSampler(tiny, Strategy.sequential(3, 16))
    gains = searching._gains(sampler, latents.latents, None, 1e-3)
    assert gains[0] == pytest.approx(1.0, abs=1e-3)
    assert all(0.1 < gain < 10 for gain in gains)


def test_what_was_learned_comes_back_from_json(tiny: TarFlow) -> None:
    """Means and weights that were written are those that were used, to the bit."""
    x = torch.randn(4, 16, 12, generator=torch.Generator().manual_seed(4))
    means = mean_parameters(*exact_parameters(tiny.flows[1], x, None))
    weights = torch.randn(3, 144, 24).half().float()
    learned = {1: Learned(means, weights), 2: Learned(means), 0: Learned(None, weights)}
    back = read_learned(json.loads(json.dumps(write_learned(learned))), tiny)
    assert back.keys() == learned.keys()
    assert back[2].weights is None and back[0].means is None
    for block in (1, 2):
        for ours, theirs in zip(back[block].means or (), means, strict=True):
            assert torch.equal(ours, theirs)
            assert not ours[0].any()
    for block in (0, 1):
        found = back[block].weights
        assert found is not None and torch.equal(found, weights)
