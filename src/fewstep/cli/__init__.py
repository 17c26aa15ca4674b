"""The command line: one verb a stage, which is what the rules call.

A stage's settings come as one JSON value (`--spec`), resolved from config.yaml by the
workflow; everything else is a path. A user's mistake is one line and exit status 1.
"""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from fewstep.cli import doctor, par, seqrf, smoke, spine, tarflow
from fewstep.cli.options import app
from fewstep.errors import UserError

__all__ = ["app", "doctor", "main", "par", "seqrf", "smoke", "spine", "tarflow"]

TRY_AGAIN = 75
"""Exit status of a job that was told to stop and saved its state (EX_TEMPFAIL)."""

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
    except UserError as error:
        print(f"fewstep: {error}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        # By name, for the classes live in modules that import torch.
        if type(error).__name__ == "PreemptedError":
            print(f"fewstep: {error}; the same command goes on", file=sys.stderr)
            sys.exit(TRY_AGAIN)
        if type(error).__name__ == "OutOfMemoryError":
            what = str(error).splitlines()[0] if str(error) else "out of memory"
            print(f"fewstep: {what}; use a smaller batch", file=sys.stderr)
            sys.exit(1)
        raise
