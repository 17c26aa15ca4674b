"""The page's first table, what is missing, numbers under charts, provenance."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fewstep.doctor import obstacles
from fewstep.files import read_json, write_json
from fewstep.graph import Graph
from fewstep.report import Inputs, load_evaluation, render
from fewstep.report.embed import embedded
from fewstep.report.headline import headlines
from fewstep.report.inputs import TEMPLATES
from fewstep.report.missing import missing_cells
from fewstep.report.numbers import (
    block_numbers,
    convergence_numbers,
    cost_numbers,
    straightness_numbers,
    timing_numbers,
)
from fewstep.report.overview import Entry, cost_figures, overview
from fewstep.report.provenance import origin, provenance
from fewstep.report.published import published_lines
from fewstep.results import FailedCell, compare, summarize
from tests import par_samples
from tests import results_samples as samples
from tests.test_report import Page
from tests.test_report_flows import summaries

pytestmark = pytest.mark.usefixtures("drawn")

LOST = FailedCell(
    *("demo", "gsj", "tarflow", 0, "frechet", 500),
    *("sample demo/gsj, seed 0", "killed: out of memory", "logs/demo/gsj/sample-0.log"),
)


def all_rows() -> list[dict[str, Any]]:
    """TarFlow, flows and PAR."""
    rows = [*samples.evaluations(), *samples.flow_evaluations()]
    return [*rows, *par_samples.par_evaluations()]


def entries(rows: list[dict[str, Any]], *failed: FailedCell) -> dict[str, Entry]:
    """Lines of the first table by `experiment/sampler`."""
    found = summaries(rows)
    systems = overview(found, headlines(found), failed)
    return {f"{e.experiment}/{e.sampler}": e for s in systems for e in s.entries}


# The first table


def test_every_sampler_of_every_system_has_a_line() -> None:
    """Systems in a fixed order, each with its samplers and what they share."""
    found = summaries(all_rows()[::-1])
    systems = overview(found, headlines(found), ())
    assert [system.name for system in systems] == ["TarFlow", "SeqRF", "PAR"]
    cells = {(row["experiment"], row["sampler"]) for row in all_rows()}
    assert sum(len(system.entries) for system in systems) == len(cells)
    said = "Fréchet distance (digits-classifier), n = 500, 3 seeds"
    assert systems[0].common == said


def test_what_lines_do_not_share_stands_in_each() -> None:
    """One sampler with fewer seeds, and the system has no common words."""
    found = summaries(samples.evaluations()[1:])
    (system,) = overview(found, headlines(found), ())
    assert system.common == ""


def test_steps_are_evaluations_where_they_are_counted() -> None:
    """NFE of flows, network calls of the others."""
    found = entries(all_rows())
    assert found["mnist-base/euler-4"].steps == "4"
    assert found["demo-par-n4/cfg"].steps == "67"


def test_the_partner_of_a_speed_up_is_called_the_baseline() -> None:
    """The sampler that others name, of its own experiment or of another one."""
    found = entries(all_rows())
    assert found["demo/for"].baseline
    assert not found["demo/gsj"].baseline
    assert found["demo-par-n1/cfg"].baseline


def test_a_failed_cell_is_a_line_without_a_score() -> None:
    """A cell that has no evaluation stands there with its job and error, once."""
    rows = [row for row in samples.evaluations() if row["sampler"] != "gsj"]
    again = replace(LOST, seed=1, job="sample demo/gsj, seed 1")
    other = replace(LOST, seed=2, job="", error="not started")
    found = entries(rows, LOST, again, other)
    assert found["demo/gsj"].line is None
    assert found["demo/gsj"].failed == (
        "sample demo/gsj, seed 0 and 1 more: killed: out of memory; not started"
    )
    assert len(found) == 3


def test_an_older_score_stays_beside_a_newer_failure(tmp_path: Path) -> None:
    """The line keeps its number and says that the last run failed."""
    found = entries(samples.evaluations(), LOST)["demo/gsj"]
    assert found.line is not None
    assert "out of memory" in found.failed
    jsons = samples.write_jsons(tmp_path, samples.evaluations())
    render(Inputs(jsons, failures=[LOST]), tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "failed sample demo/gsj, seed 0: killed: out of memory" in page.text


def test_a_slower_sampler_is_called_slower_at_its_batch(tmp_path: Path) -> None:
    """A ratio under one says so, with its partner and the batch."""
    slow = samples.evaluation("gsj", 0, 12.0, speedup=0.62)
    rows = [slow, samples.evaluation("for", 0, 12.0, speedup=None, baseline=None)]
    jsons = samples.write_jsons(tmp_path, rows)
    render(Inputs(jsons), tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "0.62× slower than “for”, batch 16" in page.text
    assert "the baseline" in page.text.partition("TarFlow: scores")[0]


def test_everything_published_stands_beside_ours(tmp_path: Path) -> None:
    """Scores and times of a cell with their verdicts, hardware and source."""
    rows = [samples.published(seed, 13.7, isc=9.0) for seed in range(2)]
    about = {
        **dict.fromkeys(("value", "sd", "seconds_batch1", "unit", "note")),
        "value": 13.73,
        "n": 50_000,
        "others": {"isc": 9.1},
        "seconds": 25_000.0,
        "hardware": "8 A800",
        "source": "a paper",
        "table": "Table 2",
        "unit": "25,000 s",
        "note": "columns swapped",
    }
    (path,) = samples.write_jsons(tmp_path, rows)
    write_json(path, {**read_json(path), "published": compare(rows, about)})
    lines = published_lines([load_evaluation(path)])
    assert [line.quantity for line in lines] == [
        "FID",
        "Inception score",
        "time per image, of a whole run",
    ]
    render(Inputs([path]), tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "FID 13.70 ± 0.00 13.73 matches" in page.text
    assert "8 A800 not comparable hardware: ours on" in page.text
    assert page.text.count("a paper, Table 2 columns swapped") == 3


# Its charts


def test_only_what_may_be_compared_shares_a_chart(drawn: list[str]) -> None:
    """Another extractor is another chart; PAR and flows alone have theirs below."""
    frame = pd.DataFrame(all_rows())
    page = list(dict.fromkeys(frame["experiment"]))
    captions = [figure.caption for figure in cost_figures(frame, page)]
    together = cost_figures(frame[frame["system"] != "par"], page)
    assert captions == [figure.caption for figure in together]
    assert "costs_steps" in captions
    assert "costs_seconds" in captions
    only = cost_figures(frame[frame["system"] == "par"], page)
    assert only == []
    assert drawn


def test_times_of_another_machine_or_batch_are_not_drawn_together() -> None:
    """Each batch, device and number of threads has a chart of its own, or none."""
    frame = pd.DataFrame(samples.flow_evaluations())
    page = list(dict.fromkeys(frame["experiment"]))
    assert len(cost_figures(frame, page)) == 1
    half = frame["experiment"] == page[0]
    apart = frame.assign(threads=frame["threads"].where(half, 64))
    assert len(cost_figures(apart, page)) == 2


def test_no_evaluation_no_chart() -> None:
    """An empty page has none."""
    assert cost_figures(None, []) == []


# What is missing


def test_cells_of_one_reason_are_one_line() -> None:
    """By experiment and reason, failures first; what is there is left out."""
    asked = {"afhq": ["for", "gsj", "auto"], "demo": ["for", "gsj"]}
    blocked = {"afhq": {"auto": ["data/afhq/train/: place by hand"]}}
    found = missing_cells(asked, {("demo", "for")}, [LOST], blocked)
    assert [(m.state, m.experiment, m.samplers) for m in found] == [
        ("failed", "demo", ("gsj",)),
        ("blocked", "afhq", ("auto",)),
        ("not made yet", "afhq", ("for", "gsj")),
    ]
    assert found[0].log == "logs/demo/gsj/sample-0.log"
    assert found[0].why == ("sample demo/gsj, seed 0: killed: out of memory",)
    assert found[1].why == ("data/afhq/train/: place by hand",)
    commands = [m.command.removeprefix("snakemake --profile local ") for m in found]
    assert commands == [
        "results/demo_gsj_fid.json",
        "results/afhq_auto_fid.json",
        "results/afhq_{for,gsj}_fid.json",
    ]


def test_a_failure_after_a_result_is_missing_too() -> None:
    """The file of the older run does not hide that the newer one failed."""
    found = missing_cells({"demo": ["gsj"]}, {("demo", "gsj")}, [LOST])
    assert [one.state for one in found] == ["failed"]
    assert missing_cells({"demo": ["gsj"]}, {("demo", "gsj")}) == []


def test_many_missing_cells_fold_and_failures_stay_open(tmp_path: Path) -> None:
    """A failure is seen at once; what nobody asked for unfolds."""
    asked = {"demo": ["gsj"], **{f"e{i}": ["a"] for i in range(9)}}
    absent = missing_cells(asked, set(), [LOST], {"e0": {"a": ["a file"]}})
    render(Inputs([], absent=absent), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    before, _, after = text.partition("<details>")
    assert "killed: out of memory" in before
    assert "9 more that nobody has made yet, 1 of them blocked" in after
    assert "results/e3_a_fid.json" in after


# Numbers under the charts


def test_numbers_of_a_chart_are_those_of_its_rows() -> None:
    """A line a sampler, block, model or start, in the units of the page."""
    timing = timing_numbers(pd.DataFrame(samples.timing()))
    assert all(len(row) == len(timing.header) for row in timing.rows)
    assert len(timing.rows) == len(samples.timing())
    blocks = pd.DataFrame(samples.blocks())
    blocks = blocks[blocks["variant"] == blocks["variant"].iloc[0]]
    assert len(block_numbers(blocks).rows) == len(blocks)
    straight = straightness_numbers(pd.DataFrame(samples.straightness()))
    assert [row[0] for row in straight.rows] == list(samples.FLOWS)
    costs = cost_numbers(pd.DataFrame(samples.flow_evaluations()), "seconds")
    assert ("mnist-base", "euler-1") in {row[:2] for row in costs.rows}
    assert all("s" in row[2] for row in costs.rows)


def test_errors_stand_at_doubling_iterations() -> None:
    """A line a block and start, a column for 1, 2, 4 … and the last iteration."""
    frame = pd.DataFrame(
        [
            {"block": 0, "start": "z", "iteration": i, "error_max": 10.0**-i}
            for i in range(1, 12)
        ]
        + [{"block": 1, "start": "z", "iteration": 1, "error_max": float("inf")}]
    )
    found = convergence_numbers(frame)
    assert found.header == ("block", "start", "1", "2", "4", "8", "11")
    assert found.rows[0] == ("0", "z", "1e-1", "1e-2", "1e-4", "1e-8", "1e-11")
    assert found.rows[1] == ("1", "z", "∞", "–", "–", "–", "–")


# Provenance


def test_provenance_has_every_published_file_once() -> None:
    """Name, hash and the experiments that rest on it; flags in words."""
    assets = json.dumps({"afhq-model": "ab" * 32})
    rows = [
        samples.published(seed, 13.7, assets=assets, dirty=True) for seed in range(2)
    ]
    found = provenance([*rows, *samples.evaluations()])
    assert found is not None
    assert found.assets == [("afhq-model", "ab" * 32, "afhq")]
    assert found.shared["uncommitted changes"] == ["no", "yes"]
    assert [line[0] for line in found.lines] == ["afhq", "demo"]
    assert found.lines[1][found.header.index("commit")] == "0123456789ab"
    assert origin(rows)["published files"] == ["afhq-model " + "ab" * 32]


def test_one_thread_is_no_flag() -> None:
    """1 equals True in Python and is a number all the same."""
    row = summarize([samples.evaluation("for", 0, 12.0, threads=1)])["rows"][0]
    assert origin([row])["threads"] == ["1"]


def test_without_rows_there_is_no_provenance() -> None:
    """An empty page has no such part."""
    assert provenance([]) is None


def test_obstacles_are_sources_that_nobody_fetches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By experiment and sampler; a cell that can start, or is there, has none."""
    monkeypatch.chdir(tmp_path)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    graph = Graph(TEMPLATES.parents[1])
    found = obstacles(graph)
    assert set(found["afhq"]) == {"auto"}
    assert found["afhq"]["auto"][0].startswith("data/afhq/train/: place by hand (")
    assert "demo-tarflow" not in found
    (tmp_path / "results").mkdir()
    (tmp_path / "results/afhq_auto_fid.json").touch()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = obstacles(graph)
    assert set(found["afhq"]) == {"for", "gsj"}
    assert "to download, but HF_HUB_OFFLINE is set" in " ".join(found["afhq"]["for"])


# Pictures of photographs


def noise_png(path: Path, size: tuple[int, int], frames: int = 1) -> Path:
    """A PNG that does not compress, moving if it has several frames."""
    rng = np.random.default_rng(0)
    shape = (frames, size[1], size[0], 3)
    first, *others = map(Image.fromarray, rng.integers(256, size=shape, dtype=np.uint8))
    more = {"save_all": True, "append_images": others, "duration": 70, "loop": 0}
    first.save(path, **(more if others else {}))
    return path


def test_a_large_picture_is_made_small_enough_for_the_page(tmp_path: Path) -> None:
    """At most as wide as a large window, in its proportions; a small one stays."""
    large = noise_png(tmp_path / "large.png", (2400, 1200))
    address, *size = embedded(large)
    assert size == [1600, 800]
    assert address.startswith("data:image/webp;base64,")
    assert len(address) < large.stat().st_size / 2
    small = noise_png(tmp_path / "small.png", (300, 200))
    address, *size = embedded(small)
    assert size == [300, 200]
    assert base64.b64decode(address.partition(",")[2]) == small.read_bytes()


def test_a_large_animation_keeps_its_frames_and_times(tmp_path: Path) -> None:
    """It still moves, as fast as before."""
    address, *size = embedded(noise_png(tmp_path / "moving.png", (376, 144), 6))
    assert size == [376, 144]
    data = base64.b64decode(address.partition(",")[2])
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.n_frames) == ("WEBP", 6)
        picture.seek(3)
        picture.load()
        assert picture.info["duration"] == 70
