"""The report: one HTML page that needs no network, no script and no other file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from fewstep.errors import UserError
from fewstep.files import write_bytes
from fewstep.report.compare import (
    compare_flows,
    compare_tokens,
    save_charts,
    show_tokenizers,
)
from fewstep.report.figures import Figure, charts, file_figure
from fewstep.report.flows import flow_models, flow_tables
from fewstep.report.headline import (
    NONE,
    error_text,
    headlines,
    known,
    plus_minus,
    seconds_text,
)
from fewstep.report.inputs import Inputs, Summary, load_evaluation
from fewstep.report.overview import cost_figures, overview
from fewstep.report.par import token_models, token_tables
from fewstep.report.provenance import origin, provenance
from fewstep.report.published import published_lines
from fewstep.results import (
    BLOCKS,
    CONVERGENCE,
    STRAIGHTNESS,
    STRATEGIES,
    TIMING,
    TRAINING,
    TRAJECTORIES,
    read,
)
from fewstep.results.summary import sampler_order, spread

_CHARTED = (
    *(TIMING, BLOCKS, CONVERGENCE, TRAINING, STRATEGIES),
    *(STRAIGHTNESS, TRAJECTORIES),
)
_MORE = ("kid", "isc", "precision", "recall", "class_agreement")
_COUNTS = ("nan_events", "redrawn")

Kind = Literal["", "flow", "tokens"]


@dataclass(frozen=True)
class Section:
    """One experiment's part of the page."""

    name: str
    kind: Kind
    charts: list[Figure]
    beside: list[Figure]
    grids: list[Figure]
    traces: list[Figure]
    plans: list[dict[str, str]]
    tried: int
    scores: list[dict[str, str]]
    origin: dict[str, list[str]]
    assumed: list[str]


def render_page(inputs: Inputs, out: str | Path) -> list[Path]:
    """`fewstep.report.render`, which says it all."""
    missing = dict(inputs.missing)
    summaries = []
    for path in inputs.jsons:
        if Path(path).exists():
            summaries.append(load_evaluation(path))
        else:
            missing.setdefault(str(path), "not made yet")
    tables = _tables(inputs, missing)
    rows = [row for summary in summaries for row in summary["rows"]]
    if rows:
        tables["evaluations"] = pd.DataFrame(rows)
    lines = headlines(summaries)
    for line in lines:
        if line.failed:
            missing[f"{line.experiment}_{line.sampler}"] = f"failed: {line.failed}"
    names = dict.fromkeys(
        [line.experiment for line in lines]
        + list(inputs.pictures)
        + _experiments(tables)
    )
    flows, par = flow_models(summaries), token_models(summaries)
    compared = compare_flows(
        flow_tables(summaries, tables.get("straightness")), flows, tables
    )
    tokens = compare_tokens(token_tables(summaries), tables, inputs)
    costs = cost_figures(tables.get("evaluations"), list(names))
    sections = [
        _section(name, summaries, tables, inputs, missing, _kind(name, flows, par))
        for name in names
    ]
    page = _template(inputs.templates).render(
        title=inputs.title,
        command=inputs.command,
        systems=overview(summaries, lines, inputs.failures),
        published_lines=published_lines(summaries),
        costs=costs,
        lines=[line for line in lines if line.experiment not in {*flows, *par}],
        flow_lines=[line for line in lines if line.experiment in flows],
        compared=compared,
        tokens=tokens,
        tokenizers=show_tokenizers(inputs, missing),
        sections=sections,
        missing=missing,
        absent=inputs.absent,
        provenance=provenance(rows),
        made=max((row["created_utc"] for row in rows), default=""),
        caption=lambda name: caption(name, inputs.templates),
        dash=NONE,
    )
    write_bytes(out, page.encode())
    drawn = [*costs, *(figure for flows in compared for figure in flows.charts)]
    drawn += [figure for table in tokens for figure in table.charts]
    return save_charts(drawn, out)


def _kind(name: str, flows: Sequence[str], par: Sequence[str]) -> Kind:
    return "flow" if name in flows else "tokens" if name in par else ""


def caption(name: str, templates: Path) -> Markup:
    """The caption in `{name}.rst`, or `name` itself where there is no such file.

    Snakemake's own report reads the same files. They hold one paragraph of plain
    words and ``literals``.
    """
    path = templates / f"{name}.rst"
    words = (
        path.read_text(encoding="utf-8") if _is_word(name) and path.exists() else name
    )
    parts = re.split(r"``(.+?)``", " ".join(words.split()))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part)
        for index, part in enumerate(parts)
    )


def _is_word(name: str) -> bool:
    return re.fullmatch("[a-z_]+", name) is not None


def _template(folder: Path) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    try:
        return environment.get_template("page.html.j2")
    except jinja2.TemplateNotFound as error:
        raise UserError(
            "the report's template is missing",
            where=str(folder / str(error)),
            do="run from a full checkout of the repository",
        ) from error


def _tables(inputs: Inputs, missing: dict[str, str]) -> dict[str, pd.DataFrame]:
    """The tables that are there; the others go to `missing`."""
    known = {table.name: table for table in _CHARTED}
    tables = {}
    for name, given in inputs.tables.items():
        if name not in known:
            raise ValueError(f"the report draws no table {name!r}: {', '.join(known)}")
        table, parts = known[name], []
        for path in [given] if isinstance(given, str | Path) else given:
            if Path(path).exists():
                parts.append(read(path, table))
            else:
                missing.setdefault(str(path), "not made yet")
        if parts:
            # The same row in two files, a shared table and a job's own, counts once.
            whole = pd.concat(parts, ignore_index=True)
            tables[name] = whole.drop_duplicates(list(table.key), ignore_index=True)
    return tables


def _experiments(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Experiments that only tables know, in order of name."""
    return sorted({str(n) for frame in tables.values() for n in frame["experiment"]})


def _section(
    name: str,
    summaries: Sequence[Summary],
    tables: dict[str, pd.DataFrame],
    inputs: Inputs,
    missing: dict[str, str],
    kind: Kind,
) -> Section:
    own = [summary for summary in summaries if summary["experiment"] == name]
    kinds = ("beside", "grid", "trace", "moving")
    pictures: dict[str, list[Figure]] = {shown: [] for shown in kinds}
    for picture in inputs.pictures.get(name, ()):
        if Path(picture.path).exists():
            figure = file_figure(Path(picture.path), picture.caption, picture.sampler)
            pictures[picture.kind].append(figure)
        else:
            missing.setdefault(str(picture.path), "not made yet")
    if kind == "tokens":
        # Grids, animations and times of all n stand side by side above.
        pictures["grid"] = []
        tables = {name: tables[name] for name in tables if name != "timing"}
    plans, tried = _plans(name, tables.get("strategies"))
    return Section(
        name=name,
        kind=kind,
        charts=charts(name, tables, compared=kind != ""),
        beside=pictures["beside"],
        grids=pictures["grid"],
        traces=pictures["trace"],
        plans=plans,
        tried=tried,
        scores=_scores(own),
        origin=origin([row for summary in own for row in summary["rows"]]),
        assumed=sorted({str(a) for s in own for a in s.get("assumed") or ()}),
    )


def _plans(name: str, frame: pd.DataFrame | None) -> tuple[list[dict[str, str]], int]:
    """The plans that the search chose, and how many it measured."""
    if frame is None:
        return [], 0
    own = frame[frame["experiment"] == name]
    chosen = own[own["chosen"].astype(bool)].sort_values(
        ["sampler", "batch", "block"], ascending=[True, True, False]
    )
    plans = [
        {
            "sampler": str(row["sampler"]),
            "batch": str(row["batch"]),
            "block": "all" if row["block"] < 0 else str(row["block"]),
            "plan": str(row["strategy"]) if pd.notna(row["strategy"]) else _plan(row),
            "seconds": seconds_text(_value(row["seconds"])),
            "error": error_text(_value(row["error"])),
            "tolerance": error_text(_value(row["tolerance"])),
            "reason": str(row["reason"]),
        }
        for row in chosen.to_dict("records")
    ]
    return plans, len(own)


def _plan(row: Mapping[Any, Any]) -> str:
    """A block's plan in words."""
    if row["mode"] == "for":
        return "For"
    words = str(row["mode"])
    if row["segments"] > 1:
        words += f", {row['segments']} segments"
    if row["window"]:
        words += f", window {row['window']}"
    if row["front"]:
        words += f" of {row['front']} tokens one by one"
    if row["iterations"]:
        words += f", {row['iterations']} iterations"
    if row["refine"]:
        words += f" in bfloat16 and {row['refine']} in full precision"
    if row["corrected"]:
        words += ", corrected"
    if row["spare"]:
        words += ", every other one without unconditional rows"
    if row["stop"]:
        words += f", until no token moves {error_text(row['stop'])}"
    return f"{words}, from {row['guess']}"


def _value(cell: Any) -> float | None:
    return None if pd.isna(cell) else float(cell)


def _scores(summaries: Sequence[Summary]) -> list[dict[str, str]]:
    """The other scores and counts of every sampler, means over seeds."""
    by_name = {summary["sampler"]: summary for summary in summaries}
    table = []
    for name in sampler_order(by_name):
        rows = [row for row in by_name[name]["rows"] if row["status"] == "ok"]
        cells = {"sampler": name}
        for column in _MORE:
            cells[column] = plus_minus(*spread(known(rows, column)))
        for column in _COUNTS:
            counts = known(rows, column)
            cells[column] = str(sum(counts)) if counts else NONE
        memory = max(known(rows, "peak_memory_mb"), default=None)
        cells["memory"] = NONE if memory is None else f"{memory:,.0f} MB"
        end = spread(known(rows, "seconds_end_to_end_per_image"))[0]
        cells["end_to_end"] = seconds_text(end)
        steps = spread(known(rows, "steps"))[0]
        cells["steps"] = NONE if steps is None else f"{steps:,.5g}"
        cells["notes"] = "; ".join(dict.fromkeys(known(rows, "notes")))
        table.append(cells)
    return table
