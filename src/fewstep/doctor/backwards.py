"""Which rule makes a file: patterns of paths, and the names that a rule serves."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from types import SimpleNamespace

from fewstep.graph import Graph

NAME = r"[a-z0-9][a-z0-9.-]*"


@dataclass(frozen=True)
class Job:
    """One job of the workflow.

    Attributes:
        kind: as `ResourceGraph.need` knows it; "asset", "inception", "folder" and
            "quick" need next to nothing.
        name: experiment, `experiment/sampler`, or the name of what is made.
        number: which of several equal ones; seed or shard.
        inputs: files.
        share: of the work of its kind and name that this job does.
    """

    kind: str
    name: str
    number: str = ""
    inputs: tuple[str, ...] = ()
    share: float = 1.0


_Maker = Callable[[Graph, "re.Match[str]"], "Job | None"]
_Names = Callable[[Graph], Container[str]]
_MAKERS: list[tuple[re.Pattern[str], Mapping[str, _Names], _Maker]] = []


def find_job(graph: Graph, path: str) -> Job | None:
    """The job that makes a file; None for one that no rule makes."""
    for pattern, served, maker in _MAKERS:
        match = pattern.fullmatch(path)
        job = maker(graph, match) if match and _serves(graph, match, served) else None
        if job is not None:
            return job
    return None


def makes(pattern: str, **served: _Names) -> Callable[[_Maker], _Maker]:
    """Register what makes the files of a pattern.

    Args:
        pattern: {experiment} is an experiment, {sampler} one of its samplers, any other
            {name} a name.
        served: the names that the rule is for, as its wildcard constraints say; `cell`
            is `experiment/sampler`.
    """
    text = re.sub(r"\{([a-z]+)\}", rf"(?P<\1>{NAME})", pattern)
    compiled = re.compile(f"results/{text}")

    def register(maker: _Maker) -> _Maker:
        _MAKERS.append((compiled, served, maker))
        return maker

    return register


def _serves(graph: Graph, match: re.Match[str], served: Mapping[str, _Names]) -> bool:
    """Whether a rule is for the names in a path."""
    found = match.groupdict()
    if "experiment" in found:
        own = graph.experiments.get(found["experiment"])
        if own is None:
            return False
        if "sampler" in found:
            if found["sampler"] not in own.samplers:
                return False
            found["cell"] = f"{found['experiment']}/{found['sampler']}"
    return all(found[key] in names(graph) for key, names in served.items())


def of_system(name: str, *, trained: bool | None = None) -> _Names:
    """Experiments of a system: all, those trained here, or the others."""
    return lambda graph: graph.of_system(name, trained=trained)


def trained_here(graph: Graph) -> list[str]:
    """Experiments whose weights a training makes."""
    named = graph.experiments.items()
    return [name for name, own in named if own.train is not None]


def about(match: re.Match[str]) -> SimpleNamespace:
    """What the functions of the graph call wildcards."""
    return SimpleNamespace(**match.groupdict())
