"""The command that repeats one job alone: as Snakemake was called, for its file."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

_DROPPED = {"-f", "--force", "-F", "--forceall"}
"""Whatever the job needs is there; these would make it anew."""


class Again:
    """Remembers how Snakemake was called; made before the workflow changes PATH."""

    def __init__(self, argv: Sequence[str] | None = None) -> None:
        argv = list(sys.argv if argv is None else argv)
        self._program = _program(argv[0] if argv else "snakemake")
        self._words = argv[1:]

    def command(self, target: str) -> str:
        """The command for a file or rule.

        It stands first: behind an option with several values it would be one of them.
        """
        kept = [word for word in self._words if word not in _DROPPED]
        for asked in reversed(_targets(self._words)):
            if asked in kept:
                last = len(kept) - 1 - kept[::-1].index(asked)
                del kept[last]
        return shlex.join([*self._program, target, *kept])


def _program(path: str) -> list[str]:
    """How to call Snakemake in the shell where this one was called."""
    if path.endswith("__main__.py"):
        return [_short(sys.executable), "-m", "snakemake"]
    return [_short(path) if Path(path).is_file() else "snakemake"]


def _short(path: str) -> str:
    """A program by its name where that finds it, else by its path."""
    name = Path(path).name
    found = shutil.which(name)
    if found and os.path.samefile(found, path):
        return name
    try:
        near = os.path.relpath(path)
    except ValueError:
        return path
    return path if near.startswith("..") else near


def _targets(words: list[str]) -> list[str]:
    """Which of the words Snakemake takes for targets."""
    from snakemake.cli import get_argument_parser

    try:
        parsed = get_argument_parser().parse_known_args(words)[0]
    except SystemExit:
        return []
    return [str(target) for target in parsed.targets or ()]
