"""The stages around codes: index of a folder, shards, manifest, released folders."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep import files
from fewstep.checkpoints import write_state_dict
from fewstep.datasets import build_dataset
from fewstep.errors import UserError
from fewstep.images import to_model_range
from fewstep.par.codes import open_codes
from fewstep.par.tokenizer import VQModel
from fewstep.par.views import make_views
from fewstep.processes import PreemptedError
from fewstep.stages import code_index, codes, import_codes
from tests.par.code_world import everything, released, tiny_tokenizer
from tests.specs import dataset_spec

FILES = ["cat/a.JPEG", "cat/b.png", "cat/c.jpg", "dog/10.png", "dog/9.png"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes, three and two images, and files that are no images."""
    root = tmp_path / "animals"
    rng = np.random.default_rng(0)
    for name, grey in zip(reversed(FILES), (0, 1, 0, 0, 0), strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        levels = rng.integers(0, 256, (21 + grey, 26, 3), dtype=np.uint8)
        image = Image.fromarray(levels)
        (image.convert("L") if grey else image).save(root / name)
    (root / "dog" / "readme.txt").write_text("no image")
    (root / "licence.txt").write_text("no class")
    return root


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """Weights of a small tokenizer."""
    torch.manual_seed(0)
    path = tmp_path / "tokenizer.safetensors"
    write_state_dict(path, VQModel(**tiny_tokenizer()).state_dict(), {})
    return path


def spec(root: Path, **changes: Any) -> dict[str, Any]:
    """Codes of the folder `root` as the configuration resolves them."""
    return {
        "name": "tried",
        "dataset": {
            "name": "animals",
            "source": "folder",
            "size": 8,
            "path": str(root),
            "count": 5,
            "num_classes": 2,
        },
        "views": "ten-crop",
        "crop_ranges": [1.1, 1.3],
        "shard_size": 2,
        "count": 5,
        "size": 8,
        "tokenizer": {"name": "tiny", "model": tiny_tokenizer()},
        "precision": "fp32",
        "code": "c0de",
        **changes,
    }


def extract(given: dict[str, Any], tokenizer: Path, dataset: Path, out: Path) -> Path:
    """All shards and their manifest; gives its path."""
    numbers = range(-(-given["count"] // given["shard_size"]))
    paths = [out / f"shard-{number:05d}.arrow" for number in numbers]
    for number, path in enumerate(paths):
        codes.shard(given, number, tokenizer, dataset, path, 7)
    records = [path.with_suffix(".json") for path in paths]
    codes.collect(given, records, out / "codes.json")
    return out / "codes.json"


def indexed(root: Path) -> Path:
    """The index of `root`, beside it."""
    out = root.parent / "index.json"
    code_index.index(spec(root), out)
    return out


def encoded(tokenizer: Path, views: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Codes (V, N) of views by the tokenizer itself."""
    from fewstep.checkpoints import load_weights, read_state_dict

    vq = VQModel(**tiny_tokenizer()).eval()
    load_weights(vq, read_state_dict(tokenizer), "")
    with torch.no_grad():
        return vq.encode(to_model_range(views)).flatten(1).numpy()


# ---- the index ----


def test_index(root: Path) -> None:
    """Classes and files in the order of their names, relative to the folder."""
    index = files.read_json(indexed(root))
    assert index["root"] == str(root)
    assert index["classes"] == ["cat", "dog"]
    assert index["files"] == FILES
    assert index["labels"] == [0, 0, 0, 1, 1]
    assert index["count"] == 5


def test_index_knows_its_content(root: Path) -> None:
    """Its hash changes with a file's size and with no other writing of the index."""
    one = files.read_json(indexed(root))["sha256"]
    assert files.read_json(indexed(root))["sha256"] == one
    with open(root / FILES[2], "ab") as file:
        file.write(b"0")
    assert files.read_json(indexed(root))["sha256"] != one


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 6}, "animals: found 5 images; expected 6 images in dataset 'animal"),
        ({"num_classes": 3}, r"found 2 classes \(cat, dog\); expected 3 classes"),
        ({"path": "/not/here"}, "/not/here: no such folder"),
    ],
)
def test_a_folder_other_than_the_dataset(
    root: Path, change: dict[str, Any], message: str
) -> None:
    """A folder with images missing is one line, and no index is written."""
    given = spec(root)
    given["dataset"] |= change
    with pytest.raises(UserError, match=message):
        code_index.index(given, root / "index.json")
    assert not (root / "index.json").exists()


def test_empty_files_are_found_by_the_index(root: Path) -> None:
    """A download that was cut short is known before any job starts."""
    (root / "dog" / "9.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"1 empty files, the first is .*dog/9\.png"):
        indexed(root)


# ---- shards ----


def test_codes_of_a_folder(root: Path, tokenizer: Path, tmp_path: Path) -> None:
    """Ten crops of each range, coded by the tokenizer's weights, with their labels."""
    data = open_codes(extract(spec(root), tokenizer, indexed(root), tmp_path / "x"))
    got, labels = everything(data)
    assert got.shape == (5, 20, 4)
    assert labels.tolist() == [0, 0, 0, 1, 1]
    for index, name in enumerate(FILES):
        image = Image.open(root / name).convert("RGB")
        views = make_views(image, "ten-crop", 8, (1.1, 1.3))
        np.testing.assert_array_equal(got[index], encoded(tokenizer, views))
    origin = data.manifest["origin"]
    assert origin["tokenizer_sha256"] == files.sha256_file(tokenizer)
    assert origin["dataset"] == "animals"
    assert origin["crop_ranges"] == [1.1, 1.3]
    assert data.classes == 2


def test_codes_of_a_built_dataset(tokenizer: Path, tmp_path: Path) -> None:
    """Its images as they are and mirrored; crop ranges mean nothing there."""
    build_dataset(dataset_spec(), tmp_path / "digits")
    given = spec(tmp_path, views="flip", shard_size=30, count=70)
    manifest = extract(given, tokenizer, tmp_path / "digits", tmp_path / "x")
    data = open_codes(manifest)
    got, labels = everything(data)
    images = np.load(tmp_path / "digits" / "images.npy")
    known = np.load(tmp_path / "digits" / "labels.npy")
    assert got.shape == (70, 2, 4)
    np.testing.assert_array_equal(labels, known[:70])
    for index in (0, 29, 30, 69):
        views = np.stack([images[index], images[index][..., ::-1]])
        np.testing.assert_array_equal(got[index], encoded(tokenizer, views))
    other = {**given, "crop_ranges": [1.2]}
    again = extract(other, tokenizer, tmp_path / "digits", tmp_path / "y")
    assert open_codes(again).sha256 == data.sha256


def test_more_images_leave_a_whole_shard_as_it_is(
    root: Path, tokenizer: Path, tmp_path: Path
) -> None:
    """A shard's bytes do not depend on how many images follow it."""
    for count in (4, 5):
        out = tmp_path / f"{count}.arrow"
        codes.shard(spec(root, count=count), 1, tokenizer, indexed(root), out)
    assert (tmp_path / "4.arrow").read_bytes() == (tmp_path / "5.arrow").read_bytes()


def test_equal_codes_are_an_equal_file(
    root: Path, tokenizer: Path, tmp_path: Path
) -> None:
    """Code that was edited without effect changes the record, but no codes' hash."""
    made = []
    for code in ("one", "other"):
        given = spec(root, code=code)
        manifest = extract(given, tokenizer, indexed(root), tmp_path / code)
        record = files.read_json(tmp_path / code / "shard-00001.json")
        assert record["code"] == code
        assert "code" not in record["origin"]
        made.append(((tmp_path / code / "shard-00001.arrow").read_bytes(), manifest))
    assert made[0][0] == made[1][0]
    assert open_codes(made[0][1]).sha256 == open_codes(made[1][1]).sha256


def test_images_that_cannot_be_read(
    root: Path, tokenizer: Path, tmp_path: Path
) -> None:
    """One line names the file, and no shard is left."""
    index, out = indexed(root), tmp_path / "x" / "x.arrow"
    whole = (root / FILES[3]).read_bytes()
    broken: list[tuple[bytes | None, str]] = [
        (whole[: len(whole) // 2], "the image cannot be read (.*truncated.*); fetch"),
        (b"no image", "the image cannot be read (cannot identify"),
        (None, "image not found; put it back"),
    ]
    for content, line in broken:
        (root / FILES[3]).unlink()
        if content is not None:
            (root / FILES[3]).write_bytes(content)
        with pytest.raises(UserError) as error:
            codes.shard(spec(root), 1, tokenizer, index, out)
        text = str(error.value)
        assert text.startswith(f"{root / FILES[3]}: {line.split('(')[0]}"), text
        assert "\n" not in text and not list(out.parent.glob("*"))
    codes.shard(spec(root), 0, tokenizer, index, out)  # another shard does not mind


def test_a_built_dataset_that_does_not_fit(tokenizer: Path, tmp_path: Path) -> None:
    """Ten crops of cropped images, and another size, are one line each."""
    build_dataset(dataset_spec(), tmp_path / "digits")
    for changes, line in [
        ({}, "views 'ten-crop' of a built dataset; expected plain or flip"),
        ({"views": "flip", "size": 16}, "images of 8 pixels; expected 16 pixels"),
    ]:
        given = spec(tmp_path, **changes)
        with pytest.raises(UserError, match=f"digits: {line}"):
            codes.shard(given, 0, tokenizer, tmp_path / "digits", tmp_path / "x.arrow")


def test_what_does_not_fit_the_tokenizer(
    root: Path, tokenizer: Path, tmp_path: Path
) -> None:
    """A size that it does not divide, and weights of another model, are one line."""
    out = tmp_path / "x.arrow"
    with pytest.raises(UserError, match="views of 10 pixels; expected a mult"):
        codes.shard(spec(root, size=10), 0, tokenizer, indexed(root), out)
    given = spec(root)
    given["tokenizer"]["model"]["codebook_size"] = 32
    with pytest.raises(UserError, match=r"quantize\.embedding\.weight: shape"):
        codes.shard(given, 0, tokenizer, indexed(root), out)
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(UserError, match=r"index\.json: not an index of images"):
        codes.shard(spec(root), 0, tokenizer, tmp_path / "index.json", out)


def test_a_record_that_is_missing(root: Path, tokenizer: Path, tmp_path: Path) -> None:
    """The manifest is of all images or not at all."""
    codes.shard(spec(root), 0, tokenizer, indexed(root), tmp_path / "0.arrow")
    with pytest.raises(UserError, match="images 2 to 4 are missing"):
        codes.collect(spec(root), [tmp_path / "0.json"], tmp_path / "codes.json")
    assert not (tmp_path / "codes.json").exists()


# ---- released folders ----


def released_spec(**changes: Any) -> dict[str, Any]:
    """Published codes as the configuration resolves them."""
    tokenizer = {"name": "tiny", "model": tiny_tokenizer()}
    return {"name": "t", "tokenizer": tokenizer, "shard_size": 2, **changes}


def test_released_codes_become_shards(tmp_path: Path, tokenizer: Path) -> None:
    """The same codes and labels; the labels tell the classes; extra files stay out."""
    known, out = released(tmp_path / "r", 7), tmp_path / "x" / "codes.json"
    import_codes.import_released(released_spec(count=5), tmp_path / "r", out, tokenizer)
    data = open_codes(out, verify=True)
    got, labels = everything(data)
    np.testing.assert_array_equal(got, known[:5])
    assert labels.tolist() == [0, 1, 2, 0, 1]
    assert (data.classes, data.codebook_size) == (3, 64)
    assert data.largest == known[:5].max()
    origin = data.manifest["origin"]
    assert origin["tokenizer_sha256"] == files.sha256_file(tokenizer)
    assert origin["dataset"] == "tiny8"
    given = released_spec(dataset={"num_classes": 9}, count=None)
    import_codes.import_released(given, tmp_path / "r", tmp_path / "y" / "codes.json")
    assert (len(open_codes(tmp_path / "y")), open_codes(tmp_path / "y").classes) == (
        7,
        9,
    )


def test_released_codes_that_do_not_fit(tmp_path: Path) -> None:
    """Codes outside the tokenizer's codebook, or images missing, are one line."""
    released(tmp_path)
    given = released_spec(count=6)
    with pytest.raises(UserError, match=r"2 files are missing: tiny8_codes/5\.npy, t"):
        import_codes.import_released(given, tmp_path, tmp_path / "codes.json")
    given = released_spec()
    given["tokenizer"]["model"]["codebook_size"] = 8
    with pytest.raises(UserError, match=r"npy: codes \d+ to \d+; expected 0 to 7"):
        import_codes.import_released(given, tmp_path, tmp_path / "codes.json")
    given = released_spec(dataset={"num_classes": 2})
    with pytest.raises(UserError, match=r"2\.npy: label 2 to 2; expected 0 to 1"):
        import_codes.import_released(given, tmp_path, tmp_path / "codes.json")


KILLED = """
import os, signal, sys
from pathlib import Path
from fewstep.stages import import_codes
from tests.par.test_code_stage import released_spec

write, folder = import_codes.write_codes, Path(sys.argv[1])
def killing(plan, number, *args, **options):
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    write(plan, number, *args, **options)
import_codes.write_codes = killing
import_codes.import_released(released_spec(), folder, folder / "x" / "codes.json")
"""


def test_a_killed_import_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards that are there are kept, and the end is as if nothing had happened."""
    released(tmp_path)
    top = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        cwd=top,
        env={**os.environ, "PYTHONPATH": f"{top}:{top / 'src'}"},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    made: list[int] = []
    write = import_codes.write_codes

    def counting(plan: Any, number: int, *args: Any, **options: Any) -> Any:
        made.append(number)
        return write(plan, number, *args, **options)

    monkeypatch.setattr(import_codes, "write_codes", counting)
    import_codes.import_released(
        released_spec(), tmp_path, tmp_path / "x" / "codes.json"
    )
    assert made == [2]
    import_codes.import_released(
        released_spec(), tmp_path, tmp_path / "y" / "codes.json"
    )
    assert open_codes(tmp_path / "x").sha256 == open_codes(tmp_path / "y").sha256


def test_an_import_that_is_told_to_stop_keeps_its_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shard in flight is finished, and run again the import goes on after it."""
    released(tmp_path)
    out, write = tmp_path / "x" / "codes.json", import_codes.write_codes
    made: list[int] = []

    def told(plan: Any, number: int, *args: Any, **options: Any) -> Any:
        if not made:
            os.kill(os.getpid(), signal.SIGUSR2)
        made.append(number)
        return write(plan, number, *args, **options)

    monkeypatch.setattr(import_codes, "write_codes", told)
    with pytest.raises(PreemptedError, match="stopped after shard 1 of 3"):
        import_codes.import_released(released_spec(), tmp_path, out)
    assert not out.exists()
    import_codes.import_released(released_spec(), tmp_path, out)
    assert made == [0, 1, 2]
    other = tmp_path / "y" / "codes.json"
    import_codes.import_released(released_spec(), tmp_path, other)
    assert open_codes(out).sha256 == open_codes(other).sha256
