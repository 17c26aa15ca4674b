"""`python -m fewstep.config`: check a configuration, or renew what is generated."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fewstep.config.documents import fix
from fewstep.config.load import load_config
from fewstep.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m fewstep.config")
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--check", action="store_true", help="validate a configuration")
    task.add_argument(
        "--fix", action="store_true", help="rewrite the schemas and the docs page"
    )
    parser.add_argument("config", nargs="?", default="config.yaml")
    parser.add_argument("--assets", default="workflow/assets.yaml")
    options = parser.parse_args(arguments)
    if options.fix:
        for path in fix():
            sys.stdout.write(f"rewritten: {path}\n")
        return 0
    try:
        config = load_config(options.config, options.assets)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    counts = f"{len(config.experiments)} experiments, {len(config.evaluations())}"
    sys.stdout.write(f"{options.config}: {counts} evaluations, no problem\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
