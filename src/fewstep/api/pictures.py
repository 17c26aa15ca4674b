"""Images to look at."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from fewstep.api.arguments import as_bytes, path_of, whole, wrong
from fewstep.errors import UserError
from fewstep.images import grid, save_png

_PIXELS = 96  # a side of each image, about


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
        UserError: for images of another type or shape, and another number of labels.
    """
    found = as_bytes(images)
    scale = max(1, _PIXELS // found.shape[-1])
    if columns is None:
        columns = math.ceil(math.sqrt(len(found)))
    columns = whole(columns, "columns", 1)
    return grid(found, columns, labels=_texts(labels, len(found)), scale=scale)


def _texts(labels: Sequence[Any] | None, count: int) -> list[str] | None:
    """A text for each image."""
    expected = f"a text for each of {count} images"
    if labels is None:
        return None
    if isinstance(labels, str) or not isinstance(labels, Iterable):
        raise wrong(labels, "labels", expected)
    found = [str(label) for label in labels]
    if len(found) != count:
        raise UserError(f"{len(found)} labels", where="labels", expected=expected)
    return found


def save_grid(
    images: Tensor | NDArray[Any], path: str | Path, columns: int | None = None
) -> Path:
    """Write what `show` makes as a PNG file; returns its path.

    Raises:
        UserError: as `show`, and where the file cannot be written.
    """
    place = path_of(path, "path")
    if place.is_dir():
        raise UserError("is a folder", where=str(place), expected="a file's path")
    try:
        save_png(show(images, columns), place)
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise UserError(f"cannot be written ({why})", where=str(place)) from error
    return place
