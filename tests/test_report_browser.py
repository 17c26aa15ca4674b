"""The report in a real browser: nothing is fetched, nothing is cut off or broken."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from fewstep.files import write_json
from fewstep.plots import AnyChart, Look
from fewstep.report import Inputs, Picture, figures, render
from fewstep.report.missing import missing_cells
from fewstep.results import FailedCell, upsert
from tests import par_samples
from tests import results_samples as samples
from tests.browser import Browser, Seen, browser, chromium

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="Chromium is not installed"),
]
WIDTHS = (390, 1280)
KILLED = FailedCell(
    *("demo", "gsj", "tarflow", 0, "frechet", 500),
    *("sample demo/gsj, seed 0", "killed by the cluster: out of memory"),
    "logs/demo/gsj/sample-0.log",
)


def blank(_: AnyChart, look: Look) -> bytes:
    """A chart's ground, as large as charts are: drawing real ones takes a minute."""
    size = (620, 900) if look.narrow else (1480, 820)
    buffer = io.BytesIO()
    Image.new("RGB", size, look.paper).save(buffer, "PNG")
    return buffer.getvalue()


def everything(folder: Path) -> Inputs:
    """All systems with all tables and kinds of pictures, failed and missing cells."""
    rows = [*samples.evaluations(), *samples.flow_evaluations()]
    jsons = par_samples.par_jsons(folder, [*rows, *par_samples.par_evaluations()])
    tables = {}
    for name in ("blocks", "strategies", "convergence", "training", "timing"):
        tables[name] = folder / "tables" / f"{name}.parquet"
        upsert(tables[name], getattr(samples, name)())
    for name in ("straightness", "trajectories"):
        tables[name] = folder / "tables" / f"{name}.parquet"
        upsert(tables[name], getattr(samples, name)())
    Image.new("RGB", (960, 320), "teal").save(folder / "wide.png")
    Image.new("RGB", (640, 520), "teal").save(folder / "grid.png")
    grids = [Picture(folder / "grid.png", "80 images", "grid", s) for s in ("for", "x")]
    wide = [Picture(folder / "wide.png", "a row", kind) for kind in ("beside", "trace")]
    moving = Picture(folder / "grid.png", "step by step", "moving", "cfg")
    scores = folder / "demo-vq-reconstruction.json"
    write_json(scores, par_samples.reconstruction())
    Image.new("RGB", (720, 160)).save(scores.with_suffix(".png"))
    asked = {"demo": ["gsj"], "afhq": [f"a-long-name-{i}" for i in range(9)]}
    path = f"data/assets/{'a-path-without-any-space_' * 6}.pth: place by hand"
    blocked = {"afhq": {"a-long-name-0": [path]}}
    return Inputs(
        jsons=jsons,
        tables=tables,
        pictures={"demo": [*grids, *wide], "demo-par-n4": [moving]},
        tokenizers=[scores],
        missing={str(folder / "none.parquet"): "not made yet"},
        absent=missing_cells(asked, set(), [KILLED], blocked),
        failures=[KILLED],
    )


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests."""
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of everything."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "png_bytes", blank)
        render(everything(folder), folder / "report.html")
    return folder / "report.html"


@pytest.fixture(params=WIDTHS)
def seen(request: pytest.FixtureRequest, chrome: Browser, page: Path) -> Seen:
    """The page on a phone and on a desk, all of its parts unfolded."""
    return chrome.look(page, request.param)


def test_nothing_is_fetched_and_nothing_complains(seen: Seen) -> None:
    """No request leaves the page, and the browser's console stays empty."""
    assert seen.requests == []
    assert seen.complaints == []


def test_the_page_is_not_wider_than_its_window(seen: Seen) -> None:
    """Nothing makes the whole page scroll sideways, and no table of words is cut."""
    assert seen.facts["width"] <= seen.facts["window"]
    assert seen.facts["cut"] == []


def test_every_picture_is_there_and_says_what_it_is(seen: Seen) -> None:
    """All pictures are decoded, and each has words for those who cannot see it."""
    # Charts of all systems, two grids, two wide ones, an animation, a tokenizer's.
    assert seen.facts["images"] > 15
    assert (seen.facts["broken"], seen.facts["silent"]) == (0, 0)


def test_every_link_leads_to_a_place_of_the_page(seen: Seen) -> None:
    """The contents and the tables link to parts that exist, each once."""
    assert seen.facts["links"] > 20
    assert (seen.facts["dead"], seen.facts["twice"]) == ([], 0)


def test_an_empty_report_is_whole(chrome: Browser, tmp_path: Path) -> None:
    """Before anything is made, links and width are right too."""
    render(Inputs([]), tmp_path / "report.html")
    seen = chrome.look(tmp_path / "report.html", 390)
    assert (seen.requests, seen.complaints) == ([], [])
    assert seen.facts["width"] <= seen.facts["window"]
    assert (seen.facts["links"], seen.facts["dead"]) == (1, [])


def test_the_browser_would_see_a_fault(chrome: Browser, tmp_path: Path) -> None:
    """A page with every fault: each of the facts that the others rest on says so."""
    path = tmp_path / "bad.html"
    path.write_text(
        "<!doctype html><img src='absent.png'><a href='#none'>x</a>"
        "<p id='a' style='width:2000px'>x</p><p id='a'>x</p>"
    )
    seen = chrome.look(path, 390)
    assert [Path(address).name for address in seen.requests] == ["absent.png"]
    assert seen.complaints
    assert seen.facts["width"] > seen.facts["window"]
    assert (seen.facts["broken"], seen.facts["silent"]) == (1, 1)
    assert (seen.facts["dead"], seen.facts["twice"]) == (["#none"], 1)
