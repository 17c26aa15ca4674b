"""The small classifier: training to the bit, saving, loading, agreement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from fewstep.classifier import (
    SmallClassifier,
    class_agreement,
    load_classifier,
    save_classifier,
    train_classifier,
)
from fewstep.errors import UserError
from fewstep.extractors import Extractor, load_extractor, weights_sha256
from fewstep.files import sha256_file

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Trained = tuple[dict[str, torch.Tensor], dict[str, Any]]


@pytest.fixture(scope="module")
def digits() -> tuple[Images, Labels]:
    """scikit-learn's 1,797 digits as 8 x 8 colour images."""
    data = load_digits()
    grey = np.rint(data.images * 255 / 16).astype(np.uint8)
    return np.repeat(grey[:, None], 3, axis=1), data.target.astype(np.int64)


@pytest.fixture(scope="module")
def trained(digits: tuple[Images, Labels]) -> Trained:
    """A classifier of the digits, trained for ten epochs."""
    return train_classifier(*digits, num_classes=10, size=8, seed=0)


@pytest.fixture
def saved(trained: Trained, tmp_path: Path) -> Path:
    """The same in a file."""
    path = tmp_path / "classifier.safetensors"
    save_classifier(path, *trained)
    return path


def test_digits_are_recognised(trained: Trained) -> None:
    """At least 93 % of the held-out tenth, and the manifest says how it was made."""
    state, manifest = trained
    assert manifest["accuracy"] >= 0.93
    assert (manifest["held_out"], manifest["trained_on"]) == (179, 1618)
    assert manifest["weights_sha256"] == weights_sha256(state)
    assert {"seed", "epochs", "batch", "size", "num_classes", "dim"} <= set(manifest)


def test_training_is_the_same_to_the_bit(digits: tuple[Images, Labels]) -> None:
    """One seed gives one set of bits, whatever the threads or the global generator."""
    images, labels = digits[0][::4], digits[1][::4]
    found = []
    threads = torch.get_num_threads()
    try:
        for count, noise in ((1, 5), (2, 6)):
            torch.set_num_threads(count)
            torch.manual_seed(noise)
            expected = torch.rand(1)
            torch.manual_seed(noise)
            state, _ = train_classifier(images, labels, 10, 8, seed=3, epochs=2)
            found.append(weights_sha256(state))
            assert torch.get_num_threads() == count
            assert torch.equal(torch.rand(1), expected)
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]
    other, _ = train_classifier(images, labels, 10, 8, seed=4, epochs=2)
    assert weights_sha256(other) != found[0]


@pytest.mark.parametrize("size", [8, 16, 32])
def test_every_size_of_the_demo_trains(size: int) -> None:
    """8, 16 and 32 pixels give 80 features and one logit a class."""
    rng = np.random.default_rng(size)
    labels = np.arange(40) % 2
    images = rng.integers(0, 100, (40, 3, size, size), dtype=np.uint8)
    images[labels == 1] += 100
    state, manifest = train_classifier(images, labels, 2, size, epochs=30)
    network = SmallClassifier(size, 2)
    network.load_state_dict(state)
    features = network.eval()(torch.from_numpy(images[:5]))
    assert features.pool.shape == (5, 80)
    assert features.logits.shape == (5, 2)
    assert manifest["train_accuracy"] == 1.0


def test_saved_file_is_the_same_bytes_and_loads(trained: Trained, saved: Path) -> None:
    """Two saves agree; what is loaded is the network that was trained."""
    again = saved.with_name("again.safetensors")
    save_classifier(again, *trained)
    assert again.read_bytes() == saved.read_bytes()
    extractor: Extractor = load_classifier(saved)
    assert extractor.weights_sha256 == trained[1]["weights_sha256"]
    assert (extractor.name, extractor.resize) == ("classifier", "none")
    assert not extractor.is_inception
    assert extractor.dim == 80


def test_it_is_an_extractor_by_kind(saved: Path, digits: tuple[Images, Labels]) -> None:
    """load_extractor reads and checks it; its labels agree with the data's."""
    extractor = load_extractor(
        "classifier", weights=saved, sha256=sha256_file(saved), name="digits"
    )
    assert extractor.name == "digits"
    features = extractor(torch.from_numpy(digits[0]))
    assert class_agreement(features.logits, digits[1]) >= 0.95
    with pytest.raises(UserError, match="sha256"):
        load_extractor("classifier", weights=saved, sha256="0" * 64)


def test_both_parts_of_the_features_weigh_the_same(
    trained: Trained, saved: Path, digits: tuple[Images, Labels]
) -> None:
    """Shapes and colours are scaled alike: mean variance about 1 in either part."""
    pool = load_classifier(saved)(torch.from_numpy(digits[0])).pool
    for part in (pool[:, :64], pool[:, 64:]):
        assert part.var(dim=0).mean().item() == pytest.approx(1, abs=0.1)


def test_features_see_colour(saved: Path, digits: tuple[Images, Labels]) -> None:
    """A red cast leaves the digits readable but moves the features."""
    extractor = load_classifier(saved)
    images = torch.from_numpy(digits[0])
    red = images.clone()
    red[:, 1:] //= 2
    shift = (extractor(red).pool - extractor(images).pool)[:, 64:].mean(dim=0).norm()
    assert shift > 1


def test_images_of_another_size_are_refused(saved: Path) -> None:
    """A network of 8 pixels does not silently score images of 16."""
    with pytest.raises(ValueError, match="expected 8"):
        load_classifier(saved)(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"images": np.zeros((20, 3, 8, 8))}, "float64"),
        ({"images": np.zeros((20, 1, 8, 8), np.uint8)}, r"\(20, 1, 8, 8\)"),
        ({"size": 16}, "not uint8 3 x 16 x 16"),
        ({"images": np.zeros((20, 3, 4, 4), np.uint8), "size": 4}, "fewer than 8"),
        ({"labels": np.zeros(19, np.int64)}, "20 images and 19 labels"),
        ({"labels": np.full(20, 2)}, r"labels 2\.\.2 of 2 classes"),
        ({"labels": np.full(20, -1)}, r"labels -1\.\.-1"),
        ({"num_classes": 1}, "of 1 classes"),
    ],
)
def test_what_cannot_be_learned_is_one_line(change: dict[str, Any], match: str) -> None:
    """Wrong images, sizes or labels are refused before any training."""
    arguments = {
        "images": np.zeros((20, 3, 8, 8), np.uint8),
        "labels": np.zeros(20, np.int64),
        "num_classes": 2,
        "size": 8,
    }
    with pytest.raises(UserError, match=match):
        train_classifier(**{**arguments, **change})


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"manifest": "not json"},
        {"manifest": json.dumps({"size": 8})},
        {"manifest": json.dumps({"size": 8, "num_classes": 3})},
        {"manifest": json.dumps({"size": "8", "num_classes": 10})},
        {"manifest": json.dumps([])},
    ],
)
def test_foreign_or_torn_file_is_one_line(
    trained: Trained, tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    """No manifest, a broken one, or one of another network: one line."""
    save_file(trained[0], tmp_path / "x.safetensors", metadata)
    with pytest.raises(UserError, match="not a classifier of fewstep") as caught:
        load_classifier(tmp_path / "x.safetensors")
    assert "\n" not in str(caught.value)


def test_agreement_is_the_share_of_right_classes() -> None:
    """Three of four; tensors and arrays alike."""
    logits = np.eye(3)[[0, 1, 2, 0]]
    assert class_agreement(logits, np.array([0, 1, 2, 2])) == 0.75
    assert class_agreement(torch.from_numpy(logits), torch.tensor([0, 1, 2, 0])) == 1


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.eye(3), np.array([0, 1])),
        (np.eye(3), np.array([0, 1, 3])),
        (np.eye(3), np.array([0, 1, -1])),
        (np.zeros((0, 3)), np.zeros(0, dtype=np.int64)),
    ],
)
def test_agreement_refuses_unlike_arrays(
    logits: NDArray[Any], labels: NDArray[Any]
) -> None:
    """Counts that differ, classes that do not exist, or no samples at all."""
    with pytest.raises(ValueError, match="labels"):
        class_agreement(logits, labels)
