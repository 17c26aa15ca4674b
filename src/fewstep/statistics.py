"""Feature statistics: sums of features as they stream by, and references made of them.

A Fréchet distance needs the mean and the covariance of the features. They are summed in
float64 as the images pass, so no array of all images or all features is ever held.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fewstep.extractors import Extractor, Features, extract


class RunningStats:
    """Float64 sums of features and of their outer products, batch by batch.

    Attributes:
        n: how many feature vectors were added.
        total: (D,) their sum.
        outer: (D, D) the sum of their outer products, about zero.
    """

    def __init__(self, dim: int) -> None:
        self.n = 0
        self.total = np.zeros(dim)
        self.outer = np.zeros((dim, dim))

    def add(self, features: torch.Tensor | NDArray[Any]) -> None:
        """Add features (B, D).

        Raises:
            ValueError: for another D, or naming how many are NaN or infinite; the sums
                then stay as they were.
        """
        if isinstance(features, torch.Tensor):
            features = features.detach().cpu().numpy()
        batch = np.asarray(features, dtype=np.float64)
        if batch.ndim != 2 or batch.shape[1] != len(self.total):
            raise ValueError(
                f"features of shape {batch.shape}: expected (B, {len(self.total)})"
            )
        broken = int((~np.isfinite(batch)).any(axis=1).sum())
        if broken:
            raise ValueError(
                f"{broken} of {len(batch)} feature vectors hold NaN or infinity"
            )
        self.n += len(batch)
        self.total += batch.sum(axis=0)
        self.outer += batch.T @ batch

    def merge(self, other: RunningStats) -> None:
        """Add everything that was added to `other`."""
        if len(other.total) != len(self.total):
            raise ValueError(f"{len(other.total)} features into {len(self.total)}")
        self.n += other.n
        self.total += other.total
        self.outer += other.outer

    @property
    def mu(self) -> NDArray[np.float64]:
        """(D,) mean."""
        if self.n < 1:
            raise ValueError("no features were added: there is no mean")
        return self.total / self.n

    @property
    def sigma(self) -> NDArray[np.float64]:
        """(D, D) covariance with divisor n - 1."""
        if self.n < 2:
            raise ValueError(f"a covariance of {self.n} feature vectors: at least 2")
        return covariance(self.n, self.mu, self.outer)


class FeatureStats:
    """Sums of pooled features, and of spatial ones where the extractor makes them.

    Attributes:
        pool: sums of the pooled features.
        spatial: sums of the spatial features; None while none came.
    """

    def __init__(self, dim: int) -> None:
        self.pool = RunningStats(dim)
        self.spatial: RunningStats | None = None

    def add(self, features: Features) -> None:
        """Add the features of one batch.

        Raises:
            ValueError: as of `RunningStats.add`.
        """
        self.pool.add(features.pool)
        if features.spatial is not None:
            if self.spatial is None:
                self.spatial = RunningStats(features.spatial.shape[1])
            self.spatial.add(features.spatial)


def covariance(
    n: int, mu: NDArray[np.float64], outer: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Covariance with divisor n - 1 from n, the mean and the sum of outer products."""
    return (outer - n * np.outer(mu, mu)) / (n - 1)


@dataclass(frozen=True)
class Reference:
    """Statistics of real images that samples are scored against.

    Attributes:
        mu: (D,) mean of the features.
        sigma: (D, D) their covariance with divisor n - 1.
        n: how many images; None where the file does not say.
        features: (M, D) float32 features of some of them, for KID and precision and
            recall; None where none were kept.
        extractor: name of the extractor; "" where the file does not say.
        weights_sha256: identity of its weights; "" where the file does not say.
        manifest: where the numbers come from.
        mu_s: (S,) mean of the spatial features, for sFID; None where there is none.
        sigma_s: (S, S) their covariance; given together with `mu_s`.
    """

    mu: NDArray[np.float64]
    sigma: NDArray[np.float64]
    n: int | None
    features: NDArray[np.float32] | None = None
    extractor: str = ""
    weights_sha256: str = ""
    manifest: dict[str, Any] = field(default_factory=dict)
    mu_s: NDArray[np.float64] | None = None
    sigma_s: NDArray[np.float64] | None = None

    @cached_property
    def sha256(self) -> str:
        """Hash of mu, sigma and n: the same whichever kind of file held them.

        The spatial statistics do not count: they have no part in any other score.
        """
        return _hash(self.n, self.mu, self.sigma)

    @cached_property
    def spatial_sha256(self) -> str:
        """Hash of mu_s, sigma_s and n; "" where there are none."""
        if self.mu_s is None or self.sigma_s is None:
            return ""
        return _hash(self.n, self.mu_s, self.sigma_s)


def _hash(n: int | None, mu: NDArray[np.float64], sigma: NDArray[np.float64]) -> str:
    digest = hashlib.sha256(f"{len(mu)} {n}\n".encode())
    for array in (mu, sigma):
        digest.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
    return digest.hexdigest()


def dataset_reference(
    images: NDArray[np.uint8],
    extractor: Extractor,
    batch: int,
    levels: NDArray[np.uint8] | None,
    flips: Literal["none", "both"],
    keep_features: int = 0,
    manifest: Mapping[str, Any] | None = None,
) -> Reference:
    """Statistics of real images, streamed; spatial ones if the extractor makes them.

    Args:
        images: (N, 3, H, W) uint8, N >= 2; a memory map is read by and by.
        extractor: the network.
        batch: images at a time.
        levels: (256,) replacement of grey levels before the network; None: as they are.
        flips: "both" counts every image and its mirror image, "none" each image once.
        keep_features: how many feature vectors to keep for KID and precision and
            recall: of images evenly spaced over the set (sets are often sorted by
            class), never of mirror images. At most N are kept.
        manifest: what the caller knows of the source; goes into the manifest.

    Raises:
        ValueError: for fewer than 2 images, an unknown `flips`, or broken features.
    """
    if flips not in ("none", "both"):
        raise ValueError(f"unknown flips {flips!r}: none or both")
    stats = FeatureStats(extractor.dim)
    count = min(keep_features, len(images))
    chosen = np.arange(count) * len(images) // max(count, 1)
    kept = np.empty((count, extractor.dim), dtype=np.float32)
    start = 0
    for features in extract(extractor, images, batch, levels):
        stats.add(features)
        stop = start + len(features.pool)
        low, high = np.searchsorted(chosen, (start, stop))
        kept[low:high] = features.pool.cpu().numpy()[chosen[low:high] - start]
        start = stop
    if flips == "both":
        for features in extract(extractor, images[:, :, :, ::-1], batch, levels):
            stats.add(features)
    facts = {"flips": flips, "levels_replaced": levels is not None}
    return Reference(
        mu=stats.pool.mu,
        sigma=stats.pool.sigma,
        n=stats.pool.n,
        features=kept if count else None,
        extractor=extractor.name,
        weights_sha256=extractor.weights_sha256,
        manifest={**(manifest or {}), **facts},
        mu_s=stats.spatial.mu if stats.spatial else None,
        sigma_s=stats.spatial.sigma if stats.spatial else None,
    )


def with_features(
    reference: Reference,
    images: NDArray[np.uint8],
    extractor: Extractor,
    batch: int,
    levels: NDArray[np.uint8] | None = None,
) -> Reference:
    """A reference with the pooled features of real images, for KID and the like.

    From then on the reference belongs to this extractor, as its features do.

    Args:
        reference: statistics that somebody else made, without features.
        images: (M, 3, H, W) uint8; a memory map is read by and by.
        extractor, batch, levels: as of `dataset_reference`.

    Raises:
        ValueError: for statistics of another number of features.
    """
    if len(reference.mu) != extractor.dim:
        raise ValueError(f"{extractor.dim} features beside {len(reference.mu)}")
    pools = [f.pool.cpu().numpy() for f in extract(extractor, images, batch, levels)]
    return replace(
        reference,
        features=np.concatenate(pools).astype(np.float32, copy=False),
        extractor=extractor.name,
        weights_sha256=extractor.weights_sha256,
    )
