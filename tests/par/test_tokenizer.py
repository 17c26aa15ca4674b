"""The VQ tokenizer: the released numbers, sizes and names; its parts by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fewstep.images import resize_bicubic, to_uint8
from fewstep.par import tokenizer
from fewstep.par.tokenizer import CODEBOOK_USED, Quantizer, VQModel, codebook_usage
from fewstep.par.vq_layers import AttentionBlock, Downsample, ResBlock, Upsample
from tests.par import tiny

Golden = Callable[[str], dict[str, Any]]

VQ16: dict[str, Any] = {"ch_mult": (1, 1, 2, 2, 4), "downsample": 16}
VQ8: dict[str, Any] = {"ch_mult": (1, 2, 2, 4), "downsample": 8}


def random(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers of a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- the released numbers ----


@pytest.fixture(name="case", scope="module")
def _case(golden_par: Golden) -> dict[str, Any]:
    return golden_par("vq_f4_two_blocks")


@pytest.fixture(name="released", scope="module")
def _released(case: dict[str, Any]) -> VQModel:
    vq = VQModel(**case["config"])
    vq.load_state_dict({k: v.float() for k, v in case["state_dict"].items()})
    return vq.eval()


@torch.no_grad()
def test_released_latents_and_codes(case: dict[str, Any], released: VQModel) -> None:
    """Before the codebook, and the nearest entries exactly."""
    images, wanted = case["inputs"]["images"], case["outputs"]
    torch.testing.assert_close(
        released.latent(images), wanted["latent"], atol=1e-5, rtol=0
    )
    assert torch.equal(released.encode(images), wanted["indices_grid"])


@torch.no_grad()
def test_released_images(case: dict[str, Any], released: VQModel) -> None:
    """Of codes, flat as they are stored or as a grid."""
    codes = case["inputs"]["codes"]
    found = released.decode(codes)
    torch.testing.assert_close(found, case["outputs"]["decoded"], atol=1e-5, rtol=0)
    assert torch.equal(released.decode(codes.view(-1, 8, 8)), found)


def test_released_pixels(case: dict[str, Any]) -> None:
    """Resized without antialiasing, then bytes whose fraction is dropped."""
    wanted = case["outputs"]
    resized = resize_bicubic(wanted["decoded"], 24)
    torch.testing.assert_close(resized, wanted["decoded_resized"], atol=1e-6, rtol=0)
    found = to_uint8(wanted["decoded_resized"], "half_up").movedim(1, -1)
    assert torch.equal(found, wanted["resized_uint8_nhwc"])


@torch.no_grad()
def test_released_pixels_from_codes(case: dict[str, Any], released: VQModel) -> None:
    """The whole way; a rounding error may tip a value over to the next level."""
    images = resize_bicubic(released.decode(case["inputs"]["codes"]), 24)
    found = to_uint8(images, "half_up").movedim(1, -1).int()
    off = (found - case["outputs"]["resized_uint8_nhwc"].int()).abs()
    assert int(off.max()) <= 1
    assert float((off > 0).float().mean()) < 1e-3


# ---- sizes and names ----


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a tokenizer that is not made."""
    with torch.device("meta"):
        vq = VQModel(**config)
    return {name: tuple(value.shape) for name, value in vq.state_dict().items()}


@pytest.mark.parametrize(
    ("config", "count", "tensors"), [(VQ16, 71_883_403, 344), (VQ8, 70_109_835, 300)]
)
def test_published_sizes(config: dict[str, Any], count: int, tensors: int) -> None:
    """LlamaGen's two; its files hold one tensor more, which is no weight."""
    found = shapes(config)
    assert sum(math.prod(shape) for shape in found.values()) == count
    assert len(found) == tensors - 1
    assert "quantize.codebook_used" not in found
    with torch.device("meta"):
        assert VQModel(**config).downsample == config["downsample"]


def test_published_parts() -> None:
    """Parameters of each part of VQ-16, and the places of its odd layers."""
    found = shapes(VQ16)
    counts: dict[str, int] = {}
    for name, shape in found.items():
        part = name.partition(".")[0]
        counts[part] = counts.get(part, 0) + math.prod(shape)
    assert counts == {
        "encoder": 29_298_176,
        "decoder": 42_449_795,
        "quantize": 131_072,
        "quant_conv": 2_056,
        "post_quant_conv": 2_304,
    }
    assert places(found, "nin_shortcut.weight") == {
        *("encoder.conv_blocks.2.res.0", "encoder.conv_blocks.4.res.0"),
        *("decoder.conv_blocks.1.res.0", "decoder.conv_blocks.3.res.0"),
    }
    assert places(found, "proj_out.weight") == {
        *("encoder.conv_blocks.4.attn.0", "encoder.conv_blocks.4.attn.1"),
        *(f"decoder.conv_blocks.0.attn.{i}" for i in range(3)),
        *("encoder.mid.1", "decoder.mid.1"),
    }
    assert places(found, "downsample.conv.weight") == {
        f"encoder.conv_blocks.{level}" for level in range(4)
    }
    assert places(found, "upsample.conv.weight") == {
        f"decoder.conv_blocks.{level}" for level in range(4)
    }


def places(found: dict[str, tuple[int, ...]], end: str) -> set[str]:
    """What stands before an ending."""
    return {name.removesuffix(f".{end}") for name in found if name.endswith(f".{end}")}


def test_the_list_of_recent_codes_is_no_weight() -> None:
    """Files load with it and without it; the reader's dictionary stays whole."""
    vq, other = tiny.model(0), tiny.model(1)
    state = dict(vq.state_dict())
    used = {"quantize.codebook_used": torch.zeros(CODEBOOK_USED)}
    for given in ({**state, **used}, state):
        before = list(given)
        other.load_state_dict(given)
        assert list(given) == before
        for name, value in other.state_dict().items():
            assert torch.equal(value, state[name])
    with pytest.raises(RuntimeError, match=r"Unexpected key.*codebook_used"):
        vq.load_state_dict({**state, "encoder.codebook_used": torch.zeros(2)})


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"downsample": 4}, "downsample 4 with 2 levels: expected 2"),
        ({"downsample": 1}, "downsample 1 with 2 levels: expected 2"),
        ({"ch_mult": [1], "downsample": 2}, "downsample 2 with 1 levels: expected 1"),
    ],
)
def test_another_downsampling_is_refused(config: dict[str, Any], line: str) -> None:
    """A preset's factor is checked against its levels."""
    with pytest.raises(ValueError, match=line):
        tiny.model(**config)
    assert tiny.model(downsample=2).downsample == 2


# ---- codebook ----


def test_the_nearest_entry_is_that_of_largest_cosine() -> None:
    """Against a loop; whatever the lengths of latents and rows."""
    quantizer, z = Quantizer(20, 3), random(5, 4, 3)
    with torch.no_grad():
        quantizer.embedding.weight.copy_(random(20, 3, seed=1))
        found = quantizer.indices(z)
    rows = quantizer.embedding.weight.detach()
    for place in torch.cartesian_prod(torch.arange(5), torch.arange(4)).tolist():
        one = z[tuple(place)]
        cosines = [float(one @ row / row.norm()) for row in rows]
        assert int(found[tuple(place)]) == max(range(20), key=cosines.__getitem__)
    assert torch.equal(quantizer.indices(7 * z), found)


def test_without_unit_length_the_nearest_is_by_distance() -> None:
    """Rows are used as they are stored."""
    quantizer, z = Quantizer(20, 3, normalised=False), random(50, 3)
    with torch.no_grad():
        quantizer.embedding.weight.copy_(random(20, 3, seed=1))
    rows = quantizer.embedding.weight.detach()
    assert torch.equal(quantizer.rows(), rows)
    assert torch.equal(quantizer.indices(z), torch.cdist(z, rows).argmin(-1))
    assert not torch.equal(quantizer.indices(7 * z), quantizer.indices(z))
    assert torch.equal(quantizer.lookup(torch.tensor([3, 3])), rows[[3, 3]])


class Largest(TorchFunctionMode):
    """Notes the size of the largest tensor that a function of torch gives."""

    size = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.size = max(self.size, out.numel())
        return out


@pytest.mark.parametrize("at_once", [1, 20 * 7, 20 * 30, 2**26])
def test_few_distances_at_a_time_find_the_same(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """However many fit at once; there are never more, of whatever shape latents are."""
    quantizer, z = Quantizer(20, 3), random(5, 6, 3).requires_grad_()
    expected = quantizer.indices(z)
    monkeypatch.setattr(tokenizer, "_DISTANCES", at_once)
    with Largest() as noted:
        assert torch.equal(quantizer.indices(z), expected)
    assert noted.size <= max(at_once, z.numel())
    assert torch.equal(quantizer.indices(z[0, 0]), expected[0, 0])


@torch.no_grad()
def test_stored_rows_are_normalised_when_they_are_read() -> None:
    """Their lengths change neither codes nor images."""
    vq = tiny.model().eval()
    images = random(2, 3, 8, 8)
    codes = vq.encode(images)
    decoded = vq.decode(codes)
    lengths = vq.quantize.lookup(codes).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))
    weight = vq.quantize.embedding.weight
    weight.mul_(torch.logspace(-3, 3, len(weight))[:, None])
    assert torch.equal(vq.encode(images), codes)
    torch.testing.assert_close(vq.decode(codes), decoded, atol=1e-5, rtol=0)


@torch.no_grad()
def test_entries_are_their_own_codes() -> None:
    """Looking up and finding again changes nothing."""
    vq = tiny.model()
    codes = torch.arange(32)
    assert torch.equal(vq.quantize.indices(vq.quantize.lookup(codes)), codes)


@pytest.mark.parametrize(
    ("codes", "used", "perplexity"),
    [
        ([0, 1, 2, 3], 1.0, 4.0),
        ([2, 2, 2], 0.25, 1.0),
        ([0, 1, 0, 1], 0.5, 2.0),
        ([0, 0, 0, 1], 0.5, 4 / 3**0.75),
    ],
)
def test_use_of_a_codebook(codes: list[int], used: float, perplexity: float) -> None:
    """Share of entries that occur, exp of the entropy; of codes of any shape."""
    found = codebook_usage(torch.tensor(codes), 4)
    assert found == pytest.approx({"used": used, "perplexity": perplexity})
    assert codebook_usage(torch.tensor([[codes]] * 3), 4) == pytest.approx(found)


# ---- images and codes ----


@torch.no_grad()
def test_images_of_any_shape_that_fits() -> None:
    """Codes lie as the image does: rows, then columns."""
    vq = tiny.model().eval()
    images = random(2, 3, 8, 12)
    codes = vq.encode(images)
    assert codes.shape == (2, 4, 6)
    assert codes.dtype == torch.int64
    assert vq.decode(codes).shape == images.shape
    assert torch.equal(vq.encode(images[1:]), codes[1:])


@pytest.mark.parametrize("shape", [(2, 3, 9, 8), (2, 3, 8, 9)])
def test_sides_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    """An image has to be a whole number of codes."""
    with pytest.raises(ValueError, match="expected multiples of 2"):
        tiny.model().encode(torch.zeros(shape))


@pytest.mark.parametrize(
    ("code", "line"), [(32, "codes 0 to 32"), (-1, "codes -1 to 0")]
)
def test_codes_outside_the_codebook_are_refused(code: int, line: str) -> None:
    """Before a layer sees them."""
    codes = torch.zeros(1, 16, dtype=torch.int64)
    codes[0, 3] = code
    with pytest.raises(ValueError, match=f"{line}: expected 0 to 31"):
        tiny.model().decode(codes)


@torch.no_grad()
def test_decoding_is_lookup_and_decoder() -> None:
    """Entries with channels first; nothing is clipped."""
    vq = tiny.model().eval()
    codes = vq.encode(random(1, 3, 8, 8))
    found = vq.decode(codes)
    entries = F.normalize(vq.quantize.embedding.weight, dim=-1)[codes[0]]
    torch.testing.assert_close(found, vq.decode_latent(entries.movedim(-1, 0)[None]))
    vq.decoder.conv_out.weight.mul_(100)
    assert float(vq.decode(codes).abs().max()) > 1


def test_dropout_belongs_to_training() -> None:
    """Encoder and decoder draw in training mode alone."""
    vq, images = tiny.model(dropout=0.5), random(1, 3, 8, 8)
    latents = [vq.train(mode).latent(images) for mode in (True, True, False, False)]
    assert not torch.equal(latents[0], latents[1])
    assert torch.equal(latents[2], latents[3])


# ---- layers ----


def test_a_zero_is_put_right_and_below() -> None:
    """Half the size: output (i, k) is over rows 2i..2i+2 and columns 2k..2k+2."""
    layer, x = Downsample(2), random(1, 2, 4, 6)
    with torch.no_grad():
        found = layer(x)[0]
        larger = torch.zeros(2, 5, 7)
        larger[:, :4, :6] = x[0]
        for i in range(2):
            for k in range(3):
                window = larger[:, 2 * i : 2 * i + 3, 2 * k : 2 * k + 3]
                wanted = (layer.conv.weight * window).sum((1, 2, 3)) + layer.conv.bias
                torch.testing.assert_close(found[:, i, k], wanted, atol=1e-5, rtol=0)
    assert found.shape == (2, 2, 3)


@torch.no_grad()
def test_a_pixel_becomes_four() -> None:
    """Twice the size by repetition, then the convolution."""
    layer, x = Upsample(2), random(1, 2, 3, 4)
    large = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(layer(x), layer.conv(large))


@torch.no_grad()
def test_attention_is_over_all_pixels() -> None:
    """Softmax of q k / sqrt(C) over the keys, written out; the input is added."""
    layer, x = AttentionBlock(32), random(2, 32, 3, 5)
    h = F.group_norm(x, 32, layer.norm.weight, layer.norm.bias, eps=1e-6)
    q, k, v = (f(h).flatten(2) for f in (layer.q, layer.k, layer.v))
    chance = (torch.einsum("bci,bcj->bij", q, k) / 32**0.5).softmax(-1)
    mixed = torch.einsum("bij,bcj->bci", chance, v).view_as(x)
    torch.testing.assert_close(layer(x), x + layer.proj_out(mixed), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_residual_block_written_out() -> None:
    """Norm, swish, convolution, twice; 1x1 on the skip where the channels change."""
    for after in (32, 64):
        layer, x = ResBlock(32, after, 0.0), random(1, 32, 4, 4)
        h = layer.norm1(x)
        h = layer.norm2(layer.conv1(h * h.sigmoid()))
        h = layer.conv2(h * h.sigmoid())
        skip = x if after == 32 else layer.nin_shortcut(x)
        torch.testing.assert_close(layer(x), skip + h, atol=1e-6, rtol=1e-5)
        assert layer.norm1.eps == layer.norm2.eps == 1e-6
