"""`fewstep explain`: what would run, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fewstep.cli.options import app


@app.command()
def explain(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            help="Targets and files as for snakemake, experiments, and cells such as"
            " afhq_gsj; none: every published cell."
        ),
    ] = None,
    configfile: Annotated[
        Path | None, typer.Option(help="Instead of config.yaml.")
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE over the configuration, as for snakemake."),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="As for snakemake; its rerun-triggers count.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON value.")
    ] = False,
) -> None:
    """What would run, and why: a missing file, a changed setting or function.

    Nothing runs and no result is written. The exit status is 0 whatever there is to do.
    """
    from fewstep.explain import explain as find
    from fewstep.explain import show

    found = find(
        targets or (), configfile=configfile, config=config or (), profile=profile
    )
    if as_json:
        print(json.dumps(found.as_json(), indent=2, ensure_ascii=False))
    else:
        print(show(found))
