"""The command line: one line for a mistake, an exit status that says what happened."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fewstep import cli
from fewstep.errors import UserError
from fewstep.training import PreemptedError


def fewstep(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "fewstep", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_users_mistake_is_one_line(tmp_path: Path) -> None:
    """A missing input ends with status 1 and one line, no traceback."""
    out = str(tmp_path / "grid.png")
    done = fewstep("grid", "--samples", str(tmp_path / "no.json"), "--out", out)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == [
        f"fewstep: {tmp_path / 'no.json'}: file not found"
    ]


@pytest.mark.parametrize("spec", ["{", "[1]"])
def test_a_spec_that_is_no_mapping_is_one_line(tmp_path: Path, spec: str) -> None:
    """A broken --spec is named."""
    done = fewstep("tables", "--spec", spec)
    assert done.returncode == 1
    assert done.stderr.startswith("fewstep: --spec: not ")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UserError("wrong"), 1),
        (PreemptedError("stopped at step 3"), cli.TRY_AGAIN),
        (type("OutOfMemoryError", (RuntimeError,), {})("no room"), 1),
    ],
    ids=["mistake", "preempted", "memory"],
)
def test_expected_ends_have_their_status(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    status: int,
) -> None:
    """A mistake, a preemption and a full device are one line each."""

    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == status
    assert capsys.readouterr().err.count("\n") == 1


def test_a_programming_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is nobody's mistake keeps its traceback."""

    def fail(**_: object) -> None:
        raise KeyError("bug")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(KeyError):
        cli.main()


def test_every_stage_has_help() -> None:
    """`fewstep --help` names the stages; each stage's help lists its options."""
    assert "sample" in fewstep("--help").stdout
    assert "--strategies" in fewstep("search", "--help").stdout
