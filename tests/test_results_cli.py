"""`fewstep results`: what stands in the tables, in the terminal and for programs."""

from __future__ import annotations

import csv
import errno
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fewstep.errors import UserError
from fewstep.report.listings import answer_table
from fewstep.results import (
    EVALUATIONS,
    STRAIGHTNESS,
    TIMING,
    FailedCell,
    compare,
    file_failures,
    read_rows,
    upsert,
)
from fewstep.results.export import markdown_text
from fewstep.results.query import query
from fewstep.stages import report
from fewstep.stages.results import gather, in_order, up_to_date
from tests import results_samples as samples

ROOT = Path(__file__).parents[1]
TABLE = Path("results/tables/evaluations.parquet")
FAILED = FailedCell(
    experiment="afhq",
    sampler="for",
    system="tarflow",
    seed=0,
    metric="fid",
    n=50_000,
    job="sample afhq/for, seed 0",
    error="CUDA out of memory",
    log="logs/afhq/for/sample.log",
)
CONFIG = {"demo": ["for", "gsj", "auto"], "afhq": ["for", "gsj", "auto"]}


def fewstep(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in this folder, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "fewstep", "results", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=None,
    )


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without results or configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


@pytest.fixture
def folder(empty: Path) -> Path:
    """A folder with the demo's evaluations, a published cell, and one that failed."""
    samples.write_jsons(Path("results"), samples.evaluations())
    published = [samples.published(seed, 13.6 + seed / 10) for seed in range(3)]
    upsert(TABLE, published)
    upsert(TABLE.with_stem("published"), compare(published, samples.SAID))
    upsert(TABLE.with_stem("timing"), samples.timing())
    file_failures(TABLE, [FAILED])
    return empty


def test_the_headline_stands_in_the_terminal(folder: Path) -> None:
    """Scores and speed-ups, ours beside published with the reason, and failures."""
    done = fewstep()
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "speed: over “for” at batch 16" in text
    assert "12.50 ± 0.26" in text
    assert "published, and ours beside it" in text
    assert "afhq_gsj FID 13.70 ± 0.10 13.73 matches: differs by −0.03" in text
    assert "time 26.2 ms 24.6 ms not comparable: hardware: ours on Test CPU" in text
    assert "afhq_for 0 failed sample afhq/for, seed 0: CUDA out of memory" in text


def test_evaluations_are_filed_before_they_are_shown(folder: Path) -> None:
    """An evaluation's JSON that no table has yet is in the table afterwards."""
    assert {row["experiment"] for row in read_rows(TABLE, EVALUATIONS)} == {"afhq"}
    fewstep("demo")
    assert len(read_rows(TABLE, EVALUATIONS)) == 9 + 3 + 1


def test_csv_has_a_line_a_cell_with_all_digits(folder: Path) -> None:
    """Evaluations and failures stand in it, with numbers as they are."""
    done = fewstep("--csv", "all.csv")
    assert (done.returncode, done.stdout) == (0, "")
    with open("all.csv", newline="") as file:
        rows = {(r["experiment"], r["sampler"]): r for r in csv.DictReader(file)}
    assert set(rows) == {
        *(("demo", name) for name in ("for", "gsj", "auto")),
        *(("afhq", name) for name in ("for", "gsj")),
    }
    gsj = rows["afhq", "gsj"]
    assert float(gsj["score"]) == sum((13.6, 13.7, 13.8)) / 3
    assert (gsj["verdict"], gsj["status"]) == ("matches", "ok")
    assert (gsj["speedup"], gsj["baseline"]) != ("", "")
    lost = rows["afhq", "for"]
    assert (lost["status"], lost["score"], lost["seeds"]) == ("failed", "", "0")
    assert lost["error"] == "sample afhq/for, seed 0: CUDA out of memory"


def test_json_and_markdown_of_chosen_cells(folder: Path) -> None:
    """Cells, experiments and patterns choose; both forms go to the terminal."""
    found = json.loads(fewstep("--json", "afhq_gsj", "demo").stdout)
    assert [record["sampler"] for record in found] == ["gsj", "for", "gsj", "auto"]
    assert found[0]["published"] == 13.73
    lines = fewstep("--markdown", "results/demo_a*_fid.json").stdout.splitlines()
    assert lines[0].startswith("| cell | score | sd | n | seeds | published |")
    assert len(lines) == 3
    assert lines[2].startswith("| demo_auto | 12.50 | 0.26 | 500 | 3 |")
    assert "| 1.48× | for | 16 |" in lines[2]


def test_sql_reaches_every_table(folder: Path) -> None:
    """Tables are known by name, absent ones are empty, and forms of output apply."""
    sql = (
        "select sampler, avg(frechet) as score from evaluations group by all order by 1"
    )
    done = fewstep("--sql", f"{sql} nulls last", "--csv", "-")
    assert done.stdout.splitlines()[0] == "sampler,score"
    assert "for,12.466666666666667" in done.stdout
    assert fewstep("--sql", "select count(*) as n from training").stdout.split()[
        :2
    ] == [
        "n",
        "─",
    ]
    joined = (
        "select count(*) n from timing join evaluations using (experiment, sampler)"
    )
    assert json.loads(fewstep("--sql", joined, "--json").stdout) == [{"n": 36}]
    wide = fewstep("--sql", "select * from published").stdout
    line = next(line for line in wide.splitlines() if "8 x A800" in line)
    assert "hardware: ours on Test CPU, published on 8 x A800" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sql", "selec"], "--sql: Parser Error: syntax error"),
        (["--sql", "select x from evaluations"], '"x" not found'),
        (["--sql", "select * from 'all.csv'"], "disabled by configuration"),
        (["--sql", "copy evaluations to 'x.csv'"], "only reads, and refuses copy"),
        (["--sql", "select 1", "demo"], "--sql: asks for itself"),
        (["--sql", ""], "--sql: holds 0 statements; expected one select"),
        (["--readme", "demo"], "--readme: is of the whole demo; give no cells"),
        (["--readme", "--all"], "--readme: is of the whole demo; give no cells"),
        (["--forget"], "--forget: names no cell to forget"),
        (["--forget", "--json"], "exclude one another"),
        (["--json", "--markdown"], "exclude one another"),
        (["afqh"], "afqh: names no experiment or cell, did you mean 'afhq'?"),
        (["--readme"], "results/demo/report.json: the demo was not run here"),
    ],
)
def test_mistakes_are_one_line(folder: Path, arguments: list[str], words: str) -> None:
    """SQL that DuckDB refuses, files that it may not reach, and cells that are not."""
    done = fewstep(*arguments)
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not Path("x.csv").exists()


def test_without_results_it_says_what_to_run(empty: Path) -> None:
    """Nothing to show is no failure."""
    done = fewstep()
    assert (done.returncode, done.stdout) == (0, "")
    assert "make demo" in done.stderr
    assert not Path("results").exists()
    assert fewstep("--json").stdout == "[]\n"


def test_cells_not_made_yet_are_listed_on_request(folder: Path) -> None:
    """They come from the configuration; without the request they are not there."""
    report.file_rows({"experiments": {"demo": ["for", "gsj", "auto"]}})
    assert gather(report.SHARED, [], CONFIG).missing == []
    shown = gather(report.SHARED, [], CONFIG, missing=True)
    assert shown.missing == [("afhq", "auto")]
    assert gather(report.SHARED, ["demo"], CONFIG, missing=True).missing == []
    with pytest.raises(UserError, match="names no experiment or cell"):
        gather(report.SHARED, ["afhq_auto"])


def test_a_cell_that_was_not_made_says_what_makes_it(folder: Path) -> None:
    """A word for such cells alone waits for a file; others are shown beside it."""
    words = ["afhq_a*", "results/afhq_gsj_fid.json"]
    shown = gather(report.SHARED, words, CONFIG)
    assert shown.waiting == {"afhq_a*": "results/afhq_auto_fid.json"}
    assert [summary["sampler"] for summary in shown.summaries] == ["gsj"]
    Path("config.yaml").write_text((ROOT / "config.yaml").read_text())
    Path("workflow").symlink_to(ROOT / "workflow")
    done = fewstep("img128")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == (
        "img128: no result yet; make it with"
        " snakemake --profile local results/img128_for_fid.json\n"
    )
    listed = fewstep("--all", "img128")
    assert listed.returncode == 0
    assert "not made yet" in listed.stdout
    assert "for, gsj, auto" in listed.stdout
    records = json.loads(fewstep("--all", "img128", "--json").stdout)
    assert {record["status"] for record in records} == {"not made yet"}


def test_all_needs_a_configuration(folder: Path) -> None:
    """What is missing is known from config.yaml alone."""
    done = fewstep("--all")
    assert done.returncode == 1
    assert "config.yaml" in done.stderr


def test_a_folder_that_may_not_be_written_is_shown_all_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a read-only file system copies of the tables take the new rows."""
    before = TABLE.read_bytes()

    def guarded(path: Path, rows: Any, **more: Any) -> Any:
        if "results" in Path(path).parts:
            raise OSError(errno.EROFS, "Read-only file system")
        return upsert(path, rows, **more)

    monkeypatch.setattr(report, "upsert", guarded)
    with up_to_date(None) as tables:
        assert tables != report.SHARED
        answer = query("select count(*) from evaluations", tables)
    assert answer.rows == [(13,)]
    assert TABLE.read_bytes() == before


def test_another_trouble_with_the_tables_is_not_hidden(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the disk is no read-only folder."""

    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(report, "upsert", broken)
    with pytest.raises(OSError, match="broken"), up_to_date(None):
        pass


def test_numbers_in_names_count_as_numbers() -> None:
    """n4 comes before n16, and euler-8 before euler-16."""
    cells = [("par-n16", "cfg"), ("par-n4", "cfg"), ("a", "euler-16"), ("a", "euler-8")]
    assert in_order(cells) == [cells[3], cells[2], cells[1], cells[0]]


def test_tables_show_the_clock_and_the_straightness(folder: Path) -> None:
    """Speed-ups at every timed batch and the table `straightness` come along."""
    upsert(TABLE.with_stem(STRAIGHTNESS.name), samples.straightness())
    report.file_rows({"experiments": {"demo": ["for", "gsj", "auto"]}})
    shown = gather(report.SHARED, ["demo_gsj"])
    rows = read_rows(TABLE.with_stem("timing"), TIMING)
    own = {row["batch"]: row["ratio"] for row in rows if row["sampler"] == "gsj"}
    clock = shown.summaries[0]["timing"]
    assert {entry["batch"]: entry["ratio"] for entry in clock} == own
    assert shown.straightness is not None
    assert len(shown.straightness) == len(samples.straightness())


def printed(columns: list[str], rows: list[tuple[Any, ...]], width: int) -> list[str]:
    """Lines of a query's rows on a terminal of that width."""
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(answer_table(columns, rows, width))
    assert isinstance(console.file, io.StringIO)
    return [line.strip() for line in console.file.getvalue().splitlines()]


def test_rows_that_are_too_wide_are_listed() -> None:
    """Where columns do not fit beside each other, each row is a list of them."""
    columns = [f"column{i}" for i in range(12)]
    row = tuple(f"value {i}" for i in range(12))
    wide = printed(columns, [row], 200)
    assert any("column0" in line and "column11" in line for line in wide)
    assert "1 row" in wide
    narrow = printed(columns, [row], 60)
    assert "column11  value 11" in narrow
    assert all(len(line) <= 60 for line in narrow)
    assert "0 rows" in printed(["a"], [], 60)


def test_numbers_of_a_query_stand_to_the_right() -> None:
    """They end under one another, and null is a dash."""
    lines = printed(["name", "n"], [("a", 1), ("bb", 1000), ("c", None)], 60)
    assert lines[3:6] == ["a        1", "bb    1000", "c        –"]


def test_markdown_keeps_bars_and_lines_in_their_cells() -> None:
    """A bar is escaped, a line break is a space, null a dash, numbers stand right."""
    text = markdown_text(("a", "b"), [("x|y\nz", 1.5), (None, None)])
    assert text == "| a | b |\n| --- | ---: |\n| x\\|y z | 1.5 |\n| – | – |\n"


def test_results_load_no_torch(folder: Path) -> None:
    """The command answers without the seconds that torch takes."""
    code = (
        "import sys; from fewstep.cli import results;"
        " results.results(csv=results.Path('x.csv'));"
        " sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert Path("x.csv").exists()
