"""Counter-based randomness: every draw of sample i is decided by (seed, i, purpose).

A Philox generator (Salmon et al. 2011) is keyed by the seed and the purpose, and its
counter starts at (attempt, i). So shards, batch size, number of devices and a resume
cannot change a sample; and the draws are made on the CPU, so neither can the device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def stream(
    seed: int, purpose: str, index: int, attempt: int = 0
) -> np.random.Generator:
    """The random stream of sample `index` for one purpose.

    Args:
        seed: the run's seed.
        purpose: what is drawn, e.g. "noise", "label", "train-noise".
        index: the sample's number, 0 <= index < 2**63.
        attempt: how often this sample was redrawn (0: first draw).
    """
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=16).digest()
    key = np.frombuffer(digest, dtype=np.uint64)
    # The two low counter words run inside the stream: 2**128 draws before an overlap.
    counter = np.array([0, 0, attempt, index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def normal(
    seed: int,
    purpose: str,
    indices: Sequence[int],
    shape: tuple[int, ...],
    attempt: int = 0,
) -> NDArray[np.float32]:
    """Standard normal draws (len(indices), *shape), float32, one stream a sample."""
    out = np.empty((len(indices), *shape), dtype=np.float32)
    for row, index in zip(out, indices, strict=True):
        stream(seed, purpose, index, attempt).standard_normal(dtype=np.float32, out=row)
    return out


def labels(
    policy: str, num_classes: int, indices: Sequence[int], seed: int
) -> NDArray[np.int64]:
    """Class labels (len(indices),) of samples.

    Args:
        policy: "balanced" (sample i gets class i mod num_classes) or "iid" (uniform,
            from the sample's own stream).
        num_classes: number of classes, at least 1.
        indices: sample numbers.
        seed: the run's seed (unused when balanced).

    Raises:
        ValueError: for an unknown policy.
    """
    if policy == "balanced":
        return np.array([i % num_classes for i in indices], dtype=np.int64)
    if policy == "iid":
        draws = [stream(seed, "label", i).integers(num_classes) for i in indices]
        return np.array(draws, dtype=np.int64)
    raise ValueError(f"unknown label policy {policy!r}: balanced or iid")
