"""Pixels: between the model's range and bytes, and pictures for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fewstep import files

Rounding = Literal["truncate", "round", "half_up"]
Bytes = Tensor | NDArray[np.uint8]

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
FONT_SIZE = 11
GAP = 4
PAPER, INK = (255, 255, 255), (60, 60, 60)


def to_uint8(x: Tensor, rounding: Rounding) -> Tensor:
    """Bytes of images in the model's range.

    clip(x, -1, 1), then 0.5 (x + 1) 255 in float32, then to an integer; under "half_up"
    clip(127.5 x + 128, 0, 255) in float32, of which the fraction is dropped.

    "half_up" is how LlamaGen and PAR make the bytes that they give to ADM's evaluator:
    the nearest level, a half upwards. "round" takes a half to the even level and sums
    in another order, so the two differ at halves and next to them. "truncate", which is
    what ADM's own sampling program does, is one level lower for half of all values.

    Args:
        x: (..., C, H, W), floating point, nominally in [-1, 1]; infinities are clipped.
        rounding: "truncate" (the released TarFlow samples), "round" (to the nearest,
            a half to even) or "half_up".

    Raises:
        ValueError: for NaN, which the caller has to count before, for integer images
            and for an unknown rounding.
    """
    if not x.is_floating_point():
        raise ValueError(f"expected floating point images, got {x.dtype}")
    if x.isnan().any():
        raise ValueError(f"{int(x.isnan().sum())} pixels are NaN")
    if rounding == "half_up":
        return (127.5 * x.float() + 128).clamp(0, 255).to(torch.uint8)
    levels = 0.5 * (x.float().clamp(-1, 1) + 1) * 255
    if rounding == "round":
        levels = levels.round()
    elif rounding != "truncate":
        raise ValueError(f"unknown rounding {rounding!r}: truncate, round or half_up")
    return levels.to(torch.uint8)


def resize_bicubic(x: Tensor, size: int) -> Tensor:
    """Images resized as PAR does before they become bytes: bicubic, no antialiasing.

    torch's cubic kernel (a = -0.75) over 4 x 4 pixels whatever the factor, pixel
    centres at halves; values may leave the range of the input.

    Args:
        x: (B, C, H, W), floating point, not clipped; reckoned in float32.
        size: height and width of the result.

    Returns:
        (B, C, size, size), float32.

    Raises:
        ValueError: for integer images or another number of dimensions.
    """
    if not x.is_floating_point() or x.dim() != 4:
        raise ValueError(f"images of {x.dtype} and shape {tuple(x.shape)}")
    return F.interpolate(
        x.float(),
        size=(size, size),
        mode="bicubic",
        align_corners=False,
        antialias=False,
    )


def to_model_range(images: Bytes) -> Tensor:
    """Float32 images in [-1, 1] of uint8 ones, of any shape.

    x/255, then (x - 0.5) / 0.5: the operations, and so the bits, of torchvision's
    ToTensor and Normalize(0.5, 0.5).

    Raises:
        ValueError: for images that are not uint8.
    """
    x = images if isinstance(images, Tensor) else torch.tensor(images)
    if x.dtype != torch.uint8:
        raise ValueError(f"expected uint8 images, got {x.dtype}")
    return (x.float() / 255 - 0.5) / 0.5


def released_levels() -> NDArray[np.uint8]:
    """What TarFlow's released real statistics make of each byte, a table (256,).

    There real images pass through `to_model_range` and back by truncation, in float32.
    Rounding on the way makes some of the dark levels one too dark. Index it with uint8
    images to get the pixels that the published statistics saw.
    """
    levels = torch.arange(256, dtype=torch.uint8)
    table: NDArray[np.uint8] = to_uint8(to_model_range(levels), "truncate").numpy()
    return table


def grid(
    images: Bytes,
    columns: int,
    padding: int = 2,
    labels: Sequence[str] | None = None,
    *,
    scale: int = 1,
) -> Image.Image:
    """Lay images out in rows, on white.

    Args:
        images: uint8 (N, C, H, W), C 1 or 3, N at least 1.
        columns: images a row.
        padding: pixels between images and around.
        labels: N short texts, each written under its image.
        scale: each pixel is drawn as `scale` x `scale`.

    Raises:
        ValueError: for another type or shape, or a number of labels other than N.
    """
    tiles = _tiles(images, scale)
    count, height, width, _ = tiles.shape
    if columns < 1:
        raise ValueError(f"{columns} columns")
    if labels is not None and len(labels) != count:
        raise ValueError(f"{len(labels)} labels for {count} images")
    rows = -(-count // columns)
    font = _font()
    pitch_x = (
        max([width, *(_text_width(font, text) for text in labels or ())]) + padding
    )
    pitch_y = height + padding + (_text_height(font) if labels is not None else 0)
    size = (min(columns, count) * pitch_x + padding, rows * pitch_y + padding)
    canvas = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(canvas)
    for i, tile in enumerate(tiles):
        x, y = padding + i % columns * pitch_x, padding + i // columns * pitch_y
        middle = x + (pitch_x - padding) // 2
        canvas.paste(Image.fromarray(tile), (middle - width // 2, y))
        if labels is not None:
            below = (middle, y + height)
            draw.text(below, labels[i], fill=INK, font=font, anchor="ma")
    return canvas


def filmstrip(
    rows: Sequence[tuple[str, Sequence[Bytes]]],
    column_titles: Sequence[str],
    *,
    scale: int = 1,
) -> Image.Image:
    """Rows of images with a title before each row and above each column.

    Args:
        rows: (title, images uint8 (C, H, W)); all images of one size. A row may be
            shorter than the others: its last places stay empty.
        column_titles: one a column.
        scale: each pixel is drawn as `scale` x `scale`.

    Raises:
        ValueError: for a row longer than the titles, no image at all, or images of
            another type or shape.
    """
    longest = max((len(images) for _, images in rows), default=0)
    if not 1 <= longest <= len(column_titles):
        raise ValueError(f"{longest} images a row, {len(column_titles)} column titles")
    strips = [[_tiles(image[None], scale)[0] for image in images] for _, images in rows]
    shapes = {tile.shape for strip in strips for tile in strip}
    if len(shapes) != 1:
        raise ValueError(f"images of several sizes: {sorted(shapes)}")
    height, width, _ = shapes.pop()
    font = _font()
    head = _text_height(font) + GAP
    pitches = [max(width, _text_width(font, title)) + GAP for title in column_titles]
    margin = max(_text_width(font, title) for title, _ in rows) + 2 * GAP
    lefts = [margin + sum(pitches[:k]) for k in range(len(pitches))]
    pitch_y = max(height, _text_height(font)) + GAP
    canvas = Image.new(
        "RGB", (margin + sum(pitches), head + len(rows) * pitch_y), PAPER
    )
    draw = ImageDraw.Draw(canvas)
    for left, pitch, title in zip(lefts, pitches, column_titles, strict=True):
        middle = (left + (pitch - GAP) // 2, GAP // 2)
        draw.text(middle, title, fill=INK, font=font, anchor="ma")
    for k, ((title, _), strip) in enumerate(zip(rows, strips, strict=True)):
        top = head + k * pitch_y
        draw.text((GAP, top + height // 2), title, fill=INK, font=font, anchor="lm")
        for left, pitch, tile in zip(lefts, pitches, strip, strict=False):
            inset = (pitch - GAP - width) // 2
            canvas.paste(Image.fromarray(tile), (left + inset, top))
    return canvas


def save_png(image: Image.Image, path: str | Path) -> None:
    """Write a PNG, whole or not at all; equal images give equal bytes."""
    plain = image.copy()
    plain.info = {}  # Pillow would carry metadata of a loaded image over.
    with files.atomic_path(path) as part:
        plain.save(part, format="PNG", compress_level=9)


def _tiles(images: Bytes, scale: int) -> NDArray[np.uint8]:
    """Images (N, C, H, W) as RGB tiles (N, scale H, scale W, 3)."""
    array = images.cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)
    if array.dtype != np.uint8:
        raise ValueError(f"expected uint8 images, got {array.dtype}")
    if array.ndim != 4 or array.shape[1] not in (1, 3) or not len(array):
        raise ValueError(f"expected images (N, 1 or 3, H, W), got {array.shape}")
    if scale < 1:
        raise ValueError(f"scale {scale}: expected 1 or more")
    array = array.repeat(scale, axis=2).repeat(scale, axis=3)
    array = np.broadcast_to(array, (len(array), 3, *array.shape[2:]))
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1))


def _font() -> Font:
    return ImageFont.load_default(FONT_SIZE)


def _text_height(font: Font) -> int:
    return int(np.ceil(font.getbbox("Ag")[3])) + 2


def _text_width(font: Font, text: str) -> int:
    return int(np.ceil(font.getlength(text)))
