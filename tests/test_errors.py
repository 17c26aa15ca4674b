"""docs/errors.md: every message of a user's error with its cause and its cure."""

from __future__ import annotations

import ast
import errno
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import typer
from PIL import UnidentifiedImageError
from safetensors import SafetensorError

from fewstep import checkpoints, cli, data, datasets, locks, shards, yamlpos
from fewstep.cli import faults
from fewstep.config import load_config
from fewstep.errors import UserError
from fewstep.files import atomic_path, read_json
from fewstep.hub import ledger
from fewstep.results import EVALUATIONS, parquet, read
from fewstep.training import PreemptedError
from snakemake_executor_plugin_submitit import states
from tests.errors_in_code import GAP, SOURCE, messages, says_something
from tests.workflow.conftest import ROOT

PAGE = ROOT / "docs/errors.md"
PLUGIN = ROOT / "src/snakemake_executor_plugin_submitit"
SNAKEMAKES = {"Directory cannot be locked"}
"""Messages of Snakemake itself."""


def rows() -> list[list[str]]:
    """The cells of all rows of the page's tables."""
    lines = PAGE.read_text().splitlines()
    found = [line.strip("|").split(" | ") for line in lines if line.startswith("| `")]
    return [[cell.strip() for cell in row] for row in found]


def listed() -> list[str]:
    """All messages of the page."""
    return [text for row in rows() for text in re.findall(r"`([^`]+)`", row[0])]


def others() -> str:
    """What else can say something: the operating system, SLURM, the command line."""
    paths = [*PLUGIN.glob("*.py"), SOURCE / "cli/faults.py", SOURCE / "locks.py"]
    texts = []
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(" ".join(node.value.split()))
    texts += [os.strerror(number).lower() for number in faults._ADVICE]
    return "\n".join(texts)


def test_every_message_of_the_code_is_on_the_page() -> None:
    """A new message needs its row, with cause and cure."""
    known = set(listed())
    missing = {one.text: one.where for one in messages() if one.text not in known}
    assert missing == {}
    assert len(known) > 250


def test_every_message_of_the_page_is_in_the_code() -> None:
    """What nothing raises any more is taken off the page."""
    raised, said = {one.text for one in messages()}, others()
    for text in filter(says_something, listed()):
        parts = [part.strip(" (),:;…") for part in text.split(GAP)]
        elsewhere = text in SNAKEMAKES or all(part in said for part in parts)
        assert text in raised or elsewhere, text


def test_rows_say_cause_and_cure() -> None:
    """Three cells each, none of them empty, and no message twice in a table."""
    for row in rows():
        assert len(row) == 3, row
        assert all(len(cell) > 5 for cell in row), row
    tables = PAGE.read_text().split("\n## ")
    for table in tables[1:]:
        first = [line.split(" | ")[0] for line in table.splitlines() if "| `" in line]
        found = [text for cell in first for text in re.findall(r"`([^`]+)`", cell)]
        assert len(found) == len(set(found)), table.splitlines()[0]


def test_every_end_of_a_slurm_job_is_on_the_page() -> None:
    """Each state in which SLURM leaves a job has its row."""
    known = set(listed())
    assert set(states._WORDS.values()) <= known


def test_commands_of_the_page_exist() -> None:
    """`fewstep VERB` names a verb, a file in the repository exists."""
    text = PAGE.read_text()
    commands = cli.app.registered_commands
    verbs = {one.name or getattr(one.callback, "__name__", "") for one in commands}
    for verb in re.findall(r"`fewstep ([a-z-]+)", text):
        assert verb.replace("-", "_") in {v.replace("-", "_") for v in verbs}, verb
    # Typer's own copy of click has classes of its own.
    program: Any = typer.main.get_command(cli.app)
    for verb, rest in re.findall(r"`fewstep ([a-z-]+)([^`]*)`", text):
        known = [name for one in program.commands[verb].params for name in one.opts]
        for option in re.findall(r" (--?[a-z][\w-]*)", rest):
            assert option in known, f"fewstep {verb} {option}"
    for module, rest in re.findall(r"`python -m (fewstep[\w.]*)([^`]*)`", text):
        path = ROOT / "src" / module.replace(".", "/") / "__main__.py"
        for option in re.findall(r" (--?[a-z][\w-]*)", rest):
            assert f'"{option}"' in path.read_text(), f"{module} {option}"
    for path in re.findall(r"`((?:docs|tests|workflow|profiles)/[\w./]+)`", text):
        known = path == "profiles/cluster.yaml"  # each user's own
        assert known or (ROOT / path).exists(), path


def test_no_cure_writes_the_results_of_this_folder_into_readme() -> None:
    """README shows the demo of a release; who repairs it has other results at hand."""
    cures = {row[0]: row[2] for row in rows() if "docs/numbers" in row[0]}
    assert list(cures.values()) == ["`python -m fewstep.results --fix`"]
    assert "--readme" not in "".join(row[2] for row in rows())


def test_the_reader_of_the_code_finds_what_helpers_say() -> None:
    """Texts come through variables, branches and functions that only raise."""
    found = {one.text: one.where.partition(":")[0] for one in messages()}
    assert found["not a whole .npy file (…)"] == "data.py"
    assert found["needs a token"] == "hub/faults.py"
    assert found["key '…' is given twice (first in line …)"] == "yamlpos.py"
    assert found["snapshots every … steps, but this run keeps none"]


# ---- provoked ----


def _npy(folder: Path) -> None:
    """A dataset whose images are cut short."""
    manifest = {"name": "x", "size": 4, "channels": 3, "count": 2, "num_classes": 1}
    manifest |= {"classes": ["a"], "sha256": "0" * 64, "labels_sha256": "0" * 64}
    (folder / "dataset.json").write_text(json.dumps(manifest))
    (folder / "images.npy").write_bytes(b"\x93NUMPY")
    data.open_dataset(folder)


def _locked(folder: Path) -> None:
    """A Snakemake of this very process runs in the folder."""
    (folder / ".snakemake/locks").mkdir(parents=True)
    (folder / ".snakemake/locks/0.input.lock").touch()
    locks.release_stale(folder)


def _newer(folder: Path) -> None:
    """A table that a later fewstep wrote."""
    path = folder / "evaluations.parquet"
    schema = pa.schema([("a", pa.int64())], metadata={parquet._VERSION: b"99"})
    pq.write_table(pa.table({"a": [1]}, schema=schema), path)
    read(path)


def _foreign(folder: Path) -> None:
    """A table of other columns."""
    path = folder / "evaluations.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    read(path)


def _damaged(folder: Path) -> None:
    """A table that is none."""
    path = folder / "evaluations.parquet"
    path.write_bytes(b"PAR1 and nothing more")
    read(path)


class _Code:
    """A pickle that would run something."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, ("true",)


def _pickle(folder: Path) -> None:
    """A checkpoint that would run code."""
    torch.save({"model": _Code()}, folder / "x.pth")
    checkpoints.read_foreign(folder / "x.pth", "a checkpoint", [])


def _full(folder: Path) -> None:
    """A disk without space."""
    with atomic_path(folder / "x.json"):
        raise OSError(errno.ENOSPC, "No space left on device")


def _text(text: str) -> Callable[[Path], None]:
    """A YAML text that cannot be read."""
    return lambda folder: yamlpos.parse(text) and None


def _config(old: str, new: str) -> Callable[[Path], None]:
    """The tiny configuration with one text replaced."""

    def provoke(folder: Path) -> None:
        text = (ROOT / "tests/workflow/config.yaml").read_text()
        assert old in text
        (folder / "config.yaml").write_text(text.replace(old, new, 1))
        load_config(folder / "config.yaml", assets=None, root=folder)

    return provoke


def _empty(folder: Path) -> None:
    (folder / "config.yaml").write_text("")
    load_config(folder / "config.yaml", assets=None)


def _ledger(folder: Path) -> None:
    (folder / "lock.json").write_text("[1]")
    ledger.entry({"name": "x"}, folder / "lock.json")


def _json(folder: Path) -> None:
    (folder / "x.json").write_text("{")
    read_json(folder / "x.json")


_NOWHERE: Any = SimpleNamespace(source="nowhere", name="x")
PROVOKED: dict[str, Callable[[Path], Any]] = {
    "the disk is full": _full,
    "file not found": lambda folder: read_json(folder / "x.json"),
    "not valid JSON (…)": _json,
    "the file is empty": _empty,
    "found …": _config("n: 100", "n: many"),
    "an alias that contains itself": _text("a: &x [*x]"),
    "a key that is not a plain name": _text("{[a]: 1}"),
    "'<<' without a mapping to merge": _text("<<: 3"),
    "the tag … has no meaning here": _text("a: !x 1"),
    "key '…' is given twice (first in line …)": _text("a: 1\na: 2"),
    "a tab in the indentation": _text("a:\n\tb: 1"),
    "not valid YAML: …": _text("a: [1"),
    "is no lock file of assets": _ledger,
    "no dataset here (or its building was cut short)": data.open_dataset,
    "not a whole .npy file (…)": _npy,
    "unknown source …": lambda _: datasets.build_dataset(_NOWHERE, Path()),
    "refused: reading it would use …, which weights do not need": _pickle,
    "Snakemake is running here already (process …)": _locked,
    "written by a newer fewstep (schema version …)": _newer,
    "not the table …: columns …": _foreign,
    "not a readable table (…)": _damaged,
    "no shards to list": lambda _: shards.read_records([], [], "results/x"),
}


@pytest.mark.parametrize("message", sorted(PROVOKED))
def test_a_message_of_the_page_is_really_said(
    message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line in the words of the page."""
    monkeypatch.setattr(locks, "holders", lambda folder: [4711])
    with pytest.raises(UserError) as raised:
        PROVOKED[message](tmp_path)
    assert message in listed()
    pattern = ".*".join(map(re.escape, message.split(GAP)))
    assert re.search(pattern, raised.value.what, re.S), raised.value.what
    assert "\n" not in str(raised.value)


# ---- what is no UserError ----


def _with_path(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/somewhere/x.npy")


@pytest.mark.parametrize(
    ("error", "words", "status"),
    [
        (_with_path(errno.ENOSPC), "/somewhere/x.npy: the disk is full; free space", 1),
        (_with_path(errno.EDQUOT), "/somewhere/x.npy: the disk is full; free space", 1),
        (
            _with_path(errno.EACCES),
            "/somewhere/x.npy: permission denied; change its",
            1,
        ),
        (_with_path(errno.EROFS), "x.npy: read-only file system; work in a folder", 1),
        (_with_path(errno.EISDIR), "/somewhere/x.npy: is a directory (in ", 1),
        (OSError(errno.EMFILE, "Too many open files"), "too many open files; raise", 1),
        (MemoryError(), "out of memory; use a smaller batch", 1),
        (np._core._exceptions._ArrayMemoryError((9,), np.dtype("f8")), "Unable to", 1),
        (torch.OutOfMemoryError("CUDA out\nof memory"), "CUDA out; use a smaller", 1),
        (pa.ArrowInvalid("not a Parquet\nfile"), "a file is damaged (not a Parquet", 1),
        (SafetensorError("HeaderTooLarge"), "a file is damaged (HeaderTooLarge)", 1),
        (UnidentifiedImageError("x.png"), "x.png", 1),
        (EOFError(), "a file is damaged (EOFError), read in ", 1),
        (UserError("bad", where="x", do="mend it"), "x: bad; mend it", 1),
        (PreemptedError("stopped at step 3"), "the same command goes on", 75),
    ],
)
def test_what_is_no_bug_is_one_line(
    error: Exception,
    words: str,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Neither a full disk nor a damaged file ends in a traceback."""

    def refuse(**_: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "app", refuse)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == status
    assert words in said.err
    assert said.err.startswith("fewstep: ")
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody expected must be found by whoever mends it."""

    def break_down(**_: Any) -> None:
        raise KeyError("x")

    monkeypatch.setattr(cli, "app", break_down)
    with pytest.raises(KeyError):
        cli.main()


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, BrokenPipeError(errno.EPIPE, "x")]
)
def test_ctrl_c_and_a_closed_pipe_are_no_tracebacks(
    error: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`fewstep env | head -1` and an impatient user end with a status, quietly."""

    def stop(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(faults, "told", stop)  # it must not come that far
    monkeypatch.setattr("fewstep.files.read_json", stop)
    monkeypatch.setattr("fewstep.locks.release_stale", stop)
    monkeypatch.setattr(sys, "argv", ["fewstep", "unlock"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code not in (0, None)
    assert "Traceback" not in capsys.readouterr().err


def test_the_docs_name_the_table_of_evaluations() -> None:
    """A failed cell is found where the page says."""
    from fewstep.failures import TABLE

    assert str(TABLE) in PAGE.read_text()
    assert "status" in {column.name for column in EVALUATIONS.columns}
