"""Shards of pairs: decided by their numbers, whole or absent, mapped without a copy."""

from __future__ import annotations

import errno
import gc
import json
import os
import signal
import subprocess
import sys
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

from fewstep import files
from fewstep.data import Dataset
from fewstep.errors import UserError
from fewstep.seqrf import pair_shards
from fewstep.seqrf.pair_plan import METADATA_KEY, PairPlan
from fewstep.seqrf.pair_shards import draw_pairs, write_shard
from fewstep.seqrf.pairs import PairData, collect, open_pairs

PLAN = PairPlan(seed=3, count=22, edges=(1.0, 0.6, 0.3, 0.0), shard=8)
ORIGIN = {"teacher_sha256": "a" * 64, "dataset_sha256": "b" * 64, "code": "c0de"}
AGAIN = "delete it and run again: only this shard is made anew"


class Decay:
    """A teacher dx/dtau = -(1 + 3 tau) x with one head."""

    def __init__(self, centered: bool = True) -> None:
        self.centered, self.segments = centered, 1

    def __call__(self, x: Tensor, label: Tensor, index: Any) -> Tensor:
        return -(1 + 3 * label / 999)[:, None, None, None] * x


class Bad(Decay):
    """As `Decay`, but what it says of some batches is wrong."""

    def __init__(self, value: float, after: int, error: Exception | None = None):
        super().__init__()
        self.value, self.after, self.error, self.calls = value, after, error, 0

    def __call__(self, x: Tensor, label: Tensor, index: Any) -> Tensor:
        self.calls += 1
        out = super().__call__(x, label, index)
        if self.calls > self.after:
            if self.error is not None:
                raise self.error
            out[-1, 0, 0, 0] = self.value
        return out


def dataset(count: int = 5) -> Dataset:
    """Random images, 3 x 4 x 4."""
    images = np.random.default_rng(0).integers(0, 256, (count, 3, 4, 4), dtype=np.uint8)
    return Dataset(images, np.zeros(count, dtype=np.int64), {})


def make(folder: Path, plan: PairPlan = PLAN, **options: Any) -> Path:
    """All shards of a plan and their manifest; gives its path."""
    chosen = {"net": Decay(), "dataset": dataset(), "origin": ORIGIN, **options}
    net, images = chosen.pop("net"), chosen.pop("dataset")
    for number in range(plan.shards):
        path = folder / "shards" / f"{number:04d}.arrow"
        write_shard(net, images, plan, number, path, **chosen)
    collect(sorted(folder.glob("shards/*.json")), folder / "pairs.json")
    return folder / "pairs.json"


def everything(data: PairData) -> tuple[Any, ...]:
    """All pairs at once."""
    return data.batch(np.arange(len(data)))


def assert_same(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    """Equal pairs, images to 1e-5."""
    for a, b in zip(one[:2], other[:2], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=0)
    for a, b in zip(one[2:], other[2:], strict=True):
        np.testing.assert_array_equal(a, b)


# ---- what a pair is ----


def test_a_pair_is_decided_by_its_number() -> None:
    """Image, mirroring, noise and segment are the same in any company and order."""
    data, noise, segment = draw_pairs(PLAN, dataset(), range(20), True)
    part = draw_pairs(PLAN, dataset(), [17, 4], True)
    for whole, other in zip((data, noise, segment), part, strict=True):
        assert torch.equal(whole[[17, 4]], other)
    assert segment.tolist() == [i % 3 for i in range(20)]
    assert not torch.equal(draw_pairs(replace(PLAN, seed=4), dataset(), [4], True)[1],
                           noise[[4]])  # fmt: skip


def test_draws_are_images_and_normal_noise() -> None:
    """Images are the data set's, about half of them mirrored; noise is N(0, 1)."""
    images = dataset()
    data, noise, _ = draw_pairs(PLAN, images, range(600), False)
    levels = (data * 255).round().numpy().astype(np.uint8)
    sources = list(images.images)
    plain = sum(any(np.array_equal(x, s) for s in sources) for x in levels)
    mirrored = sum(
        any(np.array_equal(x[..., ::-1], s) for s in sources) for x in levels
    )
    assert plain + mirrored == 600
    assert 230 < mirrored < 370
    assert len({x.tobytes() for x in levels}) == 10
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1) < 0.02


def test_model_space() -> None:
    """Centered data are in [-1, 1], others in [0, 1]: the same images."""
    centered = draw_pairs(PLAN, dataset(), range(9), True)[0]
    plain = draw_pairs(PLAN, dataset(), range(9), False)[0]
    torch.testing.assert_close(centered, 2 * plain - 1, atol=1e-6, rtol=0)


def test_no_mirroring_changes_nothing_else() -> None:
    """Without flips the images are plain and the noise is the same."""
    images = dataset()
    data, noise, _ = draw_pairs(replace(PLAN, flip=False), images, range(30), False)
    for x in (data * 255).round().numpy().astype(np.uint8):
        assert any(np.array_equal(x, source) for source in images.images)
    assert torch.equal(noise, draw_pairs(PLAN, images, range(30), False)[1])


def test_pairs_are_ends_of_the_teachers_path(tmp_path: Path) -> None:
    """What is read back is the mixture, and its exact flow to the other end."""
    x0, x1, t0, t1, segment = everything(open_pairs(make(tmp_path, tol_plan())))
    data, noise, index = draw_pairs(PLAN, dataset(), range(22), True)
    assert segment.tolist() == index.tolist()
    edges = np.array(PLAN.edges, dtype=np.float32)
    np.testing.assert_array_equal(t1, edges[segment])
    np.testing.assert_array_equal(t0, edges[segment + 1])
    t = torch.from_numpy(t1)[:, None, None, None]
    np.testing.assert_allclose(x1, (1 - t) * data + t * noise, atol=1e-6)
    tau0, tau1 = (0.001 + 0.999 * (1.0 - t.astype(float)) for t in (t0, t1))
    decay = np.exp(-(tau0 - tau1) - 1.5 * (tau0**2 - tau1**2))
    np.testing.assert_allclose(x0, decay[:, None, None, None] * x1, atol=2e-5)


def tol_plan() -> PairPlan:
    """A plan with a tight tolerance."""
    return replace(PLAN, tol=1e-6)


# ---- shards, batches, prefixes ----


@settings(max_examples=8, deadline=None)
@given(shard=st.integers(1, 30), batch=st.integers(1, 30))
def test_shards_and_batches_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, shard: int, batch: int
) -> None:
    """A pair is the same in a file of any size, made in batches of any size."""
    whole = open_pairs(make(tmp_path_factory.mktemp("whole"), replace(PLAN, shard=22)))
    plan = replace(PLAN, shard=shard)
    parts = open_pairs(make(tmp_path_factory.mktemp("parts"), plan, batch=batch))
    assert_same(everything(whole), everything(parts))


def test_fewer_pairs_are_a_beginning_of_more(tmp_path: Path) -> None:
    """A smaller plan, or a limit, gives the first pairs; segments stay balanced."""
    many = open_pairs(make(tmp_path / "many"))
    few = open_pairs(make(tmp_path / "few", replace(PLAN, count=11)))
    limited = open_pairs(tmp_path / "many" / "pairs.json", limit=11)
    assert len(few) == len(limited) == 11
    assert len(limited.shards) == 2
    first = many.batch(np.arange(11))
    assert_same(everything(few), first)
    assert_same(everything(limited), first)
    assert np.bincount(first[-1]).tolist() == [4, 4, 3]


def test_one_step_size_for_the_batch(tmp_path: Path) -> None:
    """As released: batches of one segment each, near what own steps give."""
    own = everything(open_pairs(make(tmp_path / "own")))
    plan = replace(PLAN, error_norm="batch")
    shared = open_pairs(make(tmp_path / "shared", plan, batch=4))
    np.testing.assert_allclose(everything(shared)[0], own[0], atol=1e-3)
    nfe = np.concatenate([shard.nfe for shard in shared.shards])
    assert set((nfe - 2) % 6) == {0}
    assert (nfe[:3] == nfe[3:6]).all()  # a shard's pairs of a segment fit into a batch


def test_a_batch_too_large_for_memory_is_halved(tmp_path: Path) -> None:
    """The same pairs come out, and the record says which batch fitted."""

    class Small(Decay):
        def __call__(self, x: Tensor, label: Tensor, index: Any) -> Tensor:
            if len(x) > 3:
                raise torch.OutOfMemoryError("full")
            return super().__call__(x, label, index)

    whole = everything(open_pairs(make(tmp_path / "whole")))
    small = make(tmp_path / "small", net=Small(), batch=8)
    assert_same(everything(open_pairs(small)), whole)
    assert files.read_json(tmp_path / "small" / "shards" / "0000.json")["batch"] == 2
    net = Bad(0, 0, torch.OutOfMemoryError("full"))
    with pytest.raises(UserError, match="one pair does not fit"):
        make(tmp_path / "none", net=net)


def test_half_precision(tmp_path: Path) -> None:
    """float16 files are half as large and give float32 batches, rounded."""
    single, half = make(tmp_path / "32"), make(tmp_path / "16", half_plan())
    x0, x1, *_ = everything(open_pairs(single))
    y0, y1, *_ = everything(open_pairs(half))
    assert y0.dtype == y1.dtype == np.float32
    np.testing.assert_array_equal(y1, x1.astype(np.float16))
    np.testing.assert_allclose(y0, x0, atol=4e-3)


def half_plan() -> PairPlan:
    """A plan that stores half precision."""
    return replace(PLAN, dtype="float16")


# ---- records and manifest ----


def test_record_and_metadata(tmp_path: Path) -> None:
    """The record describes the file; the file itself knows its origin and plan."""
    path = tmp_path / "one.arrow"
    made = write_shard(Decay(), dataset(), PLAN, 2, path, origin=ORIGIN)
    record = files.read_json(tmp_path / "one.json")
    assert record == made
    assert record["sha256"] == files.sha256_file(path)
    assert (record["first"], record["count"], record["number"]) == (16, 6, 2)
    assert record["segment_counts"] == [2, 2, 2]
    assert all(nfe >= 7 for nfe in record["segment_nfe"])
    table = pa.ipc.open_file(path).read_all()
    about = json.loads(table.schema.metadata[METADATA_KEY])
    assert about["origin"] == ORIGIN
    assert about["plan"] == PLAN.identity()
    assert table["pair"].to_pylist() == list(range(16, 22))
    assert table["segment"].to_pylist() == [i % 3 for i in range(16, 22)]
    assert np.mean(table["nfe"]) == pytest.approx(np.mean(record["segment_nfe"]))


def test_manifest_sums_up(tmp_path: Path) -> None:
    """Counts and mean NFE by segment over all shards, which stand in order."""
    manifest = files.read_json(make(tmp_path))
    assert manifest["count"] == 22
    assert manifest["segment_counts"] == [8, 7, 7]
    assert [shard["first"] for shard in manifest["shards"]] == [0, 8, 16]
    assert manifest["shards"][0]["file"] == "shards/0000.arrow"
    nfe, segment = [], []
    for path in sorted(tmp_path.glob("shards/*.arrow")):
        table = pa.ipc.open_file(path).read_all()
        nfe += table["nfe"].to_pylist()
        segment += table["segment"].to_pylist()
    means = [np.mean(np.array(nfe)[np.array(segment) == i]) for i in range(3)]
    assert manifest["segment_nfe"] == pytest.approx(means)
    assert manifest["origin"] == ORIGIN
    assert PairPlan.from_dict(manifest["plan"]) == PLAN


def change(path: Path, edit: Any) -> None:
    """Edit a JSON file."""
    value = files.read_json(path)
    edit(value)
    files.write_json(path, value)


def test_collect_refuses_other_origins_and_plans(tmp_path: Path) -> None:
    """One line names the file and the entry that differs."""
    make(tmp_path)
    records = sorted(tmp_path.glob("shards/*.json"))
    change(records[1], lambda record: record["origin"].update(teacher_sha256="f" * 64))
    with pytest.raises(UserError, match=r"0001.json: another origin .*teacher_sha256"):
        collect(records, tmp_path / "pairs.json")
    make(tmp_path)
    change(records[2], lambda record: record["plan"].update(tol=0.5))
    with pytest.raises(
        UserError, match=r"0002.json: another plan .*tol 0.5, not 0.0001"
    ):
        collect(records, tmp_path / "pairs.json")


def test_collect_refuses_gaps_and_overlaps(tmp_path: Path) -> None:
    """Every pair must be there once; the line says which are not."""
    make(tmp_path)
    records, out = sorted(tmp_path.glob("shards/*.json")), tmp_path / "new.json"
    for kept, missing in [
        ([0, 2], "8 to 15"),
        ([0, 1], "16 to 21"),
        ([1, 2], "0 to 7"),
    ]:
        with pytest.raises(UserError, match=f"pairs {missing} are missing"):
            collect([records[i] for i in kept], out, PLAN.count)
    with pytest.raises(UserError, match=r"pairs 8 to 15 are also in .*0001"):
        collect([*records, records[1]], out)
    with pytest.raises(UserError, match="no shards"):
        collect([], out)
    assert not out.exists()


# ---- nothing half ----


@pytest.mark.parametrize(("value", "after"), [(np.nan, 0), (np.nan, 40), (np.inf, 0)])
def test_pairs_that_are_not_finite(tmp_path: Path, value: float, after: int) -> None:
    """They are counted and named, and no shard is written."""
    path = tmp_path / "x.arrow"
    net = Bad(value, after)
    with pytest.raises(
        UserError, match=r"1 of the pairs are not finite .*seed 3, pairs"
    ):
        write_shard(net, dataset(), PLAN, 1, path, origin=ORIGIN, batch=2)
    assert list(tmp_path.iterdir()) == []


def test_the_bad_pair_is_named(tmp_path: Path) -> None:
    """The number is that of the pair, not of its row in the batch."""
    with pytest.raises(UserError, match=r"pairs 10, "):
        make_one(tmp_path, Bad(np.nan, 0), batch=3)


def test_too_large_for_half_precision(tmp_path: Path) -> None:
    """What overflows in the stored type is refused, not stored as infinity."""

    class Huge(Decay):
        def __call__(self, x: Tensor, label: Tensor, index: Any) -> Tensor:
            return torch.full_like(x, 1e6)

    with pytest.raises(UserError, match=r"8 of the pairs are not finite .*float16"):
        make_one(tmp_path, Huge(), plan=half_plan())
    make_one(tmp_path, Huge())


def make_one(folder: Path, net: Any, plan: PairPlan = PLAN, batch: int = 8) -> Path:
    """Shard 1."""
    path = folder / "x.arrow"
    write_shard(net, dataset(), plan, 1, path, origin=ORIGIN, batch=batch)
    return path


def test_a_failure_leaves_the_old_shard_without_its_record(tmp_path: Path) -> None:
    """A record never stands beside a shard that it does not describe."""
    path = make_one(tmp_path, Decay())
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        make_one(tmp_path, Bad(0, 20, KeyboardInterrupt()), batch=2)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import os, signal, sys
from tests.seqrf.test_pairs import Decay, dataset, make_one
from fewstep.seqrf import pair_shards
from pathlib import Path

class Killer:
    def advance(self, units):
        os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "writing":
    from fewstep import shards
    class Half:
        def __init__(self, file, schema): self.file = file
        def __enter__(self): return self
        def __exit__(self, *_): pass
        def write_batch(self, batch):
            self.file.write(b"ARROW1" * 100); self.file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    shards.pa.ipc.new_file = Half
    make_one(Path(sys.argv[1]), Decay())
from tests.seqrf.test_pairs import PLAN, ORIGIN
pair_shards.write_shard(Decay(), dataset(), PLAN, 1, Path(sys.argv[1]) / "x.arrow",
                        origin=ORIGIN, batch=2, progress=Killer())
"""


@pytest.mark.parametrize("when", ["drawing", "writing"])
def test_a_killed_job_leaves_no_shard(tmp_path: Path, when: str) -> None:
    """kill -9 between batches or while writing leaves neither shard nor record."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), when],
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root}:{root / 'src'}"},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert not [p for p in tmp_path.iterdir() if p.suffix in (".arrow", ".json")]
    again = make_one(tmp_path, Decay())
    assert again.exists() and again.with_suffix(".json").exists()


def test_a_full_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real error of a full device is known by its number, and leaves nothing."""
    with pytest.raises(OSError, match="No space left") as error:
        pair_shards.write_arrow(Path("/dev/full"), *arrow_arguments())
    assert error.value.errno == errno.ENOSPC

    def full(path: Path, *_: Any) -> None:
        path.write_bytes(b"half")
        raise error.value

    monkeypatch.setattr(pair_shards, "write_arrow", full)
    with pytest.raises(UserError, match=r"x\.arrow: the disk is full; free space"):
        make_one(tmp_path, Decay())
    assert list(tmp_path.iterdir()) == []


def arrow_arguments() -> tuple[Any, ...]:
    """Columns, layout and metadata of a shard of 100 kB."""
    plan = replace(PLAN, count=300, shard=300)
    columns = pair_shards._empty(plan, plan.indices(0), [3, 4, 4])
    layout = pair_shards.schema(plan, [3, 4, 4])
    return columns, layout, (pair_shards.METADATA_KEY, {})


# ---- reading ----


def test_reading_copies_nothing(tmp_path: Path) -> None:
    """The views' memory is the mapped files', and Arrow allocates none."""
    manifest = make(tmp_path, half_plan())
    before = pa.total_allocated_bytes()
    data = open_pairs(manifest)
    assert pa.total_allocated_bytes() == before
    mapped = {}
    for line in Path("/proc/self/maps").read_text().splitlines():
        if str(tmp_path) in line:
            low, high = (int(part, 16) for part in line.split()[0].split("-"))
            mapped[line.split()[-1]] = range(low, high)
    assert len(mapped) == 3
    for shard, place in zip(data.shards, sorted(mapped), strict=True):
        for name, view in vars(shard).items():
            first = view.ctypes.data
            assert first in mapped[place], name
            assert first + view.nbytes - 1 in mapped[place]
            assert not view.flags.writeable


def test_open_files_are_not_kept(tmp_path: Path) -> None:
    """Hundreds of shards do not use up the process's open files."""
    manifest = make(tmp_path)
    gc.collect()  # what other tests left open closes now, not in between
    before = len(os.listdir("/proc/self/fd"))
    data = open_pairs(manifest)
    assert len(os.listdir("/proc/self/fd")) == before
    assert np.isfinite(everything(data)[0]).all()


@settings(max_examples=20, deadline=None)
@given(indices=st.lists(st.integers(0, 21), max_size=30))
def test_batches_are_rows_in_the_order_asked_for(
    shared_manifest: Path, indices: list[int]
) -> None:
    """Any indices, repeated or not, across shards."""
    data = open_pairs(shared_manifest)
    whole = everything(data)
    got = data.batch(indices)
    types = [np.float32] * 4 + [np.int64]
    for part, all_of_it, dtype in zip(got, whole, types, strict=True):
        np.testing.assert_array_equal(part, all_of_it[np.array(indices, dtype=int)])
        assert part.dtype == dtype
    assert got[0].shape == (len(indices), 3, 4, 4) == (len(indices), *data.shape)


@pytest.fixture(scope="module")
def shared_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs that no test changes."""
    return make(tmp_path_factory.mktemp("pairs"))


@pytest.mark.parametrize("index", [-1, 22])
def test_a_pair_that_is_not_there(shared_manifest: Path, index: int) -> None:
    """Numbers outside are an error, also behind a limit within a shard."""
    data = open_pairs(shared_manifest)
    with pytest.raises(IndexError):
        data.batch([0, index])
    with pytest.raises(IndexError):
        open_pairs(shared_manifest, limit=5).batch([5])


def test_what_fits_is_opened(shared_manifest: Path) -> None:
    """The right checkpoint, k and verification pass."""
    data = open_pairs(
        shared_manifest, verify=True, teacher_sha256="a" * 64, segments=3, limit=22
    )
    assert len(data) == 22
    assert data.plan == PLAN
    assert data.manifest["origin"] == ORIGIN


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"teacher_sha256": "f" * 64},
            "the pairs were made by another checkpoint (sha256 aaaaaaaaaaaa…); "
            "expected checkpoint ffffffffffff…; make the pairs again",
        ),
        ({"segments": 4}, "the pairs are of 3 segments; expected 4 segments; make"),
        ({"limit": 23}, "22 pairs, but 23 are asked for; expected 1 to 22; ask"),
        ({"limit": 0}, "22 pairs, but 0 are asked for"),
    ],
)
def test_pairs_that_do_not_fit(
    shared_manifest: Path, options: dict[str, Any], line: str
) -> None:
    """Each mistake is one line that says what is there and what was expected."""
    with pytest.raises(UserError) as error:
        open_pairs(shared_manifest, **options)
    assert str(error.value).startswith(f"{shared_manifest}: {line}")
    assert "\n" not in str(error.value)


def broken(manifest: Path, line: str, **options: Any) -> None:
    """Opening fails with a line about the second shard, and deletes nothing."""
    shard = manifest.parent / "shards" / "0001.arrow"
    there = shard.exists()
    with pytest.raises(UserError) as error:
        open_pairs(manifest, **options)
    text = str(error.value)
    assert text.startswith(f"{shard}: {line}"), text
    assert text.endswith(AGAIN if there else "run again: only this shard is made anew")
    assert shard.exists() == there


def test_a_missing_shard(tmp_path: Path) -> None:
    """One line names it; behind the limit it is not missed."""
    manifest = make(tmp_path)
    (tmp_path / "shards" / "0001.arrow").unlink()
    broken(manifest, "shard not found")
    assert len(open_pairs(manifest, limit=8)) == 8


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_a_truncated_shard(tmp_path: Path, share: float) -> None:
    """It is known by its size, and without that by its missing end."""
    manifest = make(tmp_path)
    shard = tmp_path / "shards" / "0001.arrow"
    size = shard.stat().st_size
    kept = int(share * size)
    os.truncate(shard, kept)
    broken(manifest, f"{kept} bytes; expected {size} bytes")
    change(manifest, lambda value: value["shards"][1].update(bytes=kept))
    broken(manifest, "not a whole shard (Arrow")


def test_a_damaged_shard_never_ends_the_process(tmp_path: Path) -> None:
    """Wherever a byte is wrong: it is one line, or the structure did not suffer."""
    manifest = make(tmp_path, replace(PLAN, count=3, shard=3))
    shard = tmp_path / "shards" / "0000.arrow"
    content, lines = shard.read_bytes(), []
    for place in range(0, len(content), 5):
        damaged = bytearray(content)
        damaged[place] ^= (0xFF, 0x80, 0x01)[place % 3]
        shard.unlink()  # a mapped file must not be written to
        shard.write_bytes(damaged)
        try:
            everything(open_pairs(manifest))
        except UserError as error:
            lines.append(str(error))
    assert len(lines) > 200
    assert all(line.endswith(AGAIN) for line in lines)


def damage(folder: Path, place: int) -> None:
    """Overwrite 6 bytes of the second shard."""
    shard = folder / "shards" / "0001.arrow"
    content = bytearray(shard.read_bytes())
    content[place : place + 6] = b"\xff" * 6
    shard.write_bytes(content)


def test_changed_pixels(tmp_path: Path) -> None:
    """Damage to the values is found when the hashes are verified."""
    manifest = make(tmp_path)
    damage(tmp_path, 3000)
    open_pairs(manifest)
    broken(manifest, "content has changed; expected sha256", verify=True)


@pytest.mark.parametrize(
    ("plan", "origin", "line"),
    [
        (PLAN, {**ORIGIN, "teacher_sha256": "e" * 64}, "made by another checkpoint"),
        (replace(PLAN, seed=9), ORIGIN, "made by another checkpoint or plan"),
        (replace(PLAN, dtype="float16"), ORIGIN, "columns"),
        (replace(PLAN, shard=7), ORIGIN, "7 pairs; expected 8"),
    ],
)
def test_a_shard_of_something_else(
    tmp_path: Path, plan: PairPlan, origin: dict[str, Any], line: str
) -> None:
    """A file of another teacher or plan put in a shard's place is refused."""
    manifest = make(tmp_path)
    shard = tmp_path / "shards" / "0001.arrow"
    write_shard(Decay(), dataset(), plan, 1, shard, origin=origin)
    size = shard.stat().st_size
    change(manifest, lambda value: value["shards"][1].update(bytes=size))
    broken(manifest, line)


def test_arrow_files_of_others(tmp_path: Path) -> None:
    """An Arrow file without our columns, or with two batches, is refused."""
    manifest = make(tmp_path)
    shard = tmp_path / "shards" / "0001.arrow"
    table = pa.table({"x0": [1.0, 2.0]})
    for batches, line in [(1, "columns"), (2, "2 batches; expected 1 batch")]:
        with pa.ipc.new_file(shard, table.schema) as writer:
            writer.write_table(table, max_chunksize=2 // batches)
        size = shard.stat().st_size
        change(manifest, lambda value, n=size: value["shards"][1].update(bytes=n))
        broken(manifest, line)


@pytest.mark.parametrize("text", ["{}", "[]", '{"plan": {"seed": 1}}', "not json"])
def test_a_file_that_is_no_manifest(tmp_path: Path, text: str) -> None:
    """One line says so."""
    (tmp_path / "pairs.json").write_text(text)
    with pytest.raises(UserError, match=r"pairs\.json: not "):
        open_pairs(tmp_path / "pairs.json")


# ---- the plan ----


def test_the_plan_survives_json() -> None:
    """To JSON and back is the same plan."""
    assert PairPlan.from_dict(json.loads(json.dumps(PLAN.to_dict()))) == PLAN
    with pytest.raises(ValueError, match="not a plan"):
        PairPlan.from_dict({**PLAN.to_dict(), "more": 1})


def test_the_plan_counts() -> None:
    """Shards cover the pairs, the last one is shorter."""
    assert PLAN.segments == 3
    assert PLAN.shards == 3
    assert [i for n in range(3) for i in PLAN.indices(n)] == list(range(22))
    with pytest.raises(ValueError, match="expected 0 to 2"):
        PLAN.indices(3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": 0},
        {"shard": 0},
        {"tol": 0.0},
        {"tol": float("nan")},
        {"edges": (1.0, 0.5)},
        {"dtype": "float64"},
        {"error_norm": "max"},
        {"time_factor": "half"},
    ],
)
def test_an_impossible_plan(wrong: dict[str, Any]) -> None:
    """Values out of range are a ValueError that names them."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(PLAN, **wrong)


def test_an_origin_needs_its_hashes(tmp_path: Path) -> None:
    """Pairs that do not say what made them are not made."""
    with pytest.raises(ValueError, match="teacher_sha256"):
        write_shard(Decay(), dataset(), PLAN, 0, tmp_path / "x.arrow", origin={})
