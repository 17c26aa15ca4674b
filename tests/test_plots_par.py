"""Charts of parallel tokens: score against steps and against seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from fewstep.plots import (
    AnyChart,
    Look,
    png_bytes,
    score_seconds_chart,
    score_steps_chart,
    timing_chart,
)
from tests import par_samples
from tests.test_plots import LOOKS, nodes, size, title
from tests.test_plots_flow import marks

CHARTS: dict[str, Callable[..., AnyChart]] = {
    "steps": score_steps_chart,
    "seconds": score_seconds_chart,
}


def frame(*more: dict[str, Any], model: str = "small") -> pd.DataFrame:
    """Rows of three values of n, and others, each with its model."""
    rows = [{**row, "model": model} for row in par_samples.par_evaluations()]
    return pd.DataFrame([*rows, *more])


def bigger(group: int, score: float, **more: Any) -> dict[str, Any]:
    """One seed of another model's cell."""
    like = f"demo-par-n{group}"
    row = par_samples.par_evaluation(f"big-n{group}", 0, score, like, **more)
    return {**row, "model": "big"}


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_is_valid_and_fits(name: str) -> None:
    """Valid Vega-Lite in all looks; a wide picture fits the page, a narrow a phone."""
    for look in LOOKS:
        assert CHARTS[name](frame(), look=look).to_dict(validate=True)
    narrow = Look(narrow=True)
    assert 1100 < size(png_bytes(CHARTS[name](frame())))[0] < 1560
    assert size(png_bytes(CHARTS[name](frame(), look=narrow), narrow))[0] <= 720


@pytest.mark.parametrize("name", CHARTS)
def test_each_cell_is_a_point_labelled_by_its_n(name: str) -> None:
    """Three points in the order of n, each with its label; a bar of one deviation."""
    chart = CHARTS[name](frame())
    (points,) = marks(chart, "point")
    assert [row["group"] for row in points["rows"]] == [1, 4, 16]
    places = {"steps": [256, 67, 31], "seconds": [0.262, 0.0712, 0.0391]}
    assert [row["place"] for row in points["rows"]] == places[name]
    texts = marks(chart, "text")[-1]
    labels = {row["group"]: row["label"] for row in texts["rows"]}
    assert labels == {1: "n = 1", 4: "n = 4", 16: "n = 16"}
    (rule,) = marks(chart, "rule")
    assert rule["rows"][0]["high"] - rule["rows"][0]["score"] == pytest.approx(0.117)


@pytest.mark.parametrize("name", CHARTS)
def test_what_must_not_be_compared_is_refused(name: str) -> None:
    """Two protocols in one chart, or nothing to draw, are errors."""
    other = bigger(4, 3.0, protocol="another")
    with pytest.raises(ValueError, match="one 'protocol'"):
        CHARTS[name](frame(other))
    with pytest.raises(ValueError, match="no evaluation has both"):
        CHARTS[name](frame().assign(steps=None, seconds_batch1=None))


def test_titles_say_what_fewer_steps_cost() -> None:
    """The cell of fewest steps beside its n = 1, within the spread of both."""
    assert title(score_steps_chart(frame())) == (
        "n = 16 takes 31 steps instead of 256, but scores worse than n = 1: 7.8 "
        "against 3.9"
    )
    assert title(score_seconds_chart(frame())) == (
        "n = 16 takes 39.1 ms an image at batch 1, not 262 ms as n = 1, but scores "
        "worse than n = 1: 7.8 against 3.9"
    )
    rows = frame()
    rows.loc[rows["group"] == 16, "frechet"] = [3.8, 3.9, 4.0]
    assert "and its score agrees with that of n = 1" in title(score_steps_chart(rows))
    rows = rows[(rows["seed"] == 0) | (rows["group"] == 1)]
    rows.loc[rows["group"] == 16, "frechet"] = 9.0
    assert "and one seed cannot tell its score" in title(score_steps_chart(rows))


def test_a_title_says_when_nothing_is_faster() -> None:
    """Where n = 1 is the fastest at batch 1, that is the title."""
    rows = frame()
    rows.loc[rows["group"] == 1, "seconds_batch1"] = 0.01
    assert title(score_seconds_chart(rows)) == (
        "None is faster than n = 1 at batch 1: 10 ms an image"
    )
    alone = rows[rows["group"] == 1]
    assert title(score_seconds_chart(alone)) == "n = 1, batch 1: 10 ms an image"
    assert title(score_steps_chart(alone)) == "n = 1 takes 256 steps and scores 3.9"


def test_models_are_joined_apart_and_keep_their_colours() -> None:
    """A line a model; colours go by the page's order; the top label speaks for all."""
    rows = frame(bigger(1, 3.0), bigger(4, 3.2))
    chart = score_steps_chart(rows, names=["big", "other", "small"])
    scales = [
        node["color"]["scale"]["domain"]
        for node in nodes(chart.to_dict())
        if isinstance(node.get("color"), dict) and "scale" in node["color"]
    ]
    assert scales
    assert all(domain == ["big", "small"] for domain in scales)
    texts = marks(chart, "text")[-1]["rows"]
    assert sorted((row["place"], row["model"]) for row in texts) == [
        (31, "small"),
        (67, "small"),
        (256, "small"),
    ]
    assert "“demo-par-n16” takes 31 steps" in title(chart)
    assert len(marks(score_seconds_chart(rows), "text")[-1]["rows"]) == 5


def test_samplers_of_one_n_are_named() -> None:
    """Two samplers of a model and n carry their names, and lines keep to one."""
    linear = par_samples.par_evaluation("demo-par-n4", 0, 4.1)
    rows = frame({**linear, "sampler": "linear", "model": "small"})
    chart = score_seconds_chart(rows)
    labels = {row["label"] for row in marks(chart, "text")[-1]["rows"]}
    assert labels == {"n = 1", "n = 4, cfg", "n = 4, linear", "n = 16"}
    (line,) = marks(chart, "line")
    assert line["encoding"]["detail"]["field"] == "sampler"


def test_digits_of_lines_that_cross_keep_apart() -> None:
    """At each batch the slower one's speed-up stands below its point, whoever it is."""
    rows = [
        {**row, "experiment": "par", "sampler": row["experiment"]}
        for row in par_samples.par_timing()
    ]
    texts = marks(timing_chart(pd.DataFrame(rows)), "text")[-1]
    found = {(row["sampler"], row["batch"]): row["below"] for row in texts["rows"]}
    assert found == {
        ("demo-par-n4", 1): True,
        ("demo-par-n16", 1): False,
        ("demo-par-n4", 40): False,
        ("demo-par-n16", 40): True,
    }
    shifts = {
        layer["transform"][0]["filter"]: layer["mark"]["dy"] > 0
        for layer in marks(timing_chart(pd.DataFrame(rows)), "text")
    }
    assert shifts == {"(datum.below === true)": True, "(datum.below === false)": False}


def test_titles_do_not_break_inside_an_equation() -> None:
    """A narrow title wraps before `n = 1`, not after its n."""
    for look in LOOKS:
        lines = score_seconds_chart(frame(), look=look).to_dict()["title"]["text"]
        assert not any(part.endswith((" n", "=")) for part in lines)
        assert not any(part.startswith("=") for part in lines)
