"""The batch for ADM's evaluator: all samples, shuffled, from whole shards only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fewstep.errors import UserError
from fewstep.samples import draw_samples, read_images, read_manifest
from fewstep.stages import adm_batch
from tests.test_sampling import OPTIONS, Painter


def batch(samples: Path, seed: int = 0) -> np.ndarray:
    """What the stage writes of some samples."""
    out = samples.with_suffix(".npz")
    adm_batch.write(samples, out, seed)
    with np.load(out) as archive:
        images: np.ndarray = archive["arr_0"]
    return images


@pytest.mark.parametrize("block", [1, 4, 256])
def test_a_batch_is_a_permutation_of_the_samples(
    tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every sample stands there once, channels last, in an order that is not theirs."""
    monkeypatch.setattr(adm_batch, "_BLOCK", block)
    path = tmp_path / "samples.json"
    draw_samples(Painter(), OPTIONS, path, key="k" * 64)
    images = np.concatenate(list(read_images(path))).transpose(0, 2, 3, 1)
    found = batch(path)
    assert (found.dtype, found.shape) == (np.uint8, (10, 4, 4, 3))
    assert not np.array_equal(found, images)
    assert sorted(map(bytes, found)) == sorted(map(bytes, images))


def test_the_seed_alone_decides_the_order(tmp_path: Path) -> None:
    """Other shards give the same bytes, another seed another order."""
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    draw_samples(Painter(), OPTIONS, one, key="k" * 64)
    draw_samples(Painter(), replace(OPTIONS, shard=4), two, key="k" * 64)
    first = batch(one)
    batch(two)
    assert one.with_suffix(".npz").read_bytes() == two.with_suffix(".npz").read_bytes()
    assert not np.array_equal(batch(two, seed=1), first)


def test_a_broken_shard_leaves_no_batch(tmp_path: Path) -> None:
    """A shard whose content has changed is named, and nothing is written."""
    path = tmp_path / "samples.json"
    draw_samples(Painter(), OPTIONS, path, key="k" * 64)
    shard = tmp_path / read_manifest(path).shards[1]["file"]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(UserError, match="content has changed") as caught:
        adm_batch.write(path, tmp_path / "batch.npz", 0)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "batch.npz").exists()
