"""Terms of a tokenizer's loss."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fewstep.par.tokenizer import straight_through
from fewstep.par.vq_losses import (
    VQLosses,
    codebook_loss,
    commitment_loss,
    entropy_loss,
    reconstruction_loss,
)

COUNTS = st.integers(1, 12)


def pair(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Latents and entries (5, 3) that want gradients."""
    torch.manual_seed(seed)
    return torch.randn(5, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)


def test_the_gradient_passes_the_codebook_by() -> None:
    """Forward the entries; backward the identity to the latents, nothing to entries."""
    latents, entries = pair()
    out = straight_through(latents, entries)
    torch.testing.assert_close(out, entries)
    weight = torch.randn(5, 3)
    (out * weight).sum().backward()
    assert latents.grad is not None
    assert torch.equal(latents.grad, weight)
    assert entries.grad is None


def test_codebook_and_commitment_pull_one_side_each() -> None:
    """Both are the mean squared distance; one moves entries, the other latents."""
    latents, entries = pair()
    gap = (latents - entries).detach()
    for term, moved, still, sign in (
        (codebook_loss, entries, latents, -1),
        (commitment_loss, latents, entries, 1),
    ):
        loss = term(latents, entries)
        assert loss.item() == pytest.approx(float(gap.square().mean()), rel=1e-6)
        loss.backward()  # type: ignore[no-untyped-call]
        assert moved.grad is not None
        torch.testing.assert_close(moved.grad, sign * 2 * gap / gap.numel())
        assert still.grad is None
        moved.grad = None


def test_the_total_weighs_every_term() -> None:
    """1, 1, beta and entropy_ratio; without an entropy its weight says nothing."""
    terms = [torch.tensor(value) for value in (1.0, 10.0, 100.0, 1000.0)]
    assert float(VQLosses(*terms).total(0.25, 0.5)) == 1 + 10 + 25 + 500
    assert float(VQLosses(*terms[:3]).total(0.25, 0.5)) == 1 + 10 + 25


def test_entropy_tells_the_three_cases_apart() -> None:
    """Sure and even: -ln K; sure and all on one entry: 0; quite unsure: 0."""
    rows = torch.eye(4)
    assert float(entropy_loss(rows, rows)) == pytest.approx(-math.log(4), abs=1e-5)
    assert float(entropy_loss(rows[:1].expand(4, 4), rows)) == pytest.approx(
        0, abs=1e-5
    )
    assert float(entropy_loss(torch.zeros(4, 4), rows)) == pytest.approx(0, abs=1e-5)


@given(COUNTS, st.integers(2, 9), st.sampled_from([0.01, 0.3, 2.0]), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_entropy_has_bounds(count: int, size: int, heat: float, seed: int) -> None:
    """-ln K <= E H(p) - H(E p) <= 0, whatever the latents."""
    torch.manual_seed(seed)
    found = float(entropy_loss(torch.randn(count, 2, 3), torch.randn(size, 3), heat))
    assert -math.log(size) - 1e-5 <= found <= 1e-5


def test_entropy_is_of_the_softmax_of_distances() -> None:
    """The same number by the definition, term by term, in double precision."""
    torch.manual_seed(3)
    z, rows = torch.randn(6, 3).double(), torch.randn(5, 3).double()
    chance = torch.softmax(-(torch.cdist(z, rows) ** 2) / 0.7, -1)
    each = torch.stack([-(p * p.log()).sum() for p in chance]).mean()
    mean = chance.mean(0)
    wanted = each + (mean * mean.log()).sum()
    assert float(entropy_loss(z, rows, 0.7)) == pytest.approx(float(wanted), abs=1e-9)


@pytest.mark.parametrize(("kind", "wanted"), [("l2", 2.5), ("l1", 1.5)])
def test_reconstruction_is_squared_or_absolute(kind: str, wanted: float) -> None:
    """Mean over all numbers of the images."""
    images = torch.tensor([[1.0, -2.0]])
    found = reconstruction_loss(images, torch.zeros(1, 2), kind)  # type: ignore[arg-type]
    assert float(found) == wanted


def test_an_unknown_reconstruction_is_refused() -> None:
    """A kind that is neither is a ValueError."""
    with pytest.raises(ValueError, match="l2 or l1"):
        reconstruction_loss(torch.zeros(1), torch.zeros(1), "l3")  # type: ignore[arg-type]
