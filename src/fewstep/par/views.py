"""The views of an image that codes are taken of (LlamaGen, arXiv 2406.06525).

ADM's centre crop, and torchvision's ten crops of a slightly larger one. Views are uint8
(V, 3, S, S): every crop is made of whole pixels, nothing is resized twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Kind = Literal["plain", "flip", "ten-crop"]
_VIEWS = {"plain": 1, "flip": 2, "ten-crop": 10}


def views_of(kind: str, crop_ranges: Sequence[float] = ()) -> int:
    """Number of views of an image.

    Args:
        kind: "plain" (centre crop), "flip" (it and its mirror) or "ten-crop".
        crop_ranges: of ten-crop: sizes of the larger crop over that of a view, each at
            least 1; ten views for each.

    Raises:
        ValueError: for an unknown kind, ten-crop without a range, or a range below 1.
    """
    if kind not in _VIEWS:
        raise ValueError(f"views {kind!r}: expected {' or '.join(_VIEWS)}")
    if kind != "ten-crop":
        return _VIEWS[kind]
    if not crop_ranges or not all(one >= 1 for one in crop_ranges):
        raise ValueError(f"crop ranges {list(crop_ranges)}: expected some, at least 1")
    return _VIEWS[kind] * len(crop_ranges)


def make_views(
    image: Image.Image, kind: str, size: int, crop_ranges: Sequence[float] = ()
) -> NDArray[np.uint8]:
    """All views of an RGB image, range after range: uint8 (V, 3, size, size).

    Args:
        image: of mode RGB, any size.
        kind, crop_ranges: as in `views_of`.
        size: of a view in pixels.

    Raises:
        ValueError: as `views_of`.
    """
    views_of(kind, crop_ranges)
    if kind == "ten-crop":
        larger = [centre_crop(image, int(size * one)) for one in crop_ranges]
        return np.concatenate([ten_crop(pixels, size) for pixels in larger])
    return mirrored(centre_crop(image, size), kind)


def mirrored(pixels: NDArray[np.uint8], kind: str) -> NDArray[np.uint8]:
    """The views "plain" or "flip" of pixels (3, S, S): (1 or 2, 3, S, S).

    Raises:
        ValueError: for another kind.
    """
    if kind not in ("plain", "flip"):
        raise ValueError(f"views {kind!r}: expected plain or flip")
    both = [pixels, pixels[..., ::-1]]
    return np.stack(both[: _VIEWS[kind]])


def centre_crop(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """ADM's centre crop (arXiv 2105.05233) of an RGB image: uint8 (3, size, size).

    The image is halved by BOX while its shorter side is at least twice `size`, resized
    by BICUBIC so that this side is `size` (the other rounded, a half to even), and cut
    in the middle (offsets downwards).
    """
    width, height = image.size
    while min(width, height) >= 2 * size:
        width, height = width // 2, height // 2
        image = image.resize((width, height), Image.Resampling.BOX)
    # The quotient first, as ADM has it: size * width / short rounds otherwise.
    scale = size / min(width, height)
    width, height = round(width * scale), round(height * scale)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    cut = resized.crop((left, top, left + size, top + size))
    return np.asarray(cut).transpose(2, 0, 1)


def ten_crop(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """torchvision's TenCrop of pixels (3, H, W): uint8 (10, 3, size, size).

    Corners top left, top right, bottom left, bottom right, then the centre (its offset
    to the nearest, a half to even); then the same five of the mirrored image.

    Raises:
        ValueError: for pixels smaller than a crop.
    """
    down, right = (side - size for side in pixels.shape[1:])
    if min(down, right) < 0:
        raise ValueError(f"pixels {pixels.shape}: expected {size} or more a side")
    corners = [(0, 0), (0, right), (down, 0), (down, right)]
    places = [*corners, (round(down / 2), round(right / 2))]
    return np.stack(
        [
            side[:, top : top + size, left : left + size]
            for side in (pixels, pixels[..., ::-1])
            for top, left in places
        ]
    )
