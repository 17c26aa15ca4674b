"""Images to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from fewstep.errors import UserError
from fewstep.images import grid, save_png

_PIXELS = 96  # a side of each image, about


def as_bytes(images: Tensor | NDArray[Any]) -> NDArray[np.uint8]:
    """Images as a uint8 array (N, 3, H, W).

    Raises:
        UserError: for another type or shape.
    """
    array = images.cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)
    if array.ndim != 4 or array.shape[1] != 3 or array.dtype != np.uint8:
        raise UserError(
            f"images of type {array.dtype} and shape {array.shape}",
            expected="uint8 (N, 3, H, W), as Model.sample gives them",
        )
    return array


def show(
    images: Tensor | NDArray[Any],
    columns: int | None = None,
    *,
    labels: Sequence[str] | None = None,
) -> Image:
    """Images in rows, as a PIL image, which a notebook displays.

    Args:
        images: uint8 (N, 3, H, W).
        columns: images a row; None: about as many as rows.
        labels: N short texts, each written under its image.

    Raises:
        UserError: for images of another type or shape.
    """
    found = as_bytes(images)
    if not len(found):
        raise UserError("no image to show")
    scale = max(1, _PIXELS // found.shape[-1])
    columns = columns or math.ceil(math.sqrt(len(found)))
    return grid(found, columns, labels=labels, scale=scale)


def save_grid(
    images: Tensor | NDArray[Any], path: str | Path, columns: int | None = None
) -> Path:
    """Write what `show` makes as a PNG file; returns its path.

    Raises:
        UserError: as `show`.
    """
    save_png(show(images, columns), path)
    return Path(path)
