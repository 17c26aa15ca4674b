"""The solvers against golden runs and against a slow plain reference."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fewstep.tarflow import BlockPlan, Strategy, TarFlow, invert, reverse
from fewstep.tarflow.guidance import Guidance
from fewstep.tarflow.inverse import invert_block
from fewstep.tarflow.solve import jacobi_step, segment_bounds, settle, solve_exact
from tests.tarflow.conftest import random_model

Case = tuple[TarFlow, dict[str, Any]]
# Gentle, so that float32 itself is good to 1e-5 through three blocks.
MODEL = random_model(scale=0.015)


def arguments(golden: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    """A golden run's settings as arguments of `invert`."""
    reverse_case = golden["reverse"]
    strategy = None
    if "num_GS_list" in run:
        strategy = Strategy.from_lists(
            run["num_GS_list"], run["max_jacobi_list"], run["guess_list"]
        )
    return {
        "noise": reverse_case["noise_wide" if run.get("wide") else "noise"],
        "y": None if run.get("y_none") else reverse_case["y"],
        "strategy": strategy,
        "guidance": Guidance(
            run.get("guidance", 0.0),
            run.get("guide_what", "ac"),
            run.get("attn_temp", 1.0),
            run.get("annealed_guidance", False),
        ),
    }


def _planned(model: TarFlow, run: dict[str, Any]) -> list[int]:
    """Network calls of each block when no bound ends it early."""
    count = len(model.blocks)
    segments = run.get("num_GS_list", [0] * count)
    iterations = run.get("max_jacobi_list", [1] * count)
    return [
        model.tokens - 1 if g in (0, model.tokens) else g * j
        for g, j in zip(segments[::-1], iterations[::-1], strict=True)
    ]


def test_released_mode_matches_every_golden_run(case: Case) -> None:
    """Samples, latents and network calls equal the released sampler's."""
    model, golden = case
    for run in golden["reverse"]["runs"]:
        if run["name"].startswith("QUIRK"):
            continue
        out = invert(
            model, **arguments(golden, run), mode="released", tol=run.get("ebound")
        )
        torch.testing.assert_close(out.images, run["samples"], atol=5e-5, rtol=0)
        calls = [len(calls) for calls in run["proj_in_tokens_per_call"]]
        # A run that its bound ends may end one iteration off on another machine.
        slack = 0 if calls == _planned(model, run) else 1
        assert out.steps == pytest.approx(calls, abs=slack), run["name"]
        for ours, theirs in zip(
            out.latents[1:], run.get("sequence", [])[1:], strict=False
        ):
            torch.testing.assert_close(
                model.unpatchify(ours), theirs, atol=5e-5, rtol=0
            )


def test_exact_mode_with_all_iterations_is_for(case: Case) -> None:
    """Every schedule, clamped or broken in the release, ends at For when it may."""
    model, golden = case
    runs = {run["name"]: run for run in golden["reverse"]["runs"]}
    for run in runs.values():
        if run["exact_run"] not in runs or "num_GS_list" not in run:
            continue
        settings_ = arguments(golden, run)
        lists = (run["num_GS_list"], [model.tokens] * len(run["num_GS_list"]))
        settings_["strategy"] = Strategy.from_lists(*lists, run["guess_list"])
        out = invert(model, **settings_)
        exact = runs[run["exact_run"]]["samples"]
        torch.testing.assert_close(out.images, exact, atol=5e-5, rtol=0)


def test_list_position_seven_is_nothing_special() -> None:
    """Segments in the last inverted block of eight are solved like any others."""
    model = random_model(8, scale=0.01)
    z = torch.randn(2, 16, 12, generator=torch.Generator().manual_seed(1))
    y = torch.tensor([0, 2])
    strategy = Strategy.from_lists([4] * 8, [4] * 8, [1] * 8)
    for mode in ("exact", "released"):
        out = reverse(model, 0.5 * z, y, strategy=strategy, mode=mode)
        assert (out - reverse(model, 0.5 * z, y)).abs().max() < 1e-5


def slow_inverse(model: TarFlow, z: Tensor, y: Tensor | None, w: float) -> Tensor:
    """Token by token with the whole sequence each time: no cache, no windows."""
    x = z * model.var.sqrt()
    for block in reversed(model.blocks):
        z, x = block.ordered(x), torch.zeros_like(x)
        x[:, 0] = z[:, 0]
        for t in range(1, model.tokens):
            s, u = block.network(x, block.positions(), block.embedding(y, len(x)))
            if w:
                none = block.embedding(None, len(x))
                s0, u0 = block.network(x, block.positions(), none)
                g = w * t / (model.tokens - 1)
                s, u = s + g * (s - s0), u + g * (u - u0)
            x[:, t] = z[:, t] * s[:, t - 1].exp() + u[:, t - 1]
        x = block.ordered(x)
    return model.unpatchify(x)


@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_for_equals_the_slow_reference(tiny: TarFlow, guidance: float) -> None:
    """The cached sequential solver equals a plain double loop, guided or not."""
    z = torch.randn(3, 16, 12, generator=torch.Generator().manual_seed(2))
    y = torch.tensor([0, 1, -1])
    with torch.no_grad():
        expected = slow_inverse(tiny, z, y, guidance)
    out = reverse(tiny, z, y, guidance=guidance, annealed=True)
    torch.testing.assert_close(out, expected, atol=2e-5, rtol=0)


plans = st.one_of(
    st.builds(
        BlockPlan,
        segments=st.integers(0, 16),
        max_jacobi=st.just(16),
        guess=st.integers(0, 1),
    ),
    st.builds(BlockPlan, window=st.integers(1, 20), guess=st.integers(0, 1)),
    st.builds(
        BlockPlan,
        segments=st.integers(1, 4),
        max_jacobi=st.integers(1, 3),
        refine=st.just(16),
    ),
    st.builds(BlockPlan, window=st.integers(1, 8), refine=st.just(16)),
)


@settings(max_examples=25, deadline=None)
@given(
    blocks=st.tuples(plans, plans, plans),
    guidance=st.sampled_from([0.0, 2.0]),
    wide=st.sampled_from([1.0, 3.0]),
    seed=st.integers(0, 3),
)
def test_any_schedule_with_enough_iterations_is_for(
    blocks: tuple[BlockPlan, ...], guidance: float, wide: float, seed: int
) -> None:
    """With iterations for every token, all ways end at For, to 1e-5 of the scale.

    So do windows of any width, and drafts that are refined long enough.
    """
    generator = torch.Generator().manual_seed(seed)
    z = wide * torch.randn(2, 16, 12, generator=generator)
    y = torch.tensor([1, 2])
    kwargs: dict[str, Any] = {"guidance": guidance, "annealed": True}
    exact = reverse(MODEL, z, y, **kwargs)
    out = reverse(MODEL, z, y, strategy=Strategy(blocks), **kwargs)
    assert (out - exact).abs().max() < 1e-5 * max(1.0, float(exact.abs().max()))


@settings(max_examples=15, deadline=None)
@given(
    plan=st.sampled_from(
        [BlockPlan(g, 16) for g in (1, 2, 4)] + [BlockPlan(window=w) for w in (2, 5, 9)]
    ),
    tol=st.sampled_from([1e-1, 1e-2, 1e-3]),
    size=st.integers(1, 4),
)
def test_a_sample_does_not_depend_on_its_batch(
    plan: BlockPlan, tol: float, size: int
) -> None:
    """With early stopping too, sample i is the same alone and among others."""
    z = torch.randn(4, 16, 12, generator=torch.Generator().manual_seed(5))
    strategy = Strategy((plan,) * 3)
    whole = reverse(MODEL, z, strategy=strategy, tol=tol)
    part = reverse(MODEL, z[:size], strategy=strategy, tol=tol)
    torch.testing.assert_close(whole[:size], part, atol=1e-5, rtol=1e-5)


def test_a_smaller_tolerance_gives_a_smaller_error(tiny: TarFlow) -> None:
    """The tolerance bounds the error within an order of magnitude, and saves steps."""
    z = torch.randn(4, 16, 12, generator=torch.Generator().manual_seed(6))
    strategy = Strategy((BlockPlan(1, 16),) * 3)
    exact = reverse(tiny, z)
    steps, errors = [], []
    for tol in (1e-1, 1e-2, 1e-3):
        out = invert(tiny, z, strategy=strategy, tol=tol)
        errors.append(float((out.images - exact).abs().max()))
        steps.append(sum(out.steps))
        assert errors[-1] < 10 * tol
    assert steps == sorted(steps) and errors == sorted(errors, reverse=True)


def test_first_iterations_solve_the_first_tokens(tiny: TarFlow) -> None:
    """After k Jacobi iterations the first k tokens are exact."""
    z = torch.randn(2, 16, 12, generator=torch.Generator().manual_seed(7))
    block = tiny.blocks[0]
    exact = invert(tiny, z).latents[-1]
    seen: list[Tensor] = []

    def hook(number: int, segment: int, k: int, x: Tensor) -> None:
        if number == 0:
            seen.append(block.ordered(x).clone())

    plan = Strategy((BlockPlan(1, 16),) * 3)
    invert(tiny, z, strategy=plan, on_iteration=hook)
    for k, x in enumerate(seen, start=1):
        solved = slice(0, k + 1)
        torch.testing.assert_close(x[:, solved], exact[:, solved], atol=2e-5, rtol=0)


def test_transient_infinities_do_not_reach_settled_tokens() -> None:
    """A map whose first iterates overflow still ends at its fixed point."""
    z = torch.ones(2, 12, 1)
    z[:, 0] = 0.0

    def evaluate(x: Tensor, start: int) -> tuple[Tensor, Tensor]:
        # x_t = z_t exp(100 x_{t-1}) - 1 has the solution 0, and the first iterates
        # from z are exp(100) = inf. The sum stands for attention: 0 * inf = nan.
        return 100 * x + 0 * x.sum(dim=1, keepdim=True), -torch.ones_like(x)

    for segments in (0, 1, 3):
        x = solve_exact(evaluate, z, BlockPlan(segments, 12))
        assert x.abs().max() == 0.0


@settings(max_examples=25, deadline=None)
@given(
    plan=st.sampled_from(
        [BlockPlan(window=w) for w in (2, 3, 7)] + [BlockPlan(g, 16) for g in (2, 3)]
    ),
    tol=st.sampled_from([0.0, 1e-3, 1e-1]),
    seed=st.integers(0, 5),
)
def test_every_token_is_what_those_before_it_make_of_it(
    plan: BlockPlan, tol: float, seed: int
) -> None:
    """With a cache, no token of the result is further than `tol` from its equation."""
    z = torch.randn(3, 16, 12, generator=torch.Generator().manual_seed(seed))
    block = MODEL.flows[1]
    with torch.inference_mode():
        x, _, _ = invert_block(block, z, None, plan, tol=tol)
        inside = block.ordered(x)
        s, u = block.network(inside, block.positions(), block.embedding(None, 3))
        wanted = jacobi_step(block.ordered(z)[:, 1:], s[:, :-1], u[:, :-1])
    assert (wanted - inside[:, 1:]).abs().max() <= tol + 1e-5


def test_a_window_settles_tokens_that_hardly_move() -> None:
    """Old values stay as far as nothing moves; the first mover is exact and ends it."""
    old = torch.zeros(3, 4, 1)
    new = torch.tensor([[0.0, 0.05, 0.2, 0.3], [0.3, 0.0, 0.0, 0.0], [0.0] * 4])[
        ..., None
    ]
    final = torch.tensor([4, 4, 6])
    value, now = settle(old, new, torch.arange(5, 9), final, 0.1)
    assert now.tolist() == [7, 5, 8]
    assert value[0, :, 0].tolist() == pytest.approx([0.0, 0.0, 0.2, 0.3])
    assert value[1, :, 0].tolist() == pytest.approx([0.3, 0.0, 0.0, 0.0])


@pytest.mark.parametrize("width", range(2, 16))
def test_a_window_slides_by_all_that_is_settled(width: int) -> None:
    """Where the guess is the solution, every step is through with a whole window."""
    z, steps = torch.randn(3, 16, 2), []

    def evaluate(x: Tensor, start: int | Tensor) -> tuple[Tensor, Tensor]:
        steps.append(start)
        return torch.zeros_like(x), torch.zeros_like(x)

    x = solve_exact(evaluate, z, BlockPlan(window=width), tol=1e-3)
    assert torch.equal(x, z)
    assert len(steps) == -(-15 // width)


def test_without_a_cache_a_sample_settles_whole() -> None:
    """New values are taken until no token moves more than the tolerance."""
    old = torch.zeros(2, 3, 1)
    new = torch.tensor([[0.0, 0.05, 0.2], [0.01, 0.02, 0.03]])[..., None]
    final = torch.tensor([0, 0])
    value, now = settle(old, new, torch.arange(1, 4), final, 0.1, cached=False)
    assert now.tolist() == [1, 3]
    assert torch.equal(value, new)


def test_a_window_takes_fewer_steps_than_tokens(tiny: TarFlow) -> None:
    """Where tokens settle together a window is through sooner than For."""
    z = torch.randn(2, 16, 12, generator=torch.Generator().manual_seed(8))
    gentle = Strategy((BlockPlan(window=8),) * 3)
    out = invert(MODEL, z, strategy=gentle, tol=1e-2)
    assert all(step < 15 for step in out.steps)
    assert (out.images - reverse(MODEL, z)).abs().max() < 0.1


def test_a_draft_is_taken_back_to_full_precision() -> None:
    """A draft alone is as good as bfloat16; refining makes it as good as wanted."""
    z = torch.randn(2, 16, 12, generator=torch.Generator().manual_seed(9))
    exact, errors = reverse(MODEL, z), []
    for refine in (1, 3, 6):
        strategy = Strategy((BlockPlan(1, 6, refine=refine),) * 3)
        out = invert(MODEL, z, strategy=strategy)
        errors.append(float((out.images - exact).abs().max()))
        assert all(step <= 6 + refine for step in out.steps)
    assert errors[0] > errors[1] >= errors[2]
    assert errors[0] < 0.1 and errors[2] < 1e-4


def test_means_that_are_missing_are_named(tiny: TarFlow) -> None:
    """A plan that starts from means cannot run without them."""
    strategy = Strategy((BlockPlan(1, 4, 2),) * 3)
    with pytest.raises(ValueError, match="needs the means"):
        invert(tiny, torch.zeros(1, 16, 12), strategy=strategy)


def test_guidance_without_effect_costs_nothing() -> None:
    """Without classes and at temperature 1 the unconditional pass is left out."""
    model = random_model(2, classes=0)
    z = torch.randn(1, 16, 12)
    torch.testing.assert_close(reverse(model, z, guidance=2.0), reverse(model, z))


@settings(max_examples=50, deadline=None)
@given(tokens=st.integers(2, 64), segments=st.integers(0, 70))
def test_segments_cover_every_token_once(tokens: int, segments: int) -> None:
    """Segments are consecutive from input 0 to T-1, none empty."""
    bounds = segment_bounds(tokens, segments)
    assert bounds[0][0] == 0 and bounds[-1][1] == tokens - 1
    assert all(a < b for a, b in bounds)
    assert all(one[1] == two[0] for one, two in pairwise(bounds))


def test_published_segments_are_equal() -> None:
    """Eight segments of 1,024 tokens read 128 inputs each, the last one fewer."""
    assert segment_bounds(1024, 8)[:2] == [(0, 128), (128, 256)]
    assert segment_bounds(1024, 8)[-1] == (896, 1023)


@pytest.mark.parametrize(
    ("arguments_", "message"),
    [
        ({"mode": "fast"}, "exact or released"),
        ({"strategy": Strategy.sequential(2)}, "2 blocks, the model 3"),
        ({"guidance": Guidance(1.0)}, None),
    ],
)
def test_wrong_arguments_say_what_is_right(
    tiny: TarFlow, arguments_: dict[str, Any], message: str | None
) -> None:
    """An unknown mode or a strategy of another length raises; good ones do not."""
    z = torch.zeros(1, 16, 12)
    if message is None:
        invert(tiny, z, **arguments_)
        return
    with pytest.raises(ValueError, match=message):
        invert(tiny, z, **arguments_)


def test_wrong_guidance_is_refused() -> None:
    """Guidance of an unknown parameter, or a temperature of zero, raises."""
    with pytest.raises(ValueError, match="a, c or ac"):
        Guidance(1.0, "b")
    with pytest.raises(ValueError, match="positive"):
        Guidance(1.0, attn_temp=0.0)
