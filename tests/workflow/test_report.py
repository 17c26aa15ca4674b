"""Our page of a half-finished folder, and Snakemake's own report."""

from __future__ import annotations

import re
import shutil
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.browser import browser, chromium
from tests.workflow.conftest import ROOT, Project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

OWN = "own-report.html"


def jobs(output: str) -> set[str]:
    """Names of the rules whose jobs a run started."""
    table = output.partition("Job stats:")[2].partition("total")[0]
    return set(re.findall(r"^(\w+) +\d+$", table, re.M))


def page_of(project: Project) -> str:
    """The page of what is there."""
    return (project.folder / "results/report/report.html").read_text()


def snakemakes(project: Project, *targets: str) -> str:
    """Snakemake's own report of targets."""
    project.run(*targets, "--report", OWN)
    return (project.folder / OWN).read_text()


def test_a_half_finished_folder_is_reported_and_nothing_runs(project: Project) -> None:
    """What is there is shown, what is not has its reason; no other job starts.

    One cell was not made yet, an experiment's images are nowhere.
    """
    results = project.folder / "results"
    (results / "digits_gsj_fid.json").unlink()
    shutil.rmtree(results / "digits/gsj")
    before = {path: path.stat().st_mtime_ns for path in results.glob("digits/**/*.*")}
    settings = yaml.safe_load(project.config.read_text())
    settings["datasets"]["absent"] = {
        "source": "folder",
        "path": "absent",
        "size": 8,
        "num_classes": 10,
        "licence": "CC0",
        "attribution": "nobody",
    }
    known = settings["experiments"]["digits"]
    settings["experiments"]["absent"] = {**known, "dataset": "absent"}
    project.config.write_text(yaml.safe_dump(settings))
    output = project.run("report")
    assert jobs(output) == {"report"}
    page = page_of(project)
    for words in (
        'id="page-results"',
        "not made yet",
        "snakemake --profile local results/digits_gsj_fid.json",
        "From noise to image",
        "absent/: place by hand",
    ):
        assert words in page
    after = {path: path.stat().st_mtime_ns for path in results.glob("digits/**/*.*")}
    assert after == before


def test_the_samplers_of_a_flow_stand_side_by_side(project: Project) -> None:
    """Snakemake's own report has pictures and numbers by experiment, offline."""
    side = "results/digits/side-by-side.png"
    output = project.run(side)
    assert jobs(output) == {"tarflow_side_by_side"}
    text = snakemakes(project, *project.targets, side)
    for words in ("samples side by side", "IGM and CRM", "from noise to image"):
        assert words in text
    assert "ten times as large" in text
    check_offline(project.folder / OWN)


def test_the_pages_command_for_snakemakes_own_report_works(project: Project) -> None:
    """As docs/report.md has it, for targets that are there; for others it says so."""
    page = (ROOT / "docs/report.md").read_text()
    [line] = re.findall(r"^    (snakemake .*--report .*)$", page, re.M)
    words = line.split()
    assert words[:4] == ["snakemake", "--profile", "local", "demo"]
    options = [*words[4:], *words[1:3]]
    (project.folder / "local").symlink_to("profiles/local")
    project.run(*project.targets, *options)
    with zipfile.ZipFile(project.folder / words[-1]) as report:
        assert any(name.endswith("report.html") for name in report.namelist())
    (project.folder / "results/digits/rank.png").unlink()
    done = project.snakemake(
        "results/digits/rank.png", *options, "--configfile", str(project.config)
    )
    assert done.returncode != 0
    assert "marked for report but does not exist" in done.stdout + done.stderr


def test_the_order_of_drawing_is_a_picture(par: Project) -> None:
    """The stage runs on a plan of the workflow, and once."""
    pictures = ["results/four/cfg/order.png", "results/four/cfg/order-moving.png"]
    output = par.run(*pictures)
    assert jobs(output) == {"par_order"}
    assert par.pending(*pictures) == {}
    assert "order of drawing, moving" in snakemakes(par, *pictures)


def check_offline(page: Path) -> None:
    """Nothing is loaded from elsewhere: links may lead there, resources may not."""
    text = page.read_text()
    loaded = r"<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=[\"']?https?:"
    assert re.findall(loaded, text) == []
    if chromium() is not None:
        with browser(page.with_name("profile")) as chrome:
            assert chrome.look(page, 1280).requests == []
