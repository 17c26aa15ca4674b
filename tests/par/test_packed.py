"""Packed linear layers: the same numbers and tokens, and nothing held twice."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewstep.device import packed as layouts
from fewstep.device.packed import can_pack
from fewstep.par import sampler as module
from fewstep.par.generation import generate
from fewstep.par.layers import FeedForward
from fewstep.par.packed import PackedFeedForward, PackedLinear, pack
from fewstep.par.sampler import halve, load_sampler
from tests.par.random_models import ORDERS, codes, labels, transformer
from tests.par.test_sampler import classes, made, raster, written

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch without oneDNN"
)
pytestmark = needs_onednn


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWSTEP_DEVICE", "cpu")


@pytest.fixture(params=["onednn", "numpy"], autouse=True)
def _layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both layouts on every processor."""
    by_numpy = request.param == "numpy"

    def numpy_multiplies(weight: Tensor) -> bool:
        return by_numpy and weight.dtype == torch.float32

    monkeypatch.setattr(layouts, "numpy_multiplies", numpy_multiplies)


def numbers(*shape: int) -> Tensor:
    """Standard normal, from a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(1, 48), (5, 48), (8, 1, 48), (2, 16, 48)])
@pytest.mark.parametrize("width", [7, 64])
@torch.inference_mode()
def test_a_packed_product_is_the_product(shape: tuple[int, ...], width: int) -> None:
    """For one row and many, in any number of dimensions, also of a view."""
    weight = numbers(width, 48)
    packed = PackedLinear(weight)
    x = numbers(*shape)
    for given in (x, numbers(*shape[:-1], 96)[..., ::2], x[:1].expand_as(x)):
        torch.testing.assert_close(
            packed(given), F.linear(given, weight), atol=1e-5, rtol=1e-5
        )
    assert packed.weight.shape == weight.shape
    assert packed.weight.device == weight.device
    assert packed.weight.dtype == weight.dtype


@torch.inference_mode()
def test_a_packed_feed_forward_is_the_feed_forward() -> None:
    """In evaluation: dropout is none."""
    torch.manual_seed(0)
    layer = FeedForward(16, 16, 0.5).eval()
    x = numbers(3, 4, 16)
    found = PackedFeedForward(layer)(x)
    torch.testing.assert_close(found, layer(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("grid", "group"), ORDERS)
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_a_packed_model_draws_the_same_tokens(
    grid: int, group: int, scale: float
) -> None:
    """Drawn and greedy, for any order, with guidance and without."""
    plain, packed = transformer(grid, group), transformer(grid, group)
    pack(packed)
    for options in ({"greedy": True}, {"seed": 3}, {"seed": 4, "top_p": 0.9}):
        given: dict[str, Any] = {"cfg_scale": scale, **options}
        found = generate(packed, labels(3), **given)
        assert torch.equal(found, generate(plain, labels(3), **given))


def test_released_tokens_come_from_a_packed_model(golden_par: Any) -> None:
    """Every greedy token of the original program, under guidance."""
    case = golden_par("generate_n4_grid8")
    gpt = module.Transformer(**case["config"])
    gpt.load_state_dict(case["state_dict"])
    pack(gpt)
    inputs = case["inputs"]
    found = generate(gpt, inputs["labels"], cfg_scale=inputs["cfg_scale"], greedy=True)
    assert torch.equal(found, case["outputs"]["greedy_cfg"]["tokens_raster"])


def test_a_packed_sample_is_decided_by_seed_and_number() -> None:
    """Alone, in a batch or in another order sample i has the same codes."""
    gpt, y = transformer(4, 4), labels(6)
    pack(gpt)
    options: dict[str, Any] = {"cfg_scale": 1.5, "seed": 3}
    whole = generate(gpt, y, **options)
    for part in ([3], [5, 0], [2, 1, 4]):
        found = generate(gpt, y[part], indices=part, **options)
        assert torch.equal(found, whole[part])


def test_weights_are_not_held_twice() -> None:
    """No linear layer is left, and its weight is gone."""
    gpt = transformer()
    old = [
        weakref.ref(layer.weight)
        for layer in gpt.modules()
        if isinstance(layer, nn.Linear)
    ]
    count = len(old)
    pack(gpt)
    assert not any(isinstance(layer, nn.Linear) for layer in gpt.modules())
    assert count == 2 * 5 + 1
    assert [one() for one in old] == [None] * count
    kept = sum(isinstance(layer, PackedLinear) for layer in gpt.modules())
    assert kept == 2 * 4 + 1


@torch.no_grad()
def test_half_precision_is_packed_as_it_is() -> None:
    """bfloat16 in and out; logits are near those of the plain layers."""
    plain, packed = halve(transformer()), halve(transformer())
    if not can_pack(packed.output.weight):
        pytest.skip("no bfloat16 in this processor")
    pack(packed)
    raster = codes(plain)
    wanted = plain(raster, labels()).logits
    found = packed(raster, labels()).logits
    assert packed.output.weight.dtype == torch.bfloat16
    error = (found - wanted).square().mean().sqrt() / wanted.std()
    assert float(error) < 0.02


def test_what_can_be_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 on a CPU with oneDNN; bfloat16 where the processor has it."""
    weight = torch.zeros(4, 4)
    assert can_pack(weight)
    assert not can_pack(weight.double())
    assert not can_pack(weight.half())
    assert not can_pack(weight.to("meta"))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not can_pack(weight)


def test_a_loaded_sampler_is_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it is compiled, or cannot be; the codes are the same."""
    spec, checkpoint, plan = written(tmp_path)
    found = load_sampler(spec, checkpoint, plan)
    assert isinstance(found.gpt.output, PackedLinear)
    inputs = found.inputs(1, [0, 1], classes(0, 1))
    assert torch.equal(raster(found, inputs), raster(made(), inputs))

    monkeypatch.setattr(module, "compile_step", lambda _: None)
    compiled = {**spec, "sampling": {**spec["sampling"], "compile": True}}
    assert isinstance(load_sampler(compiled, checkpoint, plan).gpt.output, nn.Linear)

    monkeypatch.setattr(module, "can_pack", lambda _: False)
    plain = load_sampler(spec, checkpoint, plan)
    assert isinstance(plain.gpt.output, nn.Linear)
    assert torch.equal(raster(plain, inputs), raster(made(), inputs))
