"""Logs: their folders, their ends, and their cleaning by age."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakemake_executor_plugin_submitit.logs import clean, job_folder, make, tail

DAY = 24 * 3600


def aged(path: Path, days: float) -> None:
    """Make a file or folder as old as that."""
    then = time.time() - days * DAY
    os.utime(path, (then, then))


def folder_of(root: Path, name: str, days: float) -> Path:
    """A job's folder with one log, both of an age."""
    folder = make(root / "train" / name)
    (folder / "17.log").write_text("text\n")
    for path in (*folder.iterdir(), folder):
        aged(path, days)
    return folder


def test_a_folder_says_which_job(tmp_path: Path) -> None:
    """Rule, wildcards as far as they make a file's name, and a key."""
    folder = job_folder(tmp_path, "train", ["afhq", "a/b c"], "0123456789abcdef")
    assert folder == tmp_path / "train" / "afhq-a_b_c-01234567"
    assert job_folder(tmp_path, "train", [], "0123456789abcdef").name == "01234567"


@given(st.lists(st.text(max_size=90), max_size=4))
def test_any_wildcards_make_one_folder_below_the_rule(words: list[str]) -> None:
    """No value leads out of the rule's folder, or to a name that is too long."""
    folder = job_folder(Path("/logs"), "r", words, "0123456789abcdef")
    assert folder.parent == Path("/logs/r")
    assert folder.name.endswith("01234567")
    assert len(os.fsencode(folder.name)) <= 255


def test_the_end_of_a_log_is_shown(tmp_path: Path) -> None:
    """The last lines that say something, without what Snakemake says of itself."""
    path = tmp_path / "17.log"
    lines = [f"step {k}" for k in range(100)]
    noise = ["", "Shutting down, this might take some time.", "Building DAG", "  "]
    path.write_text("\n".join([*lines, *noise]) + "\n")
    shown = tail(path, 3)
    assert shown == ["step 97", "step 98", "step 99"]


def test_the_report_of_the_nested_snakemake_is_left_out(tmp_path: Path) -> None:
    """The main Snakemake says the same; what the program said stands before it."""
    path = tmp_path / "17.log"
    text = "Traceback\nValueError: no\nError in rule train:\n    jobid: 0\n"
    path.write_text(text)
    assert tail(path) == ["Traceback", "ValueError: no"]


def test_no_log_has_no_end(tmp_path: Path) -> None:
    """A job that never started has nothing to show."""
    assert tail(tmp_path / "none.log") == []
    (tmp_path / "empty.log").touch()
    assert tail(tmp_path / "empty.log") == []
    assert tail(tmp_path) == []


def test_a_huge_log_is_read_from_its_end(tmp_path: Path) -> None:
    """Gigabytes of output cost no memory; bytes that are no text do no harm."""
    path = tmp_path / "17.log"
    with path.open("wb") as file:
        file.truncate(5 * 10**9)
        file.seek(0, 2)
        file.write(b"\xff\xfe broken\nlast\n")
    assert tail(path, 1) == ["last"]


def test_a_progress_bar_is_one_line(tmp_path: Path) -> None:
    """Of a line that is written over and over its last state is shown."""
    path = tmp_path / "17.log"
    bar = "".join(f"\rstep {k}" for k in range(200))
    path.write_bytes(f"start\n{bar}\nRuntimeError: out of memory\n".encode())
    assert tail(path, 3) == ["start", "step 199", "RuntimeError: out of memory"]


def test_old_folders_are_cleaned_and_young_ones_stay(tmp_path: Path) -> None:
    """The newest file in a folder is its age."""
    old, young = folder_of(tmp_path, "a", 40), folder_of(tmp_path, "b", 10)
    used = folder_of(tmp_path, "c", 40)
    (used / "18.log").touch()
    aged(used, 40)
    assert clean(tmp_path, 30, []) == 1
    assert not old.exists()
    assert young.exists()
    assert used.exists()


def test_a_job_that_may_still_run_keeps_its_folder(tmp_path: Path) -> None:
    """A month in the queue is no reason to lose the log and the pickle."""
    mine = folder_of(tmp_path, "a", 400)
    array = folder_of(tmp_path, "array-0123", 400)
    assert clean(tmp_path, 30, [mine, array]) == 0
    assert mine.exists()
    assert array.exists()


def test_a_kept_folder_is_known_by_any_of_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative, or through a link to the scratch disk."""
    root = tmp_path / "scratch"
    mine = folder_of(root, "a", 400)
    (tmp_path / "logs").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    assert clean(Path("logs"), 30, [mine]) == 0
    assert clean(root, 30, [Path("logs/train/a")]) == 0
    assert mine.exists()


def test_zero_days_keep_everything(tmp_path: Path) -> None:
    """Cleaning can be switched off; a folder that is not there is no error."""
    old = folder_of(tmp_path, "a", 4000)
    assert clean(tmp_path, 0, []) == 0
    assert clean(tmp_path / "none", 30, []) == 0
    assert old.exists()


def test_files_of_others_stay(tmp_path: Path) -> None:
    """What is no job's folder is not the executor's to remove."""
    (tmp_path / "train").mkdir()
    note = tmp_path / "train" / "README"
    note.write_text("mine")
    aged(note, 400)
    top = tmp_path / "notes.txt"
    top.write_text("mine")
    aged(top, 400)
    assert clean(tmp_path, 30, []) == 0
    assert note.exists()
    assert top.exists()


def test_only_folders_of_the_executor_are_cleaned(tmp_path: Path) -> None:
    """The folder of logs may hold other programs' files, or be the project itself."""
    mine = folder_of(tmp_path, "a", 40)
    other = tmp_path / "results" / "afhq"
    other.mkdir(parents=True)
    (other / "model.safetensors").touch()
    aged(other, 40)
    assert clean(tmp_path, 30, []) == 1
    assert not mine.exists()
    assert (other / "model.safetensors").exists()
