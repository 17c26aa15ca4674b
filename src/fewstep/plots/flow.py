"""Charts of flows: score against network evaluations, and straightness."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from fewstep.plots.theme import (
    AnyChart,
    Look,
    log_ticks,
    model_color,
    model_dash,
    model_shape,
    one_value,
    prose,
    records,
    titled,
    values,
)
from fewstep.results.flows import WHOLE
from fewstep.results.summary import spread

ADAPTIVE = "rk45"
"""The solver that chooses its own steps: its evaluations are found, not given."""


def model_order(frame: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """The models of a frame: those of `names` in that order, then the others."""
    found = dict.fromkeys(str(name) for name in frame["experiment"])
    wanted = [name for name in names if name in found]
    return [*wanted, *(name for name in found if name not in wanted)]


# Score against evaluations


def score_nfe_chart(
    evaluations: pd.DataFrame,
    *,
    names: Sequence[str] = (),
    look: Look | None = None,
) -> AnyChart:
    """Score against network evaluations an image, one line a model and solver.

    Args:
        evaluations: rows of the table `evaluations` of several experiments with one
            metric, protocol and n; rows that failed or have no `nfe` are left out.
        names: the experiments of the page in order: each keeps its colour in all of
            its charts.
        look: light or dark, wide or narrow.

    Raises:
        ValueError: for rows that must not be compared, or none with evaluations.
    """
    look = look or Look()
    metric, n = one_value(evaluations, "metric"), one_value(evaluations, "n")
    one_value(evaluations, "protocol")
    extractor = one_value(evaluations, "extractor")
    scored = evaluations.assign(score=evaluations[metric])
    shown = scored[(scored["status"] == "ok") & scored["nfe"].notna()]
    if shown.empty:
        raise ValueError("no evaluation has both a score and a number of evaluations")
    models = model_order(shown, names)
    means = _means(shown)
    chart = _score_layers(means, models, names, score_name(metric, extractor), look)
    seeds = shown["seed"].nunique()
    subtitle = (
        f"n = {n:,} images, mean of {seeds} "
        f"seed{'s' if seeds > 1 else ''} with its standard deviation. {_legend(means)}"
    )
    return titled(chart, _score_title(means), subtitle, look)


def score_name(metric: str, extractor: str) -> str:
    """The score's proper name: FID for Inception features alone."""
    return "FID" if metric == "fid" else f"Fréchet distance ({extractor})"


def _means(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a model and sampler: mean score with its spread, mean evaluations."""
    rows = []
    for (model, sampler), own in frame.groupby(["experiment", "sampler"], sort=False):
        mean, sd = spread([float(score) for score in own["score"]])
        middle, half = mean or 0.0, sd or 0.0
        solver = own["solver"].iloc[0]
        rows.append(
            {
                "model": str(model),
                "sampler": str(sampler),
                "solver": "euler" if pd.isna(solver) else str(solver),
                "nfe": float(own["nfe"].mean()),
                "score": middle,
                "low": max(middle - half, middle / 10),
                "high": middle + half,
            }
        )
    return pd.DataFrame(rows).sort_values("nfe", kind="stable")


def _score_layers(
    means: pd.DataFrame, models: list[str], names: Sequence[str], score: str, look: Look
) -> AnyChart:
    low, high = float(means["nfe"].min()) / 1.25, float(means["nfe"].max()) * 1.25
    x = (
        alt.X("nfe:Q", title="network evaluations an image")
        .scale(type="log", base=2, domain=[low, high], nice=False)
        .axis(values=_doublings(low, high), format="~g")
    )
    y = score_axis(means, f"{score}, lower is better")
    columns = ("model", "sampler", "solver", "nfe", "score", "low", "high")
    fixed = means[means["solver"] != ADAPTIVE]
    base = alt.Chart(values(means, *columns)).encode(
        x=x, color=model_color(models, names, look)
    )
    lines = (
        alt.Chart(values(fixed, *columns))
        .mark_line(strokeWidth=2)
        .encode(
            x=x,
            y=y,
            color=model_color(models, names, look),
            strokeDash=model_dash(models, names),
            detail="solver:N",
        )
    )
    full = alt.datum.solver == "euler"
    points = base.encode(y=y, shape=model_shape(models, names))
    layers = [
        lines,
        base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q"), y2="high:Q"),
        points.transform_filter(full).mark_point(filled=True, size=75, opacity=1),
        # A ground of the paper's colour keeps lines out of the open marks.
        points.transform_filter(~full).mark_point(
            filled=False, size=85, opacity=1, strokeWidth=2, fill=look.paper
        ),
    ]
    chart: AnyChart = alt.layer(*layers).properties(
        width=look.panel(1) - (0 if look.narrow else 60), height=300
    )
    # Else Vega-Lite dashes the legend's symbols, whatever the channel's own legend is.
    apart: AnyChart = chart.resolve_legend(strokeDash="independent")
    return apart


def _doublings(low: float, high: float) -> list[float]:
    return [2.0**p for p in range(12) if low <= 2.0**p <= high]


def score_axis(means: pd.DataFrame, title: str) -> alt.Y:
    """Logarithmic where scores differ by more than a factor of four."""
    low, high = float(means["low"].min()), float(means["high"].max())
    axis = alt.Y("score:Q", title=title)
    if low > 0 and high / low > 4:
        low, high = low / 1.15, high * 1.15
        return axis.scale(type="log", domain=[low, high], nice=False).axis(
            format="~g", values=log_ticks(low, high)
        )
    margin = 0.08 * (high - low) or abs(high) * 0.1 or 1.0
    return axis.scale(domain=[low - margin, high + margin], zero=False)


def _legend(means: pd.DataFrame) -> str:
    """What the marks mean, of those that are there."""
    solvers = set(means["solver"])
    said = ["full: Euler"] if "euler" in solvers else []
    heun = sorted(name for name in solvers if name.startswith("heun"))
    said += [f"open, joined: {' and '.join(heun)}"] if heun else []
    said += ["open, alone: RK45"] if ADAPTIVE in solvers else []
    words = "; ".join(said)
    return words[:1].upper() + words[1:]


def _score_title(means: pd.DataFrame) -> str:
    """The fewest evaluations that models share, and who is best and worst there."""
    fixed = means[means["solver"] != ADAPTIVE]
    shared = fixed.groupby("nfe")["model"].nunique()
    shared = shared[shared > 1]
    if shared.empty:
        best = means.sort_values("score").iloc[0]
        return (
            f"“{best['model']}” scores {prose(best['score'], '.1f')} with "
            f"{_count(best['nfe'])}"
        )
    nfe = float(shared.index.min())
    own = fixed[fixed["nfe"] == nfe].sort_values("score")
    own = own.drop_duplicates("model")
    best, worst = own.iloc[0], own.iloc[-1]
    return (
        f"With {_count(nfe)} “{best['model']}” scores {prose(best['score'], '.1f')}, "
        f"“{worst['model']}” {prose(worst['score'], '.1f')}"
    )


def _count(nfe: float) -> str:
    return f"{nfe:.3g} evaluation{'' if nfe == 1 else 's'}"


# Straightness


def straightness_chart(
    straightness: pd.DataFrame,
    *,
    names: Sequence[str] = (),
    look: Look | None = None,
) -> AnyChart:
    """Straightness of models as bars, and within segments over time as lines.

    Args:
        straightness: rows of the table `straightness`, one sampler an experiment.
        names: the experiments of the page in order: each keeps its colour in all of
            its charts.
        look: light or dark, wide or narrow.

    Raises:
        ValueError: for no rows, several samplers of one experiment, or none that says
            how straight a whole path is.
    """
    look = look or Look()
    models = model_order(straightness, names)
    for model in models:
        one_value(straightness[straightness["experiment"] == model], "sampler")
    frame = straightness.assign(model=straightness["experiment"])
    whole = frame[frame["point"] == WHOLE]
    if whole.empty:
        raise ValueError("no row says how straight a whole path is")
    steps = frame[frame["point"] != WHOLE]
    panels = [_bar_panel(whole, models, names, look)]
    if not steps.empty:
        panels.append(_time_panel(steps, models, names, look))
    paths = int(whole["n"].min())
    solvers = ", ".join(dict.fromkeys(f"“{name}”" for name in whole["sampler"]))
    subtitle = (
        f"Measured along {solvers}, {paths:,} samples. 0: straight and evenly "
        "fast. Light bar: the whole path; full bar: within segments"
    )
    return titled(look.join(panels), _straight_title(whole), subtitle, look)


def _straight_title(whole: pd.DataFrame) -> str:
    ordered = whole.sort_values("seq_straightness")
    best, worst = ordered.iloc[0], ordered.iloc[-1]
    value = prose(best["seq_straightness"], ".3g")
    if len(ordered) == 1:
        return f"“{best['model']}”: {value} from straight within its segments"
    other = prose(worst["seq_straightness"], ".3g")
    return (
        f"Within its segments “{best['model']}” is the straightest: {value} against "
        f"{other} of “{worst['model']}”"
    )


_KINDS = {"straightness": "whole path", "seq_straightness": "within segments"}


def _bar_panel(
    whole: pd.DataFrame, models: list[str], names: Sequence[str], look: Look
) -> AnyChart:
    rows = [
        {"model": row["model"], "kind": words, "value": float(row[column])}
        for row in whole.to_dict("records")
        for column, words in _KINDS.items()
    ]
    top = max(row["value"] for row in rows) or 1.0
    base = alt.Chart(records(rows)).encode(
        y=alt.Y("model:N", title=None, sort=models).axis(
            labelLimit=130 if look.narrow else 150, ticks=False, domain=False
        ),
        yOffset=alt.YOffset("kind:N", sort=list(_KINDS.values())),
        x=alt.X("value:Q", title="straightness, lower is straighter").scale(
            domain=[0, top * 1.2]
        ),
    )
    bars = base.mark_bar().encode(
        color=model_color(models, names, look, legend=False),
        opacity=alt.Opacity(
            "kind:N",
            scale=alt.Scale(domain=list(_KINDS.values()), range=[0.4, 1]),
            legend=None,
        ),
    )
    labels = base.mark_text(align="left", dx=4, color=look.ink, fontSize=11).encode(
        text=alt.Text("value:Q", format=".3~g")
    )
    width = look.panel(2) - (65 if look.narrow else 40)
    panel: AnyChart = alt.layer(bars, labels).properties(
        width=width, height=max(120, 46 * len(models))
    )
    return panel


def _time_panel(
    steps: pd.DataFrame, models: list[str], names: Sequence[str], look: Look
) -> AnyChart:
    """Each step's value at the middle of its time."""
    frame = steps.assign(middle=steps["t"] - steps["dt"] / 2)
    base = alt.Chart(values(frame, "model", "middle", "seq_straightness")).encode(
        x=alt.X("middle:Q", title="time: 1 noise, 0 data").scale(
            domain=[1, 0], nice=False
        ),
        y=alt.Y("seq_straightness:Q", title="within segments, at that time"),
        color=model_color(models, names, look, legend=False),
    )
    lines = base.mark_line(strokeWidth=2).encode(strokeDash=model_dash(models, names))
    points = base.mark_point(filled=True, size=16, opacity=1)
    panel: AnyChart = alt.layer(lines, points).properties(
        width=look.panel(2) - (65 if look.narrow else 20),
        height=max(200, 46 * len(models)),
    )
    return panel
