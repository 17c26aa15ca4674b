"""Charts of speed and of training."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from fewstep.plots.theme import (
    AnyChart,
    Look,
    log_ticks,
    one_value,
    prose,
    records,
    sampler_color,
    sampler_dash,
    sampler_shape,
    titled,
    values,
)
from fewstep.results.summary import sampler_order, spread
from fewstep.results.verdicts import agreement

_MOST_POINTS = 800


def timing_chart(timing: pd.DataFrame, *, look: Look | None = None) -> AnyChart:
    """Seconds an image against batch size for every sampler, and the speed-up.

    Args:
        timing: rows of the table `timing` of one experiment on one device with one
            number of threads.
        look: light or dark, wide or narrow.

    Raises:
        ValueError: for no rows, or rows that were not measured side by side.
    """
    look = look or Look()
    experiment = one_value(timing, "experiment")
    device, threads = one_value(timing, "device"), one_value(timing, "threads")
    names = sampler_order(timing["sampler"])
    compared = timing[
        timing["ratio"].notna() & (timing["sampler"] != timing["baseline"])
    ]
    panels = [_seconds_panel(timing, names, look, 1 if compared.empty else 2)]
    if not compared.empty:
        panels.append(_ratio_panel(compared, names, look))
    machine = timing["hardware"].dropna()
    where = machine.iloc[0] if len(machine) else device
    unit = "thread" if threads == 1 else "threads"
    repeats = int(timing["repeats"].min())
    subtitle = (
        f"{experiment} on {where}, {threads} {unit}: sampling alone, median of "
        f"{repeats} after warm-up; bars: interquartile range"
    )
    return titled(look.join(panels), _timing_title(compared), subtitle, look)


def _timing_title(compared: pd.DataFrame) -> str:
    """What the ratios say, the unwelcome part included."""
    if compared.empty:
        return "Seconds per image by batch size"
    best = compared.sort_values("ratio").iloc[-1]
    name, partner = best["sampler"], best["baseline"]
    ratio, batch = best["ratio"], best["batch"]
    if ratio <= 1:
        return f"No sampler is faster than “{partner}” at any batch measured"
    title = f"“{name}” is {ratio:.1f}× as fast as “{partner}” at batch {batch}"
    own = compared[compared["sampler"] == name]
    slower = sorted(int(b) for b in own.loc[own["ratio"] < 1, "batch"])
    if slower:
        title += f", slower at batch {', '.join(map(str, slower))}"
    return title


def _batch_axis(frame: pd.DataFrame) -> alt.X:
    batches = sorted(int(batch) for batch in frame["batch"].unique())
    return (
        alt.X("batch:Q", title="batch, images")
        .scale(type="log", base=2, domain=[batches[0] / 1.3, batches[-1] * 1.3])
        .axis(values=batches, format="d", grid=False)
    )


def _seconds_panel(
    timing: pd.DataFrame, names: list[str], look: Look, panels: int
) -> AnyChart:
    frame = timing.copy()
    half = frame["seconds_iqr"] / frame["batch"] / 2
    frame["low"] = (frame["seconds_per_image"] - half).clip(
        lower=frame["seconds_per_image"] / 10
    )
    frame["high"] = frame["seconds_per_image"] + half
    columns = ("sampler", "batch", "seconds_per_image", "low", "high")
    base = alt.Chart(values(frame, *columns)).encode(
        x=_batch_axis(frame),
        color=sampler_color(names, look, legend=panels == 1 or look.narrow),
    )
    domain = _decade_domain(frame["low"], frame["high"])
    y = (
        alt.Y("seconds_per_image:Q", title="seconds per image")
        .scale(type="log", domain=domain, nice=False)
        .axis(format="~g", values=log_ticks(*domain))
    )
    lines = base.mark_line(strokeWidth=2).encode(y=y, strokeDash=sampler_dash(names))
    points = base.mark_point(filled=True, size=60, opacity=1).encode(
        y=y, shape=sampler_shape(names, legend=panels == 1 or look.narrow)
    )
    bars = base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q"), y2="high:Q")
    panel: AnyChart = (lines + bars + points).properties(
        width=look.panel(panels), height=250
    )
    return panel


def _decade_domain(low: pd.Series, high: pd.Series) -> tuple[float, float]:
    """A little beyond the data, and never less than half a decade."""
    bottom, top = float(low.min()) / 1.15, float(high.max()) * 1.15
    widen = max(1.0, (3.2 / (top / bottom)) ** 0.5)
    return bottom / widen, top * widen


def _ratio_panel(compared: pd.DataFrame, names: list[str], look: Look) -> AnyChart:
    partner = " / ".join(sorted(compared["baseline"].unique()))
    ranks = compared.groupby("batch")["ratio"].rank(method="first")
    frame = compared.assign(below=ranks % 2 == 1)
    base = alt.Chart(values(frame, "sampler", "batch", "ratio", "below")).encode(
        x=_batch_axis(compared), color=sampler_color(names, look)
    )
    top = max(float(compared["ratio"].max()) * 1.2, 1.5)
    y = alt.Y("ratio:Q", title=f"speed-up over “{partner}”, ×").scale(domain=[0, top])
    one = alt.Chart(records([{"ratio": 1}])).mark_rule(
        color=look.ink, strokeDash=[4, 3]
    )
    lines = base.mark_line(strokeWidth=2).encode(y=y, strokeDash=sampler_dash(names))
    points = base.mark_point(filled=True, size=60, opacity=1).encode(
        y=y, shape=sampler_shape(names)
    )
    labels = []
    for below, dy in ((True, 15), (False, -13)):
        # At each batch the slowest one's digits go below its point, the next above.
        own = base.transform_filter(alt.datum.below == below).encode(
            y=y, text=alt.Text("ratio:Q", format=".2f"), color=alt.value(look.ink)
        )
        # A ground of the paper's colour keeps lines out of the digits.
        ground = own.mark_text(dy=dy, fontSize=11, stroke=look.paper, strokeWidth=4)
        labels += [ground, own.mark_text(dy=dy, fontSize=11)]
    panel: AnyChart = alt.layer(one.encode(y="ratio:Q"), lines, *labels, points)
    return panel.properties(width=look.panel(2), height=250)


def score_time_chart(
    evaluations: pd.DataFrame, *, look: Look | None = None
) -> AnyChart:
    """Score against seconds an image: every seed, and the mean with its spread.

    Args:
        evaluations: rows of the table `evaluations` of one experiment, one protocol
            and one n; failed rows and rows without a time are left out.
        look: light or dark, wide or narrow.

    Raises:
        ValueError: for rows that must not be compared, or none with a time.
    """
    look = look or Look()
    metric, n = one_value(evaluations, "metric"), one_value(evaluations, "n")
    one_value(evaluations, "protocol")
    experiment = one_value(evaluations, "experiment")
    extractor = one_value(evaluations, "extractor")
    shown = evaluations[
        (evaluations["status"] == "ok") & evaluations["seconds_per_image"].notna()
    ]
    frame = shown.assign(score=shown[metric], seconds=shown["seconds_per_image"])
    if frame.empty:
        raise ValueError("no evaluation has both a score and a time")
    names = sampler_order(frame["sampler"])
    means = _means(frame, names)
    domain = _decade_domain(frame["seconds"], frame["seconds"])
    score = "FID" if metric == "fid" else f"Fréchet distance ({extractor})"
    x = (
        alt.X("seconds:Q", title="seconds per image, sampling alone")
        .scale(type="log", domain=domain, nice=False)
        .axis(format="~g", values=log_ticks(*domain))
    )
    y = alt.Y("score:Q", title=f"{score}, lower is better").scale(
        domain=_score_domain(means, frame["score"]), zero=False
    )
    color, shape = sampler_color(names, look), sampler_shape(names)
    mean = alt.Chart(values(means, "sampler", "seconds", "score", "low", "high"))
    layers = [
        mean.mark_rule(strokeWidth=2).encode(
            x=x, y=alt.Y("low:Q"), y2="high:Q", color=color
        ),
        alt.Chart(values(frame, "sampler", "seconds", "score"))
        .mark_point(filled=False, size=60, opacity=1)
        .encode(x=x, y=y, color=color, shape=shape),
        mean.mark_point(filled=True, size=150, opacity=1).encode(
            x=x, y=y, color=color, shape=shape
        ),
    ]
    chart: AnyChart = alt.layer(*layers).properties(width=look.panel(1), height=270)
    seeds = frame["seed"].nunique()
    subtitle = (
        f"{experiment}: n = {n:,} images, {seeds} seed{'s' if seeds > 1 else ''}; "
        "open: one seed, full: mean with its standard deviation"
    )
    return titled(chart, _score_title(means), subtitle, look)


def _score_title(means: pd.DataFrame) -> str:
    """Who is fastest, and whether its score is that of the slowest."""
    ordered = means.sort_values("seconds")
    fast, slow = ordered.iloc[0], ordered.iloc[-1]
    if len(means) == 1:
        return f"“{fast['sampler']}”: score and time"
    found = agreement(fast["score"], fast["sd"], slow["score"], slow["sd"]).verdict
    says = {
        "matches": "and its score agrees with that of",
        "better": "and scores better than",
        "worse": "but scores worse than",
    }.get(found, "but one seed cannot tell its score from that of")
    return f"“{fast['sampler']}” is fastest, {says} “{slow['sampler']}”"


def _means(frame: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    rows = []
    for name in names:
        own = frame[frame["sampler"] == name]
        mean, sd = spread([float(score) for score in own["score"]])
        middle, half = mean or 0.0, sd or 0.0
        rows.append(
            {
                "sampler": name,
                "seconds": float(own["seconds"].median()),
                "score": middle,
                "low": middle - half,
                "high": middle + half,
                "sd": sd,
            }
        )
    return pd.DataFrame(rows).astype({"sd": object})


def _score_domain(means: pd.DataFrame, scores: pd.Series) -> list[float]:
    """At least ±10 % around the mean, so that noise does not look like a difference."""
    middle = float(means["score"].mean())
    low = min(float(scores.min()), float(means["low"].min()), middle * 0.9)
    high = max(float(scores.max()), float(means["high"].max()), middle * 1.1)
    margin = 0.06 * (high - low)
    return [low - margin, high + margin]


_CURVES = {
    "loss": ("loss", "training"),
    "validation_loss": ("loss", "held out"),
    "bpd": ("bits per dimension", "held out"),
}


def training_chart(training: pd.DataFrame, *, look: Look | None = None) -> AnyChart:
    """Loss, bits per dimension and scores of snapshots against the step.

    Args:
        training: rows of the table `training` of one experiment.
        look: light or dark, wide or narrow.

    Raises:
        ValueError: for no rows or several experiments.
    """
    look = look or Look()
    experiment = one_value(training, "experiment")
    frame = training.sort_values("step")
    rows = [
        {"step": int(step), "value": float(value), "panel": panel, "images": images}
        for column, (panel, images) in _CURVES.items()
        for step, value in _thinned(frame, column)
    ]
    rows += _scores_on_the_way(frame)
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    charts = [
        _curve_panel([row for row in rows if row["panel"] == panel], look, len(panels))
        for panel in panels
    ]
    last = frame.iloc[-1]
    minutes = float(last["seconds"]) / 60
    title = f"Loss {prose(last['loss'], '.3f')} after {int(last['step']):,} steps"
    bpd = frame["bpd"].dropna()
    if len(bpd):
        title += f", {float(bpd.iloc[-1]):.2f} bits per dimension"
    subtitle = f"{experiment}: {minutes:.1f} minutes of training"
    return titled(look.join(charts), title, subtitle, look)


def _scores_on_the_way(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Points of each snapshot score, one panel for each number of images."""
    scored = frame[frame["score"].notna()]
    names = {"fid": "FID", "frechet": "Fréchet distance"}
    return [
        {
            "step": int(row["step"]),
            "value": float(row["score"]),
            "panel": f"{names[row['score_metric']]}@{int(row['score_n']):,}",
            "images": "snapshot",
        }
        for row in scored.to_dict("records")
    ]


def _thinned(frame: pd.DataFrame, column: str) -> list[tuple[int, float]]:
    """Finite points of a curve, at most `_MOST_POINTS`, the last one among them."""
    known = frame[np.isfinite(frame[column].astype("float64"))]
    every = -(-len(known) // _MOST_POINTS) or 1
    kept = known.iloc[::-1].iloc[::every].iloc[::-1]
    return list(zip(kept["step"], kept[column], strict=True))


def _curve_panel(rows: list[dict[str, Any]], look: Look, panels: int) -> AnyChart:
    last = max(row["step"] for row in rows)
    colors = {"training": look.faint, "held out": look.accent, "snapshot": look.accent}
    shown = [name for name in colors if any(row["images"] == name for row in rows)]
    title = str(rows[0]["panel"])
    if len(shown) == 1 and shown != ["snapshot"]:
        title += f", {shown[0]} images"
    legend = alt.Legend(orient="top", titleOrient="left") if len(shown) > 1 else None
    chart: AnyChart = (
        alt.Chart(records(rows))
        .mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=12))
        .encode(
            x=alt.X("step:Q", title="optimizer step").axis(
                format=",d" if last < 100_000 else "~s", tickCount=5
            ),
            y=alt.Y("value:Q", title=title).scale(zero=False),
            color=alt.Color(
                "images:N",
                title="images",
                scale=alt.Scale(domain=shown, range=[colors[name] for name in shown]),
                legend=legend,
            ),
        )
        .properties(width=look.panel(panels), height=230)
    )
    return chart
