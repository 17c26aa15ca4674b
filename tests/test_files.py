"""Files appear whole, or not at all."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fewstep import files
from fewstep.errors import UserError


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    """A failed write leaves neither the file nor a part."""

    def fail() -> None:
        with files.atomic_path(tmp_path / "a.bin") as part:
            part.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    """While a file is rewritten, readers see the old content."""
    path = tmp_path / "a.json"
    files.write_json(path, {"old": 1})
    with files.atomic_path(path) as part:
        part.write_text("new")
        assert files.read_json(path) == {"old": 1}
    assert path.read_text() == "new"


def test_kill_9_leaves_no_half_file(tmp_path: Path) -> None:
    """A writer that is killed leaves the old file whole."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    program = (
        "import sys, time; from fewstep import files\n"
        f"with files.atomic_path({str(path)!r}) as part:\n"
        "    part.write_bytes(b'new'); print('ready', flush=True); time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert path.read_bytes() == b"old"


def test_a_full_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No space left becomes a UserError that names the file."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError, match=r"a\.json: the disk is full"):
        files.write_json(tmp_path / "a.json", {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_is_written_and_not_replaced(tmp_path: Path, linked: bool) -> None:
    """What is no file takes the bytes itself, also behind a link, and stays."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        files.write_bytes(link if linked else pipe, b"rows")
        assert os.read(reader, 100) == b"rows"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    assert link.is_symlink()
    assert sorted(tmp_path.iterdir()) == [link, pipe]


@pytest.mark.parametrize("there", [False, True])
def test_a_link_of_the_system_is_followed_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """/dev/stdout is a link, and leads to a file when the output goes to one."""
    folder = tmp_path / "dev"
    folder.mkdir()
    monkeypatch.setattr(files, "_SYSTEM", (folder,))
    target, link = tmp_path / "out.txt", folder / "stdout"
    link.symlink_to(target)
    if there:
        target.write_text("before")
    files.write_bytes(link, b"rows")
    assert link.is_symlink()
    assert target.read_bytes() == b"rows"
    assert list(folder.iterdir()) == [link]


def test_json_refuses_what_json_cannot_say(tmp_path: Path) -> None:
    """NaN is not written into a JSON file."""
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a.json", {"x": float("nan")})


def test_missing_and_broken_json_are_one_line(tmp_path: Path) -> None:
    """Reading names the file and what is wrong."""
    with pytest.raises(UserError, match=r"a\.json: file not found"):
        files.read_json(tmp_path / "a.json")
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(UserError, match=r"b\.json: not valid JSON"):
        files.read_json(tmp_path / "b.json")


def test_hash_of_a_value_ignores_key_order() -> None:
    """Two writings of one value have one hash."""
    assert files.sha256_json({"a": 1, "b": 2}) == files.sha256_json({"b": 2, "a": 1})
    assert files.sha256_json({"a": 1}) != files.sha256_json({"a": 2})
