"""What Snakemake was asked for, held against the configuration before it looks.

A misspelt sampler fits the patterns of the rules; Snakemake would say `KeyError` and
show the rule's code.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from fewstep.errors import UserError
from fewstep.graph.base import DataGraph

SHARED = {
    *("assets", "codes", "data", "demo", "extractors", "pairs", "references"),
    *("report", "smoke", "tables", "tokenizers"),
}
"""Folders of results/ that are no experiment's."""
OF_THE_MODEL = {"export", "snapshots"}
"""Folders of an experiment that are no sampler's."""


def targets_of(argv: Sequence[str]) -> list[str]:
    """The targets among the words of a Snakemake command; [] for another program.

    A Snakefile is read before Snakemake says what it was asked for.
    """
    program = Path(argv[0]).parts[-2:] if argv else ()
    called = program[-1:] == ("snakemake",) or program == ("snakemake", "__main__.py")
    if not called or not any(word.startswith("results/") for word in argv):
        return []
    from snakemake.cli import get_argument_parser

    try:
        known, _ = get_argument_parser().parse_known_args(argv[1:])
    except SystemExit:  # Snakemake says it itself
        return []
    return [str(target) for target in known.targets or ()]


def check_command(graph: DataGraph, argv: Sequence[str]) -> None:
    """`check_targets` of a Snakemake command.

    Raises:
        UserError: as that.
    """
    try:
        check_targets(graph, [word for word in argv if word.startswith("results/")])
    except UserError:
        # It may be an option's value; reading the command takes a quarter of a second.
        check_targets(graph, targets_of(argv))


def check_targets(graph: DataGraph, targets: Iterable[str]) -> None:
    """Find experiments and samplers that the configuration lacks.

    Args:
        graph: the configuration.
        targets: rules and files, as they were typed.

    Raises:
        UserError: for one that cannot exist, with the nearest one that does.
    """
    cells = list(map("_".join, graph.cells()))
    for target in targets:
        cell = re.fullmatch(r"results/([^/]+)_fid\.json", target)
        if cell and cell[1] not in cells:
            _refuse(target, "evaluation", cell[1], cells)
        parts = target.split("/")
        if parts[0] != "results" or len(parts) < 3 or parts[1] in SHARED:
            continue
        own = graph.experiments.get(parts[1])
        if own is None:
            _refuse(target, "experiment", parts[1], list(graph.experiments))
        elif len(parts) > 3 and parts[2] not in {*own.samplers, *OF_THE_MODEL}:
            _refuse(target, f"sampler of {parts[1]}", parts[2], list(own.samplers))


def _refuse(target: str, kind: str, name: str, known: list[str]) -> None:
    near = difflib.get_close_matches(name, known, n=1)
    expected = target.replace(name, near[0], 1) if near else ", ".join(known[:8])
    raise UserError(f"no {kind} is called {name!r}", where=target, expected=expected)
