"""Opening datasets and drawing from them."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewstep import data
from fewstep.datasets import build_dataset
from fewstep.errors import UserError
from tests.specs import dataset_spec


def make_spec(**changes):
    """The digits' spec, changed by the keywords."""
    return dataset_spec(**{"name": "digits", "count": 1797, **changes})


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The digits, built once; tests copy what they break."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    build_dataset(make_spec(), folder)
    return folder


@pytest.fixture
def copy(built, tmp_path):
    """A copy of the digits to break."""
    for path in built.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_open(built):
    """An opened dataset knows its size, classes and checksum, and its length."""
    dataset = data.open_dataset(built, verify=True)
    assert (len(dataset), dataset.size, dataset.num_classes) == (1797, 8, 10)
    assert dataset.name == "digits"
    assert dataset.classes == list("0123456789")
    assert dataset.sha256 == dataset.manifest["sha256"]


def test_images_are_mapped_read_only(built):
    """The images stay on the disk and cannot be changed by accident."""
    dataset = data.open_dataset(built)
    assert isinstance(dataset.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        dataset.images[0, 0, 0, 0] = 1


def test_batch(built):
    """A batch holds the asked images in the asked order, as a copy of its own."""
    dataset = data.open_dataset(built)
    images, labels = dataset.batch([5, 1796, 5])
    assert images.dtype == np.uint8
    assert np.array_equal(images, dataset.images[[5, 1796, 5]])
    assert np.array_equal(labels, dataset.labels[[5, 1796, 5]])
    assert not isinstance(images, np.memmap)
    assert images.flags.writeable


def test_empty_batch(built):
    """An empty batch keeps the images' shape."""
    images, labels = data.open_dataset(built).batch([])
    assert images.shape == (0, 3, 8, 8)
    assert labels.shape == (0,)


def test_unknown_source_names_the_nearest(tmp_path):
    """A misspelt source is answered with the nearest one."""
    with pytest.raises(UserError, match="source 'digit'; expected 'digits'"):
        build_dataset(make_spec(source="digit"), tmp_path)


def test_hopeless_source_lists_them_all(tmp_path):
    """A source near to none is answered with the list."""
    with pytest.raises(UserError, match="expected colour-mnist, twemoji, digits, fol"):
        build_dataset(make_spec(source="zzz"), tmp_path)


def test_no_torch():
    """Data and its builders come without torch, pandas and scikit-learn."""
    code = (
        "import sys, fewstep.data;"
        "assert not {'torch', 'pandas', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def truncate(path):
    """Cut a file in half."""
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize("name", ["images.npy", "labels.npy"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "file not found; delete .* build"),
        (truncate, "not a whole .npy file"),
        (lambda path: path.write_bytes(b""), "not a whole .npy file"),
        (lambda path: path.write_bytes(b"rubbish" * 99), "not a whole .npy file"),
        (lambda path: path.write_bytes(pickle.dumps([1])), "not a whole .npy file"),
        (lambda path: np.save(path, np.zeros(3)), r"float64 \(3,\); expected u?int"),
    ],
    ids=["missing", "truncated", "empty", "rubbish", "pickle", "other"],
)
def test_damaged_array(copy, name, damage, message):
    """A missing, cut, corrupt or foreign array is named, with what to do."""
    damage(copy / name)
    with pytest.raises(UserError, match=message) as caught:
        data.open_dataset(copy)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["images.npy", "labels.npy"])
def test_verify_finds_a_changed_byte(copy, name):
    """A changed byte passes a quick opening and is found by verify."""
    path = copy / name
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    data.open_dataset(copy)
    with pytest.raises(UserError, match=f"{name}: sha256 is .*; expected sha256"):
        data.open_dataset(copy, verify=True)


def test_missing_manifest_is_no_dataset(copy):
    """Arrays without a manifest are an unfinished build."""
    (copy / "dataset.json").unlink()
    with pytest.raises(UserError, match=r"no dataset here .*dataset\.json"):
        data.open_dataset(copy)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "lacks channels, classes, count"),
        ('{"name": "x"}', "lacks channels, classes, count"),
    ],
)
def test_damaged_manifest(copy, text, message):
    """A manifest that is broken or lacks keys is named."""
    (copy / "dataset.json").write_text(text)
    with pytest.raises(UserError, match=message):
        data.open_dataset(copy)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("count", 1796, r"uint8 \(1797, 3, 8, 8\); expected uint8 \(1796,"),
        ("num_classes", 9, "labels 0 to 9"),
        ("size", "8", "size is '8'; expected an integer"),
    ],
)
def test_manifest_at_odds(copy, key, value, message):
    """A manifest that contradicts the arrays is an error, not a guess."""
    manifest = json.loads((copy / "dataset.json").read_text())
    (copy / "dataset.json").write_text(json.dumps(manifest | {key: value}))
    with pytest.raises(UserError, match=message):
        data.open_dataset(copy)


@given(st.integers(0, 300), st.integers(0, 2**31), st.integers(0, 10**6))
def test_epoch_order_is_a_permutation(n, seed, epoch):
    """Each epoch visits every image once, in an order that can be recomputed."""
    order = data.epoch_order(n, seed, epoch)
    assert np.array_equal(np.sort(order), np.arange(n))
    assert np.array_equal(order, data.epoch_order(n, seed, epoch))


def test_epochs_and_seeds_differ():
    """Other epochs and other seeds have other orders."""
    orders = {
        tuple(data.epoch_order(50, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)
    }
    assert len(orders) == 4


@given(st.integers(0, 200), st.integers(0, 9), st.floats(0, 0.99))
def test_holdout_split_parts_the_images(n, seed, fraction):
    """Training and held-out images are disjoint and all, in the stated share."""
    train, held = data.holdout_split(n, seed, fraction)
    assert len(held) == round(n * fraction)
    assert np.array_equal(np.sort(np.concatenate([train, held])), np.arange(n))
    assert np.array_equal(train, np.sort(train))


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_holdout_fraction_out_of_range(fraction):
    """A share outside [0, 1) is refused."""
    with pytest.raises(ValueError, match="0 <= fraction < 1"):
        data.holdout_split(10, 0, fraction)


@given(st.integers(0, 200), st.integers(0, 9), st.data())
def test_subset_is_nested_and_without_repetition(n, seed, draw):
    """A smaller choice is the beginning of a larger; none repeats."""
    k = draw.draw(st.integers(0, n))
    chosen = data.subset(n, k, seed)
    assert len(set(chosen.tolist())) == k
    assert np.array_equal(chosen, data.subset(n, n, seed)[:k])


@pytest.mark.parametrize("k", [-1, 11])
def test_subset_out_of_range(k):
    """More than there are, or fewer than none, cannot be chosen."""
    with pytest.raises(ValueError, match=f"cannot choose {k} of 10"):
        data.subset(10, k, 0)
