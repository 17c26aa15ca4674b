"""Verbs of the smoke: one architecture, and the table of all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewstep.cli.options import Out, Spec, app


@app.command()
def smoke(spec: Spec, out: Out) -> None:
    """Run a published architecture at full size on random weights."""
    from fewstep.stages.smoke import smoke as run

    run(spec, out)


@app.command()
def smoke_table(
    records: Annotated[list[Path], typer.Argument(help="Records of `smoke`.")],
    out: Out,
    text: Annotated[Path, typer.Option(help="The same as text.")],
) -> None:
    """Estimated against measured memory of every architecture, as one table."""
    from fewstep.stages.smoke_table import table as run

    run(records, out, text)
