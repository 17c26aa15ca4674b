"""Parallel generation: released tokens, a slow plain reference, whose draw it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep import noise
from fewstep.par import layers
from fewstep.par.decoding import Guidance, by_inversion
from fewstep.par.decoding import greedy as likeliest
from fewstep.par.generation import Cache, DrawOptions, generate, generate_tokens
from fewstep.par.generation import uniforms as drawn
from fewstep.par.model import Transformer
from fewstep.par.order import to_generation, to_raster
from fewstep.par.schedule import Pass
from tests.par.random_models import ORDERS, labels, transformer

Golden = Callable[[str], dict[str, Any]]


class Watch:
    """What `step` was fed: (rows, first position, positions) of every call."""

    def __init__(self, gpt: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[int, int, int]] = []
        real = gpt.step

        def step(x: Tensor, start: int, caches: Any) -> Tensor:
            self.calls.append((len(x), start, x.shape[1]))
            return real(x, start, caches)

        monkeypatch.setattr(gpt, "step", step)

    def halves(self, batch: int) -> list[int]:
        """1 or 2 of every pass."""
        return [rows // batch for rows, _, _ in self.calls]


# ---- the released numbers ----


@pytest.fixture(name="case", scope="module")
def _case(golden_par: Golden) -> dict[str, Any]:
    return golden_par("generate_n4_grid8")


@pytest.fixture(name="released", scope="module")
def _released(case: dict[str, Any]) -> Transformer:
    gpt = Transformer(**case["config"])
    gpt.load_state_dict(case["state_dict"])
    return gpt.eval()


@pytest.mark.parametrize(
    ("name", "guided"), [("greedy", 0), ("greedy_cfg", 19), ("greedy_cfg_interval", 10)]
)
def test_released_greedy_tokens(
    case: dict[str, Any],
    released: Transformer,
    name: str,
    guided: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every token, in as many passes, with and without guidance and its interval."""
    watch, wanted = Watch(released, monkeypatch), case["outputs"][name]
    found = generate(
        released,
        case["inputs"]["labels"],
        cfg_scale=case["inputs"]["cfg_scale"] if guided else 1.0,
        cfg_interval=wanted.get("cfg_interval", -1),
        greedy=True,
    )
    assert torch.equal(found, wanted["tokens_raster"])
    assert len(watch.calls) == wanted.get("forward_passes", 19)
    assert watch.halves(3) == [2] * guided + [1] * (19 - guided)


def test_released_logits_of_single_passes(
    case: dict[str, Any], released: Transformer
) -> None:
    """Both halves, before guidance, with the released tokens behind them."""
    wanted = case["outputs"]["greedy_cfg"]
    tokens = to_generation(wanted["tokens_raster"], released.schedule)
    y = case["inputs"]["labels"]
    both = torch.cat([y, torch.full_like(y, released.num_classes)])
    sequence = released.sequence(tokens.repeat(2, 1), both)
    cache, compared = Cache(released, 6), 0
    with torch.inference_mode():
        for number, one in enumerate(released.schedule.passes()):
            fed = sequence[:, one.start : one.stop]
            logits = released.output(released.step(fed, one.start, cache.layers))
            if str(number) not in wanted["step_logits"]:
                continue
            positions = wanted["step_positions"][str(number)].tolist()
            assert positions == list(range(one.start, one.stop))
            torch.testing.assert_close(
                logits, wanted["step_logits"][str(number)], atol=1e-5, rtol=0
            )
            compared += 1
    assert compared == len(wanted["step_logits"]) == 6


def test_released_logits_after_guidance(
    case: dict[str, Any], released: Transformer
) -> None:
    """What tokens are taken from, at every pass."""
    wanted, seen = case["outputs"]["greedy_cfg"], []

    def choose(logits: Tensor, one: Pass) -> Tensor:
        seen.append(logits)
        return likeliest(logits, one)

    inputs = case["inputs"]
    guidance = Guidance(inputs["cfg_scale"])
    generate_tokens(released, inputs["labels"], choose, guidance=guidance)
    found = torch.cat(seen, dim=1)
    torch.testing.assert_close(
        found, wanted["teacher_forced_logits"], atol=2e-5, rtol=0
    )


def test_the_released_draw_is_replayed(
    case: dict[str, Any], released: Transformer
) -> None:
    """From its generator, with its filters, token by token."""
    wanted = case["outputs"]["sampled_optional"]
    options = {name: wanted[name] for name in ("temperature", "top_k", "top_p")}
    found = generate(
        released,
        case["inputs"]["labels"],
        cfg_scale=case["inputs"]["cfg_scale"],
        generator=torch.Generator().manual_seed(wanted["seed"]),
        **options,
    )
    assert torch.equal(found, wanted["tokens_raster"])


# ---- a slow plain reference ----


@torch.no_grad()
def slow_greedy(gpt: Transformer, y: Tensor, guidance: Guidance) -> Tensor:
    """Codes (B, g, g): at every pass the whole sequence anew, with mask, no cache."""
    tokens = torch.zeros(len(y), gpt.schedule.tokens, dtype=torch.int64)
    scales = guidance.scales(gpt.schedule)
    for one, scale in zip(gpt.schedule.passes(), scales, strict=True):
        known = to_raster(tokens, gpt.schedule)
        cond = gpt(known, y).logits
        uncond = gpt(known, torch.full_like(y, gpt.num_classes)).logits
        logits = uncond + scale * (cond - uncond) if scale > 1 else cond
        tokens[:, one.start : one.stop] = logits[:, one.start : one.stop].argmax(-1)
    return to_raster(tokens, gpt.schedule)


GUIDANCES = {
    "none": Guidance(),
    "constant": Guidance(2.5),
    "linear": Guidance(2.5, "linear"),
    "cosine": Guidance(3.0, "cosine", 2.0),
    "from the middle": Guidance(2.5, first=0.5),
    "to the middle": Guidance(2.5, last=0.5),
    "interval": Guidance(2.5, interval=2),
    "inside": Guidance(2.5, first=0.25, last=0.75),
}


@pytest.mark.parametrize(("grid", "group"), ORDERS)
@pytest.mark.parametrize("name", GUIDANCES)
def test_tokens_are_those_of_the_plain_model(grid: int, group: int, name: str) -> None:
    """Cache, fused guidance and missing mask change nothing, for any order."""
    gpt, y = transformer(grid, group, seed=grid), torch.tensor([2, 0, 3])
    wanted = slow_greedy(gpt, y, GUIDANCES[name])
    found = generate(gpt, y, guidance=GUIDANCES[name], greedy=True)
    assert torch.equal(found, wanted)
    assert len(found.unique()) > 3  # the model does not repeat one token


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("none", 0),
        ("constant", 7),
        ("linear", 7),
        ("from the middle", 7),
        ("to the middle", 4),
        ("interval", 5),
        ("inside", 6),
    ],
)
def test_the_unconditional_half_is_fed_while_it_is_needed(
    name: str, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropped behind the last guided pass; before it the cache has to be whole."""
    gpt, y = transformer(4, 4), torch.tensor([2, 0, 3])
    watch = Watch(gpt, monkeypatch)
    generate(gpt, y, guidance=GUIDANCES[name], greedy=True)
    assert watch.halves(3) == [2] * passes + [1] * (7 - passes)


def test_every_position_is_fed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pass by pass, up to N; the last group never enters."""
    gpt = transformer(6, 4)
    watch = Watch(gpt, monkeypatch)
    generate(gpt, labels())
    wanted = [(one.start, one.size) for one in gpt.schedule.passes()]
    assert [(start, size) for _, start, size in watch.calls] == wanted
    assert sum(wanted[-1]) == gpt.schedule.tokens


def test_no_mask_is_ever_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a fused kernel may be taken; keys are cut to what is filled."""
    gpt, real = transformer(4, 4), layers.F.scaled_dot_product_attention
    lengths = []

    def attention(query: Tensor, key: Tensor, value: Tensor, **more: Any) -> Tensor:
        assert more["attn_mask"] is None
        assert not more.get("is_causal", False)
        assert more["dropout_p"] == 0
        lengths.append(key.shape[2])
        return real(query, key, value, **more)

    monkeypatch.setattr(layers.F, "scaled_dot_product_attention", attention)
    generate(gpt, labels(), cfg_scale=2.0)
    stops = [one.stop for one in gpt.schedule.passes()]
    assert lengths == [stop for stop in stops for _ in gpt.layers]


# ---- whose draw it is ----


@pytest.mark.parametrize("group", [1, 4])
def test_a_sample_is_decided_by_seed_and_number(group: int) -> None:
    """Alone, in a batch or in another order sample i has the same codes."""
    gpt, y = transformer(4, group), labels(6)
    options: dict[str, Any] = {"cfg_scale": 1.5, "top_p": 0.9, "seed": 3}
    whole = generate(gpt, y, **options)
    assert torch.equal(generate(gpt, y, indices=range(6), **options), whole)
    for part in ([3], [5, 0], [2, 1, 4]):
        found = generate(gpt, y[part], indices=part, **options)
        assert torch.equal(found, whole[part])
    later = generate(gpt, y, indices=range(6, 12), **options)
    other = generate(gpt, y, **{**options, "seed": 4})
    for changed in (later, other):
        assert (changed != whole).flatten(1).any(1).all()


def test_numbers_come_from_the_sample_s_stream() -> None:
    """float64 in [0, 1); purpose and attempt choose other ones."""
    found = drawn(7, [3, 5], 12)
    assert found.dtype == torch.float64
    for row, i in zip(found, (3, 5), strict=True):
        assert row.tolist() == noise.stream(7, "noise", i).random(12).tolist()
    again, other = drawn(7, [3, 5], 12, 1), drawn(7, [3, 5], 12, 0, "clock")
    assert torch.equal(again[0], drawn(7, [3], 12, attempt=1)[0])
    for changed in (again, other):
        assert not (changed == found).any()


def test_drawing_ignores_the_global_generator() -> None:
    """And leaves it where it was."""
    gpt, found = transformer(4, 4), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        state = torch.random.get_rng_state()
        found.append(generate(gpt, labels(), cfg_scale=1.5))
        assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(*found)


def test_single_tokens_are_drawn_from_their_distribution() -> None:
    """The first token's frequencies over 3,000 samples are the model's."""
    gpt = transformer(2, 1, vocab_size=5)
    y = torch.full((3000,), 1)
    first = generate(gpt, y, seed=1)[:, 0, 0]
    with torch.no_grad():
        logits = gpt(torch.zeros(1, 2, 2, dtype=torch.int64), y[:1]).logits[0, 0]
    error = (torch.bincount(first, minlength=5) / 3000 - logits.softmax(-1)).abs()
    assert float(error.max()) < 0.03
    nucleus = generate(gpt, y, seed=1, top_k=2)[:, 0, 0].unique()
    assert nucleus.tolist() == sorted(logits.topk(2).indices.tolist())


# ---- the cache ----


def test_a_cache_serves_again_and_smaller_batches() -> None:
    """Whatever a call left in it is written over before it is read."""
    gpt = transformer(4, 4)
    y, guided = labels(5), Guidance(2.0, last=0.6)
    cache = Cache(gpt, 10)
    for layer in cache.layers:
        layer.store.fill_(torch.nan)
    for batch, guidance in (
        (5, guided),
        (2, guided),
        (4, None),
        (5, guided),
        (1, None),
    ):
        fresh = generate(gpt, y[:batch], guidance=guidance)
        assert torch.equal(
            generate(gpt, y[:batch], guidance=guidance, cache=cache), fresh
        )
    stores = torch.stack([layer.store for layer in cache.layers])
    assert stores.shape == (2, 2, 10, 2, 16, 8)
    assert not stores.isnan().all()


@pytest.mark.parametrize(("rows", "used"), [(3, False), (5, False), (6, True)])
def test_a_cache_that_is_too_small_is_left_alone(rows: int, used: bool) -> None:
    """Guidance needs two rows an image; a new one is made for the call."""
    gpt, y = transformer(4, 4), labels(3)
    cache = Cache(gpt, rows)
    for layer in cache.layers:
        layer.store.fill_(torch.nan)
    found = generate(gpt, y, cfg_scale=2.0, cache=cache)
    assert torch.equal(found, generate(gpt, y, cfg_scale=2.0))
    touched = not all(layer.store.isnan().all() for layer in cache.layers)
    assert touched == used


# ---- the model afterwards ----


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_as_it_was(training: bool) -> None:
    """Mode, names and weights; and it can go on training."""
    gpt = transformer(4, 4, dropout=0.5).train(training)
    before = {name: value.clone() for name, value in gpt.state_dict().items()}
    first = generate(gpt, labels(), cfg_scale=1.5)
    assert gpt.training == training
    assert list(gpt.state_dict()) == list(before)
    assert all(torch.equal(gpt.state_dict()[name], before[name]) for name in before)
    # Evaluation mode was set: dropout would have changed the tokens.
    assert torch.equal(generate(gpt.eval(), labels(), cfg_scale=1.5), first)
    optimizer = torch.optim.SGD(gpt.train().parameters(), lr=0.1)
    gpt.loss(first, labels()).loss.backward()
    optimizer.step()
    assert not torch.equal(gpt.output.weight, before["output.weight"])
    changed = generate(gpt, labels(), cfg_scale=1.5)
    assert gpt.training
    assert changed.shape == first.shape


def test_the_mode_comes_back_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that breaks leaves a model in training."""
    gpt = transformer(4, 4).train()

    def broken(*_: Any) -> Iterator[Tensor]:
        assert not gpt.training
        raise torch.OutOfMemoryError

    monkeypatch.setattr(gpt, "step", broken)
    with pytest.raises(torch.OutOfMemoryError):
        generate(gpt, labels())
    assert gpt.training


@pytest.mark.parametrize(
    ("given", "line"),
    [([0, -1], "labels -1 to 0"), ([4, 1], "labels 1 to 4"), ([9], "labels 9 to 9")],
)
def test_labels_out_of_range_are_refused(given: list[int], line: str) -> None:
    """Before anything is drawn; no class is label `num_classes`."""
    gpt = transformer(4, 4)
    with pytest.raises(ValueError, match=f"{line}: expected 0 to 3"):
        generate(gpt, torch.tensor(given))
    assert generate(gpt, torch.tensor([3])).shape == (1, 4, 4)


def test_options_reach_the_filters() -> None:
    """Filtered tokens are never drawn; a cold draw is the greedy one."""
    gpt, y = transformer(4, 4), labels(4)
    greedy = generate(gpt, y, greedy=True)
    assert torch.equal(generate(gpt, y, top_k=1), greedy)
    assert torch.equal(generate(gpt, y, temperature=1e-5), greedy)
    assert torch.equal(generate(gpt, y, top_p=1e-6), greedy)
    plain = generate(gpt, y)
    assert not torch.equal(plain, greedy)
    choose = by_inversion(drawn(0, range(4), 16))
    found = generate_tokens(gpt, y, choose, options=DrawOptions(0.7, 5, 0.8))
    wanted = generate(gpt, y, temperature=0.7, top_k=5, top_p=0.8)
    assert torch.equal(to_raster(found.tokens, gpt.schedule), wanted)
