"""One seed drawn by several jobs: the same bytes, whatever happens to each of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fewstep import files
from fewstep.errors import UserError
from fewstep.samples import (
    Part,
    collect_parts,
    draw_part,
    draw_samples,
    read_images,
    read_manifest,
)
from fewstep.stages.sample import collect, part_of
from tests.test_sampling import OPTIONS, Painter, Told, drawn

KEY = "k" * 64
EXTRA = {"provenance": {"hardware": "a", "dirty": False, "created_utc": "1"}}


def draw_all(
    path: Path, jobs: int, sampler: Painter | None = None, batch: int = 4
) -> list[Path]:
    """Draw with so many jobs, one after the other; their records."""
    records = []
    for number in range(jobs):
        record = path.parent / "parts" / f"{number}-of-{jobs}.json"
        options = replace(OPTIONS, batch=batch)
        part = Part(number, jobs)
        own = sampler or Painter()
        draw_part(own, options, path, part, record, key=KEY, extra=EXTRA)
        records.append(record)
    return records


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(jobs=st.integers(1, 6), batch=st.integers(1, 5), data=st.data())
def test_any_number_of_jobs_gives_the_manifest_of_one(
    tmp_path_factory: pytest.TempPathFactory, jobs: int, batch: int, data: st.DataObject
) -> None:
    """Shards, hashes and order are those of one job, in whatever order they end."""
    one = tmp_path_factory.mktemp("one") / "samples.json"
    draw_samples(Painter(), replace(OPTIONS, batch=batch), one, key=KEY)
    path = tmp_path_factory.mktemp("many") / "samples.json"
    records = draw_all(path, jobs, batch=batch)
    collect_parts(data.draw(st.permutations(records)), path)
    mine, theirs = read_manifest(path), read_manifest(one)
    assert (mine.key, mine.options) == (theirs.key, theirs.options)
    hashes = [[s["sha256"] for s in found.shards] for found in (mine, theirs)]
    assert hashes[0] == hashes[1]
    assert np.array_equal(drawn(path), drawn(one))


PROGRAM = """
import sys
from pathlib import Path
from fewstep.samples import Part, draw_part
from tests.test_sampling import OPTIONS, Painter

path, number, jobs = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
record = path.parent / "parts" / f"{number}-of-{jobs}.json"
draw_part(Painter(), OPTIONS, path, Part(number, jobs), record, key="k" * 64)
"""


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_processes_at_once_draw_the_samples_of_one(tmp_path: Path, jobs: int) -> None:
    """One, two or three processes that start together give the same bytes."""
    one = tmp_path / "one" / "samples.json"
    draw_samples(Painter(), OPTIONS, one, key=KEY)
    path = tmp_path / "many" / "samples.json"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(path), str(number), str(jobs)],
            cwd=str(Path(__file__).parents[1]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(jobs)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.communicate("\n")
        assert child.returncode == 0
    collect_parts(list((path.parent / "parts").iterdir()), path)
    assert np.array_equal(drawn(path), drawn(one))


def test_another_number_of_jobs_keeps_the_shards(tmp_path: Path) -> None:
    """What three jobs have drawn, two jobs find there."""
    path = tmp_path / "samples.json"
    draw_all(path, 3)
    again = Painter()
    records = draw_all(path, 2, again)
    assert again.drawn == 0
    collect_parts(records, path)
    assert len(drawn(path)) == 10


def test_a_job_that_is_told_to_stop_goes_on_later(tmp_path: Path) -> None:
    """It leaves no record, keeps its whole shards, and draws the rest of its own."""
    from fewstep.processes import PreemptedError

    path = tmp_path / "samples.json"
    record = tmp_path / "parts" / "0-of-2.json"
    told = Told(0, signal.SIGTERM)
    with pytest.raises(PreemptedError, match=r"^stopped after shard 1 of 2$"):
        draw_part(told, OPTIONS, path, Part(0, 2), record, key=KEY, extra=EXTRA)
    assert not record.exists()
    again = Painter()
    records = draw_all(path, 2, again)
    assert again.drawn == 7  # of ten, less the shard of three
    collect_parts(records, path)
    one = tmp_path / "one.json"
    draw_samples(Painter(), OPTIONS, one, key=KEY)
    assert np.array_equal(drawn(path), drawn(one))


def test_what_ran_where_stands_in_the_manifest(tmp_path: Path) -> None:
    """Machines that differ are both named, and one dirty tree makes the whole dirty."""
    path = tmp_path / "samples.json"
    records = draw_all(path, 2)
    second = files.read_json(records[1])
    second["extra"]["provenance"] = {
        "hardware": "b",
        "dirty": True,
        "created_utc": "2",
    }
    second["options"]["batch"] = 2
    files.write_json(records[1], second)
    manifest = collect_parts(records, path)
    assert manifest.extra == {
        "parts": 2,
        "provenance": {"hardware": "a + b", "dirty": True, "created_utc": "2"},
    }
    assert manifest.options["batch"] == 2


def test_parts_of_different_runs_are_refused(tmp_path: Path) -> None:
    """Another key, another number of jobs or a missing one is one line, no manifest."""
    path = tmp_path / "samples.json"
    records = draw_all(path, 2)
    other = files.read_json(records[1])
    files.write_json(records[1], {**other, "key": "n" * 64})
    with pytest.raises(UserError, match=r"1-of-2\.json: not of the same run as .*0-of"):
        collect_parts(records, path)
    files.write_json(records[1], other)
    with pytest.raises(UserError, match="not of the same run"):
        collect_parts(records[:1], path)
    with pytest.raises(UserError, match="not one record of each job"):
        collect_parts([records[0], records[0]], path)
    assert not path.exists()


@pytest.mark.parametrize("how", ["removed", "changed"])
def test_a_damaged_shard_is_drawn_again_by_its_job(tmp_path: Path, how: str) -> None:
    """Before and after the manifest is written the advice given mends it."""
    path = tmp_path / "samples.json"
    records = draw_all(path, 2)
    collect_parts(records, path)
    expected = drawn(path)
    shard = tmp_path / read_manifest(path).shards[1]["file"]
    if how == "removed":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-1] + b"\xff")
    with pytest.raises(UserError, match=r"delete \S+/parts and \S+/samples\.json and"):
        list(read_images(path))
    with pytest.raises(UserError, match=r"delete \S+/parts/1-of-2\.json and run again"):
        collect_parts(records, path)
    records[1].unlink()
    again = Painter()
    draw_part(again, OPTIONS, path, Part(1, 2), records[1], key=KEY, extra=EXTRA)
    assert again.drawn == 3
    collect_parts(records, path)
    assert np.array_equal(drawn(path), expected)


def test_the_name_of_a_record_says_which_job_it_is(tmp_path: Path) -> None:
    """`parts/3-of-8.json` is the fourth of eight; nonsense is refused."""
    assert part_of(tmp_path / "parts" / "3-of-8.json") == Part(3, 8)
    assert part_of(tmp_path / "samples.json") is None
    for name in ("8-of-8", "1-of-0", "last"):
        with pytest.raises(UserError, match=r"no part of a run; expected 3-of-8"):
            part_of(tmp_path / "parts" / f"{name}.json")


def test_records_of_other_samples_are_refused(tmp_path: Path) -> None:
    """The manifest is made of the records that lie below it."""
    records = draw_all(tmp_path / "a" / "samples.json", 1)
    with pytest.raises(UserError, match="not a part of these samples"):
        collect(records, tmp_path / "b" / "samples.json")


def test_a_killed_part_leaves_the_others_alone(tmp_path: Path) -> None:
    """kill -9 of one job: its record is missing, the other's shards are whole."""
    path = tmp_path / "samples.json"
    program = PROGRAM.replace(
        "draw_part(Painter()",
        "class Killed(Painter):\n"
        "    def draw(self, inputs):\n"
        "        import os, signal\n"
        "        if self.drawn: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return super().draw(inputs)\n"
        "draw_part(Killed()",
    )
    child = subprocess.run(
        [sys.executable, "-c", program, str(path), "0", "2"],
        cwd=str(Path(__file__).parents[1]),
        input="\n",
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        stdout=subprocess.PIPE,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    assert not (tmp_path / "parts" / "0-of-2.json").exists()
    again = Painter()
    records = draw_all(path, 2, again)
    assert again.drawn == 7
    manifest = collect_parts(records, path)
    assert json.loads(path.read_text())["key"] == manifest.key
