"""The documentation is what the program does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fewstep.config import load_config
from fewstep.config.documents import drifted
from fewstep.results import docs as results_docs

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


EXTRACTORS = """
extractors:
  inception: {kind: inception-v3-compat}
  inception-fid: {kind: inception-v3-compat}
"""


def blocks(page: Path, language: str) -> list[str]:
    """Fenced code blocks of a language, their indentation removed."""
    found = []
    pattern = rf"^( *)```{language}\n(.*?)^ *```"
    for indent, text in re.findall(pattern, page.read_text(), re.M | re.S):
        found.append(re.sub(rf"^{indent}", "", text, flags=re.M))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Each relative link of a page names a file that exists."""
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("name", ["README.md", "docs/howto.md"])
def test_python_examples_run(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each Python block runs as it stands."""
    for code in blocks(ROOT / name, "python"):
        exec(compile(code, name, "exec"), {})
        assert capsys.readouterr().out


@pytest.mark.parametrize(
    ("number", "cells"),
    [
        (0, [("mine", "for"), ("mine", "auto")]),
        (
            1,
            [
                ("my-flow", "rk45"),
                ("my-4seqrf", "euler-4"),
                ("my-4seqrf", "euler-8"),
                ("my-4seqrf-distill", "euler-4"),
            ],
        ),
        (
            2,
            [
                ("my-n1", "cfg"),
                ("my-n4", "cfg"),
                ("my-n4", "ramp"),
                ("my-n4", "late"),
                ("my-n4", "top-k"),
            ],
        ),
    ],
)
def test_the_example_configurations_are_valid(
    number: int,
    cells: list[tuple[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The how-to's experiments pass the checks once their weights are there."""
    example = blocks(ROOT / "docs/howto.md", "yaml")[number]
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/mine.pth").touch()
    (tmp_path / "config.yaml").write_text(example + EXTRACTORS)
    monkeypatch.chdir(tmp_path)
    assert load_config("config.yaml", assets=None).evaluations() == cells


def test_generated_pages_are_current(monkeypatch: pytest.MonkeyPatch) -> None:
    """Schemas and pages that are made from the types have not drifted."""
    monkeypatch.chdir(ROOT)
    assert drifted() == []
    results_docs.check()


def test_golden_files_stay_small() -> None:
    """The golden numbers of the repository are at most 12 MB."""
    files = (ROOT / "tests/golden").rglob("*.*")
    assert sum(path.stat().st_size for path in files) < 12e6


def test_ci_calls_what_the_readme_names() -> None:
    """`.ci/run` calls the README's test command and the linters."""
    script = (ROOT / ".ci/run").read_text()
    assert "make test" in script
    assert "make lint" in script
    assert "make test" in (ROOT / "README.md").read_text()
