"""Targets as they are typed, and the files behind them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from fewstep.doctor.jobs import job_of
from fewstep.errors import UserError
from fewstep.graph import Graph

SYSTEMS = ("tarflow", "seqrf", "par")
SHOWN = ("report", "tables")
"""Targets that show what is there, whatever that is: they wait for no file."""
_PAGES = {
    "demo": ["results/demo/report.html"],
    "demo_report": ["results/demo/report.html"],
    "smoke": ["results/smoke/smoke.json"],
}


def expand(graph: Graph, targets: Sequence[str]) -> dict[str, list[str]]:
    """Each line of the answer with its files; no target: all published cells.

    Collections come apart into their experiments.

    Raises:
        UserError: for a target that does not exist, with the nearest one.
    """
    found: dict[str, list[str]] = {}
    for target in targets or ("all",):
        for label, files in _expanded(graph, target.rstrip("/")).items():
            kept = found.setdefault(label, [])
            kept += [path for path in files if path not in kept]
    return found


def _expanded(graph: Graph, target: str) -> dict[str, list[str]]:
    trainings = graph.training_targets()
    if target == "all":
        return _by_experiment(graph, graph.published())
    if target in SYSTEMS:
        return _by_experiment(graph, graph.cells(target))
    if target in (*SHOWN, *_PAGES):
        return {target: _PAGES.get(target, [])}
    if target == "demo_scratch":
        return {"demo_scratch": _demo_scratch(graph)}
    if target == "train":
        wanted = graph.trainings_at_paper_scale()
        return {name: [path] for name, path in trainings.items() if path in wanted}
    if target == "extract":
        return {path: [path] for path in graph.codes_at_paper_scale()}
    if target in trainings:
        return {target: [trainings[target]]}
    if target in graph.experiments:
        cells = [cell for cell in graph.cells() if cell[0] == target]
        return _by_experiment(graph, cells)
    return {target: [_file(graph, target)]}


def _by_experiment(
    graph: Graph, cells: Sequence[tuple[str, str]]
) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for cell in cells:
        found.setdefault(cell[0], []).extend(graph.evaluations([cell]))
    return found


def _demo_scratch(graph: Graph) -> list[str]:
    """The weights that the demo's shipped ones were made of."""
    made = [
        f"results/{name}/model.safetensors"
        for name, own in graph.experiments.items()
        if own.train is not None and name.startswith("demo-") and "-scratch" in name
    ]
    trained = graph.tokenizers(trained=True)
    return made + [graph.tokenizer_file(t) for t in trained if t.startswith("demo-")]


def _file(graph: Graph, target: str) -> str:
    """A target that is a file, or `experiment_sampler`."""
    is_file = target.startswith("results/")
    path = target if is_file else f"results/{target}_fid.json"
    if job_of(graph, path) is not None:
        return path
    choices = [
        *("all", "demo_scratch", "train", "extract", *SYSTEMS, *SHOWN, *_PAGES),
        *graph.training_targets(),
        *graph.experiments,
        *(f"{one}_{other}" for one, other in graph.cells()),
        *graph.evaluations(graph.cells()),
    ]
    near = difflib.get_close_matches(target, choices, n=1)
    expected = f"such as {near[0]}" if near else "a target or a file in results/"
    if is_file:
        nearest = expected if target.endswith("_fid.json") else ""
        do = "docs/outputs.md says which files there are, and of what"
        raise UserError(f"no rule makes {target}", expected=nearest, do=do)
    do = "list them with `snakemake --list-target-rules`"
    raise UserError(f"no target is called {target!r}", expected=expected, do=do)
