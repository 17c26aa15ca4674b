"""How every chart looks: one palette, light and dark, wide and narrow; PNG files."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import vl_convert
from PIL import Image

from fewstep.files import write_bytes

AnyChart = (
    alt.Chart | alt.LayerChart | alt.FacetChart | alt.HConcatChart | alt.VConcatChart
)

FONT = "Liberation Sans, Arial, Helvetica, DejaVu Sans, sans-serif"
_VEGA_LITE = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
_SCALE = 2.0


@dataclass(frozen=True)
class Look:
    """A rendering of a chart.

    Args:
        dark: light ink on a dark ground.
        narrow: for a phone: panels stand below each other.
    """

    dark: bool = False
    narrow: bool = False

    @property
    def paper(self) -> str:
        """The ground's colour."""
        return "#1b1e24" if self.dark else "#ffffff"

    @property
    def ink(self) -> str:
        """The text's colour."""
        return "#e6e8ec" if self.dark else "#1d2129"

    @property
    def faint(self) -> str:
        """The colour of what stands back: bars that are not the point, rules."""
        return "#5a6270" if self.dark else "#b4bac5"

    @property
    def grid(self) -> str:
        """The grid's colour."""
        return "#31363f" if self.dark else "#e6e9ee"

    @property
    def accent(self) -> str:
        """The colour of what a chart points out."""
        return "#f08a6c" if self.dark else "#b5452c"

    def panel(self, panels: int) -> int:
        """Width of one of `panels` plot areas in CSS pixels."""
        if self.narrow:
            return 270
        return (690 - 85 * panels) // panels

    def join(self, charts: Sequence[Any]) -> AnyChart:
        """Panels side by side, or below each other when narrow."""
        if len(charts) == 1:
            only: AnyChart = charts[0]
            return only
        joined: AnyChart = (
            alt.vconcat(*charts, spacing=28)
            if self.narrow
            else alt.hconcat(*charts, spacing=32)
        )
        # Each legend stays beside the panel that it explains.
        apart: AnyChart = joined.resolve_scale(color="independent", shape="independent")
        return apart


@dataclass(frozen=True)
class Style:
    """How one sampler is drawn. Colours also differ in lightness, for grey print."""

    light: str
    dark: str
    shape: str
    dash: tuple[int, ...]


_STYLES = {
    "for": Style("#22304f", "#a9b8d6", "circle", ()),
    "gsj": Style("#a63c24", "#f08a6c", "square", (7, 3)),
    "auto": Style("#22a884", "#4fd1ab", "triangle-up", (2, 2)),
}
_OTHERS = (
    Style("#6a3d9a", "#b79be0", "diamond", (9, 3, 2, 3)),
    Style("#a6761d", "#dbb565", "cross", (5, 5)),
    Style("#c2408f", "#ef9bcb", "triangle-down", (3, 5)),
    Style("#4a7fb5", "#8fbbe6", "triangle-right", (12, 4)),
)


def sampler_style(name: str) -> Style:
    """A sampler's style, the same in every chart and every run."""
    if name in _STYLES:
        return _STYLES[name]
    # A sum of code points is a hash that does not change from process to process.
    return _OTHERS[sum(map(ord, name)) % len(_OTHERS)]


def sampler_color(
    names: Sequence[str], look: Look, *, legend: bool = True
) -> alt.Color:
    """The colour channel for the field `sampler`."""
    styles = [sampler_style(name) for name in names]
    colors = [style.dark if look.dark else style.light for style in styles]
    return alt.Color(
        "sampler:N",
        title="sampler",
        scale=alt.Scale(domain=names, range=colors),
        legend=alt.Legend() if legend else None,
    )


def sampler_shape(names: Sequence[str], *, legend: bool = True) -> alt.Shape:
    """The shape channel for the field `sampler`."""
    return alt.Shape(
        "sampler:N",
        title="sampler",
        scale=alt.Scale(
            domain=names, range=[sampler_style(name).shape for name in names]
        ),
        legend=alt.Legend() if legend else None,
    )


def sampler_dash(names: Sequence[str]) -> alt.StrokeDash:
    """The dash channel for the field `sampler`; a legend would dash its symbols."""
    dashes = [list(sampler_style(name).dash) or [1, 0] for name in names]
    return alt.StrokeDash(
        "sampler:N", scale=alt.Scale(domain=names, range=dashes), legend=None
    )


def values(frame: pd.DataFrame, *columns: str) -> alt.InlineData:
    """A frame's columns as the chart's own data; null where a value is missing."""
    return records(
        {
            name: None if pd.isna(value) else value
            for name, value in zip(columns, row, strict=True)
        }
        for row in frame[list(columns)].astype(object).itertuples(index=False)
    )


def records(rows: Iterable[Mapping[str, Any]]) -> alt.InlineData:
    """Rows as the chart's own data."""
    return alt.InlineData(values=[dict(row) for row in rows])


def one_value(frame: pd.DataFrame, column: str) -> Any:
    """The single value of a column.

    Raises:
        ValueError: for an empty frame or several values: such rows share no chart.
    """
    found = frame[column].drop_duplicates().tolist()
    if len(found) != 1:
        raise ValueError(f"a chart shows one {column!r}, not {found}")
    return found[0]


def titled(chart: AnyChart, title: str, subtitle: str, look: Look) -> AnyChart:
    """The chart under a title that says what one sees, wrapped to its width."""
    params = alt.TitleParams(
        text=_wrap(title, 38 if look.narrow else 80),
        subtitle=_wrap(subtitle, 52 if look.narrow else 106),
        anchor="start",
    )
    named: AnyChart = chart.properties(title=params)
    return named


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers inside [low, high], fewer of a decade the wider the range is."""
    span = high / low
    steps: tuple[float, ...] = (1,) if span > 200 else (1, 2, 5)
    if span < 6:
        steps = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    return [tick for tick in ticks if low <= tick <= high]


def prose(number: float, spec: str = "g") -> str:
    """A number for a title: a true minus sign, no padded exponent."""
    return re.sub(r"e([+-])0+", r"e\1", f"{number:{spec}}").replace("-", "−")


def _wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` characters, broken between words."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if len(longer) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def png_bytes(chart: AnyChart, look: Look | None = None) -> bytes:
    """The chart as a PNG with 256 colours at twice its size; no network, no browser.

    `look` is the one that the chart was made with.
    """
    raw = vl_convert.vegalite_to_png(
        # The tests validate; here it would take half of the time.
        chart.to_dict(validate=False),
        vl_version=_VEGA_LITE,
        scale=_SCALE,
        config=_config(look or Look()),
        allowed_base_urls=[],
    )
    picture = Image.open(io.BytesIO(raw)).convert("RGB")
    # A chart has few colours: the palette makes the file a third as big.
    small = picture.quantize(256, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def save_png(chart: AnyChart, path: str | Path, look: Look | None = None) -> None:
    """Write the chart as a PNG, whole or not at all."""
    write_bytes(path, png_bytes(chart, look))


def _config(look: Look) -> dict[str, Any]:
    """Vega-Lite's configuration for a look."""
    labels = {"labelColor": look.ink, "titleColor": look.ink}
    return {
        "background": look.paper,
        "padding": 10,
        "font": FONT,
        "view": {"stroke": None},
        "title": {
            "color": look.ink,
            "subtitleColor": look.ink,
            "fontSize": 15,
            "subtitleFontSize": 12,
            "subtitlePadding": 5,
            "lineHeight": 19,
            "subtitleLineHeight": 16,
            "offset": 12,
        },
        "axis": {
            **labels,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "titlePadding": 8,
            "gridColor": look.grid,
            "domainColor": look.faint,
            "tickColor": look.faint,
            "labelOverlap": True,
        },
        "legend": {
            **labels,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "symbolStrokeWidth": 2,
            # Beside the plot it would make the picture wider than a phone.
            **(
                {"orient": "top", "titleOrient": "left", "columnPadding": 7}
                if look.narrow
                else {}
            ),
        },
        "text": {"color": look.ink, "fontSize": 12},
    }
