"""Views of an image: ADM's centre crop, torchvision's ten crops, mirrors."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fewstep import _torchvision
from fewstep.par.views import centre_crop, make_views, mirrored, ten_crop, views_of

BOX, BICUBIC = Image.Resampling.BOX, Image.Resampling.BICUBIC


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A random RGB image."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixels(image: Image.Image) -> np.ndarray[Any, Any]:
    """(3, H, W) of an image."""
    return np.asarray(image).transpose(2, 0, 1)


@pytest.mark.parametrize(
    ("size", "halved", "resized", "corner"),
    [
        ((13, 10), [], (13, 10), (1, 0)),  # 1.5 downwards
        ((10, 13), [], (10, 13), (0, 1)),
        ((10, 8), [], (12, 10), (1, 0)),  # 12.5 to even
        ((14, 8), [], (18, 10), (4, 0)),  # 17.5 to even
        ((19, 25), [], (10, 13), (0, 1)),  # not yet twice as large
        ((20, 20), [(10, 10)], (10, 10), (0, 0)),
        ((25, 21), [(12, 10)], (12, 10), (1, 0)),  # a half is cut off
        ((53, 47), [(26, 23), (13, 11)], (12, 10), (1, 0)),
        ((40, 31), [(20, 15)], (13, 10), (1, 0)),
    ],
)
def test_centre_crop_is_adms(
    size: tuple[int, int],
    halved: list[tuple[int, int]],
    resized: tuple[int, int],
    corner: tuple[int, int],
) -> None:
    """Halving, resizing and offsets, with ADM's roundings, at 10 pixels."""
    image = step = picture(*size)
    for one in halved:
        step = step.resize(one, BOX)
    left, top = corner
    box = (left, top, left + 10, top + 10)
    expected = pixels(step.resize(resized, BICUBIC).crop(box))
    np.testing.assert_array_equal(centre_crop(image, 10), expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 40))
def test_any_shape_fills_the_square(width: int, height: int, size: int) -> None:
    """Every image size gives a full square: no border appears from outside."""
    image = Image.new("RGB", (width, height), (7, 8, 9))
    found = centre_crop(image, size)
    assert found.shape == (3, size, size)
    assert (found == np.array([7, 8, 9])[:, None, None]).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
def test_ten_crop_is_torchvisions(
    size: int, wider: int, higher: int, seed: int
) -> None:
    """The same crops in the same order as `torchvision.transforms.TenCrop`."""
    _torchvision.import_torch_fidelity()
    transforms = import_module("torchvision.transforms")
    image = picture(size + wider, size + higher, seed)
    expected = np.stack([pixels(one) for one in transforms.TenCrop(size)(image)])
    np.testing.assert_array_equal(ten_crop(pixels(image), size), expected)


def test_ten_crop_needs_enough_pixels() -> None:
    """An image smaller than a crop is a ValueError, not a smaller crop."""
    with pytest.raises(ValueError, match="expected 8 or more a side"):
        ten_crop(pixels(picture(9, 7)), 8)


def test_ranges_are_those_of_the_released_program() -> None:
    """At 384 pixels, 1.1 and 1.05 crop to 422 and 403; ten views of each, in order."""
    image = picture(450, 440)
    views = make_views(image, "ten-crop", 384, (1.1, 1.05))
    assert views.shape == (20, 3, 384, 384)
    for first, larger in ((0, 422), (10, 403)):
        expected = ten_crop(centre_crop(image, larger), 384)
        np.testing.assert_array_equal(views[first : first + 10], expected)


def test_plain_and_flip() -> None:
    """One view is the centre crop; two are it and its mirror."""
    image = picture(17, 12)
    plain = centre_crop(image, 8)
    np.testing.assert_array_equal(make_views(image, "plain", 8), plain[None])
    both = make_views(image, "flip", 8)
    np.testing.assert_array_equal(both, np.stack([plain, plain[..., ::-1]]))
    np.testing.assert_array_equal(both, mirrored(plain, "flip"))
    assert not np.array_equal(both[0], both[1])


@pytest.mark.parametrize(
    ("kind", "ranges", "count"),
    [
        ("plain", (), 1),
        ("flip", (1.1,), 2),
        ("ten-crop", (1.1,), 10),
        ("ten-crop", (1.1, 1.05), 20),
    ],
)
def test_number_of_views(kind: str, ranges: tuple[float, ...], count: int) -> None:
    """`views_of` says how many `make_views` makes."""
    assert views_of(kind, ranges) == count
    assert make_views(picture(30, 30), kind, 10, ranges).shape == (count, 3, 10, 10)


@pytest.mark.parametrize(
    ("kind", "ranges", "message"),
    [
        ("five-crop", (), "expected plain or flip or ten-crop"),
        ("ten-crop", (), "expected some, at least 1"),
        ("ten-crop", (1.1, 0.9), "expected some, at least 1"),
        ("ten-crop", (float("nan"),), "expected some, at least 1"),
    ],
)
def test_views_that_are_none(
    kind: str, ranges: tuple[float, ...], message: str
) -> None:
    """Unknown kinds and impossible ranges are a ValueError that says what there is."""
    with pytest.raises(ValueError, match=message):
        views_of(kind, ranges)
    with pytest.raises(ValueError, match="expected"):
        make_views(picture(9, 9), kind, 8, ranges)


def test_built_images_have_no_crops() -> None:
    """Pixels that are cropped already can only be mirrored."""
    with pytest.raises(ValueError, match="expected plain or flip"):
        mirrored(pixels(picture(8, 8)), "ten-crop")
