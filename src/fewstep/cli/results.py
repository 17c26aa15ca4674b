"""`fewstep results`: the numbers that are there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fewstep.cli.options import AsJson, app
from fewstep.errors import UserError

_CONFIG = Path("config.yaml")
_ASSETS = Path("workflow/assets.yaml")
_PIPE = 100_000
"""Columns of what is no terminal: nothing is folded there."""
Writer = Callable[[Sequence[str], Sequence[Sequence[Any]]], str]


Cells = Annotated[
    list[str] | None,
    typer.Argument(
        help="Experiments, cells such as afhq_gsj, or patterns such as 'demo-*';"
        " none: all."
    ),
]
All = Annotated[bool, typer.Option("--all", help="Also what was not made yet.")]
Csv = Annotated[
    Path | None, typer.Option(help="Write CSV to a file; -: to the terminal.")
]
Markdown = Annotated[bool, typer.Option(help="Print a table of Markdown.")]
Sql = Annotated[
    str | None,
    typer.Option(
        help="Ask the tables, such as 'select * from evaluations'; the rows go where"
        " --csv, --markdown or --json say."
    ),
]
Readme = Annotated[
    bool,
    typer.Option(
        help="For developers: put the demo's numbers into docs/numbers and README."
    ),
]
Forget = Annotated[
    bool,
    typer.Option("--forget", help="Drop the rows of these cells from the tables."),
]


@app.command()
def results(
    cells: Cells = None,
    all_cells: All = False,
    csv: Csv = None,
    markdown: Markdown = False,
    as_json: AsJson = False,
    sql: Sql = None,
    readme: Readme = False,
    forget: Forget = False,
) -> None:
    """What has been measured: scores, times, and published numbers beside them."""
    from fewstep.stages.results import gather, renew_readme, up_to_date

    if sum(map(bool, (csv, markdown, as_json, readme, forget))) > 1:
        raise UserError(
            "--csv, --markdown, --json, --readme and --forget exclude one another"
        )
    named = bool(cells or all_cells)
    if sql is not None and (named or readme or forget):
        raise UserError("asks for itself; give no cells beside it", where="--sql")
    if readme and named:
        raise UserError(
            "is of the whole demo; give no cells beside it", where="--readme"
        )
    write = _writer(csv, markdown=markdown, as_json=as_json)
    configured = _configured(needed=all_cells)
    if forget:
        _forget(cells or (), configured)
        return
    with up_to_date(configured) as folder:
        if sql is not None:
            from fewstep.results.query import query

            _answer(query(sql, folder), csv, write)
            return
        if readme:
            print(*renew_readme(folder, configured), sep="\n")
            return
        shown = gather(folder, cells or (), configured, missing=all_cells)
    _say_what_to_run(shown)
    if write is not None:
        _put(_text(shown, write, markdown=markdown), csv)
    elif shown:
        _print(shown)


def _forget(cells: Sequence[str], configured: dict[str, list[str]] | None) -> None:
    from fewstep.stages.results import forget

    for (experiment, sampler), count in forget(cells, configured).items():
        rows = f"{count} row{'' if count == 1 else 's'}"
        print(f"{experiment}_{sampler}: {rows} dropped")


def _text(shown: Any, write: Writer, *, markdown: bool) -> str:
    """The headline for a program, or as the shorter table that a person reads."""
    from fewstep.report.records import BRIEF, COLUMNS, brief, records

    found = records(shown.summaries, shown.failed, shown.missing, shown.left)
    if markdown:
        return write(BRIEF, brief(found))
    return write(COLUMNS, [[record[name] for name in COLUMNS] for record in found])


def _writer(csv: Path | None, *, markdown: bool, as_json: bool) -> Writer | None:
    """What makes text of columns and rows; None: tables for the terminal."""
    from fewstep.results import export

    if csv is not None:
        return export.csv_text
    if markdown:
        return export.markdown_text
    return export.json_text if as_json else None


def _configured(*, needed: bool) -> dict[str, list[str]] | None:
    """Samplers by experiment of the configuration here.

    None where there is none, or one that is broken and not needed: results that are
    there can be shown without it.
    """
    from fewstep.config import load_config

    try:
        found = load_config(_CONFIG, assets=_ASSETS)
    except UserError:
        if needed:
            raise
        return None
    return {name: list(own.samplers) for name, own in found.experiments.items()}


def _say_what_to_run(shown: Any) -> None:
    """Where there is nothing to show, one line a word; it is no failure."""
    run = "snakemake --profile local"
    for word, target in shown.waiting.items():
        print(f"{word}: no result yet; make it with {run} {target}", file=sys.stderr)
    if not shown and not shown.waiting:
        print(
            f"no results here yet; make some with make demo, or {run} TARGET",
            file=sys.stderr,
        )


def _answer(answer: Any, csv: Path | None, write: Writer | None) -> None:
    """Print or write the rows of a query."""
    if write is not None:
        _put(write(answer.columns, answer.rows), csv)
        return
    from fewstep.report.listings import answer_table

    console = _console()
    if not console.is_terminal:
        console.width = _PIPE
    console.print(answer_table(answer.columns, answer.rows, console.width))


def _put(text: str, csv: Path | None) -> None:
    """To the file, whole or not at all; else to the terminal."""
    from fewstep.files import write_bytes

    if csv is None or str(csv) == "-":
        sys.stdout.write(text)
    else:
        write_bytes(csv, text.encode())


def _print(shown: Any) -> None:
    """The tables for the terminal."""
    from fewstep.report import listings
    from fewstep.report.terminal import spaced, terminal_tables

    tables = terminal_tables(shown.summaries, shown.straightness)
    if shown.published:
        tables.append(listings.published_table(shown.published))
    if shown.failed:
        tables.append(listings.failed_table(shown.failed, shown.left))
    if shown.left:
        tables.append(listings.left_table(shown.left))
    if shown.missing:
        tables.append(listings.missing_table(shown.missing))
    _console().print(spaced(tables))


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False)
