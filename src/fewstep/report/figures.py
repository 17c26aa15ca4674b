"""The report's pictures: charts in four looks and PNG files, as data in the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image

from fewstep.errors import UserError
from fewstep.plots import (
    AnyChart,
    Look,
    block_chart,
    convergence_chart,
    png_bytes,
    score_time_chart,
    timing_chart,
    training_chart,
)

_LOOKS = {
    "wide": Look(),
    "wide_dark": Look(dark=True),
    "narrow": Look(narrow=True),
    "narrow_dark": Look(narrow=True, dark=True),
}


@dataclass(frozen=True)
class Figure:
    """A picture in the page.

    Args:
        caption: name of its caption file, or the caption itself.
        sources: data addresses by look; a plain picture has only "wide".
        width: CSS pixels of the wide look.
        height: the same.
        alt: what a reader who cannot see it should know.
        sampler: the sampler that it shows, if one.
    """

    caption: str
    sources: dict[str, str]
    width: int
    height: int
    alt: str
    sampler: str = ""


def chart_figure(caption: str, draw: Callable[[Look], AnyChart]) -> Figure:
    """A chart drawn in all four looks: wide and narrow, light and dark."""
    drawn = {name: draw(look) for name, look in _LOOKS.items()}
    pictures = {name: png_bytes(drawn[name], look) for name, look in _LOOKS.items()}
    width, height = _size(pictures["wide"])
    title = drawn["wide"].to_dict(validate=False)["title"]["text"]
    return Figure(
        caption=caption,
        sources={name: _data(png) for name, png in pictures.items()},
        # Charts are drawn at twice their size.
        width=width // 2,
        height=height // 2,
        alt=" ".join(title),
    )


def file_figure(path: Path, caption: str, sampler: str = "") -> Figure:
    """A PNG file as it is.

    Raises:
        UserError: for a file that is not a PNG picture.
    """
    data = path.read_bytes()
    try:
        width, height = _size(data)
    except OSError as error:
        raise UserError(
            "not a readable PNG", where=str(path), do="delete it and run again"
        ) from error
    sources = {"wide": _data(data)}
    return Figure(caption, sources, width, height, alt=caption, sampler=sampler)


def charts(experiment: str, tables: dict[str, pd.DataFrame]) -> list[Figure]:
    """The charts of one experiment, of those tables that have rows of it.

    Args:
        experiment: its name.
        tables: frames by table name, of any experiments.
    """
    own = {
        name: frame[frame["experiment"] == experiment] for name, frame in tables.items()
    }
    own = {name: frame for name, frame in own.items() if not frame.empty}
    figures = []
    if "evaluations" in own:
        figures += _score_figures(own["evaluations"])
    if "timing" in own:
        for _, side in own["timing"].groupby(["device", "threads"]):
            figures.append(chart_figure("timing", _timing(side)))
    if "blocks" in own:
        figures += _block_figures(own["blocks"])
    if "convergence" in own:
        figures += _convergence_figures(own["convergence"], _tolerance(own))
    if "training" in own:
        frame = own["training"]
        figures.append(
            chart_figure("training", lambda look: training_chart(frame, look=look))
        )
    return figures


def _score_figures(frame: pd.DataFrame) -> list[Figure]:
    """Score against time, for every set of rows that may be compared."""
    timed = frame[(frame["status"] == "ok") & frame["seconds_per_image"].notna()]
    same = ["metric", "protocol", "n", "timing_batch"]
    figures = []
    for _, comparable in timed.groupby(same, dropna=False):
        if comparable["sampler"].nunique() > 1:
            figures.append(chart_figure("scores", _scores(comparable)))
    return figures


def _block_figures(frame: pd.DataFrame) -> list[Figure]:
    return [
        chart_figure("blocks", _blocks(rows, str(variant)))
        for (_, variant), rows in frame.groupby(["norm", "variant"])
        if variant == "released" or (frame["variant"] != "released").all()
    ]


def _convergence_figures(frame: pd.DataFrame, tolerance: float) -> list[Figure]:
    plain = frame[frame["segments"] == 1]
    return [
        chart_figure("convergence", _convergence(rows, str(source), tolerance))
        for source, rows in plain.groupby("source", sort=True)
    ]


def _tolerance(own: dict[str, pd.DataFrame]) -> float:
    """The search's tolerance, so that chart and strategy speak of the same error."""
    if "strategies" not in own:
        return 1e-3
    return float(own["strategies"]["tolerance"].min())


# A function a chart, for a lambda in a loop would draw the last rows every time.


def _scores(frame: pd.DataFrame) -> Callable[[Look], AnyChart]:
    return lambda look: score_time_chart(frame, look=look)


def _timing(frame: pd.DataFrame) -> Callable[[Look], AnyChart]:
    return lambda look: timing_chart(frame, look=look)


def _blocks(frame: pd.DataFrame, variant: str) -> Callable[[Look], AnyChart]:
    return lambda look: block_chart(frame, variant=variant, look=look)


def _convergence(
    frame: pd.DataFrame, source: str, tolerance: float
) -> Callable[[Look], AnyChart]:
    return lambda look: convergence_chart(
        frame, source=source, tolerance=tolerance, look=look
    )


def _size(png: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(png)) as picture:
        return picture.size


def _data(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
