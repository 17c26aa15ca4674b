"""Image folders: order, geometry, and what is wrong with them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fewstep.data import open_dataset
from fewstep.datasets import common, folder
from fewstep.errors import UserError

BILINEAR = Image.Resampling.BILINEAR


def noise_image(width: int, height: int, seed: int = 0) -> Image.Image:
    """A random RGB image."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def root(tmp_path):
    """Two classes, three and two images, and two files that are no images."""
    root = tmp_path / "animals"
    for name in ("dog", "cat"):
        (root / name).mkdir(parents=True)
    for k, name in enumerate(["b.png", "a.JPEG", "c.jpg"]):
        noise_image(20 + k, 16, seed=k).save(root / "cat" / name)
    for k, name in enumerate(["10.png", "9.png"]):
        noise_image(9, 12, seed=k).convert("L").save(root / "dog" / name)
    (root / "dog" / "readme.txt").write_text("no image")
    (root / "licence.txt").write_text("no class")
    return root


@pytest.fixture
def spec(make_spec, root):
    """A spec that fits the folder."""
    return make_spec(
        source="folder", size=8, path=str(root), count=5, num_classes=2, notes="n.b."
    )


def test_order_and_pixels(tmp_path, spec, root):
    """Classes and files come in the order of their names, as resized images."""
    folder.build(spec, tmp_path / "out")
    dataset = open_dataset(tmp_path / "out", verify=True)
    assert dataset.classes == ["cat", "dog"]
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1]
    names = ["cat/a.JPEG", "cat/b.png", "cat/c.jpg", "dog/10.png", "dog/9.png"]
    for name, image in zip(names, dataset.images, strict=True):
        opened = Image.open(root / name).convert("RGB")
        assert np.array_equal(image, folder.resize_crop(opened, 8, BILINEAR))
    origin = dataset.manifest["origin"]
    assert origin["images_by_class"] == {"cat": 3, "dog": 2}
    assert origin["other_files"] == 1


def test_two_builds_are_equal(tmp_path, spec):
    """Building twice gives the same bytes, whatever order the threads end in."""
    for name in "ab":
        folder.build(spec, tmp_path / name)
    for name in (common.IMAGES, common.LABELS, common.MANIFEST):
        one, other = (tmp_path / side / name for side in "ab")
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("size", "resized", "box"),
    [
        # int(8 * 23 / 16) = 11, offset round(1.5) = 2, where floor would give 1.
        ((23, 16), (11, 8), (2, 0, 10, 8)),
        # int(8 * 27 / 16) = 13, offset round(2.5) = 2: a half goes to the even number.
        ((16, 27), (8, 13), (0, 2, 8, 10)),
        ((4, 5), (8, 10), (0, 1, 8, 9)),
        ((8, 8), (8, 8), (0, 0, 8, 8)),
    ],
)
def test_geometry_is_torchvisions(size, resized, box):
    """Sizes and offsets round as torchvision's Resize and CenterCrop do."""
    image = noise_image(*size)
    expected = np.asarray(image.resize(resized, BILINEAR).crop(box))
    found = folder.resize_crop(image, 8, BILINEAR)
    assert np.array_equal(found, expected.transpose(2, 0, 1))


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 40))
def test_any_shape_fills_the_square(width, height, size):
    """Every image size gives a full square: no border appears from outside."""
    image = Image.new("RGB", (width, height), (7, 8, 9))
    found = folder.resize_crop(image, size, BILINEAR)
    assert found.shape == (3, size, size)
    assert (found == np.array([7, 8, 9])[:, None, None]).all()


def test_all_unreadable_images_are_named(tmp_path, spec, root):
    """One error counts the unreadable images, names them, and nothing is written."""
    (root / "cat" / "b.png").write_bytes(b"")
    whole = (root / "dog" / "9.png").read_bytes()
    (root / "dog" / "9.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="2 of 5 images cannot be read") as caught:
        folder.build(spec, tmp_path / "out")
    assert "cat/b.png" in str(caught.value)
    assert "dog/9.png" in str(caught.value)
    assert "a.JPEG" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_the_first_ten_of_many_are_named(tmp_path, make_spec):
    """Of twelve unreadable images ten are named, and twelve counted."""
    root = tmp_path / "root"
    (root / "only").mkdir(parents=True)
    for k in range(12):
        (root / "only" / f"{k:02}.jpg").write_bytes(b"rubbish")
    spec = make_spec(path=str(root), num_classes=1)
    with pytest.raises(UserError, match="12 of 12 images") as caught:
        folder.build(spec, tmp_path / "out")
    named = [f"{k:02}.jpg" in str(caught.value) for k in range(12)]
    assert named == [True] * 10 + [False] * 2
    assert ", ..." in str(caught.value)


def test_more_images_than_a_chunk(tmp_path, make_spec, monkeypatch):
    """Images keep their order across the chunks that are decoded together."""
    monkeypatch.setattr(folder, "CHUNK", 2)
    (tmp_path / "only").mkdir()
    for k in range(5):
        Image.new("RGB", (8, 8), (k, k, k)).save(tmp_path / "only" / f"{k}.png")
    folder.build(make_spec(path=str(tmp_path), num_classes=1), tmp_path / "out")
    dataset = open_dataset(tmp_path / "out")
    assert dataset.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]


def test_filter_option(tmp_path, make_spec, spec):
    """The filter of the resize is an option, recorded in the manifest."""
    other = make_spec(**vars(spec) | {"options": {"filter": "box"}})
    folder.build(spec, tmp_path / "bilinear")
    folder.build(other, tmp_path / "box")
    one, two = (open_dataset(tmp_path / name) for name in ("bilinear", "box"))
    assert one.sha256 != two.sha256
    assert "box" in two.manifest["origin"]["resize"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": None}, "needs a path; expected path: <folder>"),
        ({"path": "/not/here"}, "/not/here: no such folder"),
        ({"count": 6}, "animals: found 5 images; expected 6 images .*note: n.b."),
        ({"num_classes": 3}, r"found 2 classes \(cat, dog\); expected 3 .*note: n.b."),
        ({"options": {"filter": "cubic"}}, "'cubic'; expected bilinear or bicubic"),
        ({"options": {"filtre": "box"}}, "no option 'filtre'; expected 'filter'"),
    ],
)
def test_a_folder_other_than_the_spec(tmp_path, make_spec, spec, change, message):
    """What is missing or differs is said in one line before an image is decoded."""
    with pytest.raises(UserError, match=message):
        folder.build(make_spec(**vars(spec) | change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_class_without_images(tmp_path, spec, root):
    """An empty class folder is named."""
    (root / "wild").mkdir()
    with pytest.raises(UserError, match=r"1 class folders without images \(wild\)"):
        folder.build(spec, tmp_path / "out")


def test_no_classes(tmp_path, make_spec):
    """A folder without class folders says how images have to lie."""
    with pytest.raises(UserError, match=r"no class folders; expected images as"):
        folder.build(make_spec(path=str(tmp_path)), tmp_path / "out")
