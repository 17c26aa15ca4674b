"""The command line: one line for a mistake, an exit status that says what happened."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer

from fewstep import cli
from fewstep.cli import launch
from fewstep.errors import UserError
from fewstep.training import PreemptedError

ROOT = Path(__file__).parents[1]


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


def test_a_line_is_written_in_one_piece() -> None:
    """Jobs that fail at once share a terminal: no line may end up behind another."""
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with reader, writer:
        reader.settimeout(60)
        command = (sys.executable, "-m", "fewstep", "grid", "--samples", "no.json")
        with subprocess.Popen(
            [*command, "--out", "grid.png"],
            stderr=writer,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},  # as in many containers
        ) as process:
            found = reader.recv(1000)
            process.kill()
    assert found == b"fewstep: no.json: file not found\n"


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


PHOTOS = {"name": "photos", "path": "photos", "size": 8, "num_classes": 2}
_CODES = {"name": "x", "shard_size": 9, "count": 9, "tokenizer": {"model": {}}}
_OF = ("--spec", json.dumps({**_CODES, "dataset": PHOTOS}))
MISTAKES = {
    "images": (
        ["index-images", *_OF],
        "photos: no such folder; expected images as photos/<class>/*.jpg",
    ),
    "released codes": (
        ["import-codes", *_OF, "--folder", ".", "--tokenizer", "vq.safetensors"],
        ".: no codes here; expected codes.json, or one <name>_codes beside",
    ),
    "shard of codes": (
        ["collect-codes", *_OF, "--folder", "codes", "--shards", "2"],
        "codes/shard-00000.json: file not found",
    ),
    "tokenizer": (
        ["prepare-tokenizer", "--spec", "{}", "--source", "vq.pt"],
        "vq.pt: file not found",
    ),
    "transformer": (
        ["prepare-par", "--spec", "{}", "--source", "par.pt"],
        "par.pt: file not found",
    ),
    "samples": (
        ["adm-batch", "--samples", "samples.json"],
        "samples.json: file not found",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_verb_of_par_names_what_is_missing(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Files that are not there end in status 1 and one line; nothing is written."""
    arguments, message = MISTAKES[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fewstep", *arguments, "--out", "out/x"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"fewstep: {message}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", sorted(ROOT.glob("rules/*.smk")), ids=lambda p: p.stem)
def test_rules_call_verbs_and_options_that_exist(file: Path) -> None:
    """Every command of a rule is one of this program, with options that it takes."""
    verbs = typer.main.get_command(cli.app).commands
    shells = re.findall(r'shell:\n((?: +".*"\n)+)', file.read_text())
    commands = ["".join(re.findall(r'"(.*)"', shell)) for shell in shells]
    for command in commands:
        (verb,) = re.findall(
            r"-m fewstep (?:--threads \{threads\} )?([a-z-]+)", command
        )
        known = {option for one in verbs[verb].params for option in one.opts}
        given = set(re.findall(r" (--[a-z-]+)", command)) - {"--threads"}
        assert given <= known, f"{verb}: {given - known}"
    assert len(commands) == file.read_text().count("shell:")


@pytest.mark.parametrize("file", sorted(ROOT.glob("rules/*.smk")), ids=lambda p: p.stem)
def test_no_profile_s_limit_reaches_a_command(file: Path) -> None:
    """Snakemake cuts `gpu` down to a profile's limit: no command may be told it."""
    assert "{resources.gpu}" not in file.read_text()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that would have replaced this process, which has two GPUs."""
    found: list[list[str]] = []
    monkeypatch.setattr(launch.os, "execvp", lambda _, command: found.append(command))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(sys, "argv", ["fewstep", "train-par"])
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("FEWSTEP_DEVICE", raising=False)
    return found


def test_several_gpus_start_under_torchrun(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many processes as GPUs are wanted; none for one, or within torchrun."""
    launch.torchrun(1)
    assert not started
    launch.torchrun(2)
    (command,) = started
    assert "--nproc-per-node=2" in command and command[-1] == "train-par"
    monkeypatch.setenv("WORLD_SIZE", "8")
    launch.torchrun(8)
    assert len(started) == 1


def test_several_nodes_start_torchrun_on_each(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """srun starts one a node, with its share of the GPUs and a common meeting point."""
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "4")
    launch.torchrun(8, nodes=4)
    (command,) = started
    assert command[0] == "srun" and "--ntasks=4" in command
    assert "--nproc-per-node=2" in command and "--nnodes=4" in command
    assert "--rdzv-id=17" in command and "--standalone" not in command


@pytest.mark.parametrize("found", [None, "2"])
def test_nodes_that_the_job_has_not_are_one_line(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch, found: str | None
) -> None:
    """Outside SLURM, or in a job of another size, nothing starts."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    if found:
        monkeypatch.setenv("SLURM_JOB_ID", "17")
        monkeypatch.setenv("SLURM_JOB_NUM_NODES", found)
    message = rf"^train\.nodes: 4 nodes for the training, and {found or 1} here; exp"
    with pytest.raises(UserError, match=message):
        launch.torchrun(8, nodes=4)
    assert not started


@pytest.mark.parametrize(("there", "said"), [(2, "2"), (0, "none")])
def test_more_gpus_than_there_are_is_one_line(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch, there: int, said: str
) -> None:
    """The line names the key and what is there; nothing starts."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    monkeypatch.setenv("FEWSTEP_DEVICE", "cuda")
    message = rf"^train\.gpus: 8 GPUs for the training, and {said} here; expected"
    with pytest.raises(UserError, match=message):
        launch.torchrun(8)
    assert not started


def test_the_cpu_has_any_number_of_processes(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """FEWSTEP_DEVICE=cpu starts what is asked for, whatever GPUs there are."""
    monkeypatch.setenv("FEWSTEP_DEVICE", "cpu")
    launch.torchrun(8)
    assert "--nproc-per-node=8" in started[0]


def test_one_gpu_is_not_looked_for() -> None:
    """The check loads torch only where several GPUs are wanted."""
    text = (
        "import sys; from fewstep.cli.launch import torchrun\n"
        "torchrun(1); assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", text], check=False).returncode == 0
