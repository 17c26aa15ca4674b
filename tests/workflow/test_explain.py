"""`fewstep explain` on a small real run: each cause is named, and only that."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.workflow.conftest import Project, copy_project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TARGET = "results/references/digits.npz"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Data, a classifier of two epochs and reference statistics; do not change it."""
    project = copy_project(tmp_path_factory.mktemp("explain"), targets=[TARGET])
    project.run(TARGET)
    return project


@pytest.fixture
def small(made: Project, tmp_path: Path) -> Project:
    """A copy that a test may change."""
    folder = tmp_path / "copy"
    shutil.copytree(made.folder, folder, symlinks=True)
    return Project(folder, [TARGET])


def run(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`fewstep explain` with the project's own library and configuration."""
    return subprocess.run(
        [sys.executable, "-m", "fewstep", "explain", *arguments],
        cwd=project.folder,
        env=project.environment,
        capture_output=True,
        text=True,
        check=False,
    )


def explained(project: Project, *arguments: str) -> dict[str, Any]:
    """The JSON answer for the target; nothing else may be said."""
    options = ("--configfile", str(project.config), "--json")
    done = run(project, *(arguments or (TARGET,)), *options)
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def why(found: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Rule -> kinds and words of its reasons."""
    return {
        own["rule"]: [(one["kind"], one["what"]) for one in own["reasons"]]
        for own in found["groups"]
    }


def test_nothing_to_do(made: Project) -> None:
    """After a run there is no group, the text says so, and no file was touched."""
    before = {p: p.stat().st_mtime_ns for p in made.folder.glob("results/**/*")}
    found = explained(made)
    assert found == {"targets": [TARGET], "groups": [], "rules": {}, "jobs": 0}
    done = run(made, TARGET, "--configfile", str(made.config))
    assert done.stdout == f"nothing to do for {TARGET}\n"
    assert {p: p.stat().st_mtime_ns for p in made.folder.glob("results/**/*")} == before
    assert not list((made.folder / ".snakemake/locks").iterdir())


def test_a_changed_setting_is_named_with_both_values(small: Project) -> None:
    """The key's path, the old and the new value; what follows names the job before."""
    small.edit("tiny.yaml", "epochs: 2", "epochs: 3")
    found = explained(small)
    assert why(found) == {
        "extractor": [("setting", "epochs: 2 → 3")],
        "reference": [("setting", "extractor.epochs: 2 → 3")],
    }
    assert found["rules"] == {"extractor": 1, "reference": 1}
    assert small.pending() == found["rules"]
    text = run(small, TARGET, "--configfile", str(small.config)).stdout
    assert "  setting changed: epochs: 2 → 3\n" in text
    assert text.endswith(f"in all: 2 jobs for {TARGET}: extractor 1, reference 1\n")


def test_a_changed_function_is_named(small: Project) -> None:
    """An edit in a helper names that function alone, in every rule that runs it."""
    small.edit("src/fewstep/statistics.py", "if self.n < 1:", "if self.n < 1 + 0:")
    found = explained(small)
    assert small.pending() == found["rules"]
    changes = [one for reasons in why(found).values() for one in reasons]
    code = {what for kind, what in changes if kind == "code"}
    assert code == {"statistics.RunningStats.mu"}


def test_without_notes_the_part_is_said_to_be_unknown(
    small: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an empty cache nobody knows the old code; that it changed is still seen."""
    path = small.folder / "src/fewstep/statistics.py"
    path.write_text(path.read_text() + "\n\n_ADDED_BY_A_TEST = 1\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    changes = [one for reasons in why(explained(small)).values() for one in reasons]
    assert any(kind == "code" and "unknown" in what for kind, what in changes)


def test_a_comment_is_no_reason(small: Project) -> None:
    """Neither is a touched file."""
    path = small.folder / "src/fewstep/statistics.py"
    path.write_text(f"# A remark.\n{path.read_text()}")
    assert explained(small)["groups"] == []


def test_a_missing_file_is_named(small: Project) -> None:
    """A deleted file in the middle is made anew, and what follows from it."""
    (small.folder / "results/extractors/classifier.safetensors").unlink()
    (small.folder / TARGET).unlink()
    found = explained(small)
    (extractor, reference) = found["groups"]
    path = "results/extractors/classifier.safetensors"
    assert extractor["reasons"] == [{"kind": "missing", "what": "", "files": [path]}]
    assert reference["reasons"][0]["kind"] == "missing"
    assert TARGET in reference["reasons"][0]["files"]


def test_what_follows_names_what_runs_before(small: Project) -> None:
    """A job without a reason of its own runs because another one does."""
    path = "results/data/digits/dataset.json"
    for gone in (path, TARGET):
        (small.folder / gone).unlink()
    found = explained(small)
    assert why(found)["extractor"] == [("upstream", "dataset")]
    (own,) = [own for own in found["groups"] if own["rule"] == "dataset"]
    assert own["reasons"] == [{"kind": "missing", "what": "", "files": [path]}]


def test_forty_equal_reasons_are_one_line(small: Project) -> None:
    """Jobs of one rule with equal reasons share a group; experiments are targets."""
    found = explained(small, "digits")
    (samples,) = [own for own in found["groups"] if own["rule"] == "sample"]
    assert len(samples["jobs"]) == found["rules"]["sample"] == 6
    text = run(small, "digits", "--configfile", str(small.config)).stdout
    (line,) = [s for s in text.splitlines() if s.startswith("sample ")]
    assert "sample (6 jobs): " in line
    assert line.endswith("and 3 more")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing-like-it",), "no target is called 'nothing-like-it'"),
        (("results/nothing.png",), "no rule makes results/nothing.png"),
        (("results/digits_gs_fid.json",), "such as results/digits_gsj_fid.json"),
        ((TARGET, "--profile", "nowhere"), "nowhere"),
        ((TARGET, "--config", "word"), "--config"),
        ((TARGET, "--config", "datasets={digits: {size: no}}"), "datasets.digits.size"),
    ],
)
def test_a_mistake_is_one_line(
    made: Project, arguments: tuple[str, ...], message: str
) -> None:
    """Unknown targets, profiles and values without a key end with one line."""
    done = run(made, *arguments, "--configfile", str(made.config))
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("fewstep: ")
    assert message in line


def test_a_wrong_configuration_is_one_line(small: Project) -> None:
    """As for snakemake: file, line and key."""
    small.edit("tiny.yaml", "epochs: 2", "epoch: 2")
    done = run(small, TARGET, "--configfile", str(small.config))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "unknown key 'epoch'" in line
