"""ADM's files of images: mapped where they can be, streamed when written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fewstep.adm import array_names, open_images, write_images
from fewstep.errors import UserError


@pytest.fixture
def images() -> NDArray[np.uint8]:
    """Seven images (7, 4, 5, 3)."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (7, 4, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("save", "mapped"), [(np.savez, True), (np.savez_compressed, False)]
)
def test_images_are_read_and_mapped_where_they_are_stored(
    tmp_path: Path, images: NDArray[np.uint8], save: Any, mapped: bool
) -> None:
    """Channels come first; uncompressed images are not loaded, compressed ones are."""
    path = tmp_path / "adm.npz"
    save(path, mu=np.zeros(3), arr_0=images)
    found = open_images(path)
    assert isinstance(found, np.memmap) is mapped
    assert np.array_equal(found, images.transpose(0, 3, 1, 2))
    assert array_names(path) == {"mu", "arr_0"}


def test_column_major_images_are_read(
    tmp_path: Path, images: NDArray[np.uint8]
) -> None:
    """NumPy may write an array in the other order of its axes."""
    np.savez(tmp_path / "f.npz", np.asfortranarray(images))
    assert np.array_equal(open_images(tmp_path / "f.npz").transpose(0, 2, 3, 1), images)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 4, 4, 3)),
        np.zeros((2, 3, 4, 4), dtype=np.uint8),
        np.zeros((4, 4, 3), dtype=np.uint8),
    ],
)
def test_what_are_no_images_is_refused(tmp_path: Path, array: NDArray[Any]) -> None:
    """Floats, channels first, a single image: one line with what was found."""
    np.savez(tmp_path / "x.npz", array)
    with pytest.raises(UserError, match=r"x\.npz: arr_0 is .*uint8 \(N, H, W, 3\)"):
        open_images(tmp_path / "x.npz")


def test_broken_files_are_one_line(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    """Absent, cut off, a flipped byte, no images inside: the file is named."""
    path = tmp_path / "x.npz"
    with pytest.raises(UserError, match=r"x\.npz: file not found"):
        array_names(path)
    np.savez(path, images)
    data = path.read_bytes()
    middle = data.index(images.tobytes()) + 9
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    for content in (b"", data[:200], flipped):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"x\.npz: cannot be read"):
            open_images(path)
    np.savez(path, other=images)
    with pytest.raises(UserError, match=r"x\.npz: cannot be read"):
        open_images(path)


def test_blocks_make_the_file_that_numpy_reads(
    tmp_path: Path, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any blocks give the same bytes, at any time of day."""
    write_images(tmp_path / "a.npz", images.shape, [images[:3], images[3:]])
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_images(tmp_path / "b.npz", images.shape, (image[None] for image in images))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz") as archive:
        assert archive.files == ["arr_0"]
        assert np.array_equal(archive["arr_0"], images)
    assert isinstance(open_images(tmp_path / "a.npz"), np.memmap)


def test_blocks_that_do_not_fit_leave_no_file(
    tmp_path: Path, images: NDArray[np.uint8]
) -> None:
    """Too few images, another size or type: an error, and no half file."""
    wrong = [
        ([images[:3]], "3 images"),
        ([images.astype(float)], "float64"),
        ([images[:, :2]], r"\(7, 2, 5, 3\)"),
    ]
    for blocks, message in wrong:
        with pytest.raises(ValueError, match=message):
            write_images(tmp_path / "a.npz", images.shape, blocks)
    assert list(tmp_path.iterdir()) == []
