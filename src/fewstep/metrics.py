"""Distances between sets of features, on torch-fidelity's metrics.

Fréchet distance, kernel inception distance, inception score, precision and recall, each
a function of features or statistics alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fewstep._torchvision import import_torch_fidelity
from fewstep.errors import UserError
from fewstep.threads import one_thread

Array = torch.Tensor | NDArray[Any]


def frechet_distance(
    mu1: NDArray[np.float64],
    sigma1: NDArray[np.float64],
    mu2: NDArray[np.float64],
    sigma2: NDArray[np.float64],
) -> float:
    """Squared Fréchet distance of two Gaussians (Dowson and Landau 1982).

    |mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2), in float64. The last trace is
    the sum of the roots of the eigenvalues of S1^(1/2) S2 S1^(1/2), on the range of S1:
    torch-fidelity's value (from the eigenvalues of S1 S2), sooner, and without the
    noise that those of a singular covariance add.

    Between equal sets the result may be negative by rounding, some 1e-14 of the traces;
    it is returned as it is.

    Args:
        mu1: (D,) mean.
        sigma1: (D, D) covariance.
        mu2: (D,) mean.
        sigma2: (D, D) covariance.
    """
    dim = len(mu1)
    if mu2.shape != (dim,) or sigma1.shape != (dim, dim) or sigma2.shape != (dim, dim):
        raise ValueError(
            f"shapes {mu1.shape}, {sigma1.shape}, {mu2.shape}, {sigma2.shape}"
        )
    first, second = (torch.from_numpy(s.astype(np.float64)) for s in (sigma1, sigma2))
    with one_thread():
        values, vectors = torch.linalg.eigh((first + first.T) / 2)
        noise = values.max().clip(min=0) * dim * torch.finfo(torch.float64).eps
        present = values > noise
        root = vectors[:, present] * values[present].sqrt()
        product = root.T @ ((second + second.T) / 2) @ root
        roots = torch.linalg.eigvalsh(product).clip(min=0).sqrt()
    shift = mu1.astype(np.float64) - mu2.astype(np.float64)
    traces = first.trace() + second.trace() - 2 * roots.sum()
    total = shift @ shift + traces.item()
    return float(total)


def kid(
    features: Array,
    ref_features: Array,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
) -> tuple[float, float]:
    """Kernel inception distance (Binkowski et al. 2018), unbiased, cubic kernel.

    torch-fidelity's, in float64, since features of other networks than Inception may be
    large and are cubed. Slightly negative values are right for equal distributions.

    Args:
        features: (N, D) of samples.
        ref_features: (M, D) of real images.
        subsets: how many subsets are drawn.
        subset_size: samples in each, at least 2 and at most N and M.
        seed: decides the subsets.

    Returns:
        Mean and standard deviation over the subsets.

    Raises:
        UserError: where there are fewer than `subset_size` of either.
    """
    first = _matrix(features, torch.float64)
    second = _matrix(ref_features, torch.float64)
    if min(len(first), len(second)) < subset_size:
        raise UserError(
            f"KID subsets of {subset_size} out of {len(first)} samples and "
            f"{len(second)} reference features",
            expected="a subset size that is not larger than either",
        )
    if subset_size < 2 or subsets < 1:
        raise UserError(
            f"KID with {subsets} subsets of {subset_size}",
            expected="at least one subset of at least 2",
        )
    found = import_torch_fidelity("metric_kid").kid_features_to_metric(
        first,
        second,
        kid_subsets=subsets,
        kid_subset_size=subset_size,
        rng_seed=seed,
        verbose=False,
    )
    return (
        float(found["kernel_inception_distance_mean"]),
        float(found["kernel_inception_distance_std"]),
    )


def inception_score(logits: Array, splits: int = 10) -> tuple[float, float]:
    """Inception score (Salimans et al. 2016), samples in their order, as ADM has it.

    Args:
        logits: (N, K) of samples.
        splits: consecutive parts, at most N.

    Returns:
        Mean and standard deviation over the parts.

    Raises:
        UserError: for more parts than samples.
    """
    values = _matrix(logits, torch.float32)
    if not 1 <= splits <= len(values):
        raise UserError(
            f"inception score of {len(values)} samples in {splits} parts",
            expected="at least one sample a part",
        )
    metric = import_torch_fidelity("metric_isc")
    found = metric.isc_features_to_metric(values, splits=splits, shuffle=False)
    return float(found["inception_score_mean"]), float(found["inception_score_std"])


def precision_recall(
    features: Array, ref_features: Array, k: int = 3
) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019) in float32.

    Args:
        features: (N, D) of samples.
        ref_features: (M, D) of real images.
        k: a ball reaches to its centre's k-th neighbour, 1 <= k < N and M.

    Returns:
        Share of samples inside a ball of a real image; share of real images inside a
        ball of a sample.

    Raises:
        UserError: where there are too few of either for k neighbours.
    """
    first = _matrix(features, torch.float32)
    second = _matrix(ref_features, torch.float32)
    if not 1 <= k < min(len(first), len(second)):
        raise UserError(
            f"{k} neighbours among {len(first)} samples and {len(second)} reference "
            "features",
            expected="fewer neighbours than either, at least 1",
        )
    found = import_torch_fidelity("metric_prc").prc_features_to_metric(
        first,
        second,
        prc_neighborhood=k,
        prc_batch_size=1000,  # of distances to everything: 200 MB at 50,000
        save_cpu_ram=True,
        verbose=False,
    )
    return float(found["precision"]), float(found["recall"])


def _matrix(values: Array, dtype: torch.dtype) -> torch.Tensor:
    matrix = torch.as_tensor(values).detach().to("cpu", dtype)
    if matrix.dim() != 2:
        raise ValueError(f"shape {tuple(matrix.shape)}: expected two dimensions")
    return matrix
