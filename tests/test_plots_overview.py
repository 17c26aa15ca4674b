"""Charts of score against cost, of samplers of several systems."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from fewstep.plots import Look, png_bytes, score_cost_chart, score_costs
from tests import results_samples as samples


def frame(**more: Any) -> pd.DataFrame:
    """TarFlow's three samplers and the flows, as if of one protocol."""
    rows = [*samples.evaluations(), *samples.flow_evaluations()]
    return pd.DataFrame(rows).assign(**more)


def title(rows: pd.DataFrame, cost: Any = "steps") -> str:
    """The chart's title."""
    said = score_cost_chart(rows, cost).to_dict(validate=True)["title"]["text"]
    return " ".join(said)


def of(
    experiment: str, score: float, calls: float, **more: Any
) -> list[dict[str, Any]]:
    """Three seeds of one sampler whose scores spread by 0.1."""
    values = {"experiment": experiment, "steps": calls, "iterations": None, **more}
    return [
        samples.evaluation("for", seed, score + 0.1 * (seed - 1), **values)
        for seed in range(3)
    ]


def test_a_point_is_the_mean_of_a_sampler() -> None:
    """Evaluations of an image where they are counted, else calls; failed rows not."""
    rows = [*of("a", 3.0, 40.0), *of("b", 2.0, 9.0, nfe=7.5)]
    rows[0] = {**rows[0], "status": "failed", "frechet": None}
    found = score_costs(pd.DataFrame(rows), "steps").set_index("model")
    assert found["cost"].to_dict() == {"a": 40.0, "b": 7.5}
    assert found["score"].to_dict() == pytest.approx({"a": 3.05, "b": 2.0})
    assert found.loc["b", "high"] == pytest.approx(2.1)


def test_the_title_says_what_as_good_a_score_costs() -> None:
    """The cheapest, and the cheapest of those that score as well as the best."""
    rows = [*of("a", 9.0, 4.0), *of("b", 3.05, 20.0), *of("c", 3.0, 80.0)]
    assert title(pd.DataFrame(rows)) == (
        "“a for” needs the fewest calls, 4, and scores 9; "
        "“b for” takes 20 and scores 3.05"
    )
    assert title(pd.DataFrame(rows[3:])) == (
        "“b for” needs the fewest calls, and no score is better beyond the spread"
    )


def test_times_stand_in_a_unit_for_people() -> None:
    """Milliseconds below a second, and no ratio of times of several jobs."""
    rows = [
        *of("a", 9.0, 4.0, seconds_per_image=0.0123),
        *of("b", 3.0, 20.0, seconds_per_image=2.5),
    ]
    said = title(pd.DataFrame(rows), "seconds")
    assert "“a for” is fastest, 12.3 ms, and scores 9" in said
    assert "“b for” takes 2.5 s and scores 3" in said
    assert "×" not in said


def test_samplers_on_one_place_share_a_label() -> None:
    """Names of points that lie on each other would be illegible."""
    rows = pd.DataFrame(samples.evaluations()).assign(steps=100.0)
    spec = score_cost_chart(rows, "steps").to_dict(validate=True)
    texts = [
        spec["datasets"][layer["data"]["name"]]
        for layer in spec["layer"]
        if layer["mark"]["type"] == "text"
    ]
    assert len(texts) == 2
    for values in texts:
        (one,) = values
        assert sorted(one["sampler"].split(", ")) == ["auto", "for", "gsj"]


@pytest.mark.parametrize("column", ["protocol", "n", "metric", "extractor"])
def test_what_may_not_be_compared_shares_no_chart(column: str) -> None:
    """Rows of another protocol, n, metric or extractor are refused."""
    rows = frame()
    rows.loc[0, column] = 3 if column == "n" else "fid"
    with pytest.raises(ValueError, match=f"a chart shows one '{column}'"):
        score_cost_chart(rows, "steps")


def test_nothing_to_draw_is_an_error() -> None:
    """Rows without any cost are refused."""
    with pytest.raises(ValueError, match="no evaluation has both a score and seconds"):
        score_cost_chart(frame(seconds_per_image=None), "seconds")


def test_the_chart_is_drawn_in_every_look() -> None:
    """A picture comes out, narrow and dark too."""
    for look in (Look(), Look(narrow=True, dark=True)):
        picture = png_bytes(score_cost_chart(frame(), "steps", look=look), look)
        assert picture.startswith(b"\x89PNG")
