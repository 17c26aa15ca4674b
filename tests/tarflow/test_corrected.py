"""Corrected iterations: causal, exact in the end, better than plain ones, batched."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fewstep.tarflow import BlockPlan, Strategy, TarFlow, invert
from fewstep.tarflow.case import Way
from fewstep.tarflow.corrected import (
    Iteration,
    Learned,
    correct,
    features,
    iterate,
    solve_corrected,
)
from fewstep.tarflow.costs import Costs
from fewstep.tarflow.guidance import UNGUIDED, BlockEvaluator, Guidance
from fewstep.tarflow.inverse import invert_block, make_evaluator
from fewstep.tarflow.learned import Lesson, exact_parameters, fit, learn
from fewstep.tarflow.sampler import TarFlowSampler
from fewstep.tarflow.solve import jacobi_step
from tests.tarflow.conftest import random_model

MODEL = random_model(scale=0.05)
GUIDED = Guidance(1.5)


def noise(count: int, seed: int) -> Tensor:
    return torch.randn(count, 16, 12, generator=torch.Generator().manual_seed(seed))


def evaluator(
    z: Tensor, y: Tensor | None = None, guidance: Guidance = UNGUIDED
) -> BlockEvaluator:
    """The network of block 1, without a cache."""
    return make_evaluator(MODEL.flows[1], y, z, guidance, cached=False)


def exact(z: Tensor, y: Tensor | None = None, guidance: Guidance = UNGUIDED) -> Tensor:
    """The solution of block 1 by For, in the block's order."""
    block = MODEL.flows[1]
    x, _, _ = invert_block(block, block.ordered(z), y, BlockPlan(), guidance=guidance)
    return block.ordered(x)


def test_features_by_a_plain_loop() -> None:
    """Token t gets the moves of t-1, t-2 and t-4 and the mean of all before it."""
    move = noise(2, 0)
    found = features(move, 4)
    assert found.shape == (2, 16, 48)
    for t in range(16):
        lags = [
            move[:, t - lag] if t >= lag else torch.zeros(2, 12) for lag in (1, 2, 4)
        ]
        mean = move[:, :t].mean(dim=1) if t else torch.zeros(2, 12)
        torch.testing.assert_close(found[:, t], torch.cat([*lags, mean], dim=1))


@given(token=st.integers(0, 15))
def test_a_token_hears_of_those_before_it_alone(token: int) -> None:
    """A change of one move changes the features of later tokens only."""
    move = noise(1, 1)
    other = move.clone()
    other[:, token] += 1.0
    changed = (features(move, 4) != features(other, 4)).any(dim=2)[0]
    assert not changed[: token + 1].any()
    assert changed[token + 1 :].all()


def test_weights_that_explain_all_are_found() -> None:
    """A rest that is linear in the features is fitted, but for the ridge."""
    given, weights = features(noise(64, 2), 4), 0.3 * torch.randn(48, 24)
    left = given @ weights
    found = fit(given, left)
    assert (given @ found - left).abs().max() < 0.01 * left.abs().max()
    assert torch.equal(found, found.half().float())


def test_every_sample_weighs_the_same() -> None:
    """A sample a thousand times as far off says no more than another one."""
    given, left = features(noise(16, 18), 4), noise(16, 19)
    size = torch.ones(16, 1, 1)
    size[3] = 1000.0
    found = fit(size * given, size * left)
    torch.testing.assert_close(found, fit(given, left), atol=2e-3, rtol=0)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), 1e30])
def test_without_anything_to_learn_nothing_is_added(value: float) -> None:
    """Moves of nothing, or beyond all bounds, make weights of zero."""
    move = torch.full((4, 16, 12), value)
    assert not fit(features(move, 4), move).any()


def test_weights_are_fitted_in_full_precision_under_autocast() -> None:
    """What a sampler in bfloat16 learns from the same numbers is the same."""
    given, left = features(noise(16, 16), 4), noise(16, 17)
    with torch.autocast("cpu", torch.bfloat16):
        found = fit(given, left)
    assert torch.equal(found, fit(given, left))


@pytest.mark.parametrize(
    ("guidance", "spare"), [(UNGUIDED, False), (GUIDED, False), (GUIDED, True)]
)
def test_the_end_is_exact_whatever_the_weights(
    guidance: Guidance, *, spare: bool
) -> None:
    """As many iterations as tokens, twice as many if they spare, give For's result."""
    z, y = noise(2, 3), torch.tensor([0, 2])
    count = 32 if spare else 16
    weights = 0.05 * torch.randn(
        count, 144, 24, generator=torch.Generator().manual_seed(4)
    )
    with torch.inference_mode():
        x = solve_corrected(evaluator(z, y, guidance), z, z, weights, spare=spare)
        wanted = exact(z, y, guidance)
    assert (x - wanted).abs().max() < 2e-5 * max(1.0, float(wanted.abs().max()))


def test_learned_iterations_leave_less_of_unseen_samples() -> None:
    """Three corrected iterations are nearer to For than three plain ones."""
    z, seen = noise(8, 5), noise(64, 6)
    with torch.inference_mode():
        found = lesson(seen, 3)
        solved, wanted = solve_corrected(evaluator(z), z, z, found.weights), exact(z)
        plain = solve_corrected(evaluator(z), z, z, torch.zeros_like(found.weights))
    error, before = (float((x - wanted).square().mean()) for x in (solved, plain))
    assert error < 0.1 * before
    assert len(found.curve.largest) == 3
    assert found.curve.largest[2] < found.curve.largest[0]


def test_learning_ends_where_the_error_is_small_enough() -> None:
    """No iteration after the first that leaves no sample more than that."""
    z = noise(16, 20)
    with torch.inference_mode():
        curve = lesson(z, 6).curve.largest
        enough = curve[2]
        found = lesson(z, 6, enough=enough)
    assert len(found.weights) == len(found.iterates) == 3
    assert found.curve.largest == curve[:3]


def lesson(z: Tensor, iterations: int, enough: float = 0.0) -> Lesson:
    """Iterations of block 1 from z, learned on these very samples."""
    block, x = MODEL.flows[1], exact(z)
    parameters = exact_parameters(block, block.ordered(x), None)
    return learn(evaluator(z), z, x, parameters, z, iterations, enough=enough)


def test_a_correction_is_two_guesses_of_s_and_u() -> None:
    """By a plain formula: the second guess knows what the first one adds to f(x)."""
    z, x = noise(2, 21), noise(2, 22)
    draw = torch.Generator().manual_seed(23)
    weights = 0.05 * torch.randn(144, 24, generator=draw)
    with torch.inference_mode():
        found = iterate(evaluator(z), z, x, 0, spare=False)
        corrected = correct(found, weights, 4)
    known = features(found.new - x, 4)
    s, u = (known @ weights[:48]).chunk(2, dim=2)
    once = jacobi_step(z, found.s + s, found.u + u)
    known = torch.cat([known, features(once - found.new, 4)], dim=2)
    s, u = (known @ weights[48:]).chunk(2, dim=2)
    torch.testing.assert_close(corrected, jacobi_step(z, found.s + s, found.u + u))
    assert torch.equal(corrected[:, 0], z[:, 0])


def test_what_is_noted_of_a_sample_comes_from_weights_of_others() -> None:
    """Six parts: the first sample's iterate is what weights of five of them make."""
    z = noise(16, 7)
    others = torch.arange(16) % 6 != 0
    with torch.inference_mode():
        found, apart = lesson(z, 1), lesson(z[others], 1)
        alone = solve_corrected(evaluator(z), z, z, apart.weights)
        iterates = iterate(evaluator(z), z, z, 0, spare=False)
        errors = (found.iterates[0] - exact(z)).abs().amax(dim=(1, 2))
    torch.testing.assert_close(found.iterates[0][~others], alone[~others])
    torch.testing.assert_close(found.curve.errors[0], errors)
    # A move is f(x) - x, which is what the solver ends by, without the correction.
    torch.testing.assert_close(found.curve.moves[0], iterates.largest)


def test_a_sample_alone_teaches_others_and_not_itself() -> None:
    """What is noted of it is plain Jacobi, for there are no others."""
    z = noise(1, 28)
    with torch.inference_mode():
        found = lesson(z, 1)
        plain = iterate(evaluator(z), z, z, 0, spare=False).new
    torch.testing.assert_close(found.iterates[0], plain)
    assert found.weights.any()


def test_errors_of_learning_are_those_of_samples_not_seen() -> None:
    """Noted errors are as large as those of other noise; with shown ones not so."""
    z, others = noise(16, 7), noise(64, 27)
    with torch.inference_mode():
        found = lesson(z, 3)
        errors = [
            (solve_corrected(evaluator(one), one, one, found.weights) - exact(one))
            .abs()
            .amax(dim=(1, 2))
            .median()
            for one in (z, others)
        ]
    shown, unseen = (float(error) for error in errors)
    noted = found.curve.median[-1]
    assert shown < 0.8 * unseen
    assert 0.8 * unseen < noted < 2.0 * unseen


def test_sparing_takes_the_guidance_term_of_the_call_before() -> None:
    """Conditional rows are new, their difference to the unconditional ones is old."""
    x, later, y = noise(2, 8), noise(2, 9), torch.tensor([0, 2])
    with torch.inference_mode():
        evaluate, plain = evaluator(x, y, GUIDED), evaluator(x, y)
        full = torch.cat(evaluate(x[:, :-1], 0), dim=2)
        given = torch.cat(plain(x[:, :-1], 0), dim=2)
        spared = torch.cat(evaluate(later[:, :-1], 0, spare=True), dim=2)
        torch.testing.assert_close(
            spared, torch.cat(plain(later[:, :-1], 0), dim=2) + full - given
        )
        # The same tokens again: nothing is missing.
        evaluate(later[:, :-1], 0)
        again = torch.cat(evaluate(later[:, :-1], 0, spare=True), dim=2)
        torch.testing.assert_close(again, torch.cat(evaluate(later[:, :-1], 0), dim=2))


@pytest.mark.parametrize("spare", [False, True])
def test_every_other_iteration_spares(*, spare: bool) -> None:
    """Even numbers evaluate all rows, odd ones half where the plan says so."""
    z, rows = noise(2, 10), list[int]()
    evaluate = evaluator(z, torch.tensor([0, 2]), GUIDED)
    network = evaluate.network

    def counted(x: Tensor, added: Tensor, **more: object) -> Tensor:
        rows.append(len(added))
        return network(x, added, **cast("dict[str, int]", more))

    evaluate.network = cast("object", counted)  # type: ignore[assignment]
    with torch.inference_mode():
        solve_corrected(evaluate, z, z, torch.zeros(5, 144, 24), spare=spare)
    assert rows == ([4, 2, 4, 2, 4] if spare else [4] * 5)
    assert evaluate.steps == 5


def test_plain_jacobi_is_an_iteration_without_weights() -> None:
    """Weights of zero leave z exp(s) + u, token 0 that of z."""
    z, x = noise(2, 11), noise(2, 12)
    with torch.inference_mode():
        found = iterate(evaluator(z), z, x, 0, spare=False)
        s, u = evaluator(z)(x[:, :-1], 0)
        assert torch.equal(found.new[:, 0], z[:, 0])
        torch.testing.assert_close(found.new[:, 1:], jacobi_step(z[:, 1:], s, u))
        assert torch.equal(
            solve_corrected(evaluator(z), z, x, torch.zeros(1, 144, 24)), found.new
        )


PLAN = BlockPlan(1, 2, refine=3, corrected=True)


def learned(count: int) -> dict[int, Learned]:
    """Some weights for every block."""
    draw = torch.Generator().manual_seed(13)
    return {
        n: Learned(None, 0.03 * torch.randn(count, 144, 24, generator=draw))
        for n in range(3)
    }


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_sample_does_not_depend_on_its_batch(size: int) -> None:
    """Alone and among others a corrected plan gives the same image, up to rounding."""
    z, strategy = noise(4, 14), Strategy((PLAN,) * 3, 16)
    whole = invert(MODEL, z, strategy=strategy, learned=learned(5))
    part = invert(MODEL, z[:size], strategy=strategy, learned=learned(5))
    # bfloat16 drafts round by the number of rows; three refinements take that away.
    torch.testing.assert_close(whole.images[:size], part.images, atol=2e-3, rtol=0)
    assert whole.steps == [5, 5, 5]
    assert whole.evaluations == [75, 75, 75]


def test_missing_weights_are_named(tiny: TarFlow) -> None:
    """A corrected plan without weights, or with too few, does not run."""
    for known in (None, learned(4)):
        with pytest.raises(ValueError, match="5 corrected iterations need weights"):
            invert(tiny, noise(1, 15), strategy=Strategy((PLAN,) * 3), learned=known)


def test_a_corrected_plan_has_its_own_mark() -> None:
    """`c` or `s` in the notation, which cannot be read back as JSON can."""
    spared = BlockPlan(1, 4, corrected=True, spare=True)
    strategy = Strategy((PLAN, BlockPlan(), spared), 16)
    assert str(strategy) == "[0/1-1/16-2+3c/1-4s]"
    assert Strategy.from_dict(strategy.to_dict()) == strategy
    with pytest.raises(ValueError, match="a search has learned; use auto"):
        Strategy.parse(str(strategy), num_blocks=3, tokens=16)
    for plan in ({"segments": 2}, {"window": 4}, {"segments": 0}):
        with pytest.raises(ValueError, match="over the whole sequence are corrected"):
            BlockPlan(corrected=True, **plan)
    with pytest.raises(ValueError, match="only corrected iterations spare"):
        BlockPlan(1, 4, spare=True)
    for plan in ({}, {"corrected": True, "refine": 2}):
        with pytest.raises(ValueError, match="without a draft have a front"):
            BlockPlan(1, 4, front=4, **plan)
    with pytest.raises(ValueError, match="front must be 0 or more, not -1"):
        BlockPlan(1, 4, corrected=True, front=-1)


def test_the_notation_of_a_front() -> None:
    """A front is written f and its tokens, is read from a plan, and may be For."""
    front = BlockPlan(1, 9, 2, 1e-4, corrected=True, front=4)
    strategy = Strategy((PLAN, PLAN, front), 16)
    assert front.mode == "front"
    assert str(strategy) == f"[2-f4-9c-{PLAN.iterations}]"
    assert Strategy.from_dict(strategy.to_dict()) == strategy
    with pytest.raises(ValueError, match="a search has learned; use auto"):
        Strategy.parse(str(strategy), num_blocks=3, tokens=16)
    assert not TarFlowSampler(MODEL, strategy).static_shapes
    every = Strategy((BlockPlan(1, 9, 2, corrected=True, front=15),) * 3, 16)
    assert str(every) == "For"


@given(
    front=st.integers(1, 14),
    guidance=st.sampled_from([UNGUIDED, GUIDED]),
    spare=st.booleans(),
)
def test_behind_any_front_the_end_is_exact(
    front: int, guidance: Guidance, *, spare: bool
) -> None:
    """As many iterations as tokens are left, twice as many if spared, give For's."""
    z, y = noise(2, 3), torch.tensor([0, 2])
    count = (15 - front) * (2 if spare and guidance.weight else 1)
    weights = 0.05 * torch.randn(
        count, 144, 24, generator=torch.Generator().manual_seed(4)
    )
    x, wanted, steps = behind(front, z, y, weights, guidance, spare=spare)
    assert (x - wanted).abs().max() < 2e-5 * max(1.0, float(wanted.abs().max()))
    assert steps == (front + count, front + count * (15 - front))


def behind(
    front: int,
    z: Tensor,
    y: Tensor,
    weights: Tensor,
    guidance: Guidance,
    *,
    spare: bool,
) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Block 1 behind a front, the exact solution, calls and evaluations."""
    plan = BlockPlan(1, len(weights), corrected=True, spare=spare, front=front)
    block = MODEL.flows[1]
    x, *steps = invert_block(
        block,
        block.ordered(z),
        y,
        plan,
        guidance=guidance,
        learned=Learned(weights=weights),
    )
    return block.ordered(x), exact(z, y, guidance), (steps[0], steps[1])


@pytest.mark.parametrize("spare", [False, True])
def test_iterations_behind_a_front_are_those_of_a_solved_front(*, spare: bool) -> None:
    """Three of them equal three whole ones whose first tokens are put right."""
    z, y, front = noise(3, 3), torch.tensor([0, 1, 2]), 6
    weights = 0.05 * torch.randn(3, 144, 24, generator=torch.Generator().manual_seed(4))
    x, wanted, _ = behind(front, z, y, weights, GUIDED, spare=spare)
    held, head = z.clone(), wanted[:, : front + 1]
    evaluate = evaluator(z, y, GUIDED)
    with torch.inference_mode():
        held[:, : front + 1] = head
        for number, each in enumerate(weights):
            plain = iterate(evaluate, z, held, number, spare=spare)
            new = torch.cat([head, plain.new[:, front + 1 :]], dim=1)
            s, u = (part.clone() for part in (plain.s, plain.u))
            s[:, : front + 1], u[:, : front + 1] = 0.0, 0.0
            solved = torch.cat([head, z[:, front + 1 :]], dim=1)
            found = Iteration(solved, s, u, new, new - held)
            held = correct(found, each, 4)
    torch.testing.assert_close(x, held, atol=2e-5, rtol=1e-4)


def test_a_trace_sees_the_front_and_the_iterations_behind_it() -> None:
    """Segment 0 has the tokens one by one, segment 1 the iterations behind them."""
    z, seen = noise(2, 3), list[tuple[int, int]]()
    block, wanted = MODEL.flows[1], exact(z)

    def look(segment: int, k: int, x: Tensor) -> None:
        seen.append((segment, k))
        assert x.shape == z.shape
        solved = k if segment == 0 else 4 + k
        torch.testing.assert_close(
            x[:, : solved + 1], wanted[:, : solved + 1], atol=2e-5, rtol=1e-4
        )

    invert_block(
        block,
        block.ordered(z),
        None,
        BlockPlan(1, 3, corrected=True, front=4),
        learned=Learned(weights=torch.zeros(3, 144, 24)),
        on_iteration=look,
    )
    assert seen == [(0, 1), (0, 2), (0, 3), (0, 4), (1, 1), (1, 2), (1, 3)]


def test_sparing_iterations_cost_half_every_other_time() -> None:
    """Full and spared rows in turn, in bfloat16 and then in full precision."""
    costs = Costs({1: 1.0, 15: 10.0}, spare=6.0, draft=4.0, draft_spare=3.0)
    assert costs.corrected(Way(0, 0, spare=True), 1) == 10.0
    assert costs.corrected(Way(0, 0, spare=True), 4) == 32.0
    assert costs.corrected(Way(0, 3, spare=True), 2) == 4 + 3 + 4 + 10 + 6
    assert costs.corrected(Way(0, 3), 2) == 32.0
    unguided = Costs({1: 1.0, 15: 10.0}, draft=4.0)
    assert unguided.corrected(Way(0, 2, spare=True), 3) == 38.0


def test_iterations_behind_a_front_cost_the_front_and_what_is_left() -> None:
    """A front costs a step a token, and iterations those of the tokens behind it."""
    costs = Costs({1: 1.0, 15: 10.0}, behind={4: (7.0, 5.0), 8: (4.0, None)})
    assert costs.corrected(Way(2, front=4), 3) == 4 + 3 * 7
    assert costs.corrected(Way(2, 0, spare=True, front=4), 3) == 4 + 7 + 5 + 7
    assert costs.corrected(Way(2, 0, spare=True, front=8), 2) == 8 + 2 * 4
