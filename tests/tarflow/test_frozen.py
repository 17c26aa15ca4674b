"""The inverse's evaluation of a block: equal to the module, whatever computes it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.bias import CausalBias

from fewstep.device import backends, packed
from fewstep.tarflow import TarFlow, frozen
from fewstep.tarflow.guidance import UNGUIDED, BlockEvaluator, Guidance
from fewstep.tarflow.model import FlowBlock, KeyValueCache

X = torch.randn(3, 16, 12, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 2, -1])


@pytest.fixture(params=["fastest", "onednn", "numpy", "torch"], autouse=True)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The fastest kernels, those for large weights, and those of every machine."""
    if request.param in {"onednn", "numpy"}:
        chosen = {torch.float32} if request.param == "numpy" else set()

        def numpy_multiplies(weight: torch.Tensor) -> bool:
            return weight.dtype in chosen

        for where in (packed, frozen):
            monkeypatch.setattr(where, "numpy_multiplies", numpy_multiplies)
        monkeypatch.setattr(frozen, "_SMALL", 0)
        monkeypatch.setattr(frozen, "_FEW_HEADS", 0)
    if request.param == "torch":
        monkeypatch.setattr(frozen, "_by_numpy", lambda x: False)
        monkeypatch.setattr(frozen, "_packs", lambda weight: False)
    return str(request.param)


def block_of(model: TarFlow) -> FlowBlock:
    """A block that reads backwards."""
    return model.flows[1]


def evaluator(
    block: FlowBlock,
    guidance: Guidance = UNGUIDED,
    dtype: torch.dtype | None = None,
    rows: int = 3,
) -> BlockEvaluator:
    """An evaluator of the first samples with a cache."""
    evaluate = BlockEvaluator(block, Y[:rows], rows, guidance, dtype=dtype)
    evaluate.cache = KeyValueCache(
        len(block.attn_blocks),
        2 * rows if evaluate.guided else rows,
        block.heads,
        block.tokens,
        like=torch.empty(0, dtype=dtype or torch.float32),
    )
    return evaluate


def by_module(block: FlowBlock, guidance: Guidance) -> Tensor:
    """(2, B, T, C): s and u of all tokens, written out with the module's forward."""
    cool, where = copy.deepcopy(block), block.positions()
    with torch.no_grad():
        for name, weights in cool.named_parameters():
            if "qkv" in name:
                weights[:64] /= guidance.attn_temp  # queries
        s, u = block.network(X, where, block.embedding(Y, 3))
        s0, u0 = cool.network(X, where, block.embedding(None, 3))
    g = torch.full((16, 1), guidance.weight)
    if guidance.annealed:
        g = g * (torch.arange(1, 17) / 15)[:, None]
    if "a" in guidance.what:
        s = s + g * (s - s0)
    if "c" in guidance.what:
        u = u + g * (u - u0)
    return torch.stack([s, u])


GUIDANCES = [
    UNGUIDED,
    Guidance(1.5),
    Guidance(1.5, "a", annealed=True),
    Guidance(0.7, "c", attn_temp=0.5),
]


@pytest.mark.parametrize("guidance", GUIDANCES)
@pytest.mark.parametrize("width", [1, 5, 16])
def test_windows_equal_the_module(
    tiny: TarFlow, width: int, guidance: Guidance
) -> None:
    """Windows that follow one another give what one pass of the module gives."""
    evaluate = evaluator(block_of(tiny), guidance)
    starts = range(0, 16, width)
    found = [torch.stack(evaluate(X[:, t : t + width], t)) for t in starts]
    expected = by_module(block_of(tiny), guidance)
    torch.testing.assert_close(torch.cat(found, 2), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("width", [5, 16])
def test_a_mask_by_its_name_is_the_mask(
    tiny: TarFlow, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where kernels know causal masks after a prefix, they are given no tensor."""
    given: list[Tensor | None] = []
    make = frozen.FrozenBlock._mask

    def watched(*call: Any) -> Tensor | None:
        given.append(make(*call))
        return given[-1]

    monkeypatch.setattr(backends.CPU, "lower_right", True)
    monkeypatch.setattr(frozen.FrozenBlock, "_mask", watched)
    evaluate = evaluator(block_of(tiny), Guidance(1.5))
    starts = range(0, 16, width)
    found = [torch.stack(evaluate(X[:, t : t + width], t)) for t in starts]
    expected = by_module(block_of(tiny), Guidance(1.5))
    torch.testing.assert_close(torch.cat(found, 2), expected, atol=1e-5, rtol=0)
    later = [mask for mask in given if mask is not None]
    assert bool(later) == (width < 16)
    assert all(isinstance(mask, CausalBias) for mask in later)


@pytest.mark.parametrize("guidance", GUIDANCES)
@pytest.mark.parametrize("width", [1, 4])
def test_samples_may_stand_at_places_of_their_own(
    tiny: TarFlow, width: int, guidance: Guidance
) -> None:
    """Each sample's window may begin at another token; none sees another's end."""
    evaluate = evaluator(block_of(tiny), guidance)
    evaluate(X[:, :6], 0)
    expected = by_module(block_of(tiny), guidance)
    starts = torch.tensor([6, 2, 4])
    windows = torch.stack([X[i, t : t + width] for i, t in enumerate(starts.tolist())])
    found = torch.stack(evaluate(windows, starts))
    for i, t in enumerate(starts.tolist()):
        wanted = expected[:, i, t : t + width]
        torch.testing.assert_close(found[:, i], wanted, atol=1e-5, rtol=0)


def test_one_sample_alone_equals_itself_among_others(tiny: TarFlow) -> None:
    """One row, which has a kernel of its own, gives what it gives in a batch."""
    alone = evaluator(block_of(tiny), rows=1)
    found = [torch.stack(alone(X[:1, t : t + 1], t)) for t in range(16)]
    expected = by_module(block_of(tiny), UNGUIDED)[:, :1]
    torch.testing.assert_close(torch.cat(found, 2), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("start", [0, 7])
def test_a_draft_is_near_and_in_float32(tiny: TarFlow, start: int) -> None:
    """bfloat16 weights move s and u by its rounding; they come back in float32."""
    block, guidance = block_of(tiny), Guidance(1.5)
    draft = evaluator(block, guidance, torch.bfloat16)
    if start:
        draft(X[:, :start], 0)
    found = torch.stack(draft(X[:, start:], start))
    exact = by_module(block, guidance)[:, :, start:]
    assert found.dtype == torch.float32
    error = (found - exact).abs().max()
    assert 0 < error < 0.03 * exact.abs().max()


def test_autocast_decides_the_type(tiny: TarFlow) -> None:
    """Without a type of its own an evaluator computes in that of the autocast."""
    block = block_of(tiny)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        found = BlockEvaluator(block, Y, 3, UNGUIDED)(X, 0)
    expected = BlockEvaluator(block, Y, 3, UNGUIDED, dtype=torch.bfloat16)(X, 0)
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_weights_keep_no_gradient(tiny: TarFlow) -> None:
    """With gradients on, an evaluation still leaves no graph behind."""
    s, u = evaluator(block_of(tiny))(X[:, :1], 0)
    assert torch.is_grad_enabled()
    assert not (s.requires_grad or u.requires_grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_new_cache_is_zero(dtype: torch.dtype) -> None:
    """What no row has written yet can be masked: it is finite."""
    cache = KeyValueCache(2, 3, 1, 16, like=torch.empty(0, dtype=dtype))
    assert cache.keys.shape == cache.values.shape == (2, 3, 1, 16, 64)
    assert cache.keys.dtype == cache.values.dtype == dtype
    assert not cache.keys.any()
    assert not cache.values.any()
