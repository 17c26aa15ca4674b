"""The command line: one verb a stage, which is what the rules call.

A stage's settings come as one JSON value (`--spec`), resolved from config.yaml by the
workflow; everything else is a path. A user's mistake is one line and exit status 1.
"""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from fewstep.cli import doctor, env, explain, par, results, seqrf, smoke, spine, tarflow
from fewstep.cli.faults import TRY_AGAIN, told
from fewstep.cli.options import app

__all__ = [
    "TRY_AGAIN",
    "app",
    "doctor",
    "env",
    "explain",
    "main",
    "par",
    "results",
    "seqrf",
    "smoke",
    "spine",
    "tarflow",
]

_FOR_PEOPLE = {"doctor", "env", "explain", "results", "show", "unlock"}

for _verb in app.registered_commands:
    assert _verb.callback is not None
    _named = _verb.name or _verb.callback.__name__
    _people = _named in _FOR_PEOPLE
    _verb.rich_help_panel = "To be typed" if _people else "Stages, called by the rules"

Threads = Annotated[int, typer.Option(help="CPU threads.")]


@app.callback()
def _start(threads: Threads = 0) -> None:
    logging.basicConfig(level=logging.INFO, format="  %(message)s", stream=sys.stderr)
    # It reports every request at this level; the address may hold a signature.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    if threads:
        from fewstep.device import set_threads

        set_threads(threads)


def main() -> None:
    """Run the command line."""
    try:
        app(standalone_mode=True)
    except Exception as error:
        line = told(error)
        if line is None:
            raise
        # In one piece: jobs that fail at once share a terminal.
        sys.stderr.write(f"fewstep: {line[0]}\n")
        sys.exit(line[1])
