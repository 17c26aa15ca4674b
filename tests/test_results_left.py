"""Cells that nothing renews: shown as left over, dropped on request; and the demo's."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fewstep.cli import results as command
from fewstep.errors import UserError
from fewstep.files import write_json
from fewstep.report import listings, readme
from fewstep.report.records import brief, records
from fewstep.results import (
    BLOCKS,
    EVALUATIONS,
    STRAIGHTNESS,
    TIMING,
    FailedCell,
    Table,
    file_failures,
    read_rows,
    upsert,
)
from fewstep.stages import report
from fewstep.stages.results import forget, gather, renew_readme
from tests import results_samples as samples

TABLE = Path("results/tables/evaluations.parquet")
CONFIG = {"demo": ["for", "gsj", "auto"]}
FAILED = FailedCell(
    experiment="demo",
    sampler="old",
    system="tarflow",
    seed=0,
    metric="frechet",
    n=500,
    job="sample demo/old, seed 0",
    error="CUDA out of memory",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The demo's evaluations with rows in every kind of table."""
    monkeypatch.chdir(tmp_path)
    samples.write_jsons(Path("results"), samples.evaluations())
    report.file_rows({"experiments": CONFIG})
    upsert(TABLE.with_stem("timing"), samples.timing())
    upsert(TABLE.with_stem("blocks"), samples.blocks())
    upsert(TABLE.with_stem("straightness"), samples.straightness())
    return tmp_path


def rows(table: Table) -> list[dict[str, Any]]:
    """A shared table's rows."""
    return read_rows(TABLE.with_stem(table.name), table)


def printed(table: Any) -> str:
    """A table's words, lines joined."""
    console = Console(width=100, file=io.StringIO(), force_terminal=False)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return " ".join(console.file.getvalue().split())


def test_a_cell_that_nothing_renews_is_left_over(folder: Path) -> None:
    """The configuration lacks it, its JSON was deleted, or both."""
    assert gather(report.SHARED, [], CONFIG).left == {}
    Path("results/demo_auto_fid.json").unlink()
    assert gather(report.SHARED, [], {"demo": ["for", "auto"]}).left == {
        ("demo", "gsj"): "not in config.yaml",
        ("demo", "auto"): "its JSON is gone",
    }
    found = gather(report.SHARED, [], {}).left
    assert found["demo", "auto"] == "not in config.yaml; its JSON is gone"
    # Without a configuration nobody can say which cells it has.
    assert gather(report.SHARED).left == {("demo", "auto"): "its JSON is gone"}
    assert gather(report.SHARED, ["demo_for"], {"demo": ["for"]}).left == {}


def test_left_over_cells_are_marked_wherever_they_are_shown(folder: Path) -> None:
    """A list in the terminal, a note in records, a word in Markdown."""
    left = {("demo", "gsj"): "not in config.yaml", ("demo", "x"): "not in config.yaml"}
    said = printed(listings.left_table(left))
    assert "not in config.yaml demo_gsj, demo_x" in said
    assert "fewstep results --forget CELL" in said
    shown = gather(report.SHARED, [], {"demo": ["for", "auto"]})
    found = records(shown.summaries, left=shown.left)
    notes = {one["sampler"]: one["note"] for one in found}
    assert notes == {"for": None, "gsj": "not in config.yaml", "auto": None}
    marked = [line[0] for line in brief(found) if "(not in config.yaml)" in line[6]]
    assert marked == ["demo_gsj"]


@pytest.mark.parametrize(
    ("configured", "caption"),
    [
        (["old", "new"], " the same command tries them again"),
        (["old"], " tries them again, but not those that are left over"),
        ([], " sample demo/old, seed 0: CUDA out of memory –"),
    ],
)
def test_only_a_failed_cell_of_the_configuration_is_tried_again(
    folder: Path, configured: list[str], caption: str
) -> None:
    """The promise is not made for a cell that no command knows."""
    file_failures(TABLE, [FAILED, replace(FAILED, sampler="new")])
    config = {"demo": [*CONFIG["demo"], *configured]}
    shown = gather(report.SHARED, [], config)
    assert {cell[1] for cell in shown.left} == {"old", "new"} - set(configured)
    said = printed(listings.failed_table(shown.failed, shown.left))
    assert said.endswith(caption)


def test_a_forgotten_cell_leaves_every_table(folder: Path) -> None:
    """Its rows go, those of others stay; the experiment's go with its last cell."""
    before = {table.name: rows(table) for table in (EVALUATIONS, TIMING, STRAIGHTNESS)}
    found = forget(["demo_gsj"], {"demo": ["for", "auto"]})
    own = [r for table in (EVALUATIONS, TIMING) for r in before[table.name]]
    own = [r for r in own if (r["experiment"], r["sampler"]) == ("demo", "gsj")]
    assert found == {("demo", "gsj"): len(own)}
    for table in (EVALUATIONS, TIMING):
        kept = [row for row in before[table.name] if row["sampler"] != "gsj"]
        assert rows(table) == kept
        assert len(kept) < len(before[table.name])
    assert rows(STRAIGHTNESS) == before["straightness"]
    assert rows(BLOCKS) == samples.blocks()
    forget(["demo"], {})
    assert rows(EVALUATIONS) == []
    assert rows(BLOCKS) == []
    assert rows(STRAIGHTNESS) == before["straightness"]
    report.file_rows({"experiments": {}})
    assert rows(EVALUATIONS) == []


@pytest.mark.parametrize(
    ("words", "configured", "said"),
    [
        ([], CONFIG, "names no cell to forget"),
        (["afhq"], CONFIG, "names no experiment or cell"),
        (["demo_gsj"], CONFIG, "brings the rows of this cell back; delete it first"),
        (["demo_gsj"], None, "results/demo_gsj_fid.json: brings the rows"),
    ],
)
def test_a_cell_that_would_come_back_is_not_forgotten(
    folder: Path, words: list[str], configured: dict[str, list[str]] | None, said: str
) -> None:
    """While its JSON counts, its rows would be filed again; nothing is dropped."""
    before = rows(EVALUATIONS)
    with pytest.raises(UserError, match=said):
        forget(words, configured)
    assert rows(EVALUATIONS) == before


def test_the_command_forgets_and_says_how_much(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`fewstep results --forget CELL` drops the rows and shows nothing else."""
    Path("results/demo_gsj_fid.json").unlink()
    command.results(["demo_gsj"], forget=True)
    assert capsys.readouterr().out == "demo_gsj: 7 rows dropped\n"
    assert {row["sampler"] for row in rows(EVALUATIONS)} == {"for", "auto"}


# The demo's numbers for README


@pytest.fixture
def demo(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A demo's index of three evaluations; gives what was to be kept."""
    paths = [f"results/demo_{sampler}_fid.json" for sampler in CONFIG["demo"]]
    write_json(Path("results/demo/report.json"), {"evaluations": paths})
    kept: list[Any] = []

    def keep(*given: Any) -> list[Path]:
        kept.append(given)
        return []

    monkeypatch.setattr(readme, "keep", keep)
    monkeypatch.setattr(readme, "fix", lambda: False)
    return kept


def test_a_whole_demo_is_kept(demo: list[Any]) -> None:
    """All of its cells go to README."""
    assert renew_readme(report.SHARED, CONFIG) == []
    (given,) = demo
    assert sorted(s["sampler"] for s in given[0]) == ["auto", "for", "gsj"]


def test_a_demo_with_a_failed_cell_is_refused(demo: list[Any]) -> None:
    """README never loses a line because a cell failed since the page was made."""
    file_failures(TABLE, [replace(FAILED, sampler="gsj")])
    with pytest.raises(UserError, match="the demo has no score of demo_gsj; make demo"):
        renew_readme(report.SHARED, CONFIG)
    assert demo == []


def test_a_demo_that_lacks_cells_is_refused(demo: list[Any]) -> None:
    """Cells without rows, and those that the configuration has beside, are named."""
    upsert(
        TABLE,
        [],
        replace=("experiment", "sampler"),
        groups=[("demo", "auto")],
    )
    config = {"demo": [*CONFIG["demo"], "new"], "afhq": ["for"]}
    with pytest.raises(UserError, match="no score of demo_auto, demo_new;"):
        renew_readme(report.SHARED, config)
    assert demo == []
