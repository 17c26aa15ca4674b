"""`fewstep env`: what a bug report says, and what it must not."""

from __future__ import annotations

import getpass
import json
import os
import platform
import socket
from pathlib import Path

import pytest

from fewstep import cli
from fewstep.bugreport import as_markdown, facts, settings

SECRET = "hf_averysecrettoken"


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `fewstep env` prints."""
    cli.app(["env", *arguments], standalone_mode=False)
    return capsys.readouterr().out


def test_the_block_says_versions_machine_and_disk(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each line is an entry of a Markdown list; the versions are those that run."""
    lines = call(capsys).splitlines()
    assert all(line.startswith("- ") for line in lines)
    named = dict(line[2:].split(": ", maxsplit=1) for line in lines)
    assert named["Python"].startswith(platform.python_version())
    for name in ("fewstep", "system", "processor", "memory", "disk", "torch", "GPUs"):
        assert named[name], name
    assert "built for" in named["torch"]


def test_json_has_the_same_facts(capsys: pytest.CaptureFixture[str]) -> None:
    """--json prints one value with the facts of the text."""
    found = json.loads(call(capsys, "--json"))
    assert found["python"].startswith(platform.python_version())
    assert set(found) == set(facts())


def test_no_secret_no_name_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens, paths, addresses, the host and the user do not come out."""
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("HF_HOME", str(Path.home() / "models"))
    monkeypatch.setenv("HF_ENDPOINT", "https://me:pass@mirror.example/path")
    monkeypatch.setenv("FEWSTEP_DEVICE", "cuda:1")
    block = as_markdown(facts(os.environ | {"FEWSTEP_DEVICE": "cuda:1"}))
    for forbidden in (SECRET, "mirror.example", "pass", str(Path.home())):
        assert forbidden not in block
    if len(socket.gethostname()) > 4:
        assert socket.gethostname() not in block
    if len(getpass.getuser()) > 4:
        assert getpass.getuser() not in block
    assert "HF_TOKEN set" in block
    assert "FEWSTEP_DEVICE cuda:1" in block


def test_values_are_told_only_where_they_are_harmless() -> None:
    """Numbers, switches and devices are told; of anything else that it is set."""
    given = {
        "HF_HUB_OFFLINE": "1",
        "FEWSTEP_DEVICE": "cpu",
        "HF_TOKEN": SECRET,
        "FEWSTEP_PASSWORD": "1234",
        "HF_API_KEY": "42",
        "SNAKEMAKE_secret": "0",
        "HF_HOME": "/home/somebody",
        "FEWSTEP_LOGS_ONLY": "",
        "OTHER": "1",
    }
    assert settings(given) == {
        "FEWSTEP_DEVICE": "cpu",
        "FEWSTEP_LOGS_ONLY": "empty",
        "FEWSTEP_PASSWORD": "set",
        "HF_API_KEY": "set",
        "HF_HOME": "set",
        "HF_HUB_OFFLINE": "1",
        "HF_TOKEN": "set",
        "SNAKEMAKE_secret": "set",
    }


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ("slurm 23.11.4", "slurm 23.11.4"),
        (
            "welcome me to login7.example\nslurm 24.05.1-site at login7",
            "slurm 24.05.1-site",
        ),
        ("login7.example: for me only", "sbatch does not say its release"),
    ],
)
def test_of_sbatch_the_release_alone_is_told(
    says: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site's own sbatch may greet with names of hosts and users."""
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f"#!/bin/sh\ncat <<'EOF'\n{says}\nEOF\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = facts()["slurm"]
    assert found == told
    assert "login7" not in found


def test_versions_other_than_the_tested_ones_are_listed(tmp_path: Path) -> None:
    """A pinned package that is missing or other is named with both versions."""
    lock = tmp_path / "requirements.lock"
    pinned = f"pytest=={pytest.__version__}\nnumpy==0.1\nno-such-package==2.0\n"
    lock.write_text(pinned)
    differs = facts(lock=lock)["differs"]
    assert set(differs) == {"numpy", "no-such-package"}
    assert differs["no-such-package"] == "missing (tested: 2.0)"
    assert differs["numpy"].endswith("(tested: 0.1)")


def test_without_a_lock_file_that_is_said(tmp_path: Path) -> None:
    """An installed fewstep has no requirements.lock to compare with."""
    block = as_markdown(facts(lock=tmp_path / "none.lock"))
    assert "requirements.lock: unknown" in block
