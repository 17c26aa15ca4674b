"""The model against golden numbers and closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from fewstep.tarflow import TarFlow, reverse

Case = tuple[TarFlow, dict[str, Any]]


def test_forward_matches_the_golden_numbers(case: Case) -> None:
    """Latents, block outputs, log-determinants and loss equal the released model's."""
    model, golden = case
    for expected in golden["forward"]["cases"]:
        with torch.no_grad():
            out = model(golden["forward"]["x"], expected["y"])
        torch.testing.assert_close(out.z, expected["z"], atol=2e-5, rtol=0)
        for ours, theirs in zip(out.outputs, expected["outputs"], strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)
        torch.testing.assert_close(out.logdets, expected["logdets"], atol=1e-5, rtol=0)
        assert float(out.loss) == pytest.approx(expected["loss"], abs=1e-5)


def test_state_dict_has_the_published_names_and_shapes(case: Case) -> None:
    """A fresh model's state dict has exactly the published keys and shapes."""
    model, golden = case
    ours = {name: value.shape for name, value in model.state_dict().items()}
    theirs = {name: value.shape for name, value in golden["state_dict"].items()}
    assert ours == theirs


@pytest.mark.parametrize(
    ("size", "patch", "channels", "classes", "parameters"),
    [
        (256, 8, 768, 3, 463.5),
        (128, 4, 1024, 1000, 823.9),
        (64, 2, 768, 0, 460.1),
        (64, 4, 1024, 1000, 817.6),
    ],
)
def test_published_architectures_have_the_published_size(
    size: int, patch: int, channels: int, classes: int, parameters: float
) -> None:
    """The four released models have as many parameters as their files."""
    with torch.device("meta"):
        model = TarFlow(3, size, patch, channels, 8, 8, classes)
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert count == pytest.approx(parameters, abs=0.06)


def test_patchify_puts_channels_first_inside_a_token() -> None:
    """Token t holds its patch as c p² + dy p + dx, tokens in raster order."""
    model = TarFlow(2, 4, 2, 64, 1, 1, 0)
    images = torch.arange(32.0).reshape(1, 2, 4, 4)
    tokens = model.patchify(images)
    assert tokens[0, 1].tolist() == [2, 3, 6, 7, 18, 19, 22, 23]
    torch.testing.assert_close(model.unpatchify(tokens), images)


def test_logdet_is_the_mean_log_determinant_of_the_jacobian(tiny: TarFlow) -> None:
    """The reported log-determinant equals autograd's, divided by the dimension."""
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([1])
    jacobian = torch.autograd.functional.jacobian(lambda v: tiny(v, y).z.flatten(), x)
    _, expected = torch.linalg.slogdet(jacobian.reshape(192, 192).double())
    assert tiny(x, y).logdets.item() == pytest.approx(float(expected) / 192, abs=1e-5)


def test_bits_per_dim_of_a_fresh_model_is_that_of_a_gaussian() -> None:
    """With the identity flow, bpd is the Gaussian's in units of 1/128, in bits."""
    model = TarFlow(3, 8, 2, 64, 1, 1, 0)
    model.blocks[0].proj_out.bias.data.zero_()
    x = torch.full((2, 3, 8, 8), 0.5)
    expected = (0.125 + 0.5 * math.log(2 * math.pi) + math.log(128)) / math.log(2)
    with torch.no_grad():
        assert model(x).bits_per_dim().tolist() == pytest.approx([expected] * 2)


def test_a_dropped_label_is_the_class_mean(tiny: TarFlow) -> None:
    """Label -1 and no labels give the same latent, another one than a label."""
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        dropped = tiny(x, torch.tensor([-1, -1])).z
        torch.testing.assert_close(dropped, tiny(x).z)
        assert (dropped - tiny(x, torch.tensor([0, 1])).z).abs().max() > 1e-4


def test_inverse_undoes_forward(case: Case) -> None:
    """For inverts the forward pass to the golden round-trip error."""
    model, golden = case
    x = golden["forward"]["x"]
    y = golden["forward"]["cases"][0]["y"]
    with torch.no_grad():
        z = model(x, y).z / model.var.sqrt()
    assert (reverse(model, z, y) - x).abs().max() < 1e-4


@pytest.mark.parametrize(("size", "patch", "channels"), [(9, 2, 64), (8, 2, 65)])
def test_impossible_sizes_are_refused(size: int, patch: int, channels: int) -> None:
    """A patch that does not divide the image, or heads that do not fit, raise."""
    with pytest.raises(ValueError, match=r"divide|multiple"):
        TarFlow(3, size, patch, channels, 1, 1, 0)
