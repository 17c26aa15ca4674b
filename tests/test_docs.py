"""The documentation is what the program does."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from fewstep.config import load_config
from fewstep.config.documents import drifted
from fewstep.results import docs as results_docs
from fewstep.yamlpos import merged, parse
from snakemake_executor_plugin_submitit.site import read_site
from tests.documents import (
    PAGES,
    PROGRAMS,
    ROOT,
    Command,
    blocks,
    commands,
    inline_targets,
    is_placeholder,
)

COMMANDS = list({c.words: c for page in PAGES for c in commands(page)}.values())
"""Each command once, on the first page that has it."""

LATER = {
    "outputs.md": "reads the tables of a finished run: tests/workflow/test_chain.py",
    "python.md": "scores on a reference that is made first: tests/test_api.py",
}
"""Pages whose Python is run elsewhere, and where."""

ELSEWHERE = {
    "$EDITOR": "the user's editor",
    "cd": "of the shell",
    "cp": "its files are looked for",
    "pip": "installs what only a TPU has",
    "git": "takes an address that the reader knows",
    "source": "of the shell",
}
"""Programs in blocks of commands that no test runs, and why."""

HELP_ONLY = {
    "unlock": "releases the lock of a folder in use",
}
"""Verbs of which only the options are checked, and why."""

ANSWERS = {"doctor": (0, 1), "results": (0, 1)}
"""Exit statuses beside 0: 1 says that something missing blocks a target, or that there
is no result yet. An option that does not exist ends in 2."""

NOT_PLANNED = {"--report", "--lint", "--list-target-rules", "--executor"}
"""Snakemake's options with which it plans nothing of ours."""


def _text(path: str) -> str:
    return (ROOT / path).read_text()


def of(program: str) -> list[Command]:
    """The commands that call a program."""
    return [command for command in COMMANDS if command.program == program]


def configurations() -> list[tuple[str, str]]:
    """(page, text) of each YAML block that is no cluster file."""
    found = [(page.name, text) for page in PAGES for text in blocks(page, "yaml")]
    return [(name, text) for name, text in found if "partition:" not in text]


def with_examples(*texts: str) -> dict[str, Any]:
    """config.yaml with examples of the pages laid over it."""
    config: Any = parse((ROOT / "config.yaml").read_text()).value
    for text in texts:
        config = merged(config, parse(text).value)
    assert isinstance(config, dict)
    return config


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with every example of the pages in its config.yaml."""
    folder = tmp_path_factory.mktemp("pages")
    for part in ("Snakefile", "rules", "workflow", "profiles", "src", "local", "slurm"):
        source = ROOT / part
        if source.is_dir() and not source.is_symlink():
            shutil.copytree(
                source, folder / part, ignore=shutil.ignore_patterns("*.egg-info")
            )
        else:
            shutil.copy2(source, folder / part, follow_symlinks=False)
    texts = [text for _, text in configurations()]
    (folder / "config.yaml").write_text(json.dumps(with_examples(*texts)))
    (folder / "profiles/cluster.yaml").write_text(
        (ROOT / "profiles/cluster.example.yaml").read_text()
    )
    for path in ("weights/mine.pth", "weights/flow.pth", "weights/vq.pt"):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).touch()
    return folder


def run(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a Python module in the copy, with the copy's library."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(project / "src"),
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Each relative link of a page names a file; each other one is an address."""
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if target.startswith(("http://", "https://")):
            assert re.fullmatch(r"https?://[\w.-]+\.[a-z]+(/\S*)?", target), target
        elif not target.startswith("mailto:"):
            assert (page.parent / target).exists(), target


WITH_PYTHON = [p for p in PAGES if p.name not in LATER and blocks(p, "python")]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_python_examples_run(
    page: Path,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each Python block runs as it stands, in the project's folder."""
    monkeypatch.chdir(project)
    for code in blocks(page, "python"):
        exec(compile(code, page.name, "exec"), {})
        assert capsys.readouterr().out


@pytest.mark.parametrize(("name", "text"), configurations())
def test_each_yaml_block_is_valid(
    name: str, text: str, project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each YAML block passes the checks of config.yaml, laid over it."""
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(with_examples(text)))
    monkeypatch.chdir(project)
    assert load_config(path).evaluations()


@pytest.mark.parametrize(
    ("page", "cells"),
    [
        ("own-tarflow.md", ["mine_for", "mine_auto"]),
        (
            "own-flow.md",
            [
                *("my-flow_rk45", "my-4seqrf_euler-4", "my-4seqrf_euler-8"),
                "my-4seqrf-distill_euler-4",
            ],
        ),
        (
            "own-tokens.md",
            ["my-n1_cfg", *(f"my-n4_{s}" for s in ("cfg", "ramp", "late", "top-k"))],
        ),
    ],
)
def test_the_worked_examples_add_these_cells(
    page: str, cells: list[str], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The examples of own models make the evaluations that their pages ask for."""
    text = blocks(ROOT / "docs" / page, "yaml")[0]
    own = parse(text).value["experiments"]
    monkeypatch.chdir(project)
    found = load_config("config.yaml").evaluations()
    assert ["_".join(cell) for cell in found if cell[0] in own] == cells


def test_cluster_files_are_read(tmp_path: Path) -> None:
    """Each cluster file of the pages is one that the executor takes."""
    texts = [text for page in PAGES for text in blocks(page, "yaml")]
    texts = [text for text in texts if "partition:" in text]
    assert texts
    for text in texts:
        path = tmp_path / "cluster.yaml"
        path.write_text(text)
        site = read_site(path)
        for kind in set(yaml.safe_load(text)) - {"setup"}:
            assert site.values(kind)


def test_every_program_is_known() -> None:
    """A block of commands calls what is checked, or what is on the list, all of it."""
    called = {command.program for command in COMMANDS}
    assert called - set(PROGRAMS) == set(ELSEWHERE)
    verbs = {command.words[1] for command in of("fewstep")}
    assert {*HELP_ONLY, *ANSWERS} <= verbs
    for command in of("cp"):
        assert (ROOT / command.words[1]).exists(), str(command)


@pytest.mark.parametrize("command", of("make"), ids=str)
def test_make_has_the_targets(command: Command) -> None:
    """Each `make` of the pages has its rules."""
    done = subprocess.run(
        ["make", "-n", *command.words[1:]], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def _snakemake_arguments(command: Command) -> Any:
    """The arguments of a command, as Snakemake's own parser reads them."""
    from snakemake.cli import get_argument_parser

    words = [word for word in command.words[1:] if word != "…"]
    try:
        return get_argument_parser().parse_args(words)
    except SystemExit:
        pytest.fail(str(command))


@pytest.mark.parametrize("command", of("snakemake"), ids=str)
def test_snakemake_knows_the_options(command: Command, project: Path) -> None:
    """Each option exists, and each profile is a folder of the project."""
    for profile in _snakemake_arguments(command).profile or []:
        if not is_placeholder(profile):
            assert (project / profile).is_dir(), str(command)


@pytest.mark.slow
def test_snakemake_plans_the_targets(project: Path) -> None:
    """Every target of the pages is one that Snakemake has a plan for."""
    targets = {
        target
        for command in of("snakemake")
        if not NOT_PLANNED & set(command.words)
        for target in _snakemake_arguments(command).targets
        if not is_placeholder(target)
    }
    targets.update(target for page in PAGES for target in inline_targets(page))
    pictures = runpy.run_path(str(ROOT / "docs/pictures.py"))["PICTURES"]
    # Those of the demo as a whole are written beside its page.
    made = (p for p in pictures.values() if not p.startswith("demo/"))
    targets.update(f"results/{picture}" for picture in made)
    assert {"all", "results/mine_auto_fid.json"} <= targets
    done = run(project, "snakemake", "--quiet", "all", "-n", *sorted(targets))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", of("fewstep"), ids=str)
def test_fewstep_commands_run(command: Command, project: Path) -> None:
    """Each verb runs as it is written, or, where it cannot, has these options."""
    verb, *arguments = command.words[1:]
    if verb in HELP_ONLY or any(map(is_placeholder, arguments)):
        done = run(project, "fewstep", verb, "--help")
        assert done.returncode == 0, done.stderr
        for option in (word for word in arguments if word.startswith("--")):
            assert option in done.stdout
        return
    done = run(project, "fewstep", verb, *arguments)
    assert done.returncode in ANSWERS.get(verb, (0,)), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout + done.stderr


@pytest.mark.parametrize("command", [*of("python"), *of(".venv/bin/python")], ids=str)
def test_python_commands_exist(command: Command) -> None:
    """Each `python` names a module with these options, a file, or whole code."""
    how, *rest = command.words[1:]
    if how == "-c":
        compile(rest[0], command.page, "exec")
    elif how == "-m":
        done = run(ROOT, rest[0], "--help")
        assert done.returncode == 0, done.stderr
        for option in (word for word in rest[1:] if word.startswith("-")):
            assert option in done.stdout, str(command)
    elif how != "evaluator.py":  # guided-diffusion's
        assert (ROOT / how).is_file(), str(command)


def test_generated_pages_are_current(monkeypatch: pytest.MonkeyPatch) -> None:
    """Schemas and pages that are made from the types have not drifted."""
    monkeypatch.chdir(ROOT)
    assert drifted() == []
    results_docs.check()


def test_the_citation_is_whole() -> None:
    """CITATION.cff has what its format asks for, and agrees with the package."""
    cited = yaml.safe_load(_text("CITATION.cff"))
    package = tomllib.loads(_text("pyproject.toml"))["project"]
    assert {"cff-version", "title", "message", "authors"} <= set(cited)
    assert cited["version"] == package["version"]
    assert cited["license"] == package["license"]
    for reference in cited["references"]:
        assert {"type", "title", "authors"} <= set(reference)
    papers = re.findall(r"https://arxiv\S+?(?=\))", _text("docs/citing.md"))
    assert {reference["url"] for reference in cited["references"]} == set(papers)


def test_golden_files_stay_small() -> None:
    """The golden numbers of the repository are at most 12 MB."""
    files = (ROOT / "tests/golden").rglob("*.*")
    assert sum(path.stat().st_size for path in files) < 12e6


def test_ci_calls_what_the_readme_names() -> None:
    """`.ci/run` calls the README's test command, the linters and the site."""
    script = _text(".ci/run")
    for chore in ("make test", "make lint", "make docs"):
        assert chore in script
    assert "make test" in _text("README.md")
