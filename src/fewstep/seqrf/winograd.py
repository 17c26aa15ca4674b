"""3x3 convolutions with a quarter of the multiplications, for inference on a CPU.

Winograd's F(4x4, 3x3): every 6x6 tile of the input becomes 36 numbers a channel, each
number meets the channels in a matrix product of its own, and 4x4 outputs come back.
oneDNN's direct convolutions run at the processor's peak: only fewer operations are
faster. With the points 0, ±1/√2, ±√2 and infinity rounding stays at about 1e-6 of the
output, a quarter of what the usual points 0, ±1, ±2 leave.

Sources: Lavin and Gray (arXiv 1509.09308); on points, Barabasz et al. (1803.10986).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

_LEAST_CHANNELS = 64 * 64  # C K: below it the transforms cost what the products save
_LEAST_TILES = 16  # fewer read the weights, four times as large here, for nothing
_LEAST_WORK = 16 * 256 * 128  # tiles C K: below it the calls are what costs
_BYTES = 2.4e6  # of a group's tiles: they are to stay in a core's cache


@cache
def _matrices() -> tuple[Tensor, Tensor, Tensor]:
    """Of the output (4, 6), the weights (6, 3) and the input (6, 6), float64."""
    points = [0.0, math.sqrt(0.5), -math.sqrt(0.5), math.sqrt(2.0), -math.sqrt(2.0)]
    after, weights, before = (torch.zeros(n, 6).double() for n in (4, 3, 6))
    for i, point in enumerate(points):
        others = [other for other in points if other != point]
        scale = math.prod(point - other for other in others)
        powers = torch.tensor([point**k for k in range(4)], dtype=torch.float64)
        after[:, i] = powers
        weights[:, i] = powers[:3] / scale
        before[:5, i] = _polynomial(others)
    after[3, 5] = weights[2, 5] = 1.0
    before[:, 5] = _polynomial(points)
    # Rows of like size lose least; a power of two loses nothing.
    size = torch.exp2(before.norm(dim=0).log2().round())
    return after, (weights * size).T, (before / size).T


def _polynomial(roots: list[float]) -> Tensor:
    """Coefficients of the product of (x - root), the constant first."""
    found = torch.ones(1, dtype=torch.float64)
    for root in roots:
        longer = torch.zeros(len(found) + 1, dtype=torch.float64)
        longer[1:] += found
        longer[:-1] -= root * found
        found = longer
    return found


def transform(weight: Tensor) -> Tensor:
    """The weights (K, C, 3, 3) of a convolution as 36 matrices (36, C, K)."""
    sides = _matrices()[1].to(weight.device)
    tiles = torch.einsum("ia,kcab,jb->ijck", sides, weight.double(), sides)
    return tiles.flatten(0, 1).to(weight.dtype).contiguous()


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether `convolve` takes a convolution and is faster than the direct one.

    Args:
        x: input (B, C, H, W).
        weight: (K, C, h, w).
    """
    batch, channels, height, width = x.shape
    tiles, products = batch * height * width // 16, channels * len(weight)
    return (
        weight.shape[2:] == (3, 3)
        and height % 4 == width % 4 == 0
        and products >= _LEAST_CHANNELS
        and tiles >= _LEAST_TILES
        and tiles * products >= _LEAST_WORK
    )


Fill = Callable[[Tensor, Tensor], None]
"""(pixels (n, H, W, C), out of the same shape): writes a convolution's input."""


def convolve(x: Tensor, weight: Tensor, added: Tensor, fill: Fill) -> Tensor:
    """The convolution of what `fill` makes of x, with one pixel of zeros around.

    Args:
        x: (B, C, H, W), height and width multiples of 4; best with channels last.
        weight: (36, C, K) from `transform`.
        added: (1 or B, K), to every pixel.
        fill: is given a few images at a time, which stay in the cache.

    Returns:
        (B, K, H, W), channels last in memory.
    """
    batch, channels, height, width = x.shape
    pixels, out = x.permute(0, 2, 3, 1), weight.shape[2]
    rows, columns = height // 4, width // 4
    found = x.new_empty(batch, rows, 4, columns, 4, out)
    places = found.permute(2, 4, 0, 1, 3, 5)
    added = added.expand(batch, -1)[:, None, None]
    bytes_of_row = 4 * 36 * columns * max(channels, out)
    fitting = max(1, int(_BYTES * torch.get_num_threads() / bytes_of_row))
    images = max(1, min(batch, fitting // rows))
    band = math.ceil(rows / math.ceil(rows / fitting))
    work = _Work(x, weight, images, band)
    for first in range(0, batch, images):
        part = slice(first, first + images)
        tiles = work.tiles(pixels[part], fill)
        for top in range(0, rows, band):
            block = slice(top, top + band)
            products = work.run(tiles[:, :, :, block])
            torch.add(products, added[part], out=places[:, :, part, block])
    return found.view(batch, height, width, out).permute(0, 3, 1, 2)


class _Work:
    """Buffers for a few images, or a band of one, small enough to stay in the cache."""

    def __init__(self, x: Tensor, weight: Tensor, images: int, band: int) -> None:
        _, channels, height, width = x.shape
        self.padded = x.new_zeros(images, height + 2, width + 2, channels)
        self.weight, self.out = weight, weight.shape[2]
        size = 36 * images * band * (width // 4) * max(channels, self.out)
        self.one, self.two = x.new_empty(size), x.new_empty(size)
        after, _, before = _matrices()
        self.after, self.before = after.to(x), before.to(x)

    def tiles(self, pixels: Tensor, fill: Fill) -> Tensor:
        """Overlapping tiles (6, 6, n, H / 4, W / 4, C) of what `fill` makes."""
        n, height, width, channels = pixels.shape
        padded = self.padded[:n]
        fill(pixels, padded[:, 1:-1, 1:-1])
        image, row, pixel, _ = padded.stride()
        return padded.as_strided(
            (6, 6, n, height // 4, width // 4, channels),
            (row, pixel, image, 4 * row, 4 * pixel, 1),
        )

    def run(self, tiles: Tensor) -> Tensor:
        """Tiles to the outputs (4, 4, n, rows, columns, K) in them, in a buffer."""
        *_, n, rows, columns, channels = tiles.shape
        count, out = n * rows * columns, self.out
        one, two = (b[: 36 * count * channels] for b in (self.one, self.two))
        one.view(tiles.shape).copy_(tiles)
        torch.mm(self.before, one.view(6, -1), out=two.view(6, -1))
        sides = self.before.expand(6, 6, 6)
        torch.bmm(sides, two.view(6, 6, -1), out=one.view(6, 6, -1))
        products = self.two[: 36 * count * out].view(36, count, out)
        torch.bmm(one.view(36, count, channels), self.weight, out=products)
        half = self.one[: 24 * count * out].view(6, 4, -1)
        torch.bmm(self.after.expand(6, 4, 6), products.view(6, 6, -1), out=half)
        found = self.two[: 16 * count * out].view(4, -1)
        torch.mm(self.after, half.view(6, -1), out=found)
        return found.view(4, 4, n, rows, columns, out)
