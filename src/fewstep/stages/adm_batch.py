"""Stage: samples as a batch for ADM's evaluator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fewstep import noise
from fewstep.adm import write_images
from fewstep.errors import UserError
from fewstep.progress import Progress
from fewstep.samples import read_images

_BLOCK = 256


def write(samples: Path, out: Path, seed: int) -> None:
    """Write all samples of a manifest as an `.npz` with `arr_0`, uint8 (N, H, W, 3).

    They are shuffled. The evaluator takes the inception score in parts of 5,000 as they
    come, and parts of few classes, as labels dealt in order may make them, have a lower
    score. The permutation is decided by the seed and N alone, so the same samples give
    the same bytes; nothing but one block of images is held.

    Args:
        samples: `samples.json`.
        out: the `.npz`.
        seed: decides the order.

    Raises:
        UserError: for a shard that is missing or altered, or no samples at all.
    """
    shards = list(read_images(samples))
    count = sum(map(len, shards))
    if not count:
        raise UserError("no samples", where=str(samples), expected="at least one")
    order = noise.stream(seed, "adm batch", 0).permutation(count)
    _, channels, height, width = shards[0].shape
    shape = (count, height, width, channels)
    progress = Progress(f"ADM batch {out.name}", count)
    write_images(out, shape, _blocks(shards, order, progress))


def _blocks(
    shards: list[NDArray[np.uint8]], order: NDArray[np.int64], progress: Progress
) -> Iterator[NDArray[np.uint8]]:
    """Images (B, H, W, 3) in the order asked for."""
    ends = np.cumsum([len(shard) for shard in shards])
    for start in range(0, len(order), _BLOCK):
        chosen = order[start : start + _BLOCK]
        places = np.searchsorted(ends, chosen, side="right")
        rows = [
            shards[place][number - ends[place]]  # counted from the shard's end
            for place, number in zip(places, chosen, strict=True)
        ]
        yield np.stack(rows).transpose(0, 2, 3, 1)
        progress.advance(len(rows))
