"""Layers of the transformer, written out by hand; dropout and recomputation."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fewstep.par.layers import (
    Attention,
    Block,
    DropPath,
    LayerCache,
    RMSNorm,
    put,
    swiglu_width,
)
from fewstep.par.sizes import SIZES
from tests.par.random_models import codes, labels, transformer


def test_widths_of_the_feed_forward() -> None:
    """Two thirds of 4 dim, rounded up to 256; a multiple stays as it is."""
    dims = [SIZES[name]["dim"] for name in ("B", "L", "XL", "XXL", "XXXL")]
    assert [swiglu_width(dim) for dim in dims] == [2048, 2816, 3584, 4096, 6912]
    dims = [SIZES[name]["dim"] for name in ("1B", "3B", "7B")]
    assert [swiglu_width(dim) for dim in dims] == [5632, 8704, 11008]
    assert swiglu_width(96, 256) == swiglu_width(96, 1) == 256
    assert swiglu_width(97, 256) == 512


def test_rms_norm_is_its_formula() -> None:
    """x / sqrt(mean x^2 + eps), reckoned in float32, in the type of x, times w."""
    norm = RMSNorm(4, eps=0.5)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 0.0, -1.0]))
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    wanted = torch.tensor([[1.0, 4.0, 0.0, -4.0]]) / 8**0.5
    torch.testing.assert_close(norm(x), wanted)
    # 300^2 is too much for float16; and float16 has no room for it in between.
    found = norm.half()(300 * x.half())
    assert found.dtype == torch.float16
    torch.testing.assert_close(
        found.float(), wanted * (8 / 7.5) ** 0.5, atol=0.01, rtol=0
    )


def test_a_path_is_dropped_for_whole_samples() -> None:
    """A kept branch is made up for the dropped ones; nothing happens in evaluation."""
    torch.manual_seed(0)
    path, x = DropPath(0.25), torch.ones(4000, 2, 3)
    kept = path(x).flatten(1)
    assert (kept == kept[:, :1]).all()
    assert set(kept[:, 0].tolist()) == {0.0, float(torch.tensor(1) / 0.75)}
    assert abs(kept.mean() - 1) < 0.05
    assert torch.equal(path.eval()(x), x)


def test_both_branches_of_a_block_may_be_dropped() -> None:
    """Then the block does nothing; without dropping it does."""
    gpt, x = transformer(), torch.randn(2, 16, 16)
    block = Block(16, 2, multiple_of=16, drop_path=1 - 1e-9)
    assert not torch.equal(block.eval()(x, gpt.rotary, gpt.mask), x)
    assert torch.equal(block.train()(x, gpt.rotary, gpt.mask), x)


def test_stochastic_depth_grows_with_the_layers() -> None:
    """Linear from 0 at the first block."""
    gpt = transformer(n_layer=5, drop_path=0.2)
    rates = [layer.drop_path.rate for layer in gpt.layers]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert transformer(n_layer=1, drop_path=0.2).layers[0].drop_path.rate == 0


DROPOUTS: Sequence[str] = ("dropout", "attention_dropout", "token_dropout", "drop_path")


@pytest.mark.parametrize("name", DROPOUTS)
def test_dropout_belongs_to_training(name: str) -> None:
    """Every kind changes a training step, and none an evaluation."""
    plain, noisy = transformer(), transformer(**{name: 0.5})
    raster = codes(plain, 8)
    exact = plain(raster, labels(8)).logits
    assert torch.equal(noisy(raster, labels(8)).logits, exact)
    noisy.train()
    draws = [noisy(raster, labels(8)).logits for _ in range(2)]
    assert not torch.equal(*draws)
    assert not torch.equal(draws[0], exact)
    assert torch.equal(plain.train()(raster, labels(8)).logits, exact)


@pytest.mark.parametrize("name", [None, *DROPOUTS])
def test_recomputing_gives_the_same_gradients(name: str | None) -> None:
    """Bit by bit, dropout included; the blocks do run twice, in training alone."""
    found, calls = [], []
    for recompute in (False, True):
        gpt = transformer(recompute=recompute, **({name: 0.3} if name else {})).train()
        gpt.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
        torch.manual_seed(3)
        gpt(codes(gpt), labels()).loss.backward()
        found.append([parameter.grad for parameter in gpt.parameters()])
        before = len(calls)
        gpt.eval()(codes(gpt), labels())
        assert len(calls) == before + 1
    assert len(calls) == 2 + 3
    for plain, again in zip(*found, strict=True):
        assert plain is not None
        assert torch.equal(plain, again)


def turned(x: Tensor, table: Tensor) -> Tensor:
    """Neighbouring features (L, D) by the table's angles."""
    a, b, (cos, sin) = x[:, ::2], x[:, 1::2], table.unbind(-1)
    return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(1)


def test_attention_is_softmax_over_what_is_seen() -> None:
    """One block's attention, written out: scale 1 / sqrt(head_dim), heads in rows."""
    gpt = transformer(4, 4)
    attention, x = gpt.layers[0].attention, torch.randn(1, 16, 16)
    assert isinstance(attention, Attention)
    found = attention(x, gpt.rotary, gpt.mask)
    q, k, v = F.linear(x, attention.wqkv.weight).split(16, dim=-1)
    mixed = []
    for head in range(2):
        part = slice(8 * head, 8 * head + 8)
        query, key = (turned(one[0, :, part], gpt.rotary) for one in (q, k))
        scores = query @ key.T / 8**0.5
        chance = scores.masked_fill(~gpt.mask, -torch.inf).softmax(-1)
        mixed.append(chance @ v[0, :, part])
    wanted = F.linear(torch.cat(mixed, dim=-1), attention.wo.weight)
    torch.testing.assert_close(found[0], wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("compiling", [False, True])
def test_a_cache_is_written_in_place(
    compiling: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its position, in the first rows; all so far comes back, and is the cache."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    store = torch.zeros(2, 5, 2, 6, 4)
    key, value = torch.randn(2, 3, 2, 2, 4)
    keys, values = LayerCache(store).extend(3, key, value)
    wanted = torch.zeros_like(store)
    wanted[0, :3, :, 3:5], wanted[1, :3, :, 3:5] = key, value
    assert torch.equal(store, wanted)
    for found, part in ((keys, store[0]), (values, store[1])):
        assert torch.equal(found, part[:3, :, :5])
        assert found.data_ptr() == part.data_ptr()


def test_the_compiler_knows_what_a_write_changes() -> None:
    """The cache alone, as torch checks it, also for sizes that are symbols."""
    fresh = torch.randn(2, 3, 2, 2, 4)
    given = (torch.zeros(2, 5, 2, 6, 4), fresh[0], fresh[1], 3)
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    found = torch.library.opcheck(put, given, test_utils=tests)
    assert set(found.values()) == {"SUCCESS"}
