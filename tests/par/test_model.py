"""PAR's transformer: the released numbers, what sees what, sizes, names, dropout."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.par.model import Output, Transformer
from fewstep.par.order import to_generation
from fewstep.par.sizes import SIZES
from tests.par.random_models import ORDERS, codes, labels, transformer

Golden = Callable[[str], dict[str, Any]]


def position_of(gpt: Transformer, token: int) -> int | None:
    """Where the sequence holds a token; None for the last n."""
    places = range(gpt.schedule.tokens)
    found = [p for p in places if gpt.schedule.source(p) == token]
    return found[0] if found else None


# ---- the released numbers ----


def released(golden_par: Golden) -> Any:
    """The model of the golden training step, and the case."""
    case = golden_par("train_n16_grid8")
    gpt = Transformer(**case["config"])
    gpt.load_state_dict(case["state_dict"])
    return gpt, case


def test_released_logits_and_losses(golden_par: Golden) -> None:
    """A training step without dropout, n = 16."""
    gpt, case = released(golden_par)
    inputs, wanted = case["inputs"], case["outputs"]
    out = gpt.loss(inputs["codes_raster"], inputs["labels"])
    near: dict[str, float] = {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(out.logits, wanted["logits"], **near)
    torch.testing.assert_close(out.token_loss, wanted["token_loss"], **near)
    torch.testing.assert_close(out.loss, wanted["loss"], **near)


def test_released_gradients(golden_par: Golden) -> None:
    """Their norm over all parameters, and some of them."""
    gpt, case = released(golden_par)
    inputs, wanted = case["inputs"], case["outputs"]
    gpt.train()(inputs["codes_raster"], inputs["labels"]).loss.backward()
    grads = {name: p.grad for name, p in gpt.named_parameters()}
    norm = torch.stack([g.norm() for g in grads.values() if g is not None]).norm()
    torch.testing.assert_close(norm, wanted["grad_norm"], atol=0, rtol=1e-5)
    assert len(wanted["grads"]) == 5
    for name, grad in wanted["grads"].items():
        torch.testing.assert_close(grads[name], grad, atol=1e-6, rtol=1e-4, msg=name)


# ---- the sequence ----


@pytest.mark.parametrize(("grid", "group"), ORDERS)
def test_the_sequence_is_its_layout(grid: int, group: int) -> None:
    """Position by position: the class, a token, or the next transition token."""
    gpt = transformer(grid, group)
    tokens = to_generation(codes(gpt), gpt.schedule)
    rows: list[Tensor] = []
    for position in range(gpt.schedule.tokens):
        token = gpt.schedule.source(position)
        if token is not None:
            rows.append(gpt.tok_embeddings.weight[tokens[:, token]])
        elif position == 0:
            rows.append(gpt.cls_embedding.embedding_table.weight[labels()])
        else:
            special = gpt.spe_tok_embeddings.special_embeddings.weight
            rows.append(special[position - group - 1].expand(2, -1))
    assert torch.equal(gpt.sequence(tokens, labels()), torch.stack(rows, dim=1))


@pytest.mark.parametrize(("grid", "group"), ORDERS)
def test_any_part_of_the_sequence_is_embedded_alike(grid: int, group: int) -> None:
    """Whatever positions are asked for, behind the class."""
    gpt = transformer(grid, group)
    tokens = to_generation(codes(gpt), gpt.schedule)
    whole = gpt.sequence(tokens, labels())
    count = gpt.schedule.tokens
    cuts = [1, 2, group, group + 1, group + 2, 2 * group - 1, 2 * group, count]
    for start in {cut for cut in cuts if 0 < cut < count}:
        for stop in {cut for cut in cuts if start < cut <= count}:
            assert torch.equal(gpt.embed(tokens, start, stop), whole[:, start:stop]), (
                start,
                stop,
            )


def test_losses_are_of_the_tokens_in_generation_order() -> None:
    """Row p scores token p; the loss is the mean of all; flat codes do as well."""
    gpt = transformer(4, 4)
    raster = codes(gpt)
    out = gpt.loss(raster, labels())
    tokens = to_generation(raster, gpt.schedule)
    chosen = out.logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    torch.testing.assert_close(out.token_loss, -chosen)
    assert out.loss == out.token_loss.mean()
    again = gpt(raster.flatten(1), labels())
    assert torch.equal(again.logits, out.logits)
    assert isinstance(again, Output)


# ---- who sees whom ----


@pytest.mark.parametrize(("grid", "group"), ORDERS)
def test_a_token_changes_what_may_see_it_and_nothing_else(
    grid: int, group: int
) -> None:
    """Logits that do not see token j keep their bits; all others feel it."""
    gpt = transformer(grid, group)
    raster, order = codes(gpt, 1), gpt.schedule.order()
    before = gpt(raster, labels(1)).logits[0]
    for token, cell in enumerate(order):
        changed = raster.clone()
        changed.view(-1)[cell] += 1
        logits = gpt(changed % gpt.vocab_size, labels(1)).logits[0]
        felt = (logits != before).any(-1)
        place = position_of(gpt, token)
        seen = torch.zeros_like(felt) if place is None else gpt.mask[:, place]
        assert torch.equal(felt, seen), token
        # Nobody sees itself, nor what is drawn beside it.
        assert not felt[: token + 1].any()


def test_the_class_reaches_every_token() -> None:
    """Another label changes all logits, whatever the tokens."""
    gpt = transformer(4, 4)
    raster = codes(gpt, 1)
    rows = [gpt(raster, torch.tensor([y])).logits[0] for y in range(4)]
    for one in rows[1:]:
        assert (one != rows[0]).any(-1).all()


def test_no_class_is_the_last_row() -> None:
    """Label `num_classes` takes the row behind the classes; beyond it is nothing."""
    gpt = transformer()
    raster, null = codes(gpt, 1), torch.tensor([gpt.num_classes])
    table = gpt.cls_embedding.embedding_table.weight
    assert len(table) == gpt.num_classes + 1
    assert torch.equal(gpt.cls_embedding(null)[0], table[-1])
    before = gpt(raster, null).logits
    with torch.no_grad():
        table[:-1] += 1
    assert torch.equal(gpt(raster, null).logits, before)
    with pytest.raises(IndexError):
        gpt(raster, null + 1)


# ---- a fresh model ----


@pytest.mark.parametrize("group", [1, 4])
def test_the_first_loss_is_that_of_a_guess(group: int) -> None:
    """The head is zero: ln V for every token, with dropout too."""
    gpt = Transformer(
        *(16, 2, 2, 11, 4, 3), ar_token_num=group, dropout=0.1, token_dropout=0.1
    )
    out = gpt.loss(codes(gpt), labels())
    guess = torch.full_like(out.token_loss, math.log(11))
    torch.testing.assert_close(out.token_loss, guess)


def test_fresh_weights() -> None:
    """N(0, 0.02) without a factor of depth, norms one, the head zero."""
    torch.manual_seed(0)
    gpt = Transformer(64, 3, 4, 500, 4, 99, ar_token_num=4)
    for name, weight in gpt.state_dict().items():
        if "norm" in name:
            assert (weight == 1).all(), name
        elif name == "output.weight":
            assert (weight == 0).all()
        else:
            error = 0.02 * 5 / weight.numel() ** 0.5
            assert abs(float(weight.std()) - 0.02) < error, name
            assert abs(float(weight.mean())) < error, name


# ---- sizes and names ----

PARAMETERS = {
    "B": 110_888_448,
    "L": 342_910_976,
    "XL": 774_699_520,
    "XXL": 1_410_972_672,
    "XXXL": 3_893_027_840,
    "1B": 1_199_616_000,
    "3B": 3_096_659_200,
    "7B": 6_614_589_440,
}


@pytest.mark.parametrize("size", SIZES)
def test_published_sizes(size: str) -> None:
    """Parameters with 16,384 codes and 1,000 classes; PAR adds (n - 1) dim."""
    assert set(SIZES) == set(PARAMETERS)
    for group in (1, 4, 16):
        with torch.device("meta"):
            gpt = Transformer(
                **SIZES[size],
                vocab_size=16384,
                grid=8,
                num_classes=1000,
                ar_token_num=group,
            )
        count = sum(parameter.numel() for parameter in gpt.parameters())
        assert count == PARAMETERS[size] + (group - 1) * SIZES[size]["dim"]


def test_names_are_the_released_ones() -> None:
    """Tables and masks are no weights; n = 1 has no transition tokens."""
    block = ["attention.wqkv", "attention.wo", "attention_norm", "ffn_norm"]
    block += [f"feed_forward.{name}" for name in ("w1", "w2", "w3")]
    names = ["cls_embedding.embedding_table", "tok_embeddings", "norm", "output"]
    names += [f"layers.{i}.{part}" for i in range(2) for part in block]
    plain = {f"{name}.weight" for name in names}
    assert set(transformer(4, 1).state_dict()) == plain
    special = {"spe_tok_embeddings.special_embeddings.weight"}
    assert set(transformer(4, 4).state_dict()) == plain | special


def test_what_released_files_carry_beside_weights_is_left_out() -> None:
    """Rotary tables and caches load as if they were not there."""
    gpt, other = transformer(seed=0), transformer(seed=1)
    state = dict(gpt.state_dict())
    extra = {"freqs_cis": torch.zeros(3)}
    for part in ("k_cache", "v_cache"):
        extra[f"layers.0.attention.kv_cache.{part}"] = torch.zeros(2)
    given = {**state, **extra}
    other.load_state_dict(given)
    assert set(given) == {*state, *extra}  # whoever gave it still has it
    for name, value in other.state_dict().items():
        assert torch.equal(value, state[name])


@pytest.mark.parametrize("name", ["layers.9.ffn_norm.weight", "mask", "freqs_cis.x"])
def test_other_extra_names_are_refused(name: str) -> None:
    """So is a name that is missing: weights fit or they do not."""
    gpt = transformer()
    state = dict(gpt.state_dict())
    with pytest.raises(RuntimeError, match=f"Unexpected key.*{name}"):
        gpt.load_state_dict({**state, name: torch.zeros(2)})
    del state["norm.weight"]
    with pytest.raises(RuntimeError, match="Missing key"):
        gpt.load_state_dict(state)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"spe_token_num": 4}, "4 transition tokens for groups of 4: expected 3"),
        ({"spe_token_num": 0}, "0 transition tokens for groups of 4: expected 3"),
        ({"n_head": 3}, "16 features in 3 heads: not a multiple of 4"),
        ({"n_head": 8}, "16 features in 8 heads: not a multiple of 4"),
        ({"cls_token_num": 120}, "120 class tokens: expected 1"),
        ({"grid": 5}, "a 5x5 grid cannot be cut into 2x2 regions"),
        ({"group": 3}, "groups of 3 tokens: n must be a square number"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], line: str) -> None:
    """One line that says what was expected."""
    with pytest.raises(ValueError, match=line):
        transformer(**changes)


# ---- precision ----


@torch.no_grad()
def test_logits_are_float32_under_autocast() -> None:
    """As is the loss; they differ from the exact ones by bfloat16's rounding."""
    gpt = transformer()
    exact = gpt(codes(gpt), labels())
    with torch.autocast("cpu", torch.bfloat16):
        half = gpt(codes(gpt), labels())
    assert half.logits.dtype == half.token_loss.dtype == torch.float32
    error = float((half.logits - exact.logits).square().mean().sqrt())
    assert 0 < error < 0.05 * float(exact.logits.std())
