"""The report page and the terminal's table."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fewstep.errors import UserError
from fewstep.files import read_json, write_json
from fewstep.plots import AnyChart, Look
from fewstep.report import (
    Inputs,
    Picture,
    figures,
    load_evaluation,
    render,
)
from fewstep.report.headline import error_text, headlines, number, seconds_text
from fewstep.report.inputs import TEMPLATES
from fewstep.report.page import caption
from fewstep.results import STRATEGIES, summarize, upsert, write_rows
from tests import results_samples as samples


class Page(HTMLParser):
    """What a browser would load, the text it would show, and whether tags close."""

    VOID = frozenset({"meta", "source", "img", "br", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.resources: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a browser would fetch."""
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "srcset", "href", "poster", "data", "action"):
                self.resources.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        """Check that tags close in turn."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note the text."""
        self.words.append(data)

    @property
    def text(self) -> str:
        """All words with single spaces, style left out."""
        words = " ".join(self.words).split("}")[-1]
        return " ".join(words.split())


@pytest.fixture(autouse=True)
def _quick_charts(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dot for every chart, where the test is not about the charts."""
    if request.node.name == "test_the_page_needs_nothing_but_itself":
        return
    dot = io.BytesIO()
    Image.new("RGB", (2, 2)).save(dot, "PNG")

    def draw(_: AnyChart, __: Look) -> bytes:
        return dot.getvalue()

    monkeypatch.setattr(figures, "png_bytes", draw)


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    """Three samplers, all tables, three grids and a trace."""
    tables = {}
    for name in ("blocks", "strategies", "convergence", "training", "timing"):
        tables[name] = tmp_path / "tables" / f"{name}.parquet"
        upsert(tables[name], getattr(samples, name)())
    pictures = []
    for sampler in ("for", "gsj", "auto"):
        path = tmp_path / f"{sampler}.png"
        Image.new("RGB", (40, 30), "teal").save(path)
        pictures.append(Picture(path, "64 images", "grid", sampler))
    Image.new("RGB", (90, 10)).save(tmp_path / "trace.png")
    pictures.append(Picture(tmp_path / "trace.png", "four images", "trace"))
    return Inputs(
        jsons=samples.write_jsons(tmp_path, samples.evaluations()),
        tables=tables,
        pictures={"demo": pictures},
        missing={"afhq": "the checkpoint is not here"},
    )


def page(inputs: Inputs, tmp_path: Path) -> Page:
    """The rendered page."""
    render(inputs, tmp_path / "report.html")
    return Page((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_the_page_needs_nothing_but_itself(inputs: Inputs, tmp_path: Path) -> None:
    """With real charts: no http(s) resource, no script; each picture is a whole PNG."""
    found = page(inputs, tmp_path)
    assert not {"script", "iframe", "object", "link", "video"} & set(found.tags)
    anchors = [r for r in found.resources if not r.startswith("data:image/png;base64,")]
    assert all(anchor.startswith("#") for anchor in anchors)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"@import|url\(", text)
    data = [r for r in found.resources if r.startswith("data:")]
    # Six charts in four looks, three grids and a trace.
    assert len(data) == 6 * 4 + 4
    for address in data:
        png = base64.b64decode(address.partition(",")[2])
        Image.open(io.BytesIO(png)).verify()


def test_the_page_is_the_same_every_time(inputs: Inputs, tmp_path: Path) -> None:
    """The same inputs give the same bytes."""
    render(inputs, tmp_path / "one.html")
    render(inputs, tmp_path / "two.html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_the_headline_says_all(inputs: Inputs, tmp_path: Path) -> None:
    """Score with its proper name, seeds, partner of the speed-up, error, strategy."""
    text = page(inputs, tmp_path).text
    for words in (
        "12.50 ± 0.26",
        "Fréchet distance (digits-classifier)",
        "n = 500, 3 seeds",
        "agrees with “for”",
        "18.1 ms",
        "at batch 16",
        "1.48× “for”",
        "the baseline",
        "5e-4",
        "[7-64-1-4]",
        "no published value",
        "Newest row: 2026-11-21T22:42:05Z",
    ):
        assert words in text
    assert "FID (" not in text


def test_sections_and_provenance(inputs: Inputs, tmp_path: Path) -> None:
    """Grids with captions, trace, plans with the count tried, hashes, versions."""
    found = page(inputs, tmp_path)
    for words in (
        "gsj 64 images",
        "four images",
        "3 candidates were measured",
        "fastest within the tolerance",
        "cafe" * 16,
        "classifier-1a2b3c4d/truncate/exact/ref-99aa/balanced",
        "0123456789abcdef0123456789abcdef01234567",
        "uncommitted changes no",
    ):
        assert words in found.text
    # More scores, the origin, and the numbers of four charts.
    assert found.tags.count("details") == 6


def test_what_is_missing_is_said(inputs: Inputs, tmp_path: Path) -> None:
    """Files that are not there, and given reasons, stand on the page; none fails it."""
    gone = tmp_path / "demo_gone_fid.json"
    lacking = replace(
        inputs,
        jsons=[*inputs.jsons, gone],
        tables={**inputs.tables, "training": tmp_path / "training.parquet"},
        pictures={"demo": [Picture(tmp_path / "no.png", "x")]},
    )
    text = page(lacking, tmp_path).text
    for words in (
        "afhq the checkpoint is not here",
        f"{gone} not made yet",
        f"{tmp_path / 'training.parquet'} not made yet",
        f"{tmp_path / 'no.png'} not made yet",
    ):
        assert words in text


def test_an_empty_report_is_a_page(tmp_path: Path) -> None:
    """With nothing at all there is still a page, which says so."""
    assert "Nothing: every file asked for is here" in page(Inputs([]), tmp_path).text


def test_an_experiment_with_tables_alone_has_its_section(
    inputs: Inputs, tmp_path: Path
) -> None:
    """Before any evaluation is made, charts of tables are already shown."""
    early = replace(inputs, jsons=[], pictures={})
    found = page(early, tmp_path)
    assert "demo" in found.text
    assert found.tags.count("img") == 4


def test_a_table_in_several_files_is_one(inputs: Inputs, tmp_path: Path) -> None:
    """Jobs' own files and a shared one are joined; a row in two of them counts once."""
    rows = samples.strategies()
    parts = [tmp_path / f"part{i}.parquet" for i in (0, 1, 2)]
    for path, own in zip(parts, (rows[:2], rows[1:], []), strict=True):
        write_rows(path, STRATEGIES, own)
    gone = tmp_path / "part3.parquet"
    joined = replace(inputs, tables={"strategies": [*parts, gone]})
    text = page(joined, tmp_path).text
    assert "3 candidates were measured" in text
    assert f"{gone} not made yet" in text


def test_text_is_escaped(tmp_path: Path) -> None:
    """Markup in a row is shown, not obeyed."""
    rows = [
        samples.published(0, 13.7, published_source="<script src='http://x.org/a.js'>")
    ]
    found = page(Inputs(samples.write_jsons(tmp_path, rows)), tmp_path)
    assert "script" not in found.tags
    assert "<script src=" in found.text


def test_published_values_and_failed_seeds(tmp_path: Path) -> None:
    """The verdict is on the mean over seeds; a failed seed is shown and listed."""
    failed = samples.published(
        2, None, status="failed", error="4 NaN images", verdict=None
    )
    rows = [samples.published(0, 13.5), samples.published(1, 13.6), failed]
    text = page(Inputs(samples.write_jsons(tmp_path, rows)), tmp_path).text
    for words in (
        "13.55 ± 0.07",
        "FID n = 50,000, 2 of 3 seeds",
        "failed: seed 2: 4 NaN images",
        "13.73 GS-Jacobi README matches: differs by −0.18",
        "afhq_gsj failed: seed 2",
    ):
        assert words in text


def test_a_verdict_that_bars_comparison_stays() -> None:
    """Where a row says `not comparable`, the mean is not judged either."""
    row = samples.published(
        0, 13.73, verdict="not comparable", verdict_reason="n = 500"
    )
    line = headlines([summarize([row])])[0]
    assert (line.verdict, line.reason) == ("not comparable", "n = 500")


def test_a_verdict_on_the_mean_is_taken_as_it_is() -> None:
    """Where all rows carry one verdict and reason, these are the headline's."""
    rows = [samples.published(s, 13.7, verdict_reason="on the mean") for s in (0, 1)]
    line = headlines([summarize(rows)])[0]
    assert (line.verdict, line.reason) == ("matches", "on the mean")


def test_an_evaluation_that_failed_throughout() -> None:
    """All seeds failed: the line stands, without a score."""
    rows = [
        samples.published(s, None, status="failed", error="disk full") for s in (0, 1)
    ]
    line = headlines([summarize(rows)])[0]
    assert (line.score, line.speed_words, line.verdict) == ("–", "–", "–")
    assert "seed 1: disk full" in line.failed


def test_slower_is_called_slower_and_other_protocols_are_not_compared() -> None:
    """A ratio under one says so; scores of another protocol do not `agree`."""
    slow = samples.evaluation("gsj", 0, 12.0, speedup=0.62)
    other = samples.evaluation("auto", 0, 12.0, protocol="another")
    exact = samples.evaluation("for", 0, 12.0)
    lines = headlines([summarize([row]) for row in (slow, other, exact)])
    assert [line.sampler for line in lines] == ["for", "gsj", "auto"]
    assert lines[0].speed_words == "the baseline"
    assert lines[1].speed_words == "0.62×, slower than “for”"
    assert lines[1].agrees.startswith("agrees with “for”")
    assert lines[2].agrees == "not comparable with “for”: other protocol or n"


# Loading


def test_a_missing_or_broken_evaluation_is_named(tmp_path: Path) -> None:
    """One line with the file's name for each kind of bad evaluation."""
    path = samples.write_jsons(tmp_path, [samples.published(0, 13.0)])[0]
    good = read_json(path)
    bad: dict[str, Any] = {
        "no rows": {"mean": 3},
        "mean is 12.0": {**good, "mean": 12.0},
        "unknown column 'fed'": {**good, "rows": [{**good["rows"][0], "fed": 1}]},
        "not an evaluation": {**good, "rows": [3]},
        "column 'seed'": {**good, "rows": [{**good["rows"][0], "seed": "0"}]},
    }
    for words, content in bad.items():
        write_json(path, content)
        with pytest.raises(UserError, match=words) as caught:
            load_evaluation(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    path.write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        render(Inputs([path]), tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
    with pytest.raises(UserError, match="file not found"):
        load_evaluation(tmp_path / "none.json")


def test_an_older_evaluation_lacks_columns_and_loads(tmp_path: Path) -> None:
    """Columns that an older file lacks are null; further keys are kept."""
    path = samples.write_jsons(tmp_path, [samples.published(0, 13.0)])[0]
    content = read_json(path)
    del content["rows"][0]["kid"], content["scores"]
    write_json(path, {**content, "assumed": ["top-k 0"]})
    found = load_evaluation(path)
    assert found["rows"][0]["kid"] is None
    assert found["assumed"] == ["top-k 0"]
    render(Inputs([path]), tmp_path / "report.html")
    text = Page((tmp_path / "report.html").read_text()).text
    assert "Assumed , because the publication does not say: top-k 0." in text


def test_broken_tables_pictures_and_templates_are_named(
    inputs: Inputs, tmp_path: Path
) -> None:
    """A file that is there but broken fails the report in one line."""
    out = tmp_path / "report.html"
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"PNG")
    pictures = {"demo": [Picture(broken, "x")]}
    with pytest.raises(UserError, match=r"broken\.png: not a readable PNG"):
        render(replace(inputs, pictures=pictures), out)
    with pytest.raises(UserError, match="template is missing"):
        render(replace(inputs, templates=tmp_path), out)
    inputs.tables["timing"].write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"timing\.parquet: not a readable table"):
        render(inputs, out)
    with pytest.raises(ValueError, match="no table 'times'"):
        render(Inputs([], tables={"times": out}), out)
    assert not out.exists()


def test_captions_are_files_or_words(tmp_path: Path) -> None:
    """A caption is read by its name, `literals` become code, markup is escaped."""
    (tmp_path / "grid.rst").write_text("Start ``z`` <b>\nhere.\n")
    assert caption("grid", tmp_path) == "Start <code>z</code> &lt;b&gt; here."
    assert caption("64 images", tmp_path) == "64 images"
    assert caption("absent", tmp_path) == "absent"


def test_every_chart_has_a_caption_file() -> None:
    """Captions that the page and Snakemake's own report use are there, in one para."""
    names = (
        "intro",
        "headline",
        "grid",
        "trace",
        "scores",
        "timing",
        "blocks",
        "convergence",
        "training",
        "strategy",
        "flows",
        "scores_nfe",
        "straightness",
        "trajectories",
        "solvers",
        "grid_flow",
        "evaluation",
        "table",
        "report",
        "overview",
        "published",
        "costs_seconds",
        "costs_steps",
        "side_by_side",
        "order",
        "moving",
        "provenance",
        "workflow",
    )
    for name in names:
        words = (TEMPLATES / f"{name}.rst").read_text(encoding="utf-8")
        assert words.strip()
        assert "\n\n" not in words
        assert "{" not in words


def test_numbers_for_people() -> None:
    """Durations, scores and errors in the form that a person reads."""
    assert seconds_text(0.0269) == "26.9 ms"
    assert seconds_text(150) == "2.5 min"
    assert seconds_text(3e-7) == "0.3 µs"
    assert seconds_text(None) == "–"
    assert (number(13.728), number(0.01234), number(None)) == ("13.73", "0.0123", "–")
    assert (error_text(0.0), error_text(5.2e-4), error_text(2.0)) == (
        "0",
        "5e-4",
        "2e0",
    )
