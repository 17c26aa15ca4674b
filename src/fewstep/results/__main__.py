"""`python -m fewstep.results --check | --fix`: docs/outputs.md and README's tables."""

from __future__ import annotations

import argparse
import sys

from fewstep.errors import UserError
from fewstep.report import readme
from fewstep.results import docs


def main(arguments: list[str] | None = None) -> int:
    """Check or renew both pages; the exit status is 1 when one has drifted."""
    parser = argparse.ArgumentParser(prog="python -m fewstep.results")
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--check", action="store_true", help="fail if one has drifted")
    choice.add_argument("--fix", action="store_true", help="write them anew")
    if parser.parse_args(arguments).fix:
        docs.fix()
        readme.fix()
        return 0
    try:
        docs.check()
        readme.check()
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
