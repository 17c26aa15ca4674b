"""The report's pictures: charts in four looks and PNG files, as data in the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image

from fewstep.plots import (
    AnyChart,
    Look,
    block_chart,
    convergence_chart,
    png_bytes,
    score_nfe_chart,
    score_seconds_chart,
    score_steps_chart,
    score_time_chart,
    straightness_chart,
    timing_chart,
    training_chart,
    trajectory_chart,
)
from fewstep.report.embed import embedded
from fewstep.report.flows import FlowTable
from fewstep.report.numbers import (
    Numbers,
    block_numbers,
    convergence_numbers,
    straightness_numbers,
    timing_numbers,
)
from fewstep.report.par import Cell, TokenTable, model_name

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
        numbers: what the chart was drawn from, where that says more than the chart.
    """

    caption: str
    sources: dict[str, str]
    width: int
    height: int
    alt: str
    sampler: str = ""
    numbers: Numbers | None = None

    @property
    def png(self) -> bytes:
        """The wide look."""
        return base64.b64decode(self.sources["wide"].partition(",")[2])


def chart_figure(
    caption: str, draw: Callable[[Look], AnyChart], numbers: Numbers | None = None
) -> Figure:
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
        numbers=numbers,
    )


def file_figure(path: Path, caption: str, sampler: str = "") -> Figure:
    """A PNG file, made smaller if it is large.

    Raises:
        UserError: for a file that is not a PNG picture.
    """
    address, width, height = embedded(path)
    return Figure(caption, {"wide": address}, width, height, caption, sampler)


_PANELS = 6
"""Models in a chart of trajectories: more would be too small to read."""


def flow_figures(
    table: FlowTable, page: Sequence[str], tables: dict[str, pd.DataFrame]
) -> list[Figure]:
    """The charts of flows that are compared with each other.

    Args:
        table: the flows.
        page: all flows of the page: each has one colour in all charts.
        tables: frames by table name, of any experiments.
    """
    models = [model.name for model in table.models]
    own = {
        name: frame[frame["experiment"].isin(models)] for name, frame in tables.items()
    }
    figures = []
    rows = own["evaluations"]
    rows = rows[(rows["protocol"] == table.protocol) & (rows["n"] == table.n)]
    final = rows[(rows["status"] == "ok") & rows["train_step"].isna()]
    if final["nfe"].notna().any():
        figures.append(chart_figure("scores_nfe", _nfe(final, page)))
    figures += _straightness_figures(own.get("straightness"), table.straight_by, page)
    if "trajectories" in own:
        shown = own["trajectories"]
        shown = shown[shown["experiment"].isin(models[:_PANELS])]
        if not shown.empty:
            figures.append(chart_figure("trajectories", _paths(shown, page)))
    return figures


def _straightness_figures(
    frame: pd.DataFrame | None, sampler: str, page: Sequence[str]
) -> list[Figure]:
    """Straightness along one solver's paths: by another it is another number.

    The solver is `sampler` where that is there, else the finest that most models have.
    """
    if frame is None or frame.empty:
        return []
    found = frame.groupby("sampler", as_index=False).agg(
        models=("experiment", "nunique"), points=("point", "nunique")
    )
    found["wanted"] = found["sampler"] == sampler
    best = found.sort_values(["wanted", "models", "points", "sampler"]).iloc[-1]
    same = frame[frame["sampler"] == best["sampler"]]
    numbers = straightness_numbers(same)
    return [chart_figure("straightness", _straightness(same, page), numbers)]


def token_figures(
    table: TokenTable, page: Sequence[Cell], tables: dict[str, pd.DataFrame]
) -> list[Figure]:
    """The charts of cells that differ in n.

    Args:
        table: the cells.
        page: all cells of one token a step of the page: each has one colour.
        tables: frames by table name, of any experiments.
    """
    names = {head: model_name(head, page) for head in page}
    frames = {
        name: _of_table(tables[name], table, names)
        for name in ("evaluations", "timing")
        if name in tables
    }
    rows, models = frames["evaluations"], list(names.values())
    good = rows[(rows["status"] == "ok") & rows["group"].notna()]
    figures = []
    if good["steps"].notna().any():
        figures.append(chart_figure("scores_steps", _steps(good, models)))
    if good["seconds_batch1"].notna().any():
        figures.append(chart_figure("scores_seconds", _by_time(good, models)))
    if "timing" in frames:
        figures += _token_timing(table, frames["timing"])
    return figures


def _of_table(
    frame: pd.DataFrame, table: TokenTable, names: Mapping[Cell, str]
) -> pd.DataFrame:
    """The rows of a table's cells, each with the cell's `model` and `label`."""
    lines = {line.cell: line for line in table.lines}
    cells = list(zip(frame["experiment"], frame["sampler"], strict=True))
    own = frame[pd.Series([cell in lines for cell in cells], frame.index, dtype=bool)]
    found = [lines[cell] for cell in cells if cell in lines]
    return own.assign(
        model=[names[line.head] for line in found],
        label=[line.label for line in found],
    )


def _token_timing(table: TokenTable, timing: pd.DataFrame) -> list[Figure]:
    """Time by batch, a line an n, a chart a model: its jobs have one baseline."""
    figures = []
    for head in table.models:
        lines = table.of_model(head)
        labels = {"/".join(line.cell): line.label for line in lines}
        own = timing[(timing["experiment"] + "/" + timing["sampler"]).isin(labels)]
        partner = labels.get("/".join(head))
        named = own.assign(
            experiment=", ".join(dict.fromkeys(line.cell[0] for line in lines)),
            sampler=own["label"],
            baseline=own["baseline"].where(own["baseline"].isna(), partner),
        )
        for _, side in named.groupby(["device", "threads"]):
            numbers = timing_numbers(side)
            figures.append(chart_figure("timing_tokens", _timing(side), numbers))
    return figures


def charts(
    experiment: str, tables: dict[str, pd.DataFrame], *, compared: bool = False
) -> list[Figure]:
    """The charts of one experiment, of those tables that have rows of it.

    Args:
        experiment: its name.
        tables: frames by table name, of any experiments.
        compared: whether `flow_figures` shows its scores, straightness and paths.
    """
    own = {
        name: frame[frame["experiment"] == experiment] for name, frame in tables.items()
    }
    own = {name: frame for name, frame in own.items() if not frame.empty}
    figures = []
    if compared:
        own = {name: own[name] for name in own if name not in _COMPARED}
    if "evaluations" in own:
        figures += _score_figures(own["evaluations"])
    figures += _straightness_figures(own.get("straightness"), "", [experiment])
    if "trajectories" in own:
        paths = _paths(own["trajectories"], [experiment])
        figures.append(chart_figure("trajectories", paths))
    if "timing" in own:
        for _, side in own["timing"].groupby(["device", "threads"]):
            numbers = timing_numbers(side)
            figures.append(chart_figure("timing", _timing(side), numbers))
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


_COMPARED = ("evaluations", "straightness", "trajectories")


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
        chart_figure("blocks", _blocks(rows, str(variant)), block_numbers(rows))
        for (_, variant), rows in frame.groupby(["norm", "variant"])
        if variant == "released" or (frame["variant"] != "released").all()
    ]


def _convergence_figures(frame: pd.DataFrame, tolerance: float) -> list[Figure]:
    plain = frame[frame["segments"] == 1]
    return [
        chart_figure(
            "convergence",
            _convergence(rows, str(source), tolerance),
            convergence_numbers(rows),
        )
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


def _nfe(frame: pd.DataFrame, page: Sequence[str]) -> Callable[[Look], AnyChart]:
    return lambda look: score_nfe_chart(frame, names=page, look=look)


def _steps(frame: pd.DataFrame, page: Sequence[str]) -> Callable[[Look], AnyChart]:
    return lambda look: score_steps_chart(frame, names=page, look=look)


def _by_time(frame: pd.DataFrame, page: Sequence[str]) -> Callable[[Look], AnyChart]:
    return lambda look: score_seconds_chart(frame, names=page, look=look)


def _straightness(
    frame: pd.DataFrame, page: Sequence[str]
) -> Callable[[Look], AnyChart]:
    return lambda look: straightness_chart(frame, names=page, look=look)


def _paths(frame: pd.DataFrame, page: Sequence[str]) -> Callable[[Look], AnyChart]:
    return lambda look: trajectory_chart(frame, names=page, look=look)


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
