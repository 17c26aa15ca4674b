"""Rows of straightness and of trajectories."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fewstep.results import STRAIGHTNESS, straightness_rows, trajectory_rows
from fewstep.results.flows import WHOLE, edges_of, edges_text

COMMON: dict[str, Any] = {
    "experiment": "demo",
    "sampler": "rk45",
    "created_utc": "2026-11-21T22:42:05Z",
}
MEASURED: dict[str, Any] = {**COMMON, "solver": "rk45", "nfe": 14, "n": 8, "seed": 0}


def test_the_whole_path_is_the_weighted_sum_of_its_steps() -> None:
    """Steps of unequal length count by their length; the total has no time."""
    rows = straightness_rows(
        [1.0, 0.75, 0.0], [4.0, 8.0], [2.0, 0.0], edges=(1, 0.5, 0), **MEASURED
    )
    whole, first, second = rows
    assert (whole["point"], whole["t"], whole["dt"]) == (WHOLE, None, 1.0)
    assert (whole["straightness"], whole["seq_straightness"]) == (7.0, 0.5)
    assert (first["t"], first["dt"], second["t"], second["dt"]) == (1, 0.25, 0.75, 0.75)
    assert (whole["segments"], whole["edges"]) == (2, "1 0.5 0")


def test_totals_that_are_given_are_taken() -> None:
    """A sampler that knows its own totals, such as over unequal paths, has them."""
    rows = straightness_rows(
        [1, 0], [4.0], [2.0], edges=(1, 0), totals=(5.0, 3.0), **MEASURED
    )
    assert (rows[0]["straightness"], rows[0]["seq_straightness"]) == (5.0, 3.0)


def test_values_for_other_steps_are_refused() -> None:
    """One value a step, one state a time: anything else is a caller's mistake."""
    with pytest.raises(ValueError, match="2 steps, 1 and 2 values"):
        straightness_rows([1, 0.5, 0], [1.0], [1.0, 1.0], edges=(1, 0), **MEASURED)
    with pytest.raises(ValueError, match="2 times for 3 states"):
        trajectory_rows([1, 0], np.zeros((3, 1, 1, 2, 2)), edges=(1, 0), **COMMON)


@pytest.mark.parametrize(("point", "t"), [(WHOLE, 0.5), (0, None)])
def test_only_the_whole_path_has_no_time(point: int, t: float | None) -> None:
    """A step without a time, or a total with one, is no row."""
    row = straightness_rows([1, 0], [4.0], [2.0], edges=(1, 0), **MEASURED)[0]
    with pytest.raises(ValueError, match="'t' is null for the whole path"):
        STRAIGHTNESS.check({**row, "point": point, "t": t})


def test_trajectories_keep_the_same_pixels_of_every_model() -> None:
    """Pixels go by the image's size alone, and every value is the state's own."""
    states = np.random.default_rng(0).normal(size=(3, 5, 3, 8, 8))
    rows = trajectory_rows([1, 0.5, 0], states, edges=(1, 0), samples=2, **COMMON)
    other = trajectory_rows([1, 0.5, 0], states + 1, edges=(1, 0), samples=2, **COMMON)
    assert [row["pixel"] for row in rows] == [row["pixel"] for row in other]
    assert len({row["pixel"] for row in rows}) == 16
    assert {row["sample"] for row in rows} == {0, 1}
    flat = states.reshape(3, 5, -1)
    for row in rows:
        assert row["value"] == flat[row["point"], row["sample"], row["pixel"]]
        assert row["t"] == [1, 0.5, 0][row["point"]]


def test_a_small_image_has_fewer_pixels() -> None:
    """Where there are fewer pixels than asked for, none stands twice."""
    rows = trajectory_rows([1, 0], np.zeros((2, 1, 1, 2, 2)), edges=(1, 0), **COMMON)
    assert len(rows) == len({(row["pixel"], row["point"]) for row in rows})


def test_edges_are_written_and_read_back() -> None:
    """Adaptive edges survive the text of the table."""
    edges = [1.0, 0.734, 0.12, 0.0]
    assert edges_of(edges_text(edges)) == edges
