"""Score against time and against steps, of all samplers that may be compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import altair as alt
import pandas as pd

from fewstep.plots.flow import model_order, score_axis, score_name
from fewstep.plots.theme import (
    AnyChart,
    Look,
    log_ticks,
    model_color,
    model_shape,
    one_value,
    prose,
    titled,
    values,
)
from fewstep.results.summary import spread
from fewstep.results.verdicts import MATCHES, agreement

Cost = Literal["seconds", "steps"]

_AXES = {"seconds": "seconds an image", "steps": "network calls, one after another"}
_COLUMNS = ("model", "sampler", "cost", "score", "low", "high")
_LABELLED = 9
"""Points up to which each has its sampler's name: more names would overlap."""
_SAME_PLACE = 1.15
"""Costs nearer than this factor are one place on the axis."""


def score_cost_chart(
    evaluations: pd.DataFrame,
    cost: Cost,
    *,
    names: Sequence[str] = (),
    look: Look | None = None,
) -> AnyChart:
    """Score against what an image costs, one point a sampler, a colour a model.

    Args:
        evaluations: rows of the table `evaluations` with one metric, protocol and n;
            for seconds also one batch, device and number of threads. Rows that failed
            or have no such cost are left out.
        cost: "seconds" of an image in a batch, or "steps": network calls that follow
            each other, of flows the evaluations of an image.
        names: the experiments of the page in order: each keeps its colour.
        look: light or dark, wide or narrow.

    Raises:
        ValueError: for rows that must not be compared, or none with a cost.
    """
    look = look or Look()
    score = score_name(
        one_value(evaluations, "metric"), one_value(evaluations, "extractor")
    )
    one_value(evaluations, "protocol")
    means = score_costs(evaluations, cost)
    if means.empty:
        raise ValueError(f"no evaluation has both a score and {cost}")
    models = model_order(means.assign(experiment=means["model"]), names)
    chart = _layers(means, models, cost, f"{score}, lower is better", names, look)
    return titled(chart, _title(means, cost), _subtitle(evaluations, cost), look)


def score_costs(evaluations: pd.DataFrame, cost: Cost) -> pd.DataFrame:
    """One row a sampler: `model`, `sampler`, `cost`, `score`, `sd`, `low`, `high`."""
    metric = one_value(evaluations, "metric")
    found = evaluations["seconds_per_image"]
    if cost == "steps":
        found = evaluations["nfe"].fillna(evaluations["steps"])
    rated = evaluations.assign(cost=found.astype("float64"))
    shown = rated[(rated["status"] == "ok") & rated["cost"].notna()]
    rows = []
    for (model, sampler), own in shown.groupby(["experiment", "sampler"], sort=False):
        mean, sd = spread([float(score) for score in own[metric]])
        middle, half = mean or 0.0, sd or 0.0
        rows.append(
            {
                "model": str(model),
                "sampler": str(sampler),
                "cost": float(own["cost"].median()),
                "score": middle,
                "sd": sd,
                "low": max(middle - half, middle / 10),
                "high": middle + half,
            }
        )
    frame = pd.DataFrame(rows, columns=[*_COLUMNS, "sd"])
    return frame.sort_values(["model", "cost"], kind="stable", ignore_index=True)


def _layers(
    means: pd.DataFrame,
    models: list[str],
    cost: Cost,
    score: str,
    names: Sequence[str],
    look: Look,
) -> AnyChart:
    low, high = float(means["cost"].min()), float(means["cost"].max())
    room = max((high / low) ** 0.1, 1.25)
    domain = [low / room, high * room]
    x = (
        alt.X("cost:Q", title=_AXES[cost])
        .scale(type="log", domain=domain, nice=False)
        .axis(values=log_ticks(*domain), format="~g")
    )
    y = score_axis(means, score)
    many = len(models) > 1
    color = model_color(models, names, look, legend=many)
    base = alt.Chart(values(means, *_COLUMNS)).encode(x=x, color=color)
    points = base.encode(y=y, shape=model_shape(models, names) if many else alt.Shape())
    layers = [
        base.mark_line(strokeWidth=1.5, strokeOpacity=0.5).encode(y=y, order="cost:Q"),
        base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q"), y2="high:Q"),
        points.mark_point(filled=True, size=85, opacity=1),
    ]
    if len(means) <= _LABELLED:
        named = alt.Chart(values(_named(means), *_COLUMNS)).encode(x=x)
        texts = named.encode(y=alt.Y("high:Q"), text="sampler:N")
        # A ground of the paper's colour keeps lines out of the letters.
        layers += [
            texts.mark_text(dy=-12, fontSize=11, stroke=look.paper, strokeWidth=4),
            texts.mark_text(dy=-12, fontSize=11, color=look.ink),
        ]
    wide = look.panel(1) - (130 if many and not look.narrow else 0)
    chart: AnyChart = alt.layer(*layers).properties(width=wide, height=300)
    return chart


def _named(means: pd.DataFrame) -> pd.DataFrame:
    """One label for samplers of a model whose points lie on each other."""
    near = means["cost"] / means.groupby("model")["cost"].shift() < _SAME_PLACE
    place = (~near).cumsum()
    together = means.groupby(place)["sampler"].agg(", ".join)
    highest = means.sort_values("high").groupby(place.reindex(means.index)).tail(1)
    return highest.assign(sampler=[together[place[i]] for i in highest.index])


def _title(means: pd.DataFrame, cost: Cost) -> str:
    """The cheapest, and what as good a score as the best one costs.

    No ratio of times: these were measured in several jobs.
    """
    cheap, good = means.sort_values(["cost", "score"]).iloc[0], _cheapest_good(means)
    name, other = (f"“{row['model']} {row['sampler']}”" for row in (cheap, good))
    word = "is fastest" if cost == "seconds" else "needs the fewest calls"
    if name == other:
        return f"{name} {word}, and no score is better beyond the spread"
    first, second = (_amount(float(row["cost"]), cost) for row in (cheap, good))
    return (
        f"{name} {word}, {first}, and scores {cheap['score']:.3g}; "
        f"{other} takes {second} and scores {good['score']:.3g}"
    )


def _cheapest_good(means: pd.DataFrame) -> pd.Series:
    """The cheapest of those whose score agrees with the best."""
    ordered = means.sort_values(["score", "cost"])
    best, good = ordered.iloc[0], [ordered.index[0]]
    for index, row in ordered.iloc[1:].iterrows():
        sds = [None if pd.isna(one["sd"]) else float(one["sd"]) for one in (row, best)]
        found = agreement(row["score"], sds[0], best["score"], sds[1])
        good += [index] if found.verdict == MATCHES else []
    return means.loc[good].sort_values("cost").iloc[0]


def _amount(value: float, cost: Cost) -> str:
    if cost == "steps":
        return prose(value, ".4g")
    return f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def _subtitle(evaluations: pd.DataFrame, cost: Cost) -> str:
    n, seeds = one_value(evaluations, "n"), evaluations["seed"].nunique()
    said = f"n = {n:,} images, mean of {seeds} seed{'s' if seeds > 1 else ''}"
    said += " with its standard deviation" if seeds > 1 else ""
    if cost == "steps":
        return f"{said}. Lines join the samplers of one model"
    batch = one_value(evaluations, "timing_batch")
    machine = evaluations["hardware"].fillna(evaluations["device"]).iloc[0]
    return f"{said}. Sampling alone at batch {int(batch)} on {machine}"
