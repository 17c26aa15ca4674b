"""What `fewstep results` shows: the tables of `results/`, brought up to date."""

from __future__ import annotations

import difflib
import errno
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pandas as pd

from fewstep import files
from fewstep.errors import UserError
from fewstep.report import readme
from fewstep.report.records import rows_by_cell
from fewstep.results import (
    EVALUATIONS,
    PUBLISHED,
    STRAIGHTNESS,
    TABLES,
    TIMING,
    FailedCell,
    Table,
    read,
    sampler_order,
    summarize,
    upsert,
)
from fewstep.results.columns import Row
from fewstep.results.comparisons import QUANTITIES
from fewstep.results.failures import failed_cell
from fewstep.results.parquet import read_rows
from fewstep.stages import report

Cell = tuple[str, str]
EXPERIMENT, SAMPLER = "experiment", "sampler"
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_EVALUATION = re.compile(r"(?P<experiment>[^_]+)_(?P<sampler>[^_]+)_fid\.json")


@dataclass(frozen=True)
class Shown:
    """Results of the cells that were asked for.

    Args:
        summaries: an evaluation each, as its JSON has it.
        failed: seeds of cells that have none, as the last run left them.
        published: rows of the table `published`.
        straightness: rows of that table.
        missing: cells of the configuration that were not made yet, if asked for.
        waiting: words that name none but such cells, and one of their files each.
        left: cells that nothing will renew, and why.
    """

    summaries: list[dict[str, Any]]
    failed: list[FailedCell]
    published: list[dict[str, Any]]
    straightness: pd.DataFrame | None
    missing: list[Cell] = field(default_factory=list)
    waiting: dict[str, str] = field(default_factory=dict)
    left: dict[Cell, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether there is anything to show."""
        return bool(self.summaries or self.failed or self.missing)


@contextmanager
def up_to_date(experiments: Mapping[str, Sequence[str]] | None) -> Iterator[Path]:
    """The folder of the tables, with the rows of all files of results.

    Where it may not be written, copies of the tables are brought up to date.

    Args:
        experiments: samplers by experiment; None: those that have files.
    """
    spec = {"experiments": found() if experiments is None else experiments}
    try:
        report.file_rows(spec)
        folder = report.SHARED
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
        folder = None
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory() as name:
        for path in report.SHARED.glob("*.parquet"):
            shutil.copyfile(path, Path(name) / path.name)
        report.file_rows(spec, Path(name))
        yield Path(name)


def found() -> dict[str, list[str]]:
    """Samplers by experiment, of all evaluations in `results/`."""
    cells: dict[str, list[str]] = {}
    for path in sorted(report.RESULTS.glob("*_fid.json")):
        name = _EVALUATION.fullmatch(path.name)
        if name is not None:
            cells.setdefault(name["experiment"], []).append(name["sampler"])
    return cells


def gather(
    folder: Path,
    words: Sequence[str] = (),
    configured: Mapping[str, Sequence[str]] | None = None,
    *,
    missing: bool = False,
) -> Shown:
    """The results of the cells that `words` name, or all.

    Args:
        folder: the tables.
        words: experiments, cells such as `afhq_gsj`, files of evaluations, or patterns
            of these such as `demo-*`.
        configured: samplers by experiment of the configuration, where there is one.
        missing: whether to list cells of the configuration that were not made yet.

    Raises:
        UserError: for a word that names no cell.
    """
    by_cell = rows_by_cell(_rows(folder, EVALUATIONS))
    known = [(n, s) for n, samplers in (configured or {}).items() for s in samplers]
    named = {word: _named(word, [*by_cell, *known]) for word in words}
    chosen = set().union(*named.values()) if words else {*by_cell, *known}
    cells = [cell for cell in in_order(by_cell) if cell in chosen]
    good = [c for c in cells if any(row["status"] == "ok" for row in by_cell[c])]
    clocks = rows_by_cell(_rows(folder, TIMING))
    path = folder / f"{STRAIGHTNESS.name}.parquet"
    return Shown(
        summaries=[_summary(by_cell[cell], clocks.get(cell, ())) for cell in good],
        failed=[failed_cell(r) for c in cells if c not in good for r in by_cell[c]],
        published=_ordered(_rows(folder, PUBLISHED), good),
        straightness=read(path, STRAIGHTNESS) if path.exists() else None,
        missing=[c for c in known if c in chosen - by_cell.keys()] if missing else [],
        waiting={
            word: f"results/{'_'.join(in_order(own)[0])}_fid.json"
            for word, own in named.items()
            if not own & by_cell.keys()
        },
        left={
            cell: why
            for cell in cells
            if (why := _left(cell, configured, ok=cell in good))
        },
    )


def _left(
    cell: Cell, configured: Mapping[str, Sequence[str]] | None, *, ok: bool
) -> str:
    """Why no run renews a cell's rows; empty where one does.

    Without a configuration nobody can say which cells have one. A cell that failed
    need not have a file.
    """
    said = []
    if configured is not None and cell[1] not in configured.get(cell[0], ()):
        said.append("not in config.yaml")
    if ok and not report.evaluation(cell).exists():
        said.append("its JSON is gone")
    return "; ".join(said)


def forget(
    words: Sequence[str], configured: Mapping[str, Sequence[str]] | None = None
) -> dict[Cell, int]:
    """Drop the rows of cells from all tables; returns how many, by cell.

    Rows that only name an experiment go with the last of its cells.

    Args:
        words: cells, as `gather` takes them.
        configured: samplers by experiment of the configuration, where there is one.

    Raises:
        UserError: for no words, a word that names no cell of the tables, or a cell
            whose evaluation would bring its rows back.
    """
    if not words:
        raise UserError(
            "names no cell to forget", where="--forget", expected="such as afhq_gsj"
        )
    by_cell = rows_by_cell(_rows(report.SHARED, EVALUATIONS))
    chosen = set().union(*(_named(word, list(by_cell)) for word in words))
    for cell in in_order(chosen):
        known = configured is None or cell[1] in configured.get(cell[0], ())
        if known and report.evaluation(cell).exists():
            raise UserError(
                "brings the rows of this cell back",
                where=str(report.evaluation(cell)),
                do="delete it first, then forget the cell",
            )
    dropped, kept = {}, set(by_cell)
    for cell in in_order(chosen):
        kept.discard(cell)
        dropped[cell] = _drop(cell, last=all(name != cell[0] for name, _ in kept))
    return dropped


def _drop(cell: Cell, *, last: bool) -> int:
    """Drop a cell's rows, and its experiment's with the last; the number of rows."""
    count = 0
    group: tuple[str, ...]
    own: tuple[str, ...]
    # The evaluations come last: killed before, the same command finds the cell again.
    for table in sorted(TABLES.values(), key=lambda table: table is EVALUATIONS):
        path = report.SHARED / f"{table.name}.parquet"
        if not path.exists():
            continue
        if SAMPLER in table.names:
            group, own = (EXPERIMENT, SAMPLER), cell
        elif last:
            group, own = (EXPERIMENT,), cell[:1]
        else:
            continue
        count += upsert(path, [], replace=group, groups=[own]).removed
    return count


def renew_readme(
    folder: Path, configured: Mapping[str, Sequence[str]] | None = None
) -> list[Path]:
    """Put the demo's numbers into docs/numbers and README; returns what was written.

    Args:
        folder: the tables.
        configured: samplers by experiment of the configuration, where there is one.

    Raises:
        UserError: where the demo was not run, or one of its cells has no score.
    """
    index = report.RESULTS / "demo" / "report.json"
    if not index.exists():
        raise UserError("the demo was not run here", where=str(index), do="make demo")
    wanted = _demo(files.read_json(index)["evaluations"], configured or {})
    by_cell = rows_by_cell(_rows(folder, EVALUATIONS))
    lacking = [
        "_".join(cell)
        for cell in in_order(wanted)
        if not any(row["status"] == "ok" for row in by_cell.get(cell, ()))
    ]
    if lacking:
        raise UserError(
            f"the demo has no score of {', '.join(lacking)}",
            where=str(index),
            do="make demo",
        )
    shown = gather(folder, ["_".join(cell) for cell in wanted])
    written = readme.keep(
        shown.summaries,
        _rows(folder, TIMING),
        shown.straightness,
        _rows(folder, PUBLISHED),
    )
    return [*written, *([readme.ROOT / readme.README] if readme.fix() else [])]


def _demo(paths: Sequence[str], configured: Mapping[str, Sequence[str]]) -> list[Cell]:
    """The demo's cells: those that its page shows, and their models' other samplers."""
    names = [_EVALUATION.fullmatch(Path(path).name) for path in paths]
    shown = [(found["experiment"], found["sampler"]) for found in names if found]
    others = [
        (name, sampler)
        for name in dict.fromkeys(name for name, _ in shown)
        for sampler in configured.get(name, ())
    ]
    return list(dict.fromkeys([*shown, *others]))


def in_order(cells: Iterable[Cell]) -> list[Cell]:
    """Cells by experiment, numbers in names as numbers, then by sampler."""
    samplers: dict[str, list[str]] = {}
    for experiment, sampler in cells:
        samplers.setdefault(experiment, []).append(sampler)

    def place(name: str) -> list[tuple[str, int]]:
        parts = re.findall(r"(\D*)(\d*)", name)
        return [(words, int(digits or 0)) for words, digits in parts]

    return [
        (experiment, sampler)
        for experiment in sorted(samplers, key=place)
        for sampler in sampler_order(samplers[experiment])
    ]


def _rows(folder: Path, table: Table) -> list[dict[str, Any]]:
    path = folder / f"{table.name}.parquet"
    return read_rows(path, table) if path.exists() else []


def _ordered(rows: Sequence[dict[str, Any]], cells: list[Cell]) -> list[dict[str, Any]]:
    """Rows of the table `published` of these cells, in their order."""
    own = rows_by_cell(rows)
    return [
        row
        for cell in cells
        for row in sorted(
            own.get(cell, ()), key=lambda row: QUANTITIES.index(row["quantity"])
        )
    ]


def _summary(rows: Sequence[Row], clock: Sequence[Row]) -> dict[str, Any]:
    """A cell's summary with its times by batch, as its JSON has them."""
    timing = [{"batch": row["batch"], "ratio": row["ratio"]} for row in clock]
    return {**summarize(rows), "timing": timing}


def _named(word: str, cells: Sequence[Cell]) -> set[Cell]:
    """The cells that a word names.

    Raises:
        UserError: for none.
    """
    short = word.removeprefix("results/").removesuffix("_fid.json")
    chosen = {
        cell
        for cell in cells
        if any(fnmatchcase(name, short) for name in (cell[0], "_".join(cell)))
    }
    if chosen:
        return chosen
    names = dict.fromkeys([*(cell[0] for cell in cells), *map("_".join, cells)])
    near = difflib.get_close_matches(word, names, n=1)
    hint = f", did you mean {near[0]!r}?" if near else ""
    raise UserError(
        f"names no experiment or cell{hint}",
        where=word,
        expected="an experiment, a cell such as afhq_gsj, or a pattern",
    )
