"""Reflow pairs: the released numbers, closed forms, mixed segments, errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewstep.errors import UserError
from fewstep.seqrf.model import NCSNpp
from fewstep.seqrf.reflow import NotFiniteError, noisy_end, reflow_pairs
from fewstep.seqrf.segments import to_tau

GOLDEN = ["reflow_pairs_k3_tol1e-4", "reflow_pairs_adaptive_k2_tol1e-4"]


def images(count: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Data and noise (count, 3, 4, 4)."""
    generator = torch.Generator().manual_seed(seed)
    data, noise = torch.randn(2, count, 3, 4, 4, generator=generator)
    return data, noise


class Decay:
    """dx/dtau = -rate x, whose flow has a closed form; counts what it is asked."""

    def __init__(self, rates: tuple[float, ...] = (1.5,)) -> None:
        self.segments, self.rates = len(rates), torch.tensor(rates)
        self.calls: list[tuple[Tensor, Any]] = []

    def __call__(self, x: Tensor, label: Tensor, index: Any) -> Tensor:
        self.calls.append((label, index))
        return -self.rates[index].reshape(-1, 1, 1, 1) * x


@pytest.mark.parametrize("name", GOLDEN)
def test_pairs_match_the_golden_numbers(golden_seqrf: Any, name: str) -> None:
    """Both ends, times and NFE equal the released program's, by its error norm."""
    case = golden_seqrf(name)
    config = case["config"]
    net = NCSNpp.from_flat_config(config)
    net.load_state_dict(case["state_dict"])
    total = config.get("adaptive_total")
    edges = [1 - i / total for i in config["adaptive_index"]] if total else None
    for i, data in enumerate(case["data"]):
        pairs = reflow_pairs(
            net,
            data,
            case["noise"][i],
            segment=i,
            segments=config["reflow_t"],
            tol=1e-4,
            error_norm="batch",
            edges=edges,
        )
        assert pairs.nfe == config["nfe_by_segment"][i]
        assert pairs.t0.tolist() == pytest.approx([config["t0"][i]] * 3)
        assert pairs.t1.tolist() == pytest.approx([config["t1"][i]] * 3)
        torch.testing.assert_close(pairs.x1, case["x1"][i], atol=1e-6, rtol=0)
        limit = 2e-5 * float(case["x0"][i].abs().max())
        torch.testing.assert_close(pairs.x0, case["x0"][i], atol=limit, rtol=0)
    assert net.training  # dropout was off meanwhile, and is on again


@pytest.mark.parametrize("norm", ["sample", "batch"])
@pytest.mark.parametrize(("time_factor", "scale"), [("released", 0.999), ("exact", 1)])
def test_ends_have_the_closed_form(norm: Any, time_factor: Any, scale: float) -> None:
    """x1 is the mixture, x0 the exact flow over the segment's length."""
    data, noise = images()
    pairs = reflow_pairs(
        Decay(),
        data,
        noise,
        segment=1,
        edges=[1, 0.7, 0.2, 0],
        tol=1e-6,
        error_norm=norm,
        time_factor=time_factor,
    )
    torch.testing.assert_close(pairs.x1, 0.3 * data + 0.7 * noise)
    exact = pairs.x1 * math.exp(-1.5 * 0.5 * scale)
    torch.testing.assert_close(pairs.x0, exact, atol=5e-6, rtol=0)
    assert pairs.x0.dtype == torch.float32
    assert pairs.t1.tolist() == pytest.approx([0.7] * 6)
    assert pairs.t0.tolist() == pytest.approx([0.2] * 6)


def test_first_segment_starts_from_the_noise_alone() -> None:
    """At t = 1 the data do not enter."""
    data, noise = images()
    assert torch.equal(noisy_end(data, noise, torch.ones(6)), noise)
    assert torch.equal(noisy_end(data, noise, torch.zeros(6)), data)


def test_labels_cover_the_segment() -> None:
    """The network is asked at labels 999 tau between both ends, the noisy one first."""
    net = Decay()
    reflow_pairs(net, *images(), segment=1, segments=4)
    labels = torch.cat([label for label, _ in net.calls])
    low, high = 999 * to_tau(0.75), 999 * to_tau(0.5)
    assert labels[0] == pytest.approx(low)
    assert labels.min() == pytest.approx(low)
    assert labels.max() == pytest.approx(high)
    assert labels.dtype == torch.float32


def test_a_teacher_with_one_head_is_asked_for_head_0() -> None:
    """The base flow makes pairs of any number of segments."""
    net = Decay()
    reflow_pairs(net, *images(), segment=2, segments=3)
    assert {index for _, index in net.calls} == {0}


def test_mixed_segments_equal_separate_ones() -> None:
    """A batch of all segments gives each sample what its own segment's batch gives."""
    data, noise = images(7)
    net = Decay((0.5, 2.0, 4.0))
    segment = torch.tensor([2, 0, 1, 1, 0, 2, 2])
    edges = (1.0, 0.8, 0.3, 0.0)
    mixed = reflow_pairs(net, data, noise, segment=segment, edges=edges)
    for i in range(3):
        rows = segment == i
        one = reflow_pairs(net, data[rows], noise[rows], segment=i, edges=edges)
        for name in ("x0", "x1", "t0", "t1"):
            torch.testing.assert_close(getattr(mixed, name)[rows], getattr(one, name))
        assert torch.equal(mixed.nfe_per_sample[rows], one.nfe_per_sample)


def test_a_pair_does_not_depend_on_its_batch() -> None:
    """By the sample's own error norm, alone or among others is the same."""
    data, noise = images()
    data[3] *= 100
    whole = reflow_pairs(Decay(), data, noise, segment=1, segments=2)
    alone = reflow_pairs(Decay(), data[2:3], noise[2:3], segment=1, segments=2)
    torch.testing.assert_close(whole.x0[2:3], alone.x0, atol=1e-6, rtol=1e-6)
    assert whole.nfe_per_sample[2] == alone.nfe


def test_nfe_counts_the_calls() -> None:
    """Sequential calls, and no sample takes part in more than there are."""
    net = Decay((1.0, 30.0))
    segment = torch.tensor([0, 1, 0, 1, 0, 1])
    pairs = reflow_pairs(net, *images(), segment=segment, segments=2)
    assert pairs.nfe == len(net.calls)
    assert pairs.nfe_per_sample.max() == pairs.nfe
    assert sum(len(label) for label, _ in net.calls) == pairs.nfe_per_sample.sum()
    assert pairs.nfe_per_sample[0] < pairs.nfe_per_sample[1]


def test_dropout_is_off() -> None:
    """A module in training mode makes the pairs of evaluation mode, and stays in it."""

    class Dropping(nn.Module):
        def forward(self, x: Tensor, label: Tensor, index: Any) -> Tensor:
            assert not self.training
            return -x

    net = Dropping().train()
    reflow_pairs(net, *images(), segment=0)
    assert net.training


def test_no_gradient_is_kept() -> None:
    """Pairs are data."""
    weight = torch.ones((), requires_grad=True)
    pairs = reflow_pairs(lambda x, t, i: -weight * x, *images(), segment=0)
    assert not pairs.x0.requires_grad


@pytest.mark.parametrize("norm", ["sample", "batch"])
def test_a_velocity_that_is_not_finite_names_its_rows(norm: Any) -> None:
    """One line says which samples of the batch are to blame."""
    data, noise = images()

    def net(x: Tensor, label: Tensor, index: Any) -> Tensor:
        bad = (label > 900) & (x.abs().amax((1, 2, 3)) > 50)
        return torch.where(bad[:, None, None, None], torch.nan, -0.1 * x)

    noise[[1, 4]] += 100
    with pytest.raises(NotFiniteError, match=r"2 of 6 samples \(rows 1, 4\)") as error:
        reflow_pairs(net, data, noise, segment=0, error_norm=norm)
    assert error.value.rows == [1, 4]


def test_a_tolerance_that_gets_nowhere_is_one_line() -> None:
    """Too few steps for the tolerance is a UserError that names it."""
    net = Decay((500.0,))
    with pytest.raises(UserError, match=r"1e-09.*raise the tolerance"):
        reflow_pairs(net, *images(), segment=0, tol=1e-9, max_steps=5)


def test_a_teacher_of_other_segments() -> None:
    """A teacher with another number of heads is refused."""
    with pytest.raises(UserError, match="teacher has 2 segments, the pairs have 3"):
        reflow_pairs(Decay((1.0, 2.0)), *images(), segment=0, segments=3)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"segment": 2}, "expected 0 to 1"),
        ({"segment": -1}, "expected 0 to 1"),
        ({"segment": torch.tensor([0, 1])}, "expected 6 integers"),
        ({"segment": torch.zeros(6)}, "expected 6 integers"),
        ({"segment": torch.zeros(6).long(), "error_norm": "batch"}, "one step size"),
        ({"time_factor": "half"}, "expected exact or released"),
        ({"edges": [1, 0.5, 0.5, 0], "segments": 3}, "strictly descending"),
        ({"edges": [1, 0.5, 0], "segments": 3}, "3 segments"),
        ({"noise": torch.zeros(5, 3, 4, 4)}, "noise"),
    ],
)
def test_misuse(change: dict[str, Any], complaint: str) -> None:
    """Arguments that make no sense are a ValueError that says why."""
    data, noise = images()
    options: dict[str, Any] = {"segment": 0, "segments": 2, "noise": noise, **change}
    with pytest.raises(ValueError, match=complaint):
        reflow_pairs(Decay(), data, **options)
