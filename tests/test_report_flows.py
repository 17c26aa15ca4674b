"""Flows in the report: models by sampler, on the page and in the terminal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fewstep.report import Inputs, figures, render
from fewstep.report.flows import Cell, FlowTable, flow_tables
from fewstep.results import summarize, upsert
from tests import results_samples as samples
from tests.test_report import Page
from tests.test_report_terminal import printed

pytestmark = pytest.mark.usefixtures("drawn")


def table(rows: list[dict[str, Any]]) -> FlowTable:
    """The only table of some rows."""
    (found,) = flow_tables(summaries(rows))
    return found


def summaries(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The summaries of some rows, in their order."""
    cells = dict.fromkeys((row["experiment"], row["sampler"]) for row in rows)
    return [
        summarize([r for r in rows if (r["experiment"], r["sampler"]) == cell])
        for cell in cells
    ]


def changed(experiment: str, sampler: str, **more: Any) -> list[dict[str, Any]]:
    """The flows' rows, with one cell changed."""
    return [
        {**row, **more}
        if (row["experiment"], row["sampler"]) == (experiment, sampler)
        else row
        for row in samples.flow_evaluations()
    ]


def cell(found: FlowTable, model: str, sampler: str) -> Cell:
    """One cell of a table."""
    (line,) = (line for line in found.models if line.name == model)
    return line.cells[found.samplers.index(sampler)]


# The table


def test_models_stand_by_samplers_in_the_order_of_their_evaluations() -> None:
    """Columns rise in NFE; RK45's goes by the model and stands in its cells."""
    found = table(samples.flow_evaluations())
    assert found.samplers == ("euler-1", "euler-2", "euler-4", "euler-8", "rk45")
    assert found.nfe == ("1", "2", "4", "8", "")
    assert [model.name for model in found.models] == list(samples.FLOWS)
    assert cell(found, "mnist-base", "rk45").nfe == "44"
    assert cell(found, "mnist-base", "euler-4").nfe == ""
    assert cell(found, "mnist-4seqrf", "euler-1") == Cell()
    assert found.samples == "n = 500, 3 seeds"


def test_the_best_of_each_sampler_is_marked() -> None:
    """The lowest mean is best; a model alone in its column is not called so."""
    found = table(samples.flow_evaluations())
    best = {
        (model.name, sampler)
        for model in found.models
        for sampler, one in zip(found.samplers, model.cells, strict=True)
        if one.best
    }
    assert best == {
        ("mnist-2seqrf", "euler-2"),
        ("mnist-4seqrf-distill", "euler-4"),
        ("mnist-4seqrf", "euler-8"),
        ("mnist-base", "rk45"),
    }


def test_straightness_is_taken_along_one_solver_s_paths() -> None:
    """The finest solver of half of the models counts; another one is named."""
    found = table(samples.flow_evaluations())
    assert found.straight_by == "rk45"
    by = {model.name: model.straight_by for model in found.models}
    assert by["mnist-base"] == ""
    assert by["mnist-4seqrf-distill"] == "euler-4"
    assert found.models[0].seq_straightness == "21.00"
    assert found.models[0].straightness == "23.00"


def test_the_table_of_straightness_goes_before_the_rows() -> None:
    """Where paths were followed finely for it, their numbers and name are taken."""
    fine = [
        {**row, "sampler": "path", "straightness": 7.0, "seq_straightness": 3.0}
        for row in samples.straightness()
        if row["experiment"] != "mnist-4seqrf-distill"
    ]
    rows = summaries(samples.flow_evaluations())
    coarse = [row for row in samples.straightness() if row["point"] < 1]
    (found,) = flow_tables(rows, pd.DataFrame([*fine, *coarse]))
    assert found.straight_by == "path"
    assert found.models[0].straightness == "7.00"
    assert found.models[0].seq_straightness == "3.00"
    assert found.models[-1].straight_by == "euler-4"
    (found,) = flow_tables(rows, pd.DataFrame(fine).iloc[:0])
    assert found.straight_by == "rk45"


def test_a_cell_that_failed_is_no_score() -> None:
    """Where every seed failed the cell says so, and its model stays a flow."""
    lost = {"status": "failed", "error": "step underflow", "frechet": None, "nfe": None}
    found = table(changed("mnist-2seqrf", "euler-2", **lost))
    assert cell(found, "mnist-2seqrf", "euler-2").score == "failed"
    assert not cell(found, "mnist-base", "euler-2").best


def test_other_protocols_and_snapshots_are_not_in_one_table() -> None:
    """Another protocol is a table of its own; a score on the way is in none."""
    rows = changed("mnist-base", "euler-1", protocol="another")
    assert len(flow_tables(summaries(rows))) == 2
    rows = changed("mnist-base", "euler-1", train_step=2000)
    assert "euler-1" not in table(rows).samplers
    assert flow_tables(summaries(samples.evaluations())) == []


# The page


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    """Four flows and a TarFlow with all that belongs to them."""
    tables = {}
    for name in ("straightness", "trajectories"):
        tables[name] = tmp_path / f"{name}.parquet"
        upsert(tables[name], getattr(samples, name)())
    rows = [*samples.evaluations(), *samples.flow_evaluations()]
    return Inputs(jsons=samples.write_jsons(tmp_path, rows), tables=tables)


def test_the_page_compares_the_flows(
    inputs: Inputs, tmp_path: Path, drawn: list[str]
) -> None:
    """Table, scores by evaluations, straightness, paths; TarFlow's table stays."""
    render(inputs, tmp_path / "report.html")
    whole = next(row for row in samples.straightness() if row["point"] == -1)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    for words in (
        "TarFlow: scores and speed",
        "[7-64-1-4]",
        "SeqRF: scores by number of steps",
        "Fréchet distance (digits-classifier), lower is better; n = 500, 3 seeds.",
        "mnist-base 148.00 ± 2.96 83.00 ± 1.66 41.00 ± 0.82 22.00 ± 0.44 "
        f"14.10 ± 0.28 NFE 44 {whole['straightness']:.2f} "
        f"{whole['seq_straightness']:.2f}",
        "rk45 37 15.20 ± 0.30",
        "6.30 within segments",
    ):
        assert words in page.text
    assert drawn[0].startswith("With 2 evaluations “mnist-2seqrf”")
    assert drawn[1].startswith("Within its segments “mnist-4seqrf”")
    assert drawn[2].startswith("Pixels of “mnist-4seqrf”")
    # All systems by calls and by time, then TarFlow's own; no such chart of a flow.
    words = ["needs the fewest calls", "is fastest", "is fastest"]
    assert [w in title for w, title in zip(words, drawn[3:], strict=True)] == [True] * 3


def test_flows_without_scores_still_show_their_paths(
    inputs: Inputs, tmp_path: Path, drawn: list[str]
) -> None:
    """Before any evaluation is made, each model shows what is there."""
    render(replace(inputs, jsons=[]), tmp_path / "report.html")
    assert len(drawn) == 2 * len(samples.FLOWS)


def test_straightness_by_different_solvers_is_not_drawn_together(
    tmp_path: Path, drawn: list[str]
) -> None:
    """The chart has the models of one solver: the distilled one is not among them."""
    frame = pd.DataFrame(samples.straightness())
    found = figures.flow_figures(
        table(samples.flow_evaluations()),
        list(samples.FLOWS),
        {
            "straightness": frame,
            "evaluations": pd.DataFrame(samples.flow_evaluations()),
        },
    )
    assert [figure.caption for figure in found] == ["scores_nfe", "straightness"]
    assert "distill" not in drawn[1]


def test_a_published_table_without_a_verified_number_is_named(tmp_path: Path) -> None:
    """The cell names the table, in both of its tables, and that nobody verified it."""
    rows = changed("mnist-base", "euler-8", published_table="SeqRF, Table 1")
    render(Inputs(samples.write_jsons(tmp_path, rows)), tmp_path / "report.html")
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert text.count("SeqRF, Table 1: the number is not verified") == 2


def test_a_snapshot_says_its_step(tmp_path: Path) -> None:
    """A checkpoint of the way is in the list of all cells, with its step."""
    rows = changed("mnist-base", "euler-8", train_step=2000)
    render(Inputs(samples.write_jsons(tmp_path, rows)), tmp_path / "report.html")
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "euler-8 training step 2000" in text


# The terminal


def test_the_terminal_shows_models_by_samplers(tmp_path: Path) -> None:
    """Flows stand in 80 columns with their NFE; TarFlow's table is as before."""
    rows = [*samples.evaluations(), *samples.flow_evaluations()]
    text = printed(samples.write_jsons(tmp_path, rows))
    lines = text.splitlines()
    base = next(line for line in lines if "mnist-base" in line)
    for words in ("148±3", "83.0±1.7", "41.0±0.8", "22.0±0.4", "14.1±0.3", "21.00"):
        assert words in base
    assert "NFE 44" in lines[lines.index(base) + 1]
    assert any("NFE 1 " in line and "NFE 8 " in line for line in lines)
    assert "by rk45" in text
    assert "12.50 ± 0.26" in next(line for line in lines if " auto " in line)


def test_the_terminal_lists_flows_with_many_samplers(tmp_path: Path) -> None:
    """More samplers than fit beside each other are a line each, with their NFE."""
    rows = [
        samples.evaluation(
            f"euler-{n}", 0, 5.0, experiment="flow", nfe=n, system="seqrf"
        )
        for n in range(1, 9)
    ]
    text = printed(samples.write_jsons(tmp_path, rows), width=100)
    assert " NFE " in text
    line = next(line for line in text.splitlines() if "euler-7" in line)
    assert line.split()[:3] == ["flow", "euler-7", "7"]


def test_the_terminal_names_what_failed(tmp_path: Path) -> None:
    """A failed cell is marked in the table, and the reason stands below it."""
    lost = {"status": "failed", "error": "step underflow", "frechet": None, "nfe": None}
    rows = changed("mnist-2seqrf", "euler-2", **lost)
    text = printed(samples.write_jsons(tmp_path, rows), width=120)
    assert "failed" in next(x for x in text.splitlines() if " mnist-2seqrf " in x)
    assert "mnist-2seqrf_euler-2 failed: seed 0: step underflow" in text


def test_an_empty_terminal_table_is_a_table() -> None:
    """Without any evaluation there is still a table to print."""
    assert printed([]).strip()
