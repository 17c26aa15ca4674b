"""Notes of submitted jobs: whole, forgiving, and telling jobs apart."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_plugin_submitit.notes import Note, Notes, key_of, work_of

NOTE = Note("k1", "w", "train", "slurm", "/logs/a", "/logs/b", "submitit-1")


def test_a_note_is_kept_and_removed(tmp_path: Path) -> None:
    """What is written is read again; a job that is over leaves nothing."""
    notes = Notes(tmp_path / "new" / "folder")
    assert notes.all("slurm") == {}
    notes.write(NOTE)
    other = replace(NOTE, key="k2", index=3, job_id="17_3")
    notes.write(other)
    assert Notes(notes.folder).all("slurm") == {"k1": NOTE, "k2": other}
    notes.remove(NOTE)
    notes.remove(NOTE)
    assert notes.all("slurm") == {"k2": other}


def test_a_note_is_written_before_and_after_the_submission(tmp_path: Path) -> None:
    """Killed between the two, the mark is left, by which SLURM knows the job."""
    notes = Notes(tmp_path)
    notes.write(NOTE)
    found = notes.all("slurm")["k1"]
    assert (found.mark, found.job_id) == ("submitit-1", None)
    notes.write(replace(NOTE, job_id="17"))
    assert notes.all("slurm")["k1"].job_id == "17"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"key": "k3"}', '"text"', "\x00", '{"key": 1, "new": 2}'],
)
def test_what_cannot_be_read_is_no_note(tmp_path: Path, text: str) -> None:
    """A disk that was full, or a note of another version, stops nobody."""
    notes = Notes(tmp_path)
    notes.write(NOTE)
    (tmp_path / "k3-slurm.json").write_text(text)
    assert notes.all("slurm") == {"k1": NOTE}


def test_bytes_that_are_no_text_are_no_note(tmp_path: Path) -> None:
    """Nor is a file of random bytes."""
    (tmp_path / "k3-slurm.json").write_bytes(b"\xff\xfe\x00")
    assert Notes(tmp_path).all("slurm") == {}


def test_a_half_written_note_is_not_seen(tmp_path: Path) -> None:
    """kill -9 in the middle of writing leaves the older note."""
    notes = Notes(tmp_path)
    notes.write(NOTE)
    (tmp_path / ".k1-slurm.4711").write_text('{"key": "k1", "wo')
    assert notes.all("slurm") == {"k1": NOTE}


def _rewrite(folder: str, times: int) -> None:
    notes = Notes(Path(folder))
    for number in range(times):
        notes.write(replace(NOTE, job_id=str(number), rule="r" * 5000))


def test_a_reader_never_sees_half_a_note(tmp_path: Path) -> None:
    """While one process writes, another always reads a whole note."""
    notes = Notes(tmp_path)
    notes.write(NOTE)
    context = multiprocessing.get_context("spawn")
    writer = context.Process(target=_rewrite, args=(str(tmp_path), 300))
    writer.start()
    while writer.is_alive():
        assert "k1" in notes.all("slurm")
    writer.join()
    assert notes.all("slurm")["k1"].job_id == "299"


# -- which job, and what it does --------------------------------------------------


@dataclass
class Rule:
    """The parts of Snakemake's rule that are looked at."""

    name: str = "train"
    shellcmd: str | None = "python train.py"
    script: str | None = None
    notebook: str | None = None
    wrapper: str | None = None


@dataclass
class Job:
    """The parts of Snakemake's job that are looked at."""

    output: Sequence[str] = ("results/a",)
    input: Sequence[str] = ("data/a",)
    wildcards_dict: dict[str, str] = field(default_factory=lambda: {"name": "a"})
    params: Any = None
    rule: Rule = field(default_factory=Rule)
    threads: int = 1

    def __post_init__(self) -> None:
        self.params = self.params or Params(code="12ab", size=3)

    def is_group(self) -> bool:
        return False


class Params(list[Any]):
    """As Snakemake's: a list whose items may have names."""

    def __init__(self, *values: Any, **named: Any) -> None:
        super().__init__([*values, *named.values()])
        self._named = named

    def items(self) -> Any:
        return self._named.items()


@dataclass
class Group:
    """A group of jobs."""

    jobs: list[Job]

    def is_group(self) -> bool:
        return True


def test_a_job_is_known_by_rule_wildcards_and_outputs() -> None:
    """How it is run does not matter, and no two jobs have one key."""
    assert key_of(Job()) == key_of(Job(input=["other"], threads=8))
    others = [
        Job(output=["results/b"]),
        Job(wildcards_dict={"name": "b"}),
        Job(rule=Rule("rank")),
        Group([Job(), Job(output=["results/b"])]),
    ]
    assert len({key_of(job) for job in [Job(), *others]}) == 5


def test_an_older_form_of_a_job_is_seen() -> None:
    """Changed params, inputs or code are other work; threads are not."""
    assert work_of(Job()) == work_of(Job(threads=8))
    others = [
        Job(params=Params(code="other", size=3)),
        Job(params=Params(code="12ab", size=4)),
        Job(params=Params("12ab", 3)),
        Job(input=["data/b"]),
        Job(rule=Rule(shellcmd="python train.py --fast")),
        Job(rule=Rule(shellcmd=None, script="train.py")),
    ]
    assert len({work_of(job) for job in [Job(), *others]}) == 7


def test_a_group_is_the_same_in_any_order() -> None:
    """Snakemake keeps a group's jobs in a set."""
    one, two = Job(), Job(output=["results/b"])
    assert key_of(Group([one, two])) == key_of(Group([two, one]))
    assert work_of(Group([one, two])) == work_of(Group([two, one]))


def test_work_does_not_depend_on_where_objects_lie() -> None:
    """Values without a text of their own, and sets, are the same in every process."""
    params = Params(a={"x", "y", "zz"}, b=object(), c={"k": [1, {"n": None}]})
    again = Params(a={"zz", "y", "x"}, b=object(), c={"k": [1, {"n": None}]})
    assert work_of(Job(params=params)) == work_of(Job(params=again))


def test_a_note_is_plain_json(tmp_path: Path) -> None:
    """People and scripts can read it."""
    Notes(tmp_path).write(replace(NOTE, job_id="17"))
    value = json.loads((tmp_path / "k1-slurm.json").read_text())
    assert (value["job_id"], value["rule"], value["cluster"]) == (
        "17",
        "train",
        "slurm",
    )
