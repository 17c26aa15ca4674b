"""Pixels to bytes and back, grids, film strips, PNG files."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from fewstep import images
from fewstep.errors import UserError

ALL_LEVELS = torch.arange(256, dtype=torch.uint8)


def random_images(n: int, channels: int = 3, size: int = 4) -> np.ndarray:
    """Random uint8 images (n, channels, size, size)."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, channels, size, size), dtype=np.uint8)


def test_rounding_has_two_names():
    """Truncation drops the fraction, rounding goes to the nearest, half to even."""
    levels = torch.tensor([10.4, 10.6, 11.0, 254.99])
    x = (levels / 255 * 2 - 1).double()
    assert images.to_uint8(x, "truncate").tolist()[:2] == [10, 10]
    assert images.to_uint8(x, "round").tolist() == [10, 11, 11, 255]
    assert images.to_uint8(torch.zeros(1), "truncate").item() == 127
    assert images.to_uint8(torch.zeros(1), "round").item() == 128


def test_adm_rounding_goes_to_the_nearest_with_halves_up():
    """trunc(127.5 x + 128): a half goes up where "round" takes the even level."""
    levels = torch.tensor([0.0, 10.4, 10.6, 126.5, 127.5, 254.99]).double()
    x = levels / 127.5 - 1
    assert images.to_uint8(x, "half_up").tolist() == [0, 10, 11, 127, 128, 255]
    assert images.to_uint8(x, "round").tolist() == [0, 10, 11, 126, 128, 255]
    there = images.to_model_range(ALL_LEVELS)
    assert torch.equal(images.to_uint8(there, "half_up"), ALL_LEVELS)


def test_bicubic_has_its_closed_form():
    """Weights of the cubic kernel with a = -0.75 at the pixels' centres, edges kept."""
    row = torch.tensor([0.3, -1.4, 2.0, 0.1, -0.6, 0.9])
    x = row.expand(2, 3, 6, 6)
    found = images.resize_bicubic(x, 4)
    assert found.shape == (2, 3, 4, 4)

    def weight(d: float) -> float:
        d = abs(d)
        if d <= 1:
            return 1.25 * d**3 - 2.25 * d**2 + 1
        return -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)

    for i in range(4):
        centre = (i + 0.5) * 6 / 4 - 0.5
        near = [int(np.floor(centre)) + k for k in (-1, 0, 1, 2)]
        expected = sum(weight(centre - k) * row[min(max(k, 0), 5)].item() for k in near)
        assert found[1, 2, 3, i].item() == pytest.approx(expected, abs=1e-6)
    assert found.max() > 1  # values are not clipped


def test_bicubic_of_the_same_size_changes_nothing():
    """Every centre meets a pixel: no weight falls on another one."""
    x = torch.randn(1, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(images.resize_bicubic(x, 5), x)
    assert images.resize_bicubic(x.bfloat16(), 3).dtype == torch.float32
    with pytest.raises(ValueError, match=r"torch\.uint8 and shape \(256,\)"):
        images.resize_bicubic(ALL_LEVELS, 3)


def test_out_of_range_is_clipped():
    """Values beyond the range, infinities too, become the nearest extreme."""
    x = torch.tensor([-float("inf"), -7.0, -1.0, 1.0, 1.5, float("inf")])
    for rounding in ("truncate", "round", "half_up"):
        assert images.to_uint8(x, rounding).tolist() == [0, 0, 0, 255, 255, 255]


def test_nan_is_an_error_that_counts():
    """NaN never becomes a pixel in silence."""
    x = torch.zeros(2, 3, 4, 4)
    x[0, 0, 0, :2] = float("nan")
    for rounding in ("round", "half_up"):
        with pytest.raises(ValueError, match="2 pixels are NaN"):
            images.to_uint8(x, rounding)


def test_wrong_types_are_errors():
    """Integers are not images in the model's range, nor floats bytes."""
    with pytest.raises(ValueError, match="expected floating point"):
        images.to_uint8(ALL_LEVELS, "round")
    with pytest.raises(ValueError, match="expected uint8"):
        images.to_model_range(torch.zeros(3))
    with pytest.raises(ValueError, match="unknown rounding 'floor'"):
        images.to_uint8(torch.zeros(3), "floor")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_reckoned_in_float32(dtype):
    """Half and double precision give what their float32 values give."""
    x = torch.linspace(-1.2, 1.2, 999).to(dtype)
    found = images.to_uint8(x, "truncate")
    assert torch.equal(found, images.to_uint8(x.float(), "truncate"))


def test_input_is_untouched():
    """Neither direction changes its input."""
    x = torch.tensor([-2.0, 0.3])
    kept = x.clone()
    images.to_uint8(x, "round")
    assert torch.equal(x, kept)


def test_model_range_ends():
    """Bytes 0 and 255 are -1 and 1 exactly, in float32."""
    x = images.to_model_range(ALL_LEVELS)
    assert x.dtype == torch.float32
    assert (x[0].item(), x[255].item()) == (-1.0, 1.0)
    assert (x.diff() > 0).all()


def test_model_range_bits():
    """Each level has the bits of (x/255 - 0.5)/0.5, rounded step by step."""
    x = np.arange(256, dtype=np.float32)
    expected = (x / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    found = images.to_model_range(np.arange(256, dtype=np.uint8))
    assert np.array_equal(found.numpy(), expected)


def test_read_only_array_is_taken(recwarn):
    """A read-only array, as a memory map gives it, is copied without a warning."""
    array = random_images(2)
    array.flags.writeable = False
    assert images.to_model_range(array).shape == array.shape
    assert not recwarn.list


def test_there_and_back_with_rounding():
    """With rounding every level survives the way to the model's range and back."""
    there = images.to_model_range(ALL_LEVELS)
    assert torch.equal(images.to_uint8(there, "round"), ALL_LEVELS)


def test_released_levels():
    """In the released statistics levels 1..63, and no other, are one too dark."""
    table = images.released_levels()
    shift = table.astype(int) - np.arange(256)
    assert table.dtype == np.uint8
    assert np.flatnonzero(shift).tolist() == list(range(1, 64))
    assert set(shift[1:64].tolist()) == {-1}


@given(st.integers(1, 12), st.integers(1, 7), st.integers(0, 3), st.integers(1, 3))
def test_grid_places_every_pixel(count, columns, padding, scale):
    """Image i lies at row i // columns, column i % columns, each pixel scaled up."""
    tiles = random_images(count)
    canvas = np.asarray(images.grid(tiles, columns, padding, scale=scale))
    side = 4 * scale
    pitch = side + padding
    rows = -(-count // columns)
    width = min(columns, count) * pitch + padding
    assert canvas.shape == (rows * pitch + padding, width, 3)
    for i, tile in enumerate(tiles):
        y, x = padding + i // columns * pitch, padding + i % columns * pitch
        for dy, dx in ((0, 0), (scale - 1, scale - 1)):
            seen = canvas[y + dy : y + side : scale, x + dx : x + side : scale]
            assert np.array_equal(seen, tile.transpose(1, 2, 0))


def test_grid_of_a_tensor_and_of_grey():
    """Tensors are taken as arrays are, and one channel is drawn as grey."""
    grey = random_images(2, channels=1)
    colour = np.repeat(grey, 3, axis=1)
    seen = [np.asarray(images.grid(x, 2)) for x in (torch.from_numpy(grey), colour)]
    assert np.array_equal(*seen)


def test_grid_labels_take_room_and_ink():
    """Labels are drawn beneath the images and leave their pixels alone."""
    tiles = np.zeros((2, 3, 8, 8), np.uint8)
    plain = images.grid(tiles, 2)
    labelled = images.grid(tiles, 2, labels=["a long label", "7"])
    assert labelled.height > plain.height
    assert labelled.width > plain.width
    black = (np.asarray(labelled) == 0).all(axis=2)
    assert black.sum() == 2 * 64
    below = np.asarray(labelled)[2 + 8 :]
    assert (below < 255).any()


@pytest.mark.parametrize(
    ("tiles", "options", "message"),
    [
        (np.zeros((1, 3, 4, 4)), {}, "expected uint8"),
        (np.zeros((3, 4, 4), np.uint8), {}, r"\(N, 1 or 3, H, W\)"),
        (np.zeros((1, 2, 4, 4), np.uint8), {}, r"\(N, 1 or 3, H, W\)"),
        (np.zeros((0, 3, 4, 4), np.uint8), {}, r"\(N, 1 or 3, H, W\)"),
        (np.zeros((1, 3, 4, 4), np.uint8), {"scale": 0}, "scale 0"),
        (np.zeros((1, 3, 4, 4), np.uint8), {"columns": 0}, "0 columns"),
        (np.zeros((1, 3, 4, 4), np.uint8), {"labels": []}, "0 labels for 1 images"),
    ],
)
def test_grid_refuses(tiles, options, message):
    """What cannot be drawn is an error that says why."""
    with pytest.raises(ValueError, match=message):
        images.grid(tiles, **{"columns": 2, **options})


def test_filmstrip_shows_every_image_once():
    """All images of all rows appear, and a short row leaves its last place empty."""
    tiles = np.zeros((5, 3, 4, 4), np.uint8)
    tiles[:, 0] = 1 + np.arange(5)[:, None, None]
    rows = [("for", list(tiles[:3])), ("gsj", [torch.from_numpy(t) for t in tiles[3:]])]
    strip = images.filmstrip(rows, ["noise", "block 0", "image"], scale=2)
    seen = np.asarray(strip).astype(int)
    for level in range(1, 6):
        assert (seen == [level, 0, 0]).all(axis=2).sum() == 64


def test_filmstrip_has_room_for_titles():
    """Longer titles make a wider strip."""
    rows = [("a", list(random_images(2)))]
    narrow = images.filmstrip(rows, ["x", "y"])
    assert images.filmstrip(rows, ["x", "a long title"]).width > narrow.width
    rows = [("a long title", list(random_images(2)))]
    assert images.filmstrip(rows, ["x", "y"]).width > narrow.width


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "0 images a row, 2 column titles"),
        ([("a", [])], "0 images a row"),
        ([("a", list(random_images(3)))], "3 images a row, 2 column titles"),
        ([("a", [random_images(1)[0], random_images(1, size=5)[0]])], "several sizes"),
        ([("a", [np.zeros((3, 4, 4))])], "expected uint8"),
    ],
)
def test_filmstrip_refuses(rows, message):
    """A strip without images, with too many or of several sizes is an error."""
    with pytest.raises(ValueError, match=message):
        images.filmstrip(rows, ["one", "two"])


def test_png_is_whole_and_deterministic(tmp_path):
    """Equal images give equal files, which read back as they were."""
    picture = images.grid(random_images(4), 2, labels=list("abcd"))
    digests = set()
    for name in ("a.png", "b.png"):
        images.save_png(picture, tmp_path / "made" / name)
        content = (tmp_path / "made" / name).read_bytes()
        digests.add(hashlib.sha256(content).hexdigest())
    assert len(digests) == 1
    with Image.open(tmp_path / "made" / "a.png") as read:
        assert np.array_equal(np.asarray(read), np.asarray(picture))
    assert len(list((tmp_path / "made").iterdir())) == 2


def test_png_carries_no_metadata(tmp_path):
    """Text that a loaded picture carries is not written on."""
    info = PngImagePlugin.PngInfo()
    info.add_text("made", "yesterday")
    picture = Image.new("RGB", (4, 4))
    picture.save(tmp_path / "a.png", pnginfo=info, dpi=(72, 72))
    with Image.open(tmp_path / "a.png") as read:
        images.save_png(read, tmp_path / "b.png")
    images.save_png(picture, tmp_path / "c.png")
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()


def test_png_on_a_full_disk(tmp_path, monkeypatch):
    """A full disk is one line, and no half picture remains."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match=r"a\.png: the disk is full"):
        images.save_png(Image.new("RGB", (4, 4)), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
