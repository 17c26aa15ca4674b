"""Convolutions by Winograd and the other fast forms give what the plain ones give."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fewstep.seqrf import winograd
from fewstep.seqrf.layers import Attention, Conv, Norm, Resampler, ResBlock
from fewstep.seqrf.model import Architecture, NCSNpp

ROUNDING = 2e-5
"""Of values of about 1; float32 alone leaves 1e-6, the tiles of 6x6 up to 1e-5."""


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _copy(pixels: Tensor, found: Tensor) -> None:
    found.copy_(pixels)


def _weight(out: int, channels: int) -> Tensor:
    return _random(out, channels, 3, 3, seed=1) / (9 * channels) ** 0.5


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "shape", [(1, 4, 4, 4), (3, 5, 8, 12), (2, 16, 16, 4), (5, 3, 4, 32)]
)
def test_a_convolution_by_tiles_is_the_convolution(
    shape: tuple[int, ...], order: torch.memory_format
) -> None:
    """Any number of images, channels and tiles, in either order in memory."""
    x, weight = _random(*shape).contiguous(memory_format=order), _weight(7, shape[1])
    added = _random(shape[0], 7, seed=2)
    expected = F.conv2d(x.double(), weight.double(), padding=1)
    found = winograd.convolve(x, winograd.transform(weight), added, _copy)
    assert found.is_contiguous(memory_format=torch.channels_last)
    difference = found - (expected + added[:, :, None, None])
    assert float(difference.abs().max()) < ROUNDING


@pytest.mark.parametrize("memory", [1.0, 2e4, 1e5, 1e9])
def test_the_size_of_the_buffers_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, memory: float
) -> None:
    """One tile row at a time, bands, a few images or all: the same image comes out."""
    monkeypatch.setattr(winograd, "_BYTES", memory)
    x, weight = _random(5, 6, 20, 8), _weight(4, 6)
    found = winograd.convolve(x, winograd.transform(weight), torch.zeros(1, 4), _copy)
    assert torch.allclose(found, F.conv2d(x, weight, padding=1), atol=ROUNDING)


def test_tiles_round_little() -> None:
    """With 128 channels the error is a few 1e-6 of the output, in the mean square."""
    x, weight = _random(2, 128, 16, 16), _weight(32, 128)
    found = winograd.convolve(x, winograd.transform(weight), torch.zeros(1, 32), _copy)
    error = found - F.conv2d(x.double(), weight.double(), padding=1)
    assert float(error.square().mean().sqrt()) < 3e-6


@pytest.mark.parametrize(
    ("x", "weight", "pays"),
    [
        ((16, 64, 16, 16), (64, 64, 3, 3), True),
        ((16, 64, 15, 16), (64, 64, 3, 3), False),
        ((16, 64, 16, 16), (64, 64, 1, 1), False),
        ((16, 8, 16, 16), (8, 8, 3, 3), False),
        ((1, 512, 4, 4), (512, 512, 3, 3), False),
        ((16, 64, 8, 8), (64, 64, 3, 3), False),
    ],
)
def test_tiles_are_taken_where_they_pay(
    x: tuple[int, ...], weight: tuple[int, ...], pays: bool
) -> None:
    """Only 3x3, sides that divide by 4, and enough channels, tiles and work."""
    assert winograd.pays(torch.empty(x), torch.empty(weight)) is pays


def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles in the smallest convolutions, too."""
    for name in ("_LEAST_CHANNELS", "_LEAST_TILES", "_LEAST_WORK"):
        monkeypatch.setattr(winograd, name, 0)


def test_new_weights_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer whose weights were loaded, stepped or replaced transforms them again."""
    _always(monkeypatch)
    layer, x = Conv(8, 8, 3, padding=1), _random(2, 8, 8, 8)
    changes = [
        lambda: layer.load_state_dict(Conv(8, 8, 3, padding=1).state_dict()),
        lambda: layer.weight.mul_(2.0),
        lambda: setattr(layer, "weight", torch.nn.Parameter(_weight(8, 8))),
    ]
    with torch.no_grad():
        for change in changes:
            layer(x)
            change()
            expected = F.conv2d(x, layer.weight, layer.bias, padding=1)
            assert torch.allclose(layer(x), expected, atol=ROUNDING)


@pytest.mark.parametrize("fused", [False, True])
def test_steps_of_an_optimiser_are_seen(
    monkeypatch: pytest.MonkeyPatch, fused: bool
) -> None:
    """Evaluated between steps of training, a layer answers with its new weights."""
    _always(monkeypatch)
    layer, x = Conv(8, 8, 3, padding=1), _random(2, 8, 8, 8)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=fused)
    for _ in range(2):
        layer(x).square().sum().backward()
        optimizer.step()
        with torch.no_grad():
            expected = F.conv2d(x, layer.weight, layer.bias, padding=1)
            assert torch.allclose(layer(x), expected, atol=ROUNDING)


def test_weights_made_for_inference_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of inference mode count no changes; they work all the same."""
    _always(monkeypatch)
    x = _random(2, 8, 8, 8)
    with torch.inference_mode():
        layer = Conv(8, 8, 3, padding=1)
        expected = F.conv2d(x, layer.weight, layer.bias, padding=1)
        assert torch.allclose(layer(x), expected, atol=ROUNDING)


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_convolution_takes_norm_and_addition_in_any_form(kernel: int) -> None:
    """Too small for tiles, a layer still normalises before and adds behind."""
    layer, norm = Conv(8, 4, kernel, padding=kernel // 2), Norm(2, 8)
    x, added = _random(2, 8, 6, 6), _random(2, 4, seed=1)
    expected = layer(x, added, norm).detach()
    by_hand = F.conv2d(
        F.silu(norm(x)), layer.weight, layer.bias, padding=kernel // 2
    ) + added.reshape(2, 4, 1, 1)
    assert torch.allclose(expected, by_hand, atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(layer(x, added, norm), expected, atol=1e-5)


def test_ready_weights_are_no_part_of_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A checkpoint after an inference holds what it held before."""
    _always(monkeypatch)
    layer = Conv(8, 8, 3, padding=1)
    names = set(layer.state_dict())
    with torch.no_grad():
        layer(_random(1, 8, 8, 8))
    assert set(layer.state_dict()) == names == {"weight", "bias"}


def test_a_copy_follows_its_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copied layer does not answer with the weights of the one it was copied from."""
    _always(monkeypatch)
    layer, x = Conv(8, 8, 3, padding=1), _random(1, 8, 8, 8)
    with torch.no_grad():
        layer(x)
        other = copy.deepcopy(layer)
        other.weight.mul_(3.0)
        expected = F.conv2d(x, other.weight, other.bias, padding=1)
        assert torch.allclose(other(x), expected, atol=ROUNDING)


@pytest.mark.parametrize("offset", [0.0, 30.0])
@pytest.mark.parametrize("shape", [(3, 8, 4, 4), (2, 64, 8, 12), (1, 128, 32, 32)])
def test_normalisation_without_gradients_is_the_same(
    shape: tuple[int, ...], offset: float
) -> None:
    """Our sums are torch's group normalisation, also far away from zero."""
    x = (_random(*shape) + offset).contiguous(memory_format=torch.channels_last)
    norm = Norm(min(shape[1] // 4, 32), shape[1], eps=1e-6)
    with torch.no_grad():
        norm.weight.copy_(_random(shape[1], seed=3))
        norm.bias.copy_(_random(shape[1], seed=4))
        plain = F.group_norm(
            x.double(), norm.num_groups, norm.weight.double(), norm.bias.double(), 1e-6
        )
        allowed = ROUNDING * (1 + offset)
        assert float((norm(x) - plain).abs().max()) < allowed
        assert float((norm.silu(x) - F.silu(plain)).abs().max()) < allowed


@pytest.mark.parametrize("resample", ["", "up", "down"])
@pytest.mark.parametrize("fir", [(), (1, 3, 3, 1)])
@pytest.mark.parametrize("out", [16, 24])
def test_a_block_without_gradients_is_the_same(
    monkeypatch: pytest.MonkeyPatch, resample: str, fir: tuple[int, ...], out: int
) -> None:
    """The fast forms of inference give a block's output up to rounding."""
    _always(monkeypatch)
    options: dict[str, Any] = {"dropout": 0.5, "rescale": True, "init_scale": 1.0}
    block = ResBlock(16, out, 8, Resampler(fir), resample=resample, **options).eval()
    for parameter in block.parameters():
        parameter.data += 0.1 * _random(*parameter.shape, seed=5)
    x, embedding = _random(3, 16, 8, 8), _random(3, 8, seed=6)
    expected = block(x, embedding).detach()
    with torch.no_grad():
        found = block(x.contiguous(memory_format=torch.channels_last), embedding)
    assert torch.allclose(found, expected, atol=ROUNDING)


def test_attention_without_gradients_is_the_same() -> None:
    """Three mixes at once and the fused kernel are three mixes and a softmax."""
    layer = Attention(16, rescale=False, init_scale=1.0)
    x = _random(2, 16, 4, 8)
    with torch.no_grad():
        h = layer.GroupNorm_0(x).flatten(2).transpose(1, 2)
        query, key, value = (
            h @ mix.W + mix.b for mix in (layer.NIN_0, layer.NIN_1, layer.NIN_2)
        )
        weights = (query @ key.transpose(1, 2) / 4).softmax(-1)
        mixed = weights @ value @ layer.NIN_3.W + layer.NIN_3.b
        expected = x + mixed.transpose(1, 2).reshape(x.shape)
        assert torch.allclose(layer(x), expected, atol=1e-5)


def _network() -> NCSNpp:
    torch.manual_seed(0)
    arch = Architecture(
        image_size=16,
        nf=64,
        ch_mult=(1, 2),
        num_res_blocks=1,
        attn_resolutions=(8,),
        init_scale=1.0,
    )
    return NCSNpp(arch).eval()


def test_the_network_without_gradients_is_the_same() -> None:
    """A network wide enough for tiles agrees with its plain forward pass."""
    net, x, label = _network(), _random(4, 3, 16, 16), torch.linspace(1, 900, 4)
    plain = net(x, label).detach()
    with torch.no_grad():
        found = net(x, label)
    assert found.is_contiguous()
    assert float((found - plain).abs().max()) < 2 * ROUNDING * float(plain.abs().max())


def test_other_images_of_the_batch_change_nothing() -> None:
    """An image's velocity is its own, with tiles of several images in a group."""
    net, x, label = _network(), _random(6, 3, 16, 16), torch.linspace(1, 900, 6)
    with torch.no_grad():
        together = net(x, label)
        parts = torch.cat([net(x[:4], label[:4]), net(x[4:], label[4:])])
    assert torch.allclose(together, parts, atol=2 * ROUNDING)


def test_gradients_take_the_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where gradients are asked for, no convolution goes by tiles."""
    _always(monkeypatch)

    def refused(*_: object) -> Tensor:
        raise AssertionError("tiles in training")

    monkeypatch.setattr(winograd, "convolve", refused)
    net = _network().train()
    net(_random(2, 3, 16, 16), torch.ones(2)).sum().backward()
    assert net.get_parameter("all_modules.2.weight").grad is not None
    with pytest.raises(AssertionError, match="tiles"), torch.no_grad():
        net(_random(2, 3, 16, 16), torch.ones(2))
