"""Stages: the shared tables from every experiment's files, and the report page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewstep import files
from fewstep.report import Inputs, Picture, load_evaluation, render
from fewstep.report.inputs import Kind
from fewstep.report.missing import missing_cells
from fewstep.results import (
    BLOCKS,
    CONVERGENCE,
    EVALUATIONS,
    PUBLISHED,
    STRAIGHTNESS,
    STRATEGIES,
    TIMING,
    TRAINING,
    TRAJECTORIES,
    Table,
    failed_cells,
    upsert,
)
from fewstep.results.failures import failed_since, predates
from fewstep.results.parquet import read_rows

RESULTS = Path("results")
SHARED = RESULTS / "tables"

# Per table: files of an experiment, and the columns of the group that a file replaces.
_SOURCES: tuple[tuple[Table, tuple[str, ...], tuple[str, ...]], ...] = (
    (BLOCKS, ("blocks.parquet",), ("experiment",)),
    (TRAINING, ("training.parquet",), ("experiment",)),
    (
        CONVERGENCE,
        ("convergence.parquet", "*/convergence.parquet"),
        ("experiment", "source"),
    ),
    (STRATEGIES, ("*/strategies.parquet",), ("experiment", "sampler")),
    (TIMING, ("timing.parquet", "*/timing.parquet"), ("experiment", "sampler")),
    (STRAIGHTNESS, ("straightness.parquet",), ("experiment",)),
    (TRAJECTORIES, ("trajectories.parquet",), ("experiment",)),
)


def sources(spec: dict[str, Any]) -> dict[str, list[Path]]:
    """Files of the experiments that hold rows of each table."""
    return {
        table.name: [
            path
            for name in spec["experiments"]
            for pattern in patterns
            for path in _named(name, pattern, spec["experiments"][name])
        ]
        for table, patterns, _ in _SOURCES
    }


def _named(name: str, pattern: str, samplers: list[str]) -> list[Path]:
    """An experiment's files of a pattern, `*` standing for its samplers of now."""
    chosen = samplers if "*" in pattern else [""]
    paths = [RESULTS / name / pattern.replace("*", sampler) for sampler in chosen]
    return [path for path in paths if path.exists()]


def file_rows(spec: dict[str, Any], shared: Path = SHARED) -> None:
    """Bring `results/tables/*.parquet` up to date with the experiments' files.

    An evaluation that was made before its cell failed does not come back.

    Args:
        spec: `experiments`: name to samplers.
        shared: folder of the tables.
    """
    found = sources(spec)
    for table, _, group in _SOURCES:
        for path in found[table.name]:
            rows = read_rows(path, table)
            upsert(shared / f"{table.name}.parquet", rows, replace=group)
    target, cell = shared / f"{EVALUATIONS.name}.parquet", ("experiment", "sampler")
    failed = failed_since(target)
    for path in evaluations(spec):
        made = load_evaluation(path)
        rows, name = made["rows"], (made["experiment"], made["sampler"])
        if name in failed and predates(rows, made.get("evaluated_utc"), failed[name]):
            continue
        upsert(target, rows, replace=cell)
        beside = made.get(PUBLISHED.name, ())
        compared = target.with_stem(PUBLISHED.name)
        upsert(compared, beside, replace=cell, groups=[name])


def evaluations(spec: dict[str, Any]) -> list[Path]:
    """The evaluations that are there, in the order of the configuration."""
    return [evaluation(cell) for cell in _there(spec["experiments"])]


def evaluation(cell: tuple[str, str]) -> Path:
    """Where a cell's evaluation lies."""
    return RESULTS / f"{'_'.join(cell)}_fid.json"


def _there(asked: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Cells whose evaluation is there."""
    cells = [(name, sampler) for name in asked for sampler in asked[name]]
    return [cell for cell in cells if evaluation(cell).exists()]


def build(spec: dict[str, Any], out: Path) -> None:
    """Write the page, and beside it `report.json` with what it shows.

    Args:
        spec: `experiments`, `tokenizers`, `command`, `templates`; `blocked`, by
            experiment and sampler what keeps a cell from starting, where that is known.
        out: the page.
    """
    file_rows(spec)
    shown = evaluations(spec)
    started = [name for name in spec["experiments"] if (RESULTS / name).is_dir()]
    pictures = {name: found for name in started if (found := _pictures(spec, name))}
    tokenizers = _reconstructions(spec)
    asked = spec["experiments"]
    failures = failed_cells(SHARED / f"{EVALUATIONS.name}.parquet")
    failures = [c for c in failures if c.sampler in asked.get(c.experiment, ())]
    tables = {table: paths for table, paths in sources(spec).items() if paths}
    charts = render(
        Inputs(
            jsons=shown,
            tables=tables,
            pictures=pictures,
            tokenizers=tokenizers,
            absent=missing_cells(asked, _there(asked), failures, spec.get("blocked")),
            failures=failures,
            command=spec["command"],
            templates=Path(spec["templates"]),
        ),
        out,
    )
    files.write_json(
        out.with_suffix(".json"),
        {
            "evaluations": [str(path) for path in shown],
            "pictures": [
                *map(str, charts),
                *(str(p.path) for name in pictures for p in pictures[name]),
                *(str(p.with_suffix(".png")) for p in tokenizers),
            ],
            "straightness": [str(p) for p in tables.get(STRAIGHTNESS.name, ())],
            "page": str(out),
        },
    )


def _reconstructions(spec: dict[str, Any]) -> list[Path]:
    """Scores of the tokenizers' reconstructions that are there."""
    folder = RESULTS / "tokenizers"
    paths = [folder / f"{name}-reconstruction.json" for name in spec["tokenizers"]]
    return [path for path in paths if path.exists()]


_BESIDE = {
    "solvers.png": "each row one solver, each column the same noise",
    "side-by-side.png": "each row one sampler, each column the same noise",
}
_OF_SAMPLER: tuple[tuple[str, Kind, str], ...] = (
    ("grid.png", "grid", "samples 0, 1, 2 … of the first seed"),
    ("trace.png", "trace", "noise, the latent after each block, image, denoised"),
    ("order.png", "trace", "tokens, and two samples, after some of the steps"),
    ("order-moving.png", "moving", "tokens, and two samples, step by step"),
)


def _pictures(spec: dict[str, Any], name: str) -> list[Picture]:
    """Pictures of an experiment that are there."""
    folder = RESULTS / name
    found = [Picture(folder / file, words, "beside") for file, words in _BESIDE.items()]
    found += [
        Picture(folder / sampler / file, words, kind, sampler)
        for sampler in spec["experiments"][name]
        for file, kind, words in _OF_SAMPLER
    ]
    return [picture for picture in found if picture.path.exists()]
