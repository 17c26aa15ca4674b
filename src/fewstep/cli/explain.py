"""`fewstep explain`: what would run, and why."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from fewstep.cli.options import AsJson, ConfigFile, Overrides, Targets, app


@app.command()
def explain(
    targets: Targets = None,
    configfile: ConfigFile = None,
    config: Overrides = None,
    profile: Annotated[
        str | None, typer.Option(help="As for snakemake; its rerun-triggers count.")
    ] = None,
    as_json: AsJson = False,
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
