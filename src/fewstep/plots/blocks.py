"""Charts of a flow's blocks: which is tough, which start is near, who converges."""

from __future__ import annotations

import altair as alt
import pandas as pd

from fewstep.plots.theme import (
    AnyChart,
    Look,
    log_ticks,
    one_value,
    prose,
    records,
    titled,
    values,
)

_ERROR_FLOOR = 1e-8
"""Errors below this are drawn here: a log axis has no zero, float32 no better."""
_SOURCES = {"data": "on real images", "sampling": "while sampling"}


def block_chart(
    blocks: pd.DataFrame, *, variant: str = "released", look: Look | None = None
) -> AnyChart:
    """CRM percent of every block, the tough ones in colour, and IGM by guess.

    Args:
        blocks: rows of the table `blocks` of one experiment.
        variant: the formula whose rows are drawn.
        look: light or dark, wide or narrow.

    Raises:
        ValueError: for no rows of that variant, or several experiments or norms.
    """
    look = look or Look()
    frame = blocks[blocks["variant"] == variant].sort_values("block")
    experiment, norm = one_value(frame, "experiment"), one_value(frame, "norm")
    tough = _tough_blocks(frame)
    share = frame.loc[frame["block"].isin(tough), "crm_percent"].sum()
    named = " and ".join(str(block) for block in tough)
    title = (
        f"Block {named} carries {share:.0f} % of the convergence ranking metric"
        if len(tough) == 1
        else f"Blocks {named} carry {share:.0f} % of the convergence ranking metric"
    )
    images = int(frame["num_mc"].iloc[0])
    subtitle = (
        f"{experiment}: {variant} formula, norm {norm}, {images:,} images. "
        "Coloured: tough. IGM: the lower bar is the nearer start."
    )
    guesses = frame["igm_z"].notna().any() and frame["igm_zeros"].notna().any()
    panels = [_crm_panel(frame, tough, look, panels=2 if guesses else 1)]
    if guesses:
        panels.append(_igm_panel(frame, look))
    return titled(look.join(panels), title, subtitle, look)


def _tough_blocks(frame: pd.DataFrame) -> list[int]:
    """The blocks marked tough, else the one with the largest CRM."""
    marked = frame.loc[frame["tough"].fillna(False).astype(bool), "block"]
    chosen = marked if len(marked) else frame.nlargest(1, "crm_percent")["block"]
    return sorted(int(block) for block in chosen)


def _crm_panel(
    frame: pd.DataFrame, tough: list[int], look: Look, panels: int
) -> AnyChart:
    rows = [
        {
            "block": int(block),
            "percent": percent,
            "color": look.accent if block in tough else look.faint,
        }
        for block, percent in zip(frame["block"], frame["crm_percent"], strict=True)
    ]
    base = alt.Chart(records(rows)).encode(
        x=alt.X("block:O", title="block (0: nearest to the image)").axis(labelAngle=0),
        y=alt.Y("percent:Q", title="CRM, % of the sum over blocks"),
    )
    bars = base.mark_bar().encode(color=alt.Color("color:N", scale=None))
    size = 10 if len(rows) > 6 else 12
    labels = base.mark_text(dy=-7, color=look.ink, fontSize=size).encode(
        text=alt.Text("percent:Q", format=".1f")
    )
    layers = alt.layer(bars, labels)
    return layers.properties(width=look.panel(panels), height=230)


def _igm_panel(frame: pd.DataFrame, look: Look) -> AnyChart:
    starts = {"z": "igm_z", "zeros": "igm_zeros"}
    rows = [
        {"block": int(row["block"]), "start": start, "igm": row[column]}
        for _, row in frame.iterrows()
        for start, column in starts.items()
        if pd.notna(row[column])
    ]
    domain = list(starts)
    colors = ["#a9b8d6", "#5f7399"] if look.dark else ["#22304f", "#9db4d9"]
    chart: AnyChart = (
        alt.Chart(records(rows))
        .mark_bar()
        .encode(
            x=alt.X("block:O", title="block").axis(labelAngle=0),
            xOffset=alt.XOffset("start:N", sort=domain),
            y=alt.Y("igm:Q", title="IGM, norm of the mean error, latent units"),
            color=alt.Color(
                "start:N",
                title="start",
                sort=domain,
                scale=alt.Scale(domain=domain, range=colors),
            ).legend(orient="top", titleOrient="left"),
        )
        .properties(width=look.panel(2), height=230)
    )
    return chart


def convergence_chart(
    convergence: pd.DataFrame,
    *,
    source: str | None = None,
    segments: int = 1,
    tolerance: float = 1e-3,
    look: Look | None = None,
) -> AnyChart:
    """Largest error against iteration, one line a block, one panel a start.

    Args:
        convergence: rows of the table `convergence` of one experiment.
        source: "sampling" or "data"; by default sampling where there are such rows.
        segments: the rows' number of segments; 1 is plain Jacobi.
        tolerance: drawn as a line; says which block is slowest.
        look: light or dark, wide or narrow.

    Raises:
        ValueError: for no such rows, or several experiments.
    """
    look = look or Look()
    source = source or _source(convergence)
    chosen = (convergence["source"] == source) & (convergence["segments"] == segments)
    frame = convergence[chosen].sort_values(["block", "iteration"])
    experiment = one_value(frame, "experiment")
    starts = sorted(frame["start"].unique(), key=_start_order)
    slowest = _slowest_block(frame, tolerance)
    drawn = frame[frame["error_max"] < float("inf")].assign(slow=slowest)
    drawn = drawn.assign(error=drawn["error_max"].clip(lower=_ERROR_FLOOR))
    panels = [
        _convergence_panel(
            drawn[drawn["start"] == start],
            drawn,
            start,
            tolerance,
            look,
        )
        for start in starts
    ]
    title = (
        f"Block {slowest} is the last to come within {prose(tolerance)} of the exact "
        "inverse"
    )
    images = int(frame["n"].iloc[0])
    subtitle = (
        f"{experiment}: Jacobi {_SOURCES.get(source, source)}, {images:,} images"
        + (f", {segments} segments" if segments > 1 else "")
        + f"; dashed: {prose(tolerance)}"
    )
    return titled(look.join(panels), title, subtitle, look)


def _source(convergence: pd.DataFrame) -> str:
    return "sampling" if (convergence["source"] == "sampling").any() else "data"


def _start_order(start: str) -> tuple[int, str]:
    known = ("z", "zeros", "mean")
    return (known.index(start) if start in known else len(known), start)


def _slowest_block(frame: pd.DataFrame, level: float) -> int:
    """The block that needs most iterations to `level` from its best start."""
    far = frame[~(frame["error_max"] <= level)]
    needed = far.groupby(["block", "start"])["iteration"].max()
    if needed.empty:
        return int(frame["block"].iloc[0])
    best = needed.groupby("block").min().sort_values(kind="stable")
    return int(best.index.to_list()[-1])


def _convergence_panel(
    own: pd.DataFrame, drawn: pd.DataFrame, start: str, tolerance: float, look: Look
) -> AnyChart:
    """One start's lines, on axes that fit all of `drawn`."""
    starts = sorted(drawn["start"].unique(), key=_start_order)
    blocks = sorted(int(block) for block in drawn["block"].unique())
    slow = int(drawn["slow"].iloc[0])
    own = own[~_rests_on_floor(own)]
    own = own.assign(width=[3.0 if block == slow else 1.6 for block in own["block"]])
    low, high = float(drawn["error"].min()) / 2, float(drawn["error"].max()) * 2
    x = alt.X("iteration:Q", title="Jacobi iterations").scale(
        domain=[0, int(drawn["iteration"].max())]
    )
    y = (
        alt.Y("error:Q", title="largest error, latent units")
        .scale(type="log", domain=[low, high], nice=False)
        .axis(
            format=".0e", values=log_ticks(low, high)[:: 2 if high / low > 1e6 else 1]
        )
    )
    colors = _block_colors(blocks, slow, look)
    lines = (
        alt.Chart(values(own, "block", "iteration", "error", "width"))
        .mark_line(point=alt.OverlayMarkDef(size=14))
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "block:O",
                title="block",
                scale=alt.Scale(domain=blocks, range=colors),
                legend=alt.Legend(columns=8 if look.narrow else 1, symbolSize=60)
                if start == starts[-1] or look.narrow
                else None,
            ),
            strokeWidth=alt.StrokeWidth("width:Q", scale=None),
        )
    )
    rule = (
        alt.Chart(records([{"error": tolerance}]))
        .mark_rule(color=look.ink, strokeDash=[4, 3])
        .encode(y="error:Q")
    )
    name = alt.TitleParams(f"start: {start}", fontSize=13, fontWeight="normal")
    return alt.layer(lines, rule).properties(
        width=look.panel(len(starts)), height=260, title=name
    )


def _rests_on_floor(own: pd.DataFrame) -> pd.Series:
    """Points that follow one on the floor: a line ends where it gets there."""
    floored = own["error"] <= _ERROR_FLOOR
    return floored & floored.groupby(own["block"]).shift(1, fill_value=False)


def _block_colors(blocks: list[int], slow: int, look: Look) -> list[str]:
    """Blues from light to dark by block, and the accent for the slow one."""
    low, high = (
        ((0x5F, 0x73, 0x99), (0xD5, 0xE0, 0xF5))
        if look.dark
        else ((0x9D, 0xB4, 0xD9), (0x22, 0x30, 0x4F))
    )
    steps = max(len(blocks) - 1, 1)
    colors = []
    for index, block in enumerate(blocks):
        mixed = [
            round(a + (b - a) * index / steps) for a, b in zip(low, high, strict=True)
        ]
        ramp = "#{:02x}{:02x}{:02x}".format(*mixed)
        colors.append(look.accent if block == slow else ramp)
    return colors
