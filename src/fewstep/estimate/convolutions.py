"""Residual networks of convolutions: what their blocks weigh, cost and hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fewstep.estimate.work import BYTES, Work


@dataclass(frozen=True)
class Part:
    """A layer for one image.

    Attributes:
        parameters: trained numbers.
        macs: multiplications with an addition.
        live: most values that are alive while it computes, its input among them.
        held: values that wait for a later layer meanwhile, such as skips.
        saved: values that it keeps for a backward pass.
        kernels: launches.
    """

    parameters: int
    macs: int = 0
    live: int = 0
    held: int = 0
    saved: int = 0
    kernels: int = 2


def convolution(
    channels: int, out: int, side: int, kernel: int = 3, *, held: int = 0
) -> Part:
    """With bias; `side` is that of the output."""
    count, area = kernel**2 * channels * out, side**2
    return Part(
        count + out, count * area, (channels + 2 * out) * area, held, channels * area
    )


def to_image(channels: int, side: int, *, held: int = 0) -> Part:
    """Normalisation, SiLU, convolution to three colours."""
    area, count = side**2, 27 * channels
    return Part(
        2 * channels + count + 3,
        count * area,
        3 * channels * area,
        held,
        3 * channels * area,
        4,
    )


def residual(
    channels: int,
    out: int,
    before: int,
    after: int,
    *,
    embedding: int = 0,
    shortcut: bool,
    filtered: bool = False,
    held: int = 0,
    dropout: bool = False,
) -> Part:
    """Norm, SiLU, convolution, twice.

    Args:
        channels, out: before and after.
        before, after: sides; they differ where the block resamples.
        embedding: features of a time embedding, 0 = none.
        shortcut: whether the skip is a 1x1 convolution.
        filtered: whether it is resampled with a low-pass filter.
        held: values that wait meanwhile.
        dropout: whether a mask is kept.
    """
    wide, narrow = before**2, after**2
    count = 9 * channels * out + 9 * out * out
    count += channels * out if shortcut else 0
    biases = 2 * out + (out if shortcut else 0) + (out if embedding else 0)
    moved = channels * narrow if before != after else 0
    start = channels * wide
    peaks = [
        3 * start,
        start + moved + (channels + 2 * out) * narrow,
        start + moved + 3 * out * narrow,
    ]
    if moved:  # both branches, one after the other; a filter pads before it adds up
        peaks.append(2 * start + moved * (4 if filtered and after > before else 2))
    kept = 2 * start + (channels + 3 * out) * narrow + (out * narrow if dropout else 0)
    return Part(
        count + biases + 2 * channels + 2 * out + embedding * out,
        count * narrow + embedding * out,
        max(peaks),
        held,
        kept,
        12,
    )


def attention(channels: int, side: int, *, held: int = 0) -> Part:
    """One head over all positions."""
    area = side**2
    return Part(
        2 * channels + 4 * (channels**2 + channels),
        4 * channels**2 * area + 2 * area**2 * channels,
        7 * channels * area + 2 * area**2,
        held,
        6 * channels * area,
        10,
    )


def parameters(parts: Iterable[Part]) -> int:
    """Trained numbers."""
    return sum(part.parameters for part in parts)


def peak(parts: Iterable[Part]) -> int:
    """Most values alive at once, without a backward pass."""
    return max(part.live + part.held for part in parts)


def saved(parts: Iterable[Part]) -> int:
    """Values kept for a backward pass."""
    return sum(part.saved for part in parts)


def work(parts: Iterable[Part], batch: int, precision: str) -> Work:
    """One evaluation of a batch."""
    parts = list(parts)
    moved = sum(part.parameters + batch * part.saved * 2 for part in parts)
    return Work(
        2 * batch * sum(part.macs for part in parts),
        BYTES[precision] * moved,
        sum(part.kernels for part in parts),
        "tf32" if precision == "fp32" else precision,
    )
