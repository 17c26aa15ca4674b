"""Charts of parallel tokens: score against steps, and against seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from fewstep.plots.flow import score_axis, score_name
from fewstep.plots.theme import (
    AnyChart,
    Look,
    log_ticks,
    model_color,
    one_value,
    prose,
    titled,
    values,
)
from fewstep.results.summary import spread
from fewstep.results.verdicts import BETTER, MATCHES, WORSE, agreement

_COLUMNS = ("model", "sampler", "group", "place", "score", "low", "high", "label")


def score_steps_chart(
    evaluations: pd.DataFrame,
    *,
    names: Sequence[str] = (),
    look: Look | None = None,
) -> AnyChart:
    """Score against network calls an image, one point a cell, labelled by its n.

    Args:
        evaluations: rows of the table `evaluations` with one metric, protocol and n,
            and a column `model`: cells of one model differ in their n and are joined.
            Rows that failed or have no `steps` or `group` are left out.
        names: the models of the page in order: each keeps its colour in all charts.
        look: light or dark, wide or narrow.

    Raises:
        ValueError: for rows that must not be compared, or none with steps.
    """
    look = look or Look()
    cells, score = _cells(evaluations, "steps"), _score(evaluations)
    steps = sorted(float(value) for value in cells["place"].unique())
    x = (
        alt.X("place:Q", title="network calls an image")
        .scale(type="log", base=2, domain=_around(cells["place"]), nice=False)
        .axis(values=steps, format=",~g")
    )
    return titled(
        _layers(_crowned(cells), cells, x, score, names, look),
        _steps_title(cells),
        f"{_samples(evaluations)}. n = 1: LlamaGen",
        look,
    )


def score_seconds_chart(
    evaluations: pd.DataFrame,
    *,
    names: Sequence[str] = (),
    look: Look | None = None,
) -> AnyChart:
    """Score against seconds of an image at batch 1, one point a cell.

    Args:
        evaluations: as of `score_steps_chart`; rows without `seconds_batch1` are left
            out.
        names: the models of the page in order.
        look: light or dark, wide or narrow.

    Raises:
        ValueError: for rows that must not be compared, or none with a time.
    """
    look = look or Look()
    cells, score = _cells(evaluations, "seconds_batch1"), _score(evaluations)
    domain = _around(cells["place"])
    x = (
        alt.X("place:Q", title="seconds an image at batch 1")
        .scale(type="log", domain=domain, nice=False)
        .axis(format="~g", values=log_ticks(*domain))
    )
    return titled(
        _layers(cells, cells, x, score, names, look),
        _seconds_title(cells),
        f"{_samples(evaluations)}. n = 1: LlamaGen",
        look,
    )


def _score(evaluations: pd.DataFrame) -> str:
    one_value(evaluations, "protocol")
    extractor = one_value(evaluations, "extractor")
    return score_name(one_value(evaluations, "metric"), extractor)


def _samples(evaluations: pd.DataFrame) -> str:
    n, seeds = one_value(evaluations, "n"), evaluations["seed"].nunique()
    many = f"mean of {seeds} seeds with its standard deviation"
    return f"{n:,} images, {many if seeds > 1 else 'one seed'}"


def _cells(evaluations: pd.DataFrame, column: str) -> pd.DataFrame:
    """One row a cell, `place` being the column's value: by model, then by n."""
    scored = evaluations.assign(
        score=evaluations[one_value(evaluations, "metric")], place=evaluations[column]
    )
    known = scored["place"].notna() & scored["group"].notna()
    shown = scored[(scored["status"] == "ok") & known]
    if shown.empty:
        raise ValueError(f"no evaluation has both a score and {column!r}")
    rows = []
    keys = ["model", "experiment", "sampler", "group"]
    for (model, experiment, sampler, _), own in shown.groupby(keys, sort=False):
        mean, sd = spread([float(score) for score in own["score"]])
        middle, half = mean or 0.0, sd or 0.0
        rows.append(
            {
                "model": str(model),
                "experiment": str(experiment),
                "sampler": str(sampler),
                "group": int(own["group"].iloc[0]),
                "place": float(own["place"].median()),
                "score": middle,
                "sd": sd,
                "low": max(middle - half, middle / 10),
                "high": middle + half,
            }
        )
    frame = pd.DataFrame(rows)
    several = frame.duplicated(["model", "group"], keep=False)
    frame["label"] = [
        _label(row, several=bool(twin)) for row, twin in zip(rows, several, strict=True)
    ]
    return frame.sort_values(["model", "group"], kind="stable", ignore_index=True)


def _label(row: dict[str, Any], *, several: bool) -> str:
    label = f"n = {row['group']}"
    return f"{label}, {row['sampler']}" if several else label


def _crowned(cells: pd.DataFrame) -> pd.DataFrame:
    """The highest of the cells that share steps and n: its label speaks for all."""
    alike = cells.assign(text=cells["label"].str.partition(",")[0])
    highest = alike.sort_values("high").groupby(["place", "group"]).tail(1)
    counts = alike.groupby(["place", "group"])["label"].transform("size")
    shared = counts[highest.index] > 1
    return highest.assign(
        label=[
            text if many else label
            for text, label, many in zip(
                highest["text"], highest["label"], shared, strict=True
            )
        ]
    )


def _around(places: pd.Series) -> list[float]:
    """A log axis with room for the labels at both ends."""
    low, high = float(places.min()), float(places.max())
    room = max((high / low) ** 0.12, 1.2)
    return [low / room, high * room]


def _layers(
    labelled: pd.DataFrame,
    cells: pd.DataFrame,
    x: alt.X,
    score: str,
    names: Sequence[str],
    look: Look,
) -> AnyChart:
    models = list(dict.fromkeys(cells["model"]))
    known = [name for name in names if name in models]
    models = [*known, *(name for name in models if name not in known)]
    many = len(models) > 1
    y = score_axis(cells, f"{score}, lower is better")
    color = model_color(models, names, look, legend=many)
    base = alt.Chart(values(cells, *_COLUMNS)).encode(x=x, color=color)
    texts = alt.Chart(values(labelled, *_COLUMNS)).encode(
        x=x, y=alt.Y("high:Q"), text="label:N"
    )
    lines = base.mark_line(strokeWidth=1.5, opacity=0.6).encode(
        y=y, detail="sampler:N", order="group:Q"
    )
    layers = [
        lines,
        base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_point(filled=True, size=90, opacity=1).encode(y=y),
        # A ground of the paper's colour keeps lines out of the letters.
        texts.mark_text(dy=-13, fontSize=12, stroke=look.paper, strokeWidth=4),
        texts.mark_text(dy=-13, fontSize=12, color=look.ink),
    ]
    wide = look.panel(1) - (130 if many and not look.narrow else 0)
    chart: AnyChart = alt.layer(*layers).properties(width=wide, height=280)
    return chart


# Titles


def _name(row: Any, cells: pd.DataFrame) -> str:
    """What a title calls a cell."""
    alone = cells["model"].nunique() == 1
    return str(row["label"]) if alone else f"“{row['experiment']}”"


def _single(row: Any, cells: pd.DataFrame) -> Any:
    """The cell of one token a step of the same model; None without one."""
    same = cells[(cells["model"] == row["model"]) & (cells["group"] == 1)]
    return None if same.empty or row["group"] == 1 else same.iloc[0]


def _steps_title(cells: pd.DataFrame) -> str:
    """The fewest steps, and what becomes of the score."""
    few = cells.sort_values(["place", "score"]).iloc[0]
    one = _single(few, cells)
    name = _name(few, cells)
    if one is None:
        return f"{name} takes {few['place']:,.5g} steps and scores {few['score']:.3g}"
    steps = f"{few['place']:,.5g} steps instead of {one['place']:,.5g}"
    return f"{name} takes {steps}, {_verdict(few, one, _name(one, cells))}"


def _seconds_title(cells: pd.DataFrame) -> str:
    """The fastest cell beside its model's n = 1, and what becomes of the score."""
    fast = cells.sort_values(["place", "score"]).iloc[0]
    one, name = _single(fast, cells), _name(fast, cells)
    if one is None:
        many = len(cells) > 1
        lead = f"None is faster than {name} at batch 1" if many else f"{name}, batch 1"
        return f"{lead}: {_seconds(fast['place'])} an image"
    other = _name(one, cells)
    return (
        f"{name} takes {_seconds(fast['place'])} an image at batch 1, not "
        f"{_seconds(one['place'])} as {other}, {_verdict(fast, one, other)}"
    )


def _verdict(cell: Any, one: Any, other: str) -> str:
    sds = [None if pd.isna(row["sd"]) else float(row["sd"]) for row in (cell, one)]
    found = agreement(cell["score"], sds[0], one["score"], sds[1]).verdict
    numbers = f"{cell['score']:.3g} against {one['score']:.3g}"
    says = {
        MATCHES: f"and its score agrees with that of {other}",
        BETTER: f"and scores better than {other}",
        WORSE: f"but scores worse than {other}",
    }.get(found, f"and one seed cannot tell its score from that of {other}")
    return f"{says}: {numbers}"


def _seconds(value: float) -> str:
    return (
        f"{prose(value, '.3g')} s" if value >= 1 else f"{prose(1e3 * value, '.3g')} ms"
    )
