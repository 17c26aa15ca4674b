"""Samplers of one model side by side, with their differences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fewstep import files
from fewstep.errors import UserError
from fewstep.stages.side_by_side import apart, side_by_side

Bytes = NDArray[np.uint8]


def written(folder: Path, name: str, images: Bytes) -> Path:
    """`samples.json` of a sampler, its images in one shard."""
    path = folder / name / "samples.json"
    path.parent.mkdir()
    np.save(path.parent / "0.npy", images)
    digest = files.sha256_file(path.parent / "0.npy")
    shard = {"file": "0.npy", "start": 0, "count": len(images), "sha256": digest}
    about = {"key": "k", "options": {}, "shards": [shard], "extra": {"sampler": name}}
    files.write_json(path, about)
    return path


def noise(count: int = 12, size: int = 8, seed: int = 0) -> Bytes:
    """Random images."""
    shape = (count, 3, size, size)
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def test_differences_are_absolute_and_do_not_wrap() -> None:
    """Bytes below and above count alike."""
    low, high = np.full((1, 3, 2, 2), 3, np.uint8), np.full((2, 3, 2, 2), 250, np.uint8)
    assert (apart(low, high) == 247).all()
    assert (apart(high, low) == 247).all()
    assert apart(low, high).shape == low.shape


def test_every_sampler_has_a_row_and_every_other_one_its_difference(
    tmp_path: Path,
) -> None:
    """Images of the first sampler stand on top; a difference of 2 is drawn as 20."""
    exact = noise() // 2
    near = exact + np.uint8(2)
    paths = [written(tmp_path, "for", exact), written(tmp_path, "gsj", near)]
    out = tmp_path / "side.png"
    side_by_side(paths, out, columns=3)
    with Image.open(out) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[0] > 3 * 64
    twenty = (pixels == 20).all(-1)
    # Three differences of 64 x 64 pixels, and no other place of that colour.
    assert twenty.sum() == 3 * 64 * 64
    first = np.repeat(np.repeat(exact[0].transpose(1, 2, 0), 8, 0), 8, 1)
    rows, columns = np.nonzero(twenty)
    left = columns.min()
    # The row of samples starts right of its title, above both others.
    top = rows.min() - 2 * (64 + 4)
    assert np.array_equal(pixels[top : top + 64, left : left + 64], first)


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    """One line names the sampler whose images do not fit."""
    paths = [written(tmp_path, "for", noise()), written(tmp_path, "x", noise(size=4))]
    with pytest.raises(UserError, match="samples of 'x'"):
        side_by_side(paths, tmp_path / "side.png")
    assert not (tmp_path / "side.png").exists()
