"""Charts of flows: score against evaluations, straightness, trajectories."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest

from fewstep.plots import (
    AnyChart,
    Look,
    png_bytes,
    score_nfe_chart,
    straightness_chart,
    training_chart,
    trajectory_chart,
)
from fewstep.plots.theme import model_styles, sampler_style, sampler_styles
from tests import results_samples as samples
from tests.test_plots import LOOKS, nodes, shown, size, title

CHARTS: dict[str, tuple[Callable[..., AnyChart], list[dict[str, Any]]]] = {
    "scores": (score_nfe_chart, samples.flow_evaluations()),
    "straightness": (straightness_chart, samples.straightness()),
    "trajectories": (trajectory_chart, samples.trajectories()),
}


def frame(name: str) -> pd.DataFrame:
    """The plausible rows behind a chart."""
    return pd.DataFrame(CHARTS[name][1])


def draw(name: str, look: Look | None = None, **more: Any) -> AnyChart:
    """One of the charts from its plausible rows."""
    return CHARTS[name][0](frame(name), look=look, **more)


def marks(chart: AnyChart, kind: str) -> list[dict[str, Any]]:
    """The layers of one kind of mark, each with the rows of its data."""

    def walk(node: Any, data: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for part in node if isinstance(node, list) else []:
            yield from walk(part, data)
        if isinstance(node, dict):
            data = node.get("data") or data
            mark = node.get("mark")
            if isinstance(mark, dict) and mark.get("type") == kind:
                rows = data.get("values") or spec["datasets"][data["name"]]
                yield {**node, "rows": rows}
            for name in ("layer", "hconcat", "vconcat"):
                yield from walk(node.get(name), data)

    spec = chart.to_dict(validate=False)
    return list(walk(spec, {}))


# All three


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_is_valid_and_titled(name: str) -> None:
    """The specification is valid Vega-Lite in all looks and says what one sees."""
    for look in LOOKS:
        spec = draw(name, look).to_dict(validate=True)
        assert "“mnist-" in spec["title"]["text"][0] + spec["title"]["text"][-1]
        assert spec["title"]["subtitle"][0]


@pytest.mark.parametrize("name", CHARTS)
def test_pictures_fit_page_and_phone(name: str) -> None:
    """Wide pictures are as wide as the page's others, narrow ones as a phone."""
    wide, narrow = png_bytes(draw(name)), Look(narrow=True)
    assert wide == png_bytes(draw(name))
    assert 1200 < size(wide)[0] < 1560
    assert size(png_bytes(draw(name, narrow), narrow))[0] <= 720


@pytest.mark.parametrize("name", CHARTS)
def test_no_rows_make_no_chart(name: str) -> None:
    """An empty table is an error, not an empty picture."""
    with pytest.raises(ValueError, match=r"a chart shows one|no row|no trajectory"):
        CHARTS[name][0](frame(name).iloc[:0])


@pytest.mark.parametrize("name", ["scores", "straightness"])
def test_models_keep_their_colours_by_the_page_s_order(name: str) -> None:
    """A chart of some models draws each as a chart of all of them does."""
    page = ["mnist-4seqrf", "another", "mnist-base", "mnist-4seqrf-distill"]
    rows = frame(name)
    rows = rows[rows["experiment"] != "mnist-2seqrf"]
    scales = [
        dict(zip(scale["domain"], scale["range"], strict=True))
        for node in nodes(CHARTS[name][0](rows, names=page).to_dict())
        if isinstance(node.get("color"), dict) and (scale := node["color"].get("scale"))
    ]
    colors = dict(zip(page, [s.light for s in model_styles(page)], strict=True))
    del colors["another"]
    assert scales
    assert all(scale == colors for scale in scales)


# Score against evaluations


def test_scores_name_best_and_worst_where_models_meet() -> None:
    """The title takes the fewest evaluations that two models have."""
    assert title(draw("scores")) == (
        "With 2 evaluations “mnist-2seqrf” scores 31.0, “mnist-base” 83.0"
    )
    rows = frame("scores")
    one = score_nfe_chart(rows[rows["experiment"] == "mnist-base"])
    assert title(one) == "“mnist-base” scores 14.1 with 44 evaluations"


def test_lines_join_fixed_steps_and_leave_rk45_alone() -> None:
    """RK45 stands at the evaluations that it took and is on no line."""
    chart = draw("scores")
    (line,) = marks(chart, "line")
    assert {row["solver"] for row in line["rows"]} == {"euler"}
    points = {
        (row["model"], row["nfe"])
        for layer in marks(chart, "point")
        for row in layer["rows"]
        if row["solver"] == "rk45"
    }
    assert points == {
        (name, samples.flow_nfe(name, "rk45"))
        for name, (_, _, scores) in samples.FLOWS.items()
        if "rk45" in scores
    }


def test_bars_are_one_standard_deviation_over_seeds() -> None:
    """Mean and sample standard deviation of a cell's seeds make mark and bar."""
    (rule,) = marks(draw("scores"), "rule")
    row = next(r for r in rule["rows"] if (r["model"], r["nfe"]) == ("mnist-base", 1))
    assert row["score"] == pytest.approx(148)
    assert row["high"] - row["score"] == pytest.approx(0.02 * 148)
    assert row["score"] - row["low"] == pytest.approx(0.02 * 148)


def test_failed_rows_and_other_systems_are_left_out() -> None:
    """A failed seed and a row without evaluations are in no mean."""
    rows = frame("scores")
    failed = rows.index[rows["experiment"] == "mnist-base"][0]
    rows.loc[failed, ["status", "frechet"]] = ["failed", None]
    other = pd.DataFrame([samples.evaluation("for", 0, 3.0)])
    chart = score_nfe_chart(pd.concat([rows, other]))
    first = next(r for r in marks(chart, "line")[0]["rows"] if r["nfe"] == 1)
    assert first["score"] == pytest.approx(149.48)
    assert 3.0 not in shown(chart, "score")


def test_the_score_axis_is_logarithmic_only_over_a_wide_range() -> None:
    """Scores that differ little stand on an even axis, whatever their sign."""

    def kinds(rows: pd.DataFrame) -> set[str]:
        return {
            (node["y"].get("scale") or {}).get("type", "linear")
            for node in nodes(score_nfe_chart(rows).to_dict())
            if isinstance(node.get("y"), dict) and node["y"].get("field") == "score"
        }

    rows = frame("scores")
    assert kinds(rows) == {"log"}
    assert kinds(rows.assign(frechet=rows["frechet"] / 100 + 5)) == {"linear"}
    assert kinds(rows.assign(frechet=-0.5)) == {"linear"}


def test_heun_has_a_line_of_its_own() -> None:
    """Two solvers of one model are two lines, and the subtitle says which is which."""
    rows = frame("scores")
    heun = rows[rows["sampler"].isin(["euler-2", "euler-4"])].assign(
        solver="heun", sampler="heun"
    )
    chart = score_nfe_chart(pd.concat([rows, heun]))
    (line,) = marks(chart, "line")
    assert line["encoding"]["detail"]["field"] == "solver"
    assert "open, joined: heun" in " ".join(chart.to_dict()["title"]["subtitle"])


@pytest.mark.parametrize(
    ("column", "value"), [("protocol", "another"), ("n", 499), ("metric", "fid")]
)
def test_rows_that_must_not_be_compared_share_no_chart(column: str, value: Any) -> None:
    """Another protocol, n or metric in the rows is refused."""
    rows = frame("scores")
    rows.loc[rows.index[-1], column] = value
    with pytest.raises(ValueError, match=f"one '{column}'"):
        score_nfe_chart(rows)


# Straightness


def test_straightness_names_the_straightest() -> None:
    """The title compares the whole paths within segments; bars show both numbers."""
    rows = frame("straightness")
    rows = rows[rows["experiment"].isin(["mnist-base", "mnist-2seqrf"])]
    chart = straightness_chart(rows)
    whole = rows[rows["point"] == -1].set_index("experiment")["seq_straightness"]
    assert title(chart) == (
        "Within its segments “mnist-2seqrf” is the straightest: "
        f"{whole['mnist-2seqrf']:.3g} against {whole['mnist-base']:.3g} of “mnist-base”"
    )
    bars = {(r["model"], r["kind"]) for r in marks(chart, "bar")[0]["rows"]}
    assert len(bars) == 4


def test_straightness_over_time_stands_at_the_middle_of_each_step() -> None:
    """A step's value is drawn between its ends; totals are on no line."""
    rows = frame("straightness")
    (line,) = marks(straightness_chart(rows), "line")
    middles = sorted({row["middle"] for row in line["rows"]})
    assert middles == pytest.approx([(i + 0.5) / 16 for i in range(16)])


def test_two_samplers_of_a_model_share_no_straightness_chart() -> None:
    """Straightness by another solver is another number: it is refused."""
    rows = frame("straightness")
    rows.loc[rows.index[0], "sampler"] = "euler-8"
    with pytest.raises(ValueError, match="one 'sampler'"):
        straightness_chart(rows)


def test_straightness_of_whole_paths_alone_is_one_panel() -> None:
    """Where no step is known, only the bars are drawn."""
    rows = frame("straightness")
    spec = straightness_chart(rows[rows["point"] == -1]).to_dict()
    assert "hconcat" not in spec
    assert "hconcat" in draw("straightness").to_dict()


# Trajectories


def test_trajectories_have_a_panel_a_model_with_its_edges() -> None:
    """Inner edges of the segments are marked; a flow of one segment has none."""
    chart = draw("trajectories")
    rules = [[r["t"] for r in layer["rows"]] for layer in marks(chart, "rule")]
    assert sorted(rules) == [[0.5], [0.75, 0.5, 0.25], [0.75, 0.5, 0.25]]
    names = [
        node["title"]["text"] for node in nodes(chart.to_dict()) if "layer" in node
    ]
    assert names == list(samples.FLOWS)


def test_straight_lines_run_from_edge_to_edge_of_the_fine_path() -> None:
    """The dotted lines meet the fine solver's path at every edge."""
    rows = frame("trajectories")
    rows = rows[rows["experiment"] == "mnist-2seqrf"]
    chords, fine, coarse = marks(trajectory_chart(rows), "line")
    path = {(r["pixel"], r["t"]): r["value"] for r in fine["rows"]}
    assert {r["t"] for r in chords["rows"]} == {1.0, 0.5, 0.0}
    for row in chords["rows"]:
        assert row["value"] == pytest.approx(path[row["pixel"], row["t"]], abs=1e-3)
    assert len({r["t"] for r in coarse["rows"]}) == 5


def test_the_pixels_that_bend_most_are_drawn() -> None:
    """Pixels are the same in all panels; one that is made to bend is among them."""
    rows = frame("trajectories")
    straight = sorted(set(rows["pixel"]) - set(shown(draw("trajectories"), "pixel")))[0]
    bent = rows["pixel"].eq(straight)
    rows.loc[bent, "value"] += 30 * rows["t"] * (1 - rows["t"])
    chart = trajectory_chart(rows, pixels=2)
    assert straight in shown(chart, "pixel")
    assert len(set(shown(chart, "pixel"))) == 2


def test_trajectories_say_how_far_paths_leave_the_straight_line() -> None:
    """The title compares the mean of the pixels' largest distances."""
    rows = frame("trajectories")
    assert "“mnist-base” by 0.4" in title(draw("trajectories"))
    one = rows[rows["experiment"] == "mnist-base"].copy()
    one["value"] = one["t"]
    assert "“mnist-base” leave the straight line by" in title(trajectory_chart(one))
    with pytest.raises(ValueError, match="no trajectory of sample 9"):
        trajectory_chart(rows, sample=9)


def test_a_single_solver_is_drawn_alone() -> None:
    """Without a coarse sampler there are the path and its straight lines."""
    rows = frame("trajectories")
    alone = rows[(rows["sampler"] == "rk45") & (rows["experiment"] == "mnist-base")]
    chart = trajectory_chart(alone)
    assert len(marks(chart, "line")) == 2
    assert "coloured" not in " ".join(chart.to_dict()["title"]["subtitle"])


# What the other charts gained


def test_samplers_of_one_chart_never_look_alike() -> None:
    """Names whose own style is the same get different ones where they meet."""
    names = ["euler-1", "euler-2", "euler-4", "euler-8", "rk45", "for"]
    assert sampler_style("euler-4") == sampler_style("euler-8")
    styles = sampler_styles(names)
    assert len({style.light for style in styles}) == len(names)
    assert styles[-1] == sampler_style("for")
    assert len(sampler_styles([f"heun-{i}" for i in range(20)])) == 20


def test_scores_on_the_way_are_named_with_their_n() -> None:
    """A snapshot's score has a panel that says of how many images it is."""
    rows = samples.training()
    for row in rows[::20]:
        row.update(score=30.0 - row["step"] / 100, score_metric="fid", score_n=2000)
    spec = str(training_chart(pd.DataFrame(rows)).to_dict())
    assert "'FID@2,000'" in spec
    assert "FID@" not in str(training_chart(pd.DataFrame(samples.training())).to_dict())
