"""`fewstep env`: what to paste into a bug report."""

from __future__ import annotations

import json

from fewstep.cli.options import AsJson, app


@app.command()
def env(as_json: AsJson = False) -> None:
    """Versions, machine and settings, to paste into a bug report.

    No name of a host or user, no path and no token is in it.
    """
    from fewstep.bugreport import as_markdown, facts

    found = facts()
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print(as_markdown(found))
