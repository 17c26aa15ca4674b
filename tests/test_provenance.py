"""Provenance: what a row says about code and machine."""

from __future__ import annotations

import datetime
import gc
import mmap
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fewstep import provenance
from fewstep.results import EVALUATIONS


def git(folder: Path, *arguments: str) -> None:
    """Run git in a folder with an identity of its own."""
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    command = ["git", "-C", str(folder), *who, *arguments]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one committed file and ignored results."""
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("x = 1\n")
    (tmp_path / ".gitignore").write_text("results/\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "Start")
    return tmp_path


def test_clean_repository_gives_its_commit(repository: Path) -> None:
    """A committed tree gives a 40-digit commit and is not dirty."""
    state = provenance.git_state(repository)
    assert re.fullmatch("[0-9a-f]{40}", str(state.commit))
    assert state.dirty is False


@pytest.mark.parametrize("name", ["code.py", "new.py"])
def test_an_edited_or_a_new_file_is_dirty(repository: Path, name: str) -> None:
    """An edit of a tracked file and a file that git does not know are both dirty."""
    (repository / name).write_text("x = 2\n")
    assert provenance.git_state(repository).dirty is True


def test_ignored_results_are_not_dirt(repository: Path) -> None:
    """Results of a run do not make the code that makes them dirty."""
    (repository / "results").mkdir()
    (repository / "results" / "a.json").write_text("{}")
    assert provenance.git_state(repository).dirty is False


def test_dirt_outside_the_folder_counts(repository: Path) -> None:
    """The whole tree is looked at, not only the package's folder."""
    package = repository / "src"
    package.mkdir()
    (package / "a.py").write_text("")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "Add")
    (repository / "code.py").write_text("x = 3\n")
    assert provenance.git_state(package).dirty is True


def test_a_folder_that_a_repository_does_not_track_has_no_commit(
    repository: Path,
) -> None:
    """An environment inside somebody's repository does not take that commit."""
    environment = repository / "results" / "site-packages"
    environment.mkdir(parents=True)
    (environment / "module.py").write_text("")
    assert provenance.git_state(environment) == (None, None)


def test_no_repository_and_no_commit_give_none(tmp_path: Path) -> None:
    """Outside a repository, and before its first commit, nothing is known."""
    assert provenance.git_state(tmp_path) == (None, None)
    git(tmp_path, "init", "-q")
    assert provenance.git_state(tmp_path) == (None, None)


def test_no_git_gives_none(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without git still files rows."""
    monkeypatch.setenv("PATH", "/nonexistent")
    assert provenance.git_state(repository) == (None, None)


def test_import_leaves_torch_alone() -> None:
    """Importing provenance, and asking for versions, does not import torch."""
    code = (
        "import sys; from fewstep import provenance; provenance.versions();"
        "provenance.hardware('cpu'); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_versions_name_what_is_installed_and_what_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An installed package has a version, one that is absent has None."""
    monkeypatch.setattr(provenance, "PACKAGES", ("torch", "no-such-package"))
    found = provenance.versions()
    assert found["torch"]
    assert found["no-such-package"] is None
    assert found["python"] == sys.version.split()[0]


def test_row_fields_are_columns_of_the_evaluations() -> None:
    """Every field fits its column, so that a row can take them as they are."""
    columns = {column.name: column for column in EVALUATIONS.columns}
    fields = provenance.row_fields("cpu")
    for name, value in fields.items():
        assert columns[name].check(value) == value
    assert fields["device"] == "cpu"
    assert fields["hardware"]


def test_utc_now_is_now_in_utc() -> None:
    """The time is written in UTC to the second."""
    written = provenance.utc_now()
    then = datetime.datetime.fromisoformat(written)
    assert written.endswith("Z")
    age = datetime.datetime.now(tz=datetime.UTC) - then
    assert abs(age.total_seconds()) < 60


def test_hardware_of_a_gpu_names_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU the hardware is the card and its driver; on a CPU the processor."""
    import torch

    def smi(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 0, "575.57\n575.57\n", "")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA X1")
    monkeypatch.setattr(subprocess, "run", smi)
    found = provenance.hardware(torch.device("cuda:1"))
    assert (found["device"], found["hardware"]) == ("cuda", "NVIDIA X1")
    assert found["driver"] == "575.57"
    assert provenance.hardware("cpu")["driver"] is None


def test_hardware_without_proc_or_nvidia_smi(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system tells nothing, fields are None or generic, never an error."""

    def absent(*_: Any, **__: Any) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", absent)
    monkeypatch.setattr(subprocess, "run", absent)
    found = provenance.hardware("cuda")
    assert found["cpu"]
    assert found["driver"] is None
    assert provenance.peak_memory_mb() > 1


def test_peak_memory_sees_a_large_mapping_and_can_be_reset() -> None:
    """300 MB that came and went raise the peak; a reset forgets them.

    A map of its own, not an array: malloc may serve an array from memory that an
    earlier test left to this process, which raises nothing.
    """
    gc.collect()
    provenance.reset_peak_memory()
    before = provenance.peak_memory_mb()
    with mmap.mmap(-1, 300_000_000) as block:
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        assert provenance.peak_memory_mb() > before + 200
    if provenance.reset_peak_memory():
        assert provenance.peak_memory_mb() < before + 100


def test_a_system_that_forbids_the_reset_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A refused reset returns False rather than failing the job."""

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "write_text", refuse)
    assert provenance.reset_peak_memory() is False
