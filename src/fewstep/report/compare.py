"""What the page shows side by side: flows, numbers of tokens a step, tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fewstep.files import write_bytes
from fewstep.report.figures import Figure, file_figure, flow_figures, token_figures
from fewstep.report.flows import FlowTable
from fewstep.report.inputs import Inputs
from fewstep.report.par import TokenTable
from fewstep.report.tokenizers import Reconstruction, load_reconstruction


@dataclass(frozen=True)
class Compared:
    """Flows that may be compared: their table and the charts of all of them."""

    table: FlowTable
    charts: list[Figure]


@dataclass(frozen=True)
class Tokens:
    """Cells that differ in n: table, charts, samples and animations of all of them."""

    table: TokenTable
    charts: list[Figure]
    grids: list[Figure]
    moving: list[Figure]


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer's numbers, and its picture where it is there."""

    line: Reconstruction
    picture: Figure | None


def compare_flows(
    found: Sequence[FlowTable], flows: Sequence[str], tables: dict[str, pd.DataFrame]
) -> list[Compared]:
    """The tables with their charts."""
    return [Compared(table, flow_figures(table, flows, tables)) for table in found]


def compare_tokens(
    found: Sequence[TokenTable], tables: dict[str, pd.DataFrame], inputs: Inputs
) -> list[Tokens]:
    """The tables with their charts, and their cells' pictures in the same order."""
    page = list(dict.fromkeys(head for table in found for head in table.models))
    made = []
    for table in found:
        charts = token_figures(table, page, tables)
        pictures = (_pictures(table, inputs, kind) for kind in ("grid", "moving"))
        made.append(Tokens(table, charts, *pictures))
    return made


def _pictures(table: TokenTable, inputs: Inputs, kind: str) -> list[Figure]:
    """Pictures of a kind, in the order of the table's lines."""
    return [
        file_figure(
            Path(picture.path),
            f"{line.cell[0]}, {line.cell[1]}: {picture.caption}",
            f"{line.label}, {line.steps_text} steps",
        )
        for line in table.lines
        for picture in inputs.pictures.get(line.cell[0], ())
        if (picture.kind, picture.sampler) == (kind, line.cell[1])
        and Path(picture.path).exists()
    ]


def show_tokenizers(inputs: Inputs, missing: dict[str, str]) -> list[Tokenizer]:
    """The tokenizers whose scores are there; the others go to `missing`."""
    found = []
    for path in inputs.tokenizers:
        if not Path(path).exists():
            missing.setdefault(str(path), "not made yet")
            continue
        line = load_reconstruction(path)
        picture = None
        if line.picture.exists():
            picture = file_figure(line.picture, "tokenizer_picture", line.name)
        else:
            missing.setdefault(str(line.picture), "not made yet")
        found.append(Tokenizer(line, picture))
    return found


def save_charts(figures: Sequence[Figure], page: str | Path) -> list[Path]:
    """The charts that compare experiments, as PNG files beside the page."""
    paths: list[Path] = []
    for figure in figures:
        taken = [path.stem.partition("-")[0] for path in paths].count(figure.caption)
        name = f"{figure.caption}-{taken}" if taken else figure.caption
        paths.append(Path(page).with_name(f"{name}.png"))
        write_bytes(paths[-1], figure.png)
    return paths
