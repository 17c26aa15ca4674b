"""Fréchet distance, KID, inception score, precision and recall."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fewstep._torchvision import import_torch_fidelity
from fewstep.errors import UserError
from fewstep.metrics import frechet_distance, inception_score, kid, precision_recall


def _covariance(rng: np.random.Generator, dim: int, n: int) -> NDArray[np.float64]:
    return np.cov(rng.normal(size=(n, dim)) * rng.uniform(0.1, 3, dim), rowvar=False)


# Below 1e-7 of the largest, a standard deviation is lost to rounding.
_DEVIATION = st.one_of(st.just(0.0), st.floats(1e-3, 9))


@given(st.lists(st.tuples(*[st.floats(-5, 5)] * 2, *[_DEVIATION] * 2), min_size=1))
@settings(deadline=None, max_examples=50)
def test_frechet_of_diagonal_gaussians_has_its_closed_form(
    axes: list[tuple[float, float, float, float]],
) -> None:
    """Independent axes add (m1 - m2)^2 + (s1 - s2)^2 each."""
    m1, m2, s1, s2 = np.array(axes).T
    expected = ((m1 - m2) ** 2 + (s1 - s2) ** 2).sum()
    found = frechet_distance(m1, np.diag(s1**2), m2, np.diag(s2**2))
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_frechet_of_two_correlated_gaussians_has_its_closed_form() -> None:
    """In two dimensions tr (S1 S2)^(1/2) = sqrt(tr S1 S2 + 2 sqrt(det S1 det S2))."""
    s1, s2 = np.array([[2.0, 0.6], [0.6, 1.0]]), np.array([[1.0, -0.7], [-0.7, 3.0]])
    m1, m2 = np.array([1.0, 2.0]), np.array([0.0, 4.0])
    root = np.sqrt(
        np.trace(s1 @ s2) + 2 * np.sqrt(np.linalg.det(s1) * np.linalg.det(s2))
    )
    expected = 5 + np.trace(s1) + np.trace(s2) - 2 * root
    assert frechet_distance(m1, s1, m2, s2) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n", [20, 400])
def test_frechet_equals_torch_fidelity(n: int) -> None:
    """Our symmetric form gives torch-fidelity's number, singular covariances too."""
    rng = np.random.default_rng(n)
    (m1, s1), (m2, s2) = (
        (rng.normal(size=64), _covariance(rng, 64, n)) for _ in range(2)
    )
    theirs = import_torch_fidelity("metric_fid").fid_statistics_to_metric(
        {"mu": m1, "sigma": s1}, {"mu": m2, "sigma": s2}, verbose=False
    )
    expected = theirs["frechet_inception_distance"]
    assert frechet_distance(m1, s1, m2, s2) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n", [20, 400])
def test_frechet_of_identical_sets_is_zero(n: int) -> None:
    """A set against itself is at distance 0 but for rounding, singular or not."""
    rng = np.random.default_rng(0)
    mu, sigma = rng.normal(size=64), _covariance(rng, 64, n)
    assert abs(frechet_distance(mu, sigma, mu, sigma)) < 1e-9


def test_frechet_is_symmetric_and_stands_constant_features() -> None:
    """Swapping the sets changes nothing, and a covariance of zeros is a point."""
    rng = np.random.default_rng(1)
    m1, m2 = rng.normal(size=(2, 16))
    s1, zero = _covariance(rng, 16, 100), np.zeros((16, 16))
    expected = ((m1 - m2) ** 2).sum() + np.trace(s1)
    assert frechet_distance(m1, s1, m2, zero) == pytest.approx(expected)
    assert frechet_distance(m2, zero, m1, s1) == pytest.approx(expected)


def test_frechet_refuses_unlike_shapes() -> None:
    """Statistics of another dimension are an error, not a broadcast."""
    with pytest.raises(ValueError, match="shapes"):
        frechet_distance(np.zeros(2), np.eye(2), np.zeros(1), np.eye(1))


def test_kid_of_equal_distributions_is_unbiased() -> None:
    """Two samples of one distribution: KID averages to 0 over repetitions."""
    rng = np.random.default_rng(0)
    values = []
    for _ in range(40):
        fake, real = rng.normal(size=(2, 60, 8)).astype(np.float32)
        values.append(kid(fake, real, subsets=5, subset_size=50))
    means = np.array(values)[:, 0]
    assert abs(means.mean()) < 4 * means.std() / np.sqrt(len(means))
    assert (means < 0).any()


def test_kid_grows_with_the_gap_and_repeats_by_seed() -> None:
    """A shifted set is farther, one seed gives one value, another seed another."""
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(2, 100, 8)).astype(np.float32)
    near = kid(fake, real, 10, 50)
    assert kid(fake + 1, real, 10, 50)[0] > 10 * abs(near[0])
    assert near == kid(fake, real, 10, 50)
    assert near != kid(fake, real, 10, 50, seed=1)


def test_kid_of_large_features_is_computed_in_float64() -> None:
    """Features of size 100 are cubed without losing the difference to rounding."""
    rng = np.random.default_rng(0)
    real, fake = (100 * rng.normal(size=(2, 50, 4))).astype(np.float32)
    x, y = real.astype(np.float64), fake.astype(np.float64)
    xx, yy, xy = ((a @ b.T / 4 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    off = 50 * 49
    expected = (xx.sum() - np.trace(xx)) / off + (yy.sum() - np.trace(yy)) / off
    expected -= 2 * xy.mean()
    assert kid(fake, real, 1, 50)[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("subsets", "size"), [(10, 21), (0, 10), (10, 1)])
def test_kid_refuses_impossible_subsets(subsets: int, size: int) -> None:
    """Fewer samples than a subset takes is one line that says both numbers."""
    features = np.zeros((20, 4), dtype=np.float32)
    with pytest.raises(UserError, match="KID"):
        kid(features, features, subsets, size)


def test_inception_score_has_its_closed_form() -> None:
    """K sure and balanced classes score K, unsure ones 1."""
    sure = 100 * torch.eye(5).repeat(8, 1)
    assert inception_score(sure, 2) == pytest.approx((5, 0))
    assert inception_score(torch.zeros(40, 5), 4) == pytest.approx((1, 0))


def test_inception_score_takes_samples_in_their_order() -> None:
    """Parts are consecutive (ADM): sorted classes make each part a single class."""
    ordered = 100 * torch.eye(4).repeat_interleave(10, dim=0)
    assert inception_score(ordered, 4)[0] == pytest.approx(1)


@pytest.mark.parametrize("splits", [0, 6])
def test_inception_score_refuses_empty_parts(splits: int) -> None:
    """More parts than samples is an error, not NaN."""
    with pytest.raises(UserError, match="inception score of 5 samples"):
        inception_score(torch.zeros(5, 3), splits)


def test_precision_and_recall_of_identical_sets_are_one() -> None:
    """Every point lies in a ball about itself."""
    features = np.random.default_rng(0).normal(size=(80, 6)).astype(np.float32)
    assert precision_recall(features, features) == (1.0, 1.0)


def test_precision_is_of_samples_and_recall_of_real_images() -> None:
    """Samples of one mode of two: all are precise, half of the real is covered."""
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, 60, 2)).astype(np.float32)
    real = np.concatenate([left, right + 1000])
    precision, recall = precision_recall(left + 0.01, real)
    assert precision == pytest.approx(1.0, abs=0.05)
    assert recall == pytest.approx(0.5, abs=0.05)
    assert precision_recall(left - 1000, real) == (0.0, 0.0)


@pytest.mark.parametrize("k", [0, 10])
def test_precision_refuses_too_many_neighbours(k: int) -> None:
    """k of as many as there are points has no k-th neighbour."""
    features = np.zeros((10, 2), dtype=np.float32)
    with pytest.raises(UserError, match="neighbours among 10 samples"):
        precision_recall(features, features, k)


class Bytes(torch.utils.data.Dataset[torch.Tensor]):
    """Images for torch-fidelity, (N, 3, 2, 2)."""

    def __init__(self, seed: int, n: int) -> None:
        draws = np.random.default_rng(seed).normal(110 + 10 * seed, 30, (n, 3, 2, 2))
        self.images = torch.from_numpy(draws.clip(0, 255).astype(np.uint8))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images[index]


def test_all_scores_are_torch_fidelitys_own() -> None:
    """Its whole program on images gives our numbers: KID, IS in order, P and R, k=3."""
    fidelity = import_torch_fidelity()
    base = import_torch_fidelity("feature_extractor_base").FeatureExtractorBase

    class Pixels(base):  # type: ignore[misc, valid-type]
        """Pixels as features and as logits."""

        def __init__(self, name: str, features: list[str], **_: object) -> None:
            super().__init__(name, features)

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            flat = images.flatten(1).float() / 64
            return tuple(flat for _ in self.features_list)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("flat",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "flat"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        @staticmethod
        def get_dummy_input_for_compile() -> torch.Tensor:
            return torch.zeros(1, 3, 2, 2, dtype=torch.uint8)

    fidelity.register_feature_extractor("pixels", Pixels)
    mine, real = Bytes(0, 60), Bytes(1, 50)
    found = fidelity.calculate_metrics(
        input1=mine,
        input2=real,
        feature_extractor="pixels",
        cuda=False,
        save_cpu_ram=True,
        verbose=False,
        cache=False,
        **dict.fromkeys(("fid", "kid", "isc", "prc"), True),
        samples_shuffle=False,
        isc_splits=6,
        kid_subsets=7,
        kid_subset_size=30,
    )
    x, y = (data.images.flatten(1).float() / 64 for data in (mine, real))
    stats = [
        f(a.double().numpy())
        for a in (x, y)
        for f in (lambda v: v.mean(axis=0), lambda v: np.cov(v, rowvar=False))
    ]
    assert frechet_distance(*stats) == pytest.approx(
        found["frechet_inception_distance"], rel=1e-5
    )
    assert kid(x, y, 7, 30) == pytest.approx(
        tuple(found[f"kernel_inception_distance_{end}"] for end in ("mean", "std")),
        rel=1e-4,
    )
    assert inception_score(x, 6) == pytest.approx(
        tuple(found[f"inception_score_{end}"] for end in ("mean", "std")), rel=1e-6
    )
    assert precision_recall(x, y) == (found["precision"], found["recall"])
    assert 0 < found["recall"] < 1
    assert found["precision"] != found["recall"]


def test_metrics_refuse_vectors() -> None:
    """Features must be (N, D)."""
    with pytest.raises(ValueError, match="two dimensions"):
        inception_score(torch.zeros(5))
