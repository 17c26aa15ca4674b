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

    def legend(self, names: Sequence[str]) -> alt.Legend:
        """The legend of these names; a phone has them in as many columns as fit."""
        if not self.narrow:
            return alt.Legend()
        longest = max((len(name) for name in names), default=1)
        columns = max(1, min(len(names), 42 // (longest + 5)))
        return alt.Legend(columns=columns)

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


def sampler_styles(names: Sequence[str]) -> list[Style]:
    """Styles of samplers that share a chart: no two alike while there are enough."""
    found = {name: _STYLES[name] for name in names if name in _STYLES}
    for name in names:
        if name not in found:
            start = _OTHERS.index(sampler_style(name))
            turned = [*_OTHERS[start:], *_OTHERS[:start], *_STYLES.values()]
            free = [style for style in turned if style not in found.values()]
            found[name] = (free or turned)[0]
    return [found[name] for name in names]


def model_styles(names: Sequence[str], among: Sequence[str] = ()) -> list[Style]:
    """Styles of models by their place in `among`, so that all charts of a page agree.

    Args:
        names: the models of the chart.
        among: the models of the page; by default those of the chart.
    """
    known = [*_STYLES.values(), *_OTHERS]
    places = list(dict.fromkeys([*among, *names]))
    return [known[places.index(name) % len(known)] for name in names]


def sampler_color(
    names: Sequence[str], look: Look, *, legend: bool = True
) -> alt.Color:
    """The colour channel for the field `sampler`."""
    return _color("sampler", names, sampler_styles(names), look, legend)


def model_color(
    names: Sequence[str], among: Sequence[str], look: Look, *, legend: bool = True
) -> alt.Color:
    """The colour channel for the field `model`."""
    return _color("model", names, model_styles(names, among), look, legend)


def _color(
    field: str, names: Sequence[str], styles: Sequence[Style], look: Look, legend: bool
) -> alt.Color:
    colors = [style.dark if look.dark else style.light for style in styles]
    return alt.Color(
        f"{field}:N",
        title=field,
        scale=alt.Scale(domain=list(names), range=colors),
        legend=look.legend(names) if legend else None,
    )


def sampler_shape(names: Sequence[str], *, legend: bool = True) -> alt.Shape:
    """The shape channel for the field `sampler`."""
    return _shape("sampler", names, sampler_styles(names), legend)


def model_shape(names: Sequence[str], among: Sequence[str]) -> alt.Shape:
    """The shape channel for the field `model`."""
    return _shape("model", names, model_styles(names, among), legend=True)


def _shape(
    field: str, names: Sequence[str], styles: Sequence[Style], legend: bool
) -> alt.Shape:
    shapes = [style.shape for style in styles]
    return alt.Shape(
        f"{field}:N",
        title=field,
        scale=alt.Scale(domain=list(names), range=shapes),
        legend=alt.Legend() if legend else None,
    )


def sampler_dash(names: Sequence[str]) -> alt.StrokeDash:
    """The dash channel for the field `sampler`; a legend would dash its symbols."""
    return _dash("sampler", names, sampler_styles(names))


def model_dash(names: Sequence[str], among: Sequence[str]) -> alt.StrokeDash:
    """The dash channel for the field `model`."""
    return _dash("model", names, model_styles(names, among))


def _dash(field: str, names: Sequence[str], styles: Sequence[Style]) -> alt.StrokeDash:
    dashes = [list(style.dash) or [1, 0] for style in styles]
    scale = alt.Scale(domain=list(names), range=dashes)
    return alt.StrokeDash(f"{field}:N", scale=scale, legend=None)


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
    """Lines of at most `width` characters, broken between words, not inside `n = 1`."""
    lines = [""]
    for word in re.split(r"(?<!=) (?!=)", text):
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
