"""Shards of codes: decided by the images, whole or absent, mapped without a copy."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fewstep import files, shards
from fewstep.errors import UserError
from fewstep.images import to_model_range
from fewstep.par import code_store
from fewstep.par.code_plan import METADATA_KEY, CodePlan
from fewstep.par.code_sources import BuiltSource
from fewstep.par.code_store import write_codes
from fewstep.par.codes import collect, open_codes
from fewstep.par.tokenizer import VQModel, codebook_usage
from tests.par.code_world import (
    AGAIN,
    ORIGIN,
    PLAN,
    Levels,
    dataset,
    everything,
    level_codes,
    make,
    make_one,
    out_of_memory,
    released,
    source,
    store,
    tiny_tokenizer,
)

Folders = pytest.TempPathFactory

# ---- what codes are ----


def test_codes_are_those_of_the_images(tmp_path: Path) -> None:
    """View 0 is the image, view 1 its mirror, and the labels are the images'."""
    codes, labels = everything(open_codes(make(tmp_path)))
    images = dataset().images
    np.testing.assert_array_equal(codes[:, 0], level_codes(images))
    np.testing.assert_array_equal(codes[:, 1], level_codes(images[..., ::-1]))
    np.testing.assert_array_equal(labels, dataset().labels)


def test_codes_of_a_real_tokenizer(tmp_path: Path) -> None:
    """They are what `VQModel.encode` says of each view alone, in raster order."""
    torch.manual_seed(0)
    vq, images = VQModel(**tiny_tokenizer()).eval(), source()
    plan = replace(PLAN, codebook_size=64)
    codes, _ = everything(open_codes(make(tmp_path, plan, vq=vq, batch=3)))
    with torch.no_grad():
        for index in (0, 7, 8, 21):
            views = to_model_range(images.read(index))
            alone = torch.cat([vq.encode(view[None]) for view in views])
            np.testing.assert_array_equal(codes[index], alone.flatten(1))
    assert len(np.unique(codes)) > 5


@settings(max_examples=12, deadline=None)
@given(shard=st.integers(1, 30), batch=st.integers(1, 60))
def test_shards_and_batches_change_nothing(
    tmp_path_factory: Folders, shard: int, batch: int
) -> None:
    """Codes are the same in files of any size, made in batches of any size."""
    vq = Levels()
    parts = make(tmp_path_factory.mktemp("x"), replace(PLAN, shard=shard), batch=batch,
                 vq=vq)  # fmt: skip
    codes, labels = everything(open_codes(parts))
    np.testing.assert_array_equal(codes[:, 0], level_codes(dataset().images))
    np.testing.assert_array_equal(labels, dataset().labels)
    assert set(vq.sizes) == {batch}  # every batch is of one size: so are its bits


@settings(max_examples=25, deadline=None)
@given(data=st.data(), count=st.integers(1, 9), views=st.integers(1, 3),
       grid=st.integers(1, 3), shard=st.integers(1, 10))  # fmt: skip
def test_any_codes_come_back(
    tmp_path_factory: Folders,
    data: st.DataObject,
    count: int,
    views: int,
    grid: int,
    shard: int,
) -> None:
    """Any codes up to 65,535 are read as they were written, in any order asked for."""
    size = count * views * grid**2
    flat = data.draw(st.lists(st.integers(0, 65535), min_size=size, max_size=size))
    codes = np.array(flat).reshape(count, views, grid**2)
    opened = open_codes(store(tmp_path_factory.mktemp("x"), codes, shard), verify=True)
    rows = st.tuples(st.integers(0, count - 1), st.integers(0, views - 1))
    asked = data.draw(st.lists(rows, max_size=8))
    image, view = np.array(asked, dtype=int).reshape(-1, 2).T
    got, labels = opened.batch(image, view)
    np.testing.assert_array_equal(got, codes[image, view])
    assert got.dtype == labels.dtype == np.int64
    assert got.shape == (len(asked), grid**2) and labels.shape == (len(asked),)
    assert opened.largest == codes.max()


def test_nearest_entries_are_found_in_single_precision(tmp_path: Path) -> None:
    """An autocast reaches the encoder, not the search of the codebook."""

    seen: list[Any] = []

    class Watched(Levels):
        def latent(self, images: Tensor) -> Tensor:
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().latent(images).bfloat16()

        def indices(self, z: Tensor) -> Tensor:
            seen.append((z.dtype, torch.is_autocast_enabled("cpu")))
            return super().indices(z)

    with torch.autocast("cpu", torch.bfloat16):
        make_one(tmp_path, vq=Watched())
    assert seen == [True, (torch.float32, False)]


def test_codes_are_counted_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts do not depend on how many codes are counted at a time."""
    whole = make(tmp_path / "whole").parent / "shard-00000.arrow"
    monkeypatch.setattr(code_store, "_COUNTED", 5)
    parts = make(tmp_path / "parts").parent / "shard-00000.arrow"
    assert parts.read_bytes() == whole.read_bytes()
    one, other = (files.read_json(p.with_suffix(".json")) for p in (whole, parts))
    assert one["code_counts"] == other["code_counts"]


def test_a_batch_too_large_for_memory_is_halved(tmp_path: Path) -> None:
    """The same codes come out, and the record says which batch fitted."""
    whole = everything(open_codes(make(tmp_path / "whole")))
    small = make(tmp_path / "small", vq=out_of_memory(3), batch=8)
    np.testing.assert_array_equal(everything(open_codes(small))[0], whole[0])
    assert files.read_json(tmp_path / "small" / "shard-00000.json")["batch"] == 2
    with pytest.raises(UserError, match="one view does not fit into the device's mem"):
        make_one(tmp_path / "none", vq=out_of_memory(0))
    assert not list((tmp_path / "none").glob("*"))


# ---- records and manifest ----


def test_record_and_metadata(tmp_path: Path) -> None:
    """The record describes the file; the file itself knows what it holds."""
    path = make_one(tmp_path, 2)
    record = files.read_json(path.with_suffix(".json"))
    assert record["sha256"] == files.sha256_file(path)
    assert record["bytes"] == path.stat().st_size
    assert (record["first"], record["count"], record["number"]) == (16, 6, 2)
    table = pa.ipc.open_file(path).read_all()
    about = json.loads(table.schema.metadata[METADATA_KEY])
    assert about["format"] == 1
    assert about["plan"] == PLAN.identity() == record["plan"]
    assert about["origin"] == ORIGIN == record["origin"]
    assert table.schema.field("codes").type == pa.list_(
        pa.field("item", pa.uint16()), 8
    )
    assert table["label"].to_pylist() == dataset().labels[16:].tolist()
    flat = np.array(table["codes"].to_pylist()).ravel()
    assert record["code_counts"] == np.bincount(flat, minlength=256).tolist()


def test_manifest_sums_up(tmp_path: Path) -> None:
    """Counts, use of the codebook and the shards in order; one hash of all."""
    manifest = files.read_json(make(tmp_path / "one"))
    codes, _ = everything(open_codes(tmp_path / "one"))
    assert {key: manifest[key] for key in ("count", "views", "grid", "tokens")} == {
        "count": 22, "views": 2, "grid": 2, "tokens": 4}  # fmt: skip
    assert (manifest["codebook_size"], manifest["num_classes"]) == (256, 3)
    assert manifest["largest"] == codes.max()
    usage = codebook_usage(torch.from_numpy(codes), 256)
    assert manifest["used"] == pytest.approx(usage["used"])
    assert manifest["perplexity"] == pytest.approx(usage["perplexity"])
    assert manifest["origin"] == ORIGIN
    assert [shard["first"] for shard in manifest["shards"]] == [0, 8, 16]
    assert manifest["shards"][0]["file"] == "shard-00000.arrow"
    again = open_codes(make(tmp_path / "two"))
    assert again.sha256 == manifest["sha256"]
    changed = BuiltSource(dataset(), "flip")
    changed.data.images[21, :, 0, 0] ^= 255
    assert open_codes(make(tmp_path / "three", source=changed)).sha256 != again.sha256


def change(path: Path, edit: Callable[[Any], Any]) -> None:
    """Edit a JSON file."""
    value = files.read_json(path)
    edit(value)
    files.write_json(path, value)


def test_collect_refuses_other_origins_and_plans(tmp_path: Path) -> None:
    """One line names the file and the entry that differs."""
    make(tmp_path)
    records, out = sorted(tmp_path.glob("shard-*.json")), tmp_path / "codes.json"
    edits: list[tuple[Any, str]] = [
        (
            lambda r: r["origin"].update(dataset="other"),
            "another origin .*dataset other",
        ),
        (lambda r: r["plan"].update(views=3), "another plan .*views 3, not 2"),
        (lambda r: r.pop("sha256"), "not a record of a shard: lacks sha256"),
    ]
    for edit, line in edits:
        before = records[1].read_text()
        change(records[1], edit)
        with pytest.raises(UserError, match=f"00001.json: {line}"):
            collect(records, out)
        records[1].write_text(before)


def test_collect_refuses_gaps_and_overlaps(tmp_path: Path) -> None:
    """Every image must be there once; the line says which are not."""
    make(tmp_path)
    records, out = sorted(tmp_path.glob("shard-*.json")), tmp_path / "new.json"
    for kept, missing in [([0, 2], "8 to 15"), ([0, 1], "16 to 21"), ([1], "0 to 7")]:
        with pytest.raises(UserError, match=f"images {missing} are missing"):
            collect([records[i] for i in kept], out, PLAN.count)
    with pytest.raises(UserError, match=r"images 8 to 15 are also in .*00001"):
        collect([*records, records[1]], out)
    with pytest.raises(UserError, match=r"new\.json: no shards"):
        collect([], out)
    assert not out.exists()


def test_collect_reads_every_file(tmp_path: Path) -> None:
    """A shard that has changed since it was made is found before training is."""
    make(tmp_path)
    path = tmp_path / "shard-00001.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"00001\.arrow: content has changed"):
        collect(sorted(tmp_path.glob("shard-*.json")), tmp_path / "codes.json")


# ---- nothing half ----

KILLED = """
import os, signal, sys
from pathlib import Path
from fewstep import shards
from tests.par.code_world import make_one

class Killer:
    def advance(self, units):
        os.kill(os.getpid(), signal.SIGKILL)

folder, when = Path(sys.argv[1]), sys.argv[2]
make_one(folder, 0)
if when == "writing":
    class Half:
        def __init__(self, file, schema): self.file = file
        def __enter__(self): return self
        def __exit__(self, *_): pass
        def write_batch(self, batch):
            self.file.write(b"ARROW1" * 100); self.file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    shards.pa.ipc.new_file = Half
    make_one(folder, 1)
make_one(folder, 1, progress=Killer(), batch=2)
"""


@pytest.mark.parametrize("when", ["encoding", "writing"])
def test_a_killed_extraction_goes_on_to_the_same_bytes(
    tmp_path: Path, when: str
) -> None:
    """kill -9 costs the shard in flight; the whole is then as if nothing happened."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed"), when],
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root}:{root / 'src'}"},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    left = {p.name for p in (tmp_path / "killed").glob("shard-*")}
    assert left == {"shard-00000.arrow", "shard-00000.json"}
    for number in (1, 2):
        make_one(tmp_path / "killed", number)
    make(tmp_path / "whole")
    for number in range(3):
        name = f"shard-{number:05d}.arrow"
        one, other = (tmp_path / side / name for side in ("killed", "whole"))
        assert one.read_bytes() == other.read_bytes()


def test_a_failure_leaves_the_old_shard_without_its_record(tmp_path: Path) -> None:
    """A record never stands beside a shard that may not be the one it describes."""
    path = make_one(tmp_path)
    before = path.read_bytes()
    bad = np.full((8, 2, 4), 256)
    with pytest.raises(UserError, match=r"codes 256 to 256; expected 0 to 255"):
        write_codes(PLAN, 1, path, bad, np.zeros(8), origin=ORIGIN)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real error of a full device is known by its number, and leaves nothing."""
    values = {"x": np.zeros(100000, dtype=np.int32)}
    layout = pa.schema({"x": pa.int32()})
    with pytest.raises(OSError, match="No space left") as error:
        shards.write_arrow(Path("/dev/full"), values, layout, (b"key", {}))
    assert error.value.errno == errno.ENOSPC

    def full(path: Path, *_: Any) -> None:
        path.write_bytes(b"half")
        raise error.value

    monkeypatch.setattr(code_store, "write_arrow", full)
    with pytest.raises(UserError, match=r"00001\.arrow: the disk is full; free space"):
        make_one(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"codes": -1}, "codes -1 to 0; expected 0 to 255, those of the codebook"),
        ({"label": 3}, "label 0 to 3; expected 0 to 2, those of the classes"),
        ({"label": -1}, "label -1 to 0"),
    ],
)
def test_values_out_of_range_are_not_stored(
    tmp_path: Path, values: dict[str, int], line: str
) -> None:
    """A code outside the codebook or a label outside the classes is one line."""
    codes, labels = np.zeros((8, 2, 4), dtype=int), np.zeros(8, dtype=int)
    codes[3, 1, 2], labels[5] = values.get("codes", 0), values.get("label", 0)
    with pytest.raises(UserError, match=line):
        write_codes(PLAN, 0, tmp_path / "x.arrow", codes, labels, origin=ORIGIN)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong", [{"views": 1}, {"grid": 3}, {"codebook_size": 255}, {"num_classes": 4}]
)
def test_a_plan_of_something_else(tmp_path: Path, wrong: dict[str, int]) -> None:
    """Tokenizer and images must be those that the plan was made for."""
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} .*: the plan has"):
        make_one(tmp_path, plan=replace(PLAN, **wrong))


def test_too_few_images(tmp_path: Path) -> None:
    """Codes of more images than there are is one line; fewer are the first ones."""
    with pytest.raises(UserError, match="21 images, but codes of 22 are asked for"):
        make_one(tmp_path, source=source(21))
    codes, _ = everything(open_codes(make(tmp_path, replace(PLAN, count=20))))
    np.testing.assert_array_equal(codes[:, 0], level_codes(dataset().images[:20]))


def test_an_origin_needs_its_hashes(tmp_path: Path) -> None:
    """Codes that do not say what made them are not made."""
    with pytest.raises(ValueError, match="tokenizer_sha256"):
        make_one(tmp_path, origin={})
    with pytest.raises(ValueError, match="batch 0"):
        make_one(tmp_path, batch=0)


# ---- reading ----


def test_reading_copies_nothing(tmp_path: Path) -> None:
    """The views' memory is the mapped files', and Arrow allocates none."""
    manifest = make(tmp_path)
    before = pa.total_allocated_bytes()
    data: Any = open_codes(manifest)
    assert pa.total_allocated_bytes() == before
    mapped = {}
    for line in Path("/proc/self/maps").read_text().splitlines():
        if str(tmp_path) in line:
            low, high = (int(part, 16) for part in line.split()[0].split("-"))
            mapped[line.split()[-1]] = range(low, high)
    assert len(mapped) == 3
    for shard in data.shards:
        for view in (shard.codes, shard.label):
            first = view.ctypes.data
            assert first in mapped[str(shard.path)]
            assert first + view.nbytes - 1 in mapped[str(shard.path)]
            assert not view.flags.writeable
    assert data.shards[0].codes.dtype == np.uint16


def test_open_files_are_not_kept(tmp_path: Path) -> None:
    """Hundreds of shards do not use up the process's open files."""
    manifest = make(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    data = open_codes(manifest)
    assert len(os.listdir("/proc/self/fd")) == before
    assert everything(data)[0].max() < 256


@pytest.fixture(scope="module")
def shared_manifest(tmp_path_factory: Folders) -> Path:
    """Codes that no test changes."""
    return make(tmp_path_factory.mktemp("codes"))


def test_what_the_codes_say_of_themselves(shared_manifest: Path) -> None:
    """Training knows size, grid and classes without reading; a folder opens as well."""
    options = {"count": 22, "codebook_size": 256, "num_classes": 3, "verify": True}
    for path in (shared_manifest, str(shared_manifest.parent)):
        data = open_codes(path, **options)  # type: ignore[arg-type]
        assert len(data) == 22
        assert (data.views, data.classes, data.grid, data.tokens) == (2, 3, 2, 4)
        assert data.codebook_size == 256
        assert data.manifest["origin"] == ORIGIN
        assert data.sha256 == data.manifest["sha256"]


@pytest.mark.parametrize(("image", "view"), [(-1, 0), (22, 0), (0, 2), (0, -1)])
def test_an_image_that_is_not_there(
    shared_manifest: Path, tmp_path: Path, image: int, view: int
) -> None:
    """Numbers outside are an error, not another image, in both kinds of files."""
    released(tmp_path, 22)
    for path in (shared_manifest, tmp_path):
        with pytest.raises(IndexError):
            open_codes(path).batch([0, image], [0, view])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"count": 23}, "codes of 22 images; expected 23 images"),
        ({"codebook_size": 99}, "codes up to 1..; expected a codebook of 99"),
        ({"num_classes": 2}, "3 classes; expected 2 classes"),
    ],
)
def test_codes_that_do_not_fit(
    shared_manifest: Path, options: dict[str, Any], line: str
) -> None:
    """Each mistake is one line that says what is there and what was expected."""
    with pytest.raises(UserError, match=rf"codes\.json: {line}; take the codes"):
        open_codes(shared_manifest, **options)


def broken(manifest: Path, line: str, **options: Any) -> None:
    """Opening fails with a line about the second shard, and deletes nothing."""
    shard = manifest.parent / "shard-00001.arrow"
    with pytest.raises(UserError) as error:
        open_codes(manifest, **options)
    text = str(error.value)
    assert text.startswith(f"{shard}: {line}"), text
    assert text.endswith("run again: only this shard is made anew")


def test_a_missing_shard(tmp_path: Path) -> None:
    """One line names it."""
    manifest = make(tmp_path)
    (tmp_path / "shard-00001.arrow").unlink()
    broken(manifest, "shard not found")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_a_truncated_shard(tmp_path: Path, share: float) -> None:
    """It is known by its size, and without that by its missing end."""
    manifest = make(tmp_path)
    shard = tmp_path / "shard-00001.arrow"
    size = shard.stat().st_size
    kept = int(share * size)
    os.truncate(shard, kept)
    broken(manifest, f"{kept} bytes; expected {size} bytes")
    change(manifest, lambda value: value["shards"][1].update(bytes=kept))
    broken(manifest, "not a whole shard (Arrow")


def test_a_damaged_shard_never_ends_the_process(tmp_path: Path) -> None:
    """Wherever a byte is wrong: it is one line, or codes within the codebook."""
    manifest = make(tmp_path, replace(PLAN, count=3, shard=3))
    shard = tmp_path / "shard-00000.arrow"
    content, lines = shard.read_bytes(), []
    for place in range(0, len(content), 5):
        damaged = bytearray(content)
        damaged[place] ^= (0xFF, 0x80, 0x01)[place % 3]
        shard.unlink()  # a mapped file must not be written to
        shard.write_bytes(damaged)
        try:
            codes, labels = everything(open_codes(manifest))
            assert codes.max() < 256 and 0 <= labels.min() <= labels.max() < 3
        except UserError as error:
            lines.append(str(error))
    assert len(lines) > 150
    assert all(line.endswith(AGAIN) for line in lines)


@pytest.mark.parametrize(("code", "outside"), [(9, False), (0xFFFF, True)])
def test_changed_codes(tmp_path: Path, code: int, outside: bool) -> None:
    """Damage to values is found by the hashes; codes outside never reach a model."""
    manifest = store(tmp_path, np.arange(40).reshape(5, 2, 4), 5)
    shard = tmp_path / "0.arrow"
    old, new = (np.array([x, 11], dtype=np.uint16).tobytes() for x in (10, code))
    shard.write_bytes(shard.read_bytes().replace(old, new))
    with pytest.raises(UserError, match=r"0\.arrow: content has changed"):
        open_codes(manifest, verify=True)
    data = open_codes(manifest)
    assert data.batch([0], [0])[0].tolist() == [[0, 1, 2, 3]]
    if outside:
        with pytest.raises(UserError, match=r"0\.arrow: codes or labels out of range"):
            data.batch([0, 1], [0, 0])
    else:
        assert data.batch([1], [0])[0].tolist() == [[8, 9, 9, 11]]


@pytest.mark.parametrize(
    ("plan", "origin", "line"),
    [
        (PLAN, {**ORIGIN, "dataset": "other"}, "of another extraction"),
        (replace(PLAN, num_classes=4), ORIGIN, "of another extraction"),
        (replace(PLAN, views=1), ORIGIN, "columns ['codes', 'label'] of other types"),
        (replace(PLAN, shard=7), ORIGIN, "7 images; expected 8"),
    ],
)
def test_a_shard_of_something_else(
    tmp_path: Path, plan: CodePlan, origin: dict[str, Any], line: str
) -> None:
    """A file of another tokenizer or plan put in a shard's place is refused."""
    manifest, shard = make(tmp_path), tmp_path / "shard-00001.arrow"
    codes = np.zeros((plan.shard, plan.views, plan.tokens), dtype=int)
    write_codes(plan, 1, shard, codes, np.zeros(plan.shard), origin=origin)
    size = shard.stat().st_size
    change(manifest, lambda value: value["shards"][1].update(bytes=size))
    broken(manifest, line)


def test_two_batches_in_a_file(tmp_path: Path) -> None:
    """A file with two record batches is refused."""
    manifest, shard = make(tmp_path), tmp_path / "shard-00001.arrow"
    table = pa.ipc.open_file(shard.read_bytes()).read_all()
    shard.unlink()
    with pa.ipc.new_file(shard, table.schema) as writer:
        writer.write_table(table, max_chunksize=4)
    size = shard.stat().st_size
    change(manifest, lambda value: value["shards"][1].update(bytes=size))
    broken(manifest, "2 batches; expected 1 batch")


@pytest.mark.parametrize(
    "edit",
    [
        lambda value: value.pop("grid"),
        lambda value: value.update(format=2),
        lambda value: value["shards"].pop(),
        lambda value: value["shards"].reverse(),
        lambda value: value.update(codebook_size=70000),
    ],
)
def test_a_manifest_that_is_not_whole(
    tmp_path: Path, edit: Callable[[Any], Any]
) -> None:
    """One line says what is wrong with it."""
    manifest = make(tmp_path)
    change(manifest, edit)
    with pytest.raises(UserError, match=r"codes\.json: not a manifest of codes"):
        open_codes(manifest)


@pytest.mark.parametrize("text", ["{}", "[]", "not json"])
def test_a_file_that_is_no_manifest(tmp_path: Path, text: str) -> None:
    """One line says so."""
    (tmp_path / "codes.json").write_text(text)
    with pytest.raises(UserError, match=r"codes\.json: not "):
        open_codes(tmp_path / "codes.json")


# ---- released folders ----


def test_a_released_folder(tmp_path: Path) -> None:
    """It is read like our own files; its defaults are those of the published codes."""
    codes = released(tmp_path)
    data = open_codes(tmp_path)
    got, labels = everything(data)
    np.testing.assert_array_equal(got, codes)
    assert labels.tolist() == [0, 1, 2, 0, 1]
    assert got.dtype == labels.dtype == np.int64
    assert (len(data), data.views, data.grid, data.tokens) == (5, 2, 2, 4)
    assert (data.codebook_size, data.largest, data.classes) == (16384, 16383, 1000)
    assert data.manifest["origin"]["tokenizer_sha256"] is None
    assert data.manifest["origin"]["dataset"] == "tiny8"


def test_a_released_folder_with_images_missing(tmp_path: Path) -> None:
    """One line counts the missing files and names the first ten."""
    released(tmp_path, 20)
    for index in range(3, 15):
        (tmp_path / "tiny8_codes" / f"{index}.npy").unlink()
    (tmp_path / "tiny8_labels" / "4.npy").unlink()
    with pytest.raises(UserError, match="13 files are missing: tiny8_codes/3") as error:
        open_codes(tmp_path)
    text = str(error.value)
    assert (
        "tiny8_codes/12.npy, ...; expected codes and labels of images 0 to 19" in text
    )
    assert "13.npy" not in text and "\n" not in text
    with pytest.raises(UserError, match=r"images 0 to 29"):
        open_codes(tmp_path, count=30)
    assert len(open_codes(tmp_path, count=3)) == 3


def test_padding_of_a_released_folder(tmp_path: Path) -> None:
    """Files past the count, which a distributed extraction adds, are left alone."""
    codes = released(tmp_path, 7)
    (tmp_path / "tiny8_labels" / "6.npy").unlink()
    (tmp_path / "tiny8_codes" / "notes.txt").write_text("none of ours")
    data = open_codes(tmp_path, count=5)
    np.testing.assert_array_equal(everything(data)[0], codes[:5])


@pytest.mark.parametrize(
    ("folder", "value", "line"),
    [
        ("codes", np.full((1, 2, 4), 64), "codes 64 to 64; expected 0 to 63"),
        ("codes", np.full((1, 2, 4), -1), "codes -1 to -1"),
        ("codes", np.zeros((2, 4), int), r"codes of shape \(2, 4\)"),
        ("codes", np.zeros((1, 2, 4)), "8 values of float64; expected integers"),
        ("labels", np.array([3]), "label 3 to 3; expected 0 to 2, the classes"),
        ("labels", np.array([[0]]), r"a label of shape \(1, 1\)"),
        ("labels", b"", r"cannot be read \(EOFError\)"),
        ("codes", b"\x93NUMPY\x01\x00\x76\x00{'descr'", "cannot be read"),
        ("codes", np.array([None]), "cannot be read"),
    ],
)
def test_a_bad_file_in_a_released_folder(
    tmp_path: Path, folder: str, value: Any, line: str
) -> None:
    """It is one line when it is read, which names the file; other images are read."""
    released(tmp_path)
    path = tmp_path / f"tiny8_{folder}" / "2.npy"
    if isinstance(value, bytes):
        path.write_bytes(value)
    else:
        np.save(path, value, allow_pickle=True)
    data = open_codes(tmp_path, codebook_size=64, num_classes=3, count=3)
    data.batch([0, 1], [1, 1])
    with pytest.raises(UserError, match=rf"2\.npy: {line}"):
        data.batch([0, 2], [1, 1])


def test_folders_that_hold_no_codes(tmp_path: Path) -> None:
    """Neither manifest nor one pair of folders: one line says what is looked for."""
    with pytest.raises(UserError, match=r"no codes here; expected codes\.json, or"):
        open_codes(tmp_path)
    for name in ("a_codes", "a_labels", "b_codes"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="no codes here; expected codes and labels"):
        open_codes(tmp_path)
    (tmp_path / "b_labels").mkdir()
    with pytest.raises(UserError, match=r"2 sets of codes \(a_codes, b_codes\)"):
        open_codes(tmp_path)


def test_the_fingerprint_of_a_released_folder(tmp_path: Path) -> None:
    """It is the content's, wherever the folder lies, and depends on the count."""
    for side in "ab":
        released(tmp_path / side)
    one, other = open_codes(tmp_path / "a"), open_codes(tmp_path / "b")
    assert one.sha256 == other.sha256
    assert open_codes(tmp_path / "a", count=4).sha256 != one.sha256
    np.save(tmp_path / "b" / "tiny8_labels" / "4.npy", np.array([2]))
    assert open_codes(tmp_path / "b").sha256 != one.sha256


# ---- the plan ----


def test_the_plan_counts() -> None:
    """Shards cover the images, the last one is shorter."""
    assert PLAN.shards == 3 and PLAN.tokens == 4
    assert [i for n in range(3) for i in PLAN.indices(n)] == list(range(22))
    with pytest.raises(ValueError, match="expected 0 to 2"):
        PLAN.indices(3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": 0},
        {"shard": 0},
        {"views": -1},
        {"grid": 2.0},
        {"codebook_size": 65537},
        {"num_classes": 0},
    ],
)
def test_an_impossible_plan(wrong: dict[str, Any]) -> None:
    """Values out of range are a ValueError that names them."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(PLAN, **wrong)
