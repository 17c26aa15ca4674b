"""The strategy search: within tolerance, cheapest by the clock, For as the way out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch

from fewstep.tarflow import Strategy, candidates
from fewstep.tarflow import search as searching
from fewstep.tarflow.candidates import SearchOptions
from fewstep.tarflow.sampler import TarFlowSampler
from fewstep.tarflow.search import SearchResult, search
from fewstep.timing import Timing
from tests.tarflow.conftest import random_model

MODEL = random_model(scale=0.02)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A clock by token evaluations: cost a call plus cost a token, no real time."""
    cost = {"call": 1.0, "token": 0.0}
    from fewstep.tarflow.guidance import BlockEvaluator

    spent = {"seconds": 0.0}
    original = BlockEvaluator.__call__

    def counted(self: BlockEvaluator, x: torch.Tensor, start: int) -> object:
        spent["seconds"] += cost["call"] + cost["token"] * x.shape[1]
        return original(self, x, start)

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
    return cost


def run(tolerance: float, precision: str = "fp32") -> SearchResult:
    """A search on four samples with block 1 declared tough."""
    sampler = TarFlowSampler(MODEL, Strategy.sequential(3, 16), precision=precision)
    noise = [
        torch.randn(4, 16, 12, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 1)
    ]
    igm = [[1.0, 1.1], [1.0, 9.0], [9.0, 1.0]]
    options = SearchOptions(tolerance, batch=2, segments=(2, 4, 5), repeats=1)
    return search(sampler, (noise[0], None), (noise[1], None), igm, [1], options)


@pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-3])
def test_answer_is_within_tolerance_on_held_out_noise(
    clock: dict[str, float], tolerance: float
) -> None:
    """The chosen strategy's images differ from For's by at most the tolerance."""
    result = run(tolerance)
    sampler = TarFlowSampler(MODEL, result.strategy)
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
    assert [row.mode for row in chosen] == ["for"] * 3


def test_every_candidate_has_a_row_with_its_reason(clock: dict[str, float]) -> None:
    """One chosen plan a block; each other row says why not; segments only if tough."""
    result = run(1e-2)
    for block in range(3):
        rows = [row for row in result.candidates if row.block == block]
        assert sum(row.chosen for row in rows) == 1
        assert all(row.reason for row in rows)
        assert any(row.mode == "for" for row in rows)
        assert any(row.mode == "gs-jacobi" for row in rows) == (block == 1)
    # 5 segments do not divide 16 tokens.
    assert {row.segments for row in result.candidates} == {0, 1, 2, 4}


def test_guesses_follow_igm(clock: dict[str, float]) -> None:
    """A clear IGM settles the guess; a close one lets both be tried."""
    tried = {
        block: {g for b, g, _, _ in run(1e-2).profile if b == block}
        for block in range(3)
    }
    assert tried == {0: {0, 1}, 1: {0}, 2: {1}}


def test_unreachable_tolerance_falls_back_to_for(clock: dict[str, float]) -> None:
    """A tolerance below float32's reach leaves the exact inverse."""
    result = run(1e-12)
    assert result.strategy == Strategy.sequential(3, 16)
    assert result.error == 0.0
    assert "For is the cheapest plan" in result.reason


def test_bf16_is_searched_against_bf16(clock: dict[str, float]) -> None:
    """Curves and pairs are made in the sampler's own precision, so plans converge."""
    result = run(4e-3, precision="bf16")
    assert result.error <= 4e-3
    reasons = {row.reason for row in result.candidates}
    assert "does not converge within tolerance" not in reasons
