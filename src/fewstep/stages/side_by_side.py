"""Stage: samplers of one model side by side, and how far they are apart."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fewstep.errors import UserError
from fewstep.images import filmstrip, save_png
from fewstep.samples import read_images, read_manifest

TIMES = 10
"""Differences are drawn this many times as large, or nobody would see them."""
_PIXELS = 64  # small images are enlarged to about this side


def side_by_side(samples: list[Path], out: Path, *, columns: int = 10) -> None:
    """A row of images a sampler, and under it what it differs by, as a PNG.

    Args:
        samples: `samples.json` of each sampler, of one seed; the first is the one that
            the others are compared with.
        out: the picture.
        columns: samples 0, 1, 2 … of each.

    Raises:
        UserError: for images of several sizes.
    """
    shown = {_name(path): _first(path, columns) for path in samples}
    (partner, exact), *others = shown.items()
    rows = [(partner, list(exact))]
    for name, images in others:
        if images.shape[1:] != exact.shape[1:]:
            raise UserError(
                f"images of {images.shape[1:]} beside {exact.shape[1:]}",
                where=f"samples of {name!r}",
            )
        rows.append((name, list(images)))
        gap = apart(images, exact)
        title = f"|{name} - {partner}| x {TIMES}, max {gap.max(initial=0)}"
        rows.append((title, list(_enlarged(gap))))
    titles = [f"sample {i}" for i in range(max(len(strip) for _, strip in rows))]
    scale = max(1, _PIXELS // exact.shape[-1])
    save_png(filmstrip(rows, titles, scale=scale), out)


def apart(images: NDArray[np.uint8], exact: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Absolute differences (n, 3, H, W) of the images that both have, in levels."""
    count = min(len(images), len(exact))
    gap: NDArray[np.int32] = np.abs(images[:count].astype(np.int32) - exact[:count])
    return gap


def _enlarged(gap: NDArray[np.int32]) -> NDArray[np.uint8]:
    return np.clip(TIMES * gap, 0, 255).astype(np.uint8)


def _name(path: Path) -> str:
    return str(read_manifest(path).extra["sampler"])


def _first(path: Path, count: int) -> NDArray[np.uint8]:
    images = (image for shard in read_images(path) for image in shard)
    return np.stack([np.array(one) for one in islice(images, count)])
