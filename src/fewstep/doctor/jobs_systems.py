"""The rules of TarFlow, SeqRF and PAR, read backwards."""

from __future__ import annotations

import re

from fewstep.doctor.backwards import Job, about, makes, of_system
from fewstep.graph import Graph

# ---- TarFlow ----


@makes(
    r"{experiment}/(rank\.json|blocks\.parquet|convergence\.parquet"
    r"|rank\.png|convergence\.png)",
    experiment=of_system("tarflow"),
)
def _rank(graph: Graph, match: re.Match[str]) -> Job:
    name = match["experiment"]
    model = f"results/{name}/model.safetensors"
    return Job("rank", name, inputs=(*graph.dataset_files(about(match)), model))


@makes(r"{experiment}/{sampler}/trace\.png", experiment=of_system("tarflow"))
def _trace(graph: Graph, match: re.Match[str]) -> Job:
    cell = (match["experiment"], match["sampler"])
    inputs = (graph.weights(cell), graph.plan(cell))
    return Job("trace", "/".join(cell), inputs=inputs)


@makes(r"{experiment}/side-by-side\.png", experiment=of_system("tarflow"))
def _side_by_side(graph: Graph, match: re.Match[str]) -> Job:
    inputs = tuple(graph.side_by_side(about(match)))
    return Job("quick", f"side by side {match['experiment']}", inputs=inputs)


@makes(
    r"{experiment}/{sampler}/(strategies|convergence)\.parquet",
    cell=lambda graph: graph.plans(searched=True),
)
@makes(r"{experiment}/{sampler}/plan\.json")
def _plan(graph: Graph, match: re.Match[str]) -> Job:
    cell = f"{match['experiment']}/{match['sampler']}"
    system = graph.experiments[match["experiment"]].system
    if cell in graph.plans(searched=True):
        folder = f"results/{match['experiment']}"
        ranked = (f"{folder}/model.safetensors", f"{folder}/rank.json")
        return Job("search", cell, inputs=ranked)
    if system == "par":
        return Job("quick", f"plan {cell}", inputs=(graph.plan_tokenizer(cell),))
    inputs = tuple(graph.strategy_inputs(cell)) if system == "tarflow" else ()
    return Job("quick", f"plan {cell}", inputs=inputs)


# ---- SeqRF ----


@makes(r"pairs/{name}/pairs\.json", name=lambda graph: graph.config.pairs)
def _pairs(graph: Graph, match: re.Match[str]) -> Job:
    inputs = tuple(graph.pair_records(match["name"]))
    return Job("quick", f"pairs {match['name']}", inputs=inputs)


@makes(
    r"pairs/{name}/shard-(?P<number>\d{5})\.(arrow|json)",
    name=lambda graph: graph.config.pairs,
)
def _pair_shard(graph: Graph, match: re.Match[str]) -> Job | None:
    name = match["name"]
    if int(match["number"]) >= len(graph.pair_shards(name)):
        return None
    folder = graph.pair_dataset(name)
    files = (f"{folder}/dataset.json", f"{folder}/images.npy")
    inputs = (graph.pair_teacher(name), *files, *graph.edges_input(name))
    return Job("pairs", name, match["number"], inputs)


@makes(
    r"pairs/{name}/edges\.json",
    name=lambda graph: [n for n in graph.config.pairs if graph.edges_input(n)],
)
def _edges(graph: Graph, match: re.Match[str]) -> Job:
    name = match["name"]
    return Job("edges", name, inputs=(graph.pair_teacher(name),))


@makes(
    r"{experiment}/(straightness\.parquet|trajectories\.parquet|trajectories\.png)",
    experiment=of_system("seqrf"),
)
def _trajectories(graph: Graph, match: re.Match[str]) -> Job:
    del graph
    name = match["experiment"]
    return Job("trajectories", name, inputs=(f"results/{name}/model.safetensors",))


@makes(r"{experiment}/solvers\.png", experiment=of_system("seqrf"))
def _solvers(graph: Graph, match: re.Match[str]) -> Job:
    inputs = tuple(graph.solver_samples(about(match)))
    return Job("quick", f"solvers {match['experiment']}", inputs=inputs)


# ---- PAR ----


@makes(r"codes/{name}/codes\.json", name=lambda graph: graph.config.codes)
def _codes(graph: Graph, match: re.Match[str]) -> Job:
    name = match["name"]
    if name in graph.codes_of(released=True):
        folder = f"{graph.released_codes(name).rstrip('/')}/"
        inputs: tuple[str, ...] = (graph.code_tokenizer(name), folder)
        return Job("quick", f"import {name}", inputs=inputs)
    inputs = tuple(graph.code_records(name))
    return Job("quick", f"codes {name}", inputs=inputs)


def _coded(graph: Graph) -> list[str]:
    """Codes that are made here."""
    return graph.codes_of(released=False)


@makes(r"codes/{name}/shard-(?P<number>\d{5})\.(arrow|json)", name=_coded)
def _code_shard(graph: Graph, match: re.Match[str]) -> Job | None:
    name = match["name"]
    if int(match["number"]) >= len(graph.code_shards(name)):
        return None
    inputs = (graph.code_tokenizer(name), *graph.code_source(name))
    return Job("codes", name, match["number"], inputs)


def _indexed(graph: Graph) -> list[str]:
    """Codes of single files; the others are made of a built dataset."""
    made = {name: graph.code_source(name) for name in _coded(graph)}
    return [name for name, files in made.items() if files[0].endswith("index.json")]


@makes(r"codes/{name}/index\.json", name=_indexed)
def _index(graph: Graph, match: re.Match[str]) -> Job:
    dataset = graph.codes_spec(match["name"]).dataset
    assert dataset is not None
    folder = f"{graph.config.datasets[dataset].path}/"
    return Job("quick", f"index {match['name']}", inputs=(folder,))


@makes(r"{experiment}/{sampler}/(order|order-moving)\.png", experiment=of_system("par"))
def _order(graph: Graph, match: re.Match[str]) -> Job:
    cell = (match["experiment"], match["sampler"])
    name, companions = "/".join(cell), graph.companions(cell)
    inputs = (graph.weights_input(cell), graph.plan(cell), *companions)
    return Job("quick", f"order {name}", inputs=inputs)
