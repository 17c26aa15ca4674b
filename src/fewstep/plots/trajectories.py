"""Trajectories: single pixels on their way from noise to image, by solver."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewstep.plots.flow import model_order
from fewstep.plots.theme import (
    AnyChart,
    Look,
    one_value,
    prose,
    records,
    titled,
    values,
)
from fewstep.results.flows import edges_of


def trajectory_chart(
    trajectories: pd.DataFrame,
    *,
    names: Sequence[str] = (),
    coarse: str | None = None,
    sample: int = 0,
    pixels: int = 5,
    look: Look | None = None,
) -> AnyChart:
    """Pixel values against time, one panel a model: fine solver, coarse, straight line.

    The fine solver is the sampler with the most states. Beside it stand a coarse one
    and the straight lines from edge to edge of the model's segments, which a flow that
    needs one step a segment would follow.

    Args:
        trajectories: rows of the table `trajectories`.
        names: the experiments in order; at most six are legible.
        coarse: the sampler beside the fine one; by default the one with the fewest
            states that most models have.
        sample: the sample that is drawn.
        pixels: so many lines, of the pixels that bend most over all models.
        look: light or dark, wide or narrow.

    Raises:
        ValueError: for no rows of that sample.
    """
    look = look or Look()
    frame = trajectories[trajectories["sample"] == sample]
    if frame.empty:
        raise ValueError(f"no trajectory of sample {sample}")
    models = model_order(frame, names)
    own = {model: frame[frame["experiment"] == model] for model in models}
    fine = {model: _finest(rows) for model, rows in own.items()}
    bends = {model: _bends(own[model], fine[model]) for model in models}
    chosen = _most_bent(bends, pixels)
    coarse = coarse or _coarse(own, fine)
    panels = [
        _panel(own[model], fine[model], coarse, chosen, look, columns=_columns(models))
        for model in models
    ]
    fines = ", ".join(dict.fromkeys(f"“{name}”" for name in fine.values()))
    subtitle = (
        f"Sample {sample}, {len(chosen)} of "
        f"{frame['pixel'].nunique()} pixels, those that bend most. Dark: {fines}"
        + (f"; coloured: “{coarse}”" if coarse else "")
        + "; dotted: straight lines between the segments' edges"
    )
    # A path with no state between two edges is straight there whatever the flow is.
    curved = {m: bends[m] for m in models if _has_inner_states(own[m], fine[m])}
    return titled(_grid(panels, look), _title(curved or bends), subtitle, look)


def _has_inner_states(rows: pd.DataFrame, sampler: str) -> bool:
    states = rows[rows["sampler"] == sampler]["point"].nunique()
    return bool(states > len(_edges(rows)))


def _columns(models: Sequence[str]) -> int:
    return min(2, len(models))


def _grid(panels: Sequence[AnyChart], look: Look) -> AnyChart:
    """Two panels a row, one on a phone."""
    if look.narrow or len(panels) <= 2:
        return look.join(panels)
    rows = [look.join(panels[i : i + 2]) for i in range(0, len(panels), 2)]
    joined: AnyChart = alt.vconcat(*rows, spacing=22)
    return joined


def _finest(rows: pd.DataFrame) -> str:
    counts = rows.groupby("sampler", sort=True)["point"].nunique()
    return str(counts.idxmax())


def _coarse(own: dict[str, pd.DataFrame], fine: dict[str, str]) -> str | None:
    """The sampler of most models, of those the one with the fewest states."""
    found: dict[str, list[int]] = {}
    for model, rows in own.items():
        for name, count in rows.groupby("sampler")["point"].nunique().items():
            if name != fine[model]:
                found.setdefault(str(name), []).append(int(count))
    ranked = sorted(found, key=lambda name: (-len(found[name]), min(found[name]), name))
    return ranked[0] if ranked else None


def _path(
    rows: pd.DataFrame, sampler: str, pixel: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times, from 0 to 1, and values of one pixel."""
    own = rows[(rows["sampler"] == sampler) & (rows["pixel"] == pixel)]
    own = own.sort_values("t")
    return own["t"].to_numpy(np.float64), own["value"].to_numpy(np.float64)


def _edges(rows: pd.DataFrame) -> list[float]:
    return edges_of(one_value(rows, "edges"))


def _bends(rows: pd.DataFrame, sampler: str) -> dict[int, float]:
    """By pixel, how far its path leaves the straight lines between the edges."""
    edges = sorted(_edges(rows))
    found = {}
    for pixel in sorted(set(rows["pixel"])):
        times, path = _path(rows, sampler, pixel)
        straight = np.interp(times, edges, np.interp(edges, times, path))
        found[int(pixel)] = float(np.abs(path - straight).max())
    return found


def _most_bent(bends: dict[str, dict[int, float]], count: int) -> list[int]:
    """The pixels with the largest sum over models."""
    total: dict[int, float] = {}
    for by_pixel in bends.values():
        for pixel, bend in by_pixel.items():
            total[pixel] = total.get(pixel, 0.0) + bend
    return sorted(sorted(total, key=lambda pixel: (-total[pixel], pixel))[:count])


def _title(bends: dict[str, dict[int, float]]) -> str:
    means = {name: float(np.mean(list(by.values()))) for name, by in bends.items()}
    best, worst = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    if best == worst:
        return (
            f"Pixels of “{best}” leave the straight line by "
            f"{prose(means[best], '.2g')} on average"
        )
    return (
        f"Pixels of “{best}” leave the straight line by {prose(means[best], '.2g')} "
        f"on average, those of “{worst}” by {prose(means[worst], '.2g')}"
    )


def _panel(
    rows: pd.DataFrame,
    fine: str,
    coarse: str | None,
    chosen: Sequence[int],
    look: Look,
    columns: int,
) -> AnyChart:
    own = rows[rows["pixel"].isin(chosen)]
    x = alt.X("t:Q", title="time: 1 noise, 0 data").scale(domain=[1, 0], nice=False)
    y = alt.Y("value:Q", title="pixel, model units").scale(zero=False)
    edges = _edges(rows)
    layers: list[AnyChart] = []
    if len(edges) > 2:
        inner = records([{"t": edge} for edge in edges[1:-1]])
        layers.append(alt.Chart(inner).mark_rule(color=look.faint).encode(x=x))
    layers += [
        _lines(_chords(own, fine, edges, chosen), look.ink, x, y, dash=[1, 4]),
        _lines(_drawn(own, fine), look.ink, x, y),
    ]
    if coarse is not None and (own["sampler"] == coarse).any():
        layers.append(
            _lines(_drawn(own, coarse), look.accent, x, y, points=True, width=1.4)
        )
    name = alt.TitleParams(
        str(one_value(rows, "experiment")), fontSize=13, fontWeight="normal"
    )
    panel: AnyChart = alt.layer(*layers).properties(
        width=look.panel(columns), height=210, title=name
    )
    return panel


def _drawn(own: pd.DataFrame, sampler: str) -> alt.InlineData:
    return values(own[own["sampler"] == sampler].round(4), "t", "value", "pixel")


def _chords(
    own: pd.DataFrame, fine: str, edges: Sequence[float], chosen: Sequence[int]
) -> alt.InlineData:
    return records(
        {"t": edge, "value": round(float(np.interp(edge, times, path)), 4), "pixel": p}
        for p in chosen
        for times, path in [_path(own, fine, p)]
        for edge in edges
    )


def _lines(
    data: alt.InlineData,
    color: str,
    x: alt.X,
    y: alt.Y,
    *,
    dash: Sequence[int] = (),
    points: bool = False,
    width: float = 1.6,
) -> AnyChart:
    mark = alt.MarkDef(
        "line",
        color=color,
        strokeWidth=width,
        strokeDash=list(dash) or [1, 0],
        point=alt.OverlayMarkDef(size=26, color=color) if points else False,
    )
    chart: AnyChart = alt.Chart(data, mark=mark).encode(x=x, y=y, detail="pixel:N")
    return chart
