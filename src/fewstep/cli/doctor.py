"""`fewstep doctor`: before anything is submitted."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

from fewstep.cli.options import AsJson, ConfigFile, Overrides, Targets, app
from fewstep.errors import UserError

_ROOT = Path()


def _pair(text: str) -> tuple[str, Any]:
    """KEY=VALUE, the value in YAML.

    Raises:
        UserError: for anything else.
    """
    import yaml  # no other verb needs it

    key, equals, value = text.partition("=")
    try:
        return key, yaml.safe_load(value) if equals else _no_value(text)
    except yaml.YAMLError as error:
        what = f"{value!r} is no YAML"
        raise UserError(what, where=f"--config {key}") from error


def _no_value(text: str) -> NoReturn:
    raise UserError(f"{text!r} has no value", where="--config", expected="KEY=VALUE")


@app.command()
def doctor(
    targets: Targets = None,
    configfile: ConfigFile = None,
    config: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """What targets will need, what is missing, and what that blocks.

    Files are looked at, no network is touched. The exit status is 0 when all of the
    targets could start, and 1 when something is missing that blocks one.
    """
    from rich.console import Console

    from fewstep.doctor import examine, show
    from fewstep.graph import Graph

    files = [configfile] if configfile else []
    graph = Graph(_ROOT, files, dict(map(_pair, config or ())))
    found = examine(graph, targets or ())
    if as_json:
        print(json.dumps(found.as_json(), indent=2, ensure_ascii=False))
    else:
        show(found, Console())
    sys.exit(1 if found.blocked else 0)
