"""Stages: the shared tables from every experiment's files, and the report page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewstep import files
from fewstep.report import Inputs, Picture, load_evaluation, render
from fewstep.results import (
    BLOCKS,
    CONVERGENCE,
    EVALUATIONS,
    STRAIGHTNESS,
    STRATEGIES,
    TIMING,
    TRAINING,
    TRAJECTORIES,
    Table,
    upsert,
)
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


def file_rows(spec: dict[str, Any]) -> None:
    """Bring `results/tables/*.parquet` up to date with the experiments' files.

    Args:
        spec: `experiments`: name to samplers.
    """
    found = sources(spec)
    for table, _, group in _SOURCES:
        for path in found[table.name]:
            rows = read_rows(path, table)
            upsert(SHARED / f"{table.name}.parquet", rows, replace=group)
    for path in evaluations(spec):
        rows = load_evaluation(path)["rows"]
        target = SHARED / f"{EVALUATIONS.name}.parquet"
        upsert(target, rows, replace=("experiment", "sampler"))


def evaluations(spec: dict[str, Any]) -> list[Path]:
    """The evaluations that are there, in the order of the configuration."""
    paths = [
        RESULTS / f"{name}_{sampler}_fid.json"
        for name, samplers in spec["experiments"].items()
        for sampler in samplers
    ]
    return [path for path in paths if path.exists()]


def build(spec: dict[str, Any], out: Path) -> None:
    """Write the page, and beside it `report.json` with what it shows.

    Args:
        spec: `experiments`, `tokenizers`, `command`, `templates`.
        out: the page.
    """
    file_rows(spec)
    shown = evaluations(spec)
    started = [name for name in spec["experiments"] if (RESULTS / name).is_dir()]
    pictures = {name: found for name in started if (found := _pictures(spec, name))}
    tokenizers = _reconstructions(spec)
    missing = {
        f"{name}_{sampler}": "not made yet"
        for name, samplers in spec["experiments"].items()
        for sampler in samplers
        if RESULTS / f"{name}_{sampler}_fid.json" not in shown
    }
    tables = {table: paths for table, paths in sources(spec).items() if paths}
    charts = render(
        Inputs(
            jsons=shown,
            tables=tables,
            pictures=pictures,
            tokenizers=tokenizers,
            missing=missing,
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


def _pictures(spec: dict[str, Any], name: str) -> list[Picture]:
    """Grids and traces of an experiment that are there."""
    found, solvers = [], RESULTS / name / "solvers.png"
    if solvers.exists():
        caption = "each row one solver, each column the same noise"
        found.append(Picture(solvers, caption, "trace"))
    for sampler in spec["experiments"][name]:
        folder = RESULTS / name / sampler
        grid, trace = folder / "grid.png", folder / "trace.png"
        if grid.exists():
            caption = "samples 0, 1, 2 … of the first seed"
            found.append(Picture(grid, caption, "grid", sampler))
        if trace.exists():
            caption = "noise, the latent after each block, image, denoised"
            found.append(Picture(trace, caption, "trace", sampler))
    return found
