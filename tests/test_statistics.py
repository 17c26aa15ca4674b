"""Streaming sums of features, and references made from images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from fewstep.extractors import Features, check_images
from fewstep.statistics import (
    Reference,
    RunningStats,
    dataset_reference,
    with_features,
)

# Whole numbers: their sums are exact in float64, so equality is equality.
_BATCH = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 5), st.just(3)),
    elements=st.integers(-1000, 1000).map(float),
)


@dataclass(frozen=True)
class Corners:
    """An extractor of three features: the levels of an image's first pixel."""

    name: str = "corners"
    weights_sha256: str = "c" * 64
    is_inception: bool = False
    dim: int = 3
    resize: str = "none"
    spatial: bool = False

    def __call__(self, images: torch.Tensor) -> Features:
        """With `spatial`, also the levels of the first row, all channels."""
        check_images(images)
        corner = images[:, :, 0, 0].float()
        row = images[:, :, 0].flatten(1).float() if self.spatial else None
        return Features(corner, corner, row)


def _stats(*batches: NDArray[np.float32]) -> RunningStats:
    stats = RunningStats(3)
    for batch in batches:
        stats.add(batch)
    return stats


def _same(left: RunningStats, right: RunningStats) -> bool:
    return (
        left.n == right.n
        and np.array_equal(left.total, right.total)
        and np.array_equal(left.outer, right.outer)
    )


@given(st.integers(0, 2**32), st.integers(2, 60), st.integers(1, 20))
@settings(deadline=None, max_examples=30)
def test_streaming_equals_numpy(seed: int, n: int, batch: int) -> None:
    """Batch by batch gives numpy's mean and covariance of the whole."""
    rng = np.random.default_rng(seed)
    features = rng.normal(loc=5, size=(n, 4)).astype(np.float32)
    stats = RunningStats(4)
    for start in range(0, n, batch):
        stats.add(torch.from_numpy(features[start : start + batch]))
    exact = features.astype(np.float64)
    assert stats.n == n
    np.testing.assert_allclose(stats.mu, exact.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(stats.sigma, np.cov(exact, rowvar=False), atol=1e-10)


@given(_BATCH, _BATCH, _BATCH)
@settings(deadline=None, max_examples=50)
def test_merging_is_associative_and_commutative(
    a: NDArray[np.float32], b: NDArray[np.float32], c: NDArray[np.float32]
) -> None:
    """Shards may be merged in any grouping and order: the same sums as in one go."""
    left = _stats(a)
    left.merge(_stats(b))
    left.merge(_stats(c))
    tail, right = _stats(c), _stats(a)
    tail.merge(_stats(b))
    right.merge(tail)
    assert _same(left, right)
    assert _same(left, _stats(a, b, c))


def test_broken_features_are_counted_and_leave_the_sums_alone() -> None:
    """NaN and infinity are refused with their number; nothing of the batch is added."""
    stats = _stats(np.ones((2, 3), dtype=np.float32))
    before = _stats(np.ones((2, 3), dtype=np.float32))
    bad = np.zeros((4, 3), dtype=np.float32)
    bad[1, :2], bad[3, 2] = np.nan, -np.inf
    with pytest.raises(ValueError, match="2 of 4 feature vectors hold NaN"):
        stats.add(bad)
    assert _same(stats, before)


def test_too_few_or_unlike_features_are_refused() -> None:
    """No mean of none, no covariance of one, no sums of another dimension."""
    with pytest.raises(ValueError, match="no mean"):
        _ = RunningStats(3).mu
    with pytest.raises(ValueError, match="at least 2"):
        _ = _stats(np.ones((1, 3), dtype=np.float32)).sigma
    with pytest.raises(ValueError, match=r"expected \(B, 3\)"):
        RunningStats(3).add(np.ones((2, 4)))
    with pytest.raises(ValueError, match="4 features into 3"):
        RunningStats(3).merge(RunningStats(4))


@pytest.fixture
def images() -> NDArray[np.uint8]:
    """Twenty-five random images (25, 3, 4, 4)."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, size=(25, 3, 4, 4), dtype=np.uint8)


@pytest.mark.parametrize("batch", [1, 7, 25, 100])
def test_reference_is_that_of_all_images(images: NDArray[np.uint8], batch: int) -> None:
    """The reference holds mean, covariance, n and the extractor, at any batch size."""
    reference = dataset_reference(images, Corners(), batch, None, "none")
    corner = images[:, :, 0, 0].astype(np.float64)
    np.testing.assert_allclose(reference.mu, corner.mean(axis=0))
    np.testing.assert_allclose(reference.sigma, np.cov(corner, rowvar=False))
    assert (reference.n, reference.features) == (25, None)
    assert (reference.extractor, reference.weights_sha256) == ("corners", "c" * 64)
    assert reference.manifest == {"flips": "none", "levels_replaced": False}


@pytest.mark.parametrize("batch", [1, 7, 25])
def test_spatial_statistics_are_made_where_the_extractor_gives_them(
    images: NDArray[np.uint8], batch: int
) -> None:
    """mu_s and sigma_s are those of all images, mirrored ones too, or absent."""
    found = dataset_reference(images, Corners(spatial=True), batch, None, "both")
    both = np.concatenate([images, images[:, :, :, ::-1]])
    rows = both[:, :, 0].reshape(50, 12).astype(np.float64)
    assert found.mu_s is not None
    assert found.sigma_s is not None
    np.testing.assert_allclose(found.mu_s, rows.mean(axis=0))
    np.testing.assert_allclose(found.sigma_s, np.cov(rows, rowvar=False))
    plain = dataset_reference(images, Corners(), batch, None, "both")
    assert (plain.mu_s, plain.sigma_s, plain.spatial_sha256) == (None, None, "")
    assert plain.sha256 == found.sha256
    assert found.spatial_sha256 not in ("", found.sha256)


def test_features_of_images_are_added_to_statistics(
    images: NDArray[np.uint8],
) -> None:
    """The statistics stay, the features are the extractor's, and so is the name."""
    bare = Reference(np.zeros(3), np.eye(3), None, mu_s=np.zeros(2), sigma_s=np.eye(2))
    found = with_features(bare, images[:9], Corners(), 4)
    assert found.features is not None
    assert found.features.dtype == np.float32
    assert np.array_equal(found.features, images[:9, :, 0, 0])
    assert (found.extractor, found.weights_sha256) == ("corners", "c" * 64)
    assert found.sha256 == bare.sha256
    assert found.mu_s is bare.mu_s
    with pytest.raises(ValueError, match="3 features beside 2"):
        with_features(Reference(np.zeros(2), np.eye(2), 5), images, Corners(), 4)


def test_both_flips_count_mirror_images(images: NDArray[np.uint8]) -> None:
    """With flips every image counts twice, once mirrored left to right."""
    reference = dataset_reference(images, Corners(), 7, None, "both")
    corner = np.concatenate([images[:, :, 0, 0], images[:, :, 0, -1]]).astype(float)
    np.testing.assert_allclose(reference.mu, corner.mean(axis=0))
    assert reference.n == 50


def test_grey_levels_are_replaced_before_the_network(
    images: NDArray[np.uint8],
) -> None:
    """The released one-level shift is a lookup on bytes, images themselves stay."""
    before = images.copy()
    levels = np.arange(256, dtype=np.uint8)
    levels[1:64] -= 1
    reference = dataset_reference(images, Corners(), 7, levels, "none")
    np.testing.assert_allclose(
        reference.mu, levels[images[:, :, 0, 0]].mean(axis=0, dtype=float)
    )
    assert reference.manifest["levels_replaced"] is True
    assert np.array_equal(images, before)


@pytest.mark.parametrize("batch", [1, 4, 25])
def test_kept_features_are_spread_over_the_set(
    images: NDArray[np.uint8], batch: int
) -> None:
    """Sets are sorted by class, so the kept ones are evenly spaced, not the first."""
    reference = dataset_reference(
        images, Corners(), batch, None, "both", keep_features=5, manifest={"set": "x"}
    )
    assert reference.features is not None
    assert reference.features.dtype == np.float32
    assert np.array_equal(reference.features, images[::5, :, 0, 0])
    assert reference.manifest["set"] == "x"


def test_no_more_features_are_kept_than_there_are(images: NDArray[np.uint8]) -> None:
    """Asking for 10,000 of 25 keeps 25."""
    reference = dataset_reference(images, Corners(), 4, None, "none", 10_000)
    assert reference.features is not None
    assert np.array_equal(reference.features, images[:, :, 0, 0])


def test_unknown_flips_are_refused(images: NDArray[np.uint8]) -> None:
    """A misspelt protocol is an error, never a default."""
    with pytest.raises(ValueError, match="unknown flips 'horizontal'"):
        dataset_reference(images, Corners(), 4, None, "horizontal")  # type: ignore[arg-type]


def test_reference_hash_is_of_its_statistics() -> None:
    """mu, sigma and n decide the hash; kept features and manifest do not."""
    mu, sigma = np.zeros(2), np.eye(2)
    same = Reference(mu, sigma, 5, np.zeros((1, 2), np.float32), manifest={"a": 1})
    hashes = {
        Reference(mu, sigma, 5).sha256,
        Reference(mu + 1, sigma, 5).sha256,
        Reference(mu, 2 * sigma, 5).sha256,
        Reference(mu, sigma, 6).sha256,
        Reference(mu, sigma, None).sha256,
    }
    assert same.sha256 in hashes
    assert len(hashes) == 5
