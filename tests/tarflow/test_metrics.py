"""IGM, CRM and the empirical profile."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fewstep.tarflow import TarFlow, block_metrics, invert
from fewstep.tarflow.metrics import convergence, iterations_to, rare_error

Case = tuple[TarFlow, dict[str, Any]]


def test_metrics_match_the_golden_numbers(case: Case) -> None:
    """IGM and CRM in every norm equal the released formulas, in batches of three."""
    model, golden = case
    detect = golden["detect"]
    for result in detect["results"]:
        y = detect["y"] if result["tag"] == "y" else None
        found = block_metrics(model, detect["x"], y, result["norm"], batch=3)
        expected = {
            name: result[f"{name}_unrounded"].double() for name in ("igm", "crm")
        }
        torch.testing.assert_close(found.igm, expected["igm"], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.crm, expected["crm"], rtol=1e-4, atol=1e-6)
        percent = result["crm_percent"].double()
        torch.testing.assert_close(found.crm_percent, percent, rtol=1e-4, atol=1e-3)
        assert float(found.share.sum()) == pytest.approx(100)


def test_batch_size_does_not_change_the_metrics(tiny: TarFlow) -> None:
    """A thousand images in one batch or in many give the same means."""
    x = torch.randn(10, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    one, many = (block_metrics(tiny, x, batch=batch) for batch in (10, 3))
    torch.testing.assert_close(one.igm, many.igm, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(one.crm, many.crm, rtol=1e-5, atol=1e-7)


def test_igm_is_the_error_of_one_step(tiny: TarFlow) -> None:
    """For one image, IGM in the Frobenius norm is the profile's first error."""
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    metrics = block_metrics(tiny, x, norm="fro")
    with torch.no_grad():
        outputs = [tiny.patchify(x), *tiny(x).outputs]
    for number, block in enumerate(tiny.blocks):
        for guess in (0, 1):
            (curve,) = convergence(
                block, outputs[number], outputs[number + 1], None, guess=guess
            )
            entries = (tiny.tokens - 1) * tiny.token_dim
            expected = curve.rms[0] * entries**0.5
            assert float(metrics.igm[number, guess]) == pytest.approx(
                expected, rel=1e-4
            )


def test_derived_metric_uses_the_scaled_latent(tiny: TarFlow) -> None:
    """The derivation's variant holds the norm of the mean of x - u = z exp(s)."""
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        block, tokens = tiny.blocks[0], tiny.patchify(x)
        _, u = block.network(tokens, block.positions(), block.embedding(None, 4))
        u = torch.nn.functional.pad(u[:, :-1], (0, 0, 1, 0))
        expected = torch.linalg.matrix_norm((tokens - u).mean(0), ord=2)
    derived = block_metrics(tiny, x).crm_derived
    assert float(derived[0, 0]) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("segments", [1, 4, 5])
def test_profile_ends_exact_and_one_run_gives_all_iterations(
    tiny: TarFlow, segments: int
) -> None:
    """Errors of a run cut short are the first errors of the whole run."""
    z = torch.randn(2, 16, 12, generator=torch.Generator().manual_seed(3))
    chain = invert(tiny, z)
    block, x = tiny.blocks[1], chain.latents[2]
    curves = convergence(block, x, chain.latents[1], None, guess=1, segments=segments)
    cut = convergence(
        block, x, chain.latents[1], None, guess=1, segments=segments, iterations=2
    )
    assert len(curves) == len(cut) == segments
    assert all(curve.largest[-1] < 1e-5 for curve in curves)
    assert cut[0].largest == pytest.approx(curves[0].largest[:2], abs=1e-6)
    assert all(a >= b for a, b in zip(curves[0].largest, curves[0].rms, strict=True))


@pytest.mark.parametrize(
    ("error", "expected"),
    [([3, 2, 1], None), ([3, 1, 0.1, 0.1], 3), ([0.1, 0.1], 1), ([0.1, 3, 0.1], 3)],
)
def test_iterations_count_from_where_the_error_stays_small(
    error: list[float], expected: int | None
) -> None:
    """The first iteration after which the tolerance holds for good, or none."""
    assert iterations_to(error, 0.5) == expected


def test_a_rare_error_lies_above_those_that_were_seen() -> None:
    """2.5 standard deviations of the logarithm above its mean, or the largest."""
    spread = torch.tensor([1e-4, 1e-2])  # logarithms ±2.3 around that of 1e-3
    assert rare_error(spread) == pytest.approx(1e-3 * 10**2.5, rel=1e-5)
    assert rare_error(torch.full((5,), 0.3)) == pytest.approx(0.3)
    outlier = torch.tensor([1e-3] * 99 + [1.0])
    assert rare_error(outlier) == 1.0
    assert rare_error(torch.tensor([0.0, 0.0])) < 1e-11


def test_errors_beyond_numbers_are_within_no_tolerance() -> None:
    """Neither NaN nor infinity compares as small, whatever stands beside it."""
    for bad in (float("nan"), float("inf")):
        assert not rare_error(torch.tensor([1e-9, bad])) <= 1e9


def test_few_normal_errors_are_above_the_rare_one() -> None:
    """Of errors with normal logarithms one in about 160 is, seen from 48 of them."""
    draw = torch.Generator().manual_seed(0)
    errors = (torch.randn(100, 48, generator=draw) - 8).exp()
    others = (torch.randn(100_000, generator=draw) - 8).exp()
    above = [float((others > rare_error(each)).float().mean()) for each in errors]
    assert 0.003 < sum(above) / len(above) < 0.015


def test_unknown_norm_is_refused(tiny: TarFlow) -> None:
    """A norm outside 1, 2 and fro raises."""
    with pytest.raises(ValueError, match="norm must be"):
        block_metrics(tiny, torch.zeros(1, 3, 8, 8), norm=3)  # type: ignore[arg-type]
