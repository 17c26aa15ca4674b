"""Which job makes a file, and what it is made of: the rules, read backwards.

Inputs come from the functions of `fewstep.graph` that the rules ask as well, and so do
the names that a rule serves. A test compares the jobs with those of `snakemake -n`.
"""

from __future__ import annotations

import re

from fewstep.config import ClassifierSpec
from fewstep.doctor import jobs_systems  # noqa: F401  (its rules are registered there)
from fewstep.doctor.backwards import (
    Job,
    about,
    find_job,
    makes,
    of_system,
    trained_here,
)
from fewstep.graph import Graph
from fewstep.graph.base import Cell


def job_of(graph: Graph, path: str) -> Job | None:
    """The job of any system that makes a file; None for one that no rule makes."""
    return find_job(graph, path)


# ---- assets and data ----


@makes(r"assets/{name}\.json", name=lambda graph: graph.config.assets)
def _asset(graph: Graph, match: re.Match[str]) -> Job:
    del graph
    return Job("asset", match["name"])


@makes(
    r"data/{name}/(dataset\.json|images\.npy|labels\.npy)",
    name=lambda graph: graph.config.datasets,
)
def _dataset(graph: Graph, match: re.Match[str]) -> Job:
    own = graph.config.datasets[match["name"]]
    source = (f"{own.path}/",) if own.path is not None else ()
    return Job("dataset", match["name"], inputs=source)


def _classifiers(graph: Graph) -> dict[str, ClassifierSpec]:
    named = graph.config.extractors.items()
    return {name: own for name, own in named if isinstance(own, ClassifierSpec)}


@makes(r"extractors/{name}\.safetensors", name=_classifiers)
def _classifier(graph: Graph, match: re.Match[str]) -> Job:
    folder = f"results/data/{_classifiers(graph)[match['name']].dataset}"
    files = (f"{folder}/dataset.json", f"{folder}/images.npy")
    return Job("quick", f"extractor {match['name']}", inputs=files)


@makes(r"extractors/{name}\.json", name=lambda graph: graph.fetched_extractors())
def _inception(graph: Graph, match: re.Match[str]) -> Job:
    del graph
    return Job("inception", match["name"])


@makes(r"references/{name}\.(npz|json)", name=lambda graph: graph.config.references)
def _reference(graph: Graph, match: re.Match[str]) -> Job:
    name = match["name"]
    files = (*graph.extractor_files(name), *graph.reference_inputs(name))
    return Job("reference", name, inputs=files)


# ---- weights ----


@makes(r"{experiment}/snapshots\.json", experiment=of_system("seqrf", trained=True))
@makes(r"{experiment}/training\.parquet", experiment=trained_here)
@makes(r"{experiment}/model\.(safetensors|json)")
def _weights(graph: Graph, match: re.Match[str]) -> Job:
    name = match["experiment"]
    own, wildcards = graph.experiments[name], about(match)
    if own.train is None:
        inputs = tuple(graph.checkpoint_inputs(name))
        return Job("prepare", name, inputs=inputs)
    if own.system == "tarflow":
        files = graph.dataset_files(wildcards)
        return Job("train", name, inputs=tuple(files))
    ask = graph.train_inputs if own.system == "seqrf" else graph.par_train_inputs
    named = ask(wildcards)
    return Job("train", name, inputs=tuple(p for part in named.values() for p in part))


@makes(
    r"{experiment}/state\.(safetensors|json)",
    experiment=of_system("seqrf", trained=False),
)
def _state(graph: Graph, match: re.Match[str]) -> Job:
    name = match["experiment"]
    return Job("quick", f"state {name}", inputs=tuple(graph.checkpoint_inputs(name)))


@makes(
    r"tokenizers/{name}-reconstruction\.(json|png)",
    name=lambda graph: graph.reconstructed(),
)
def _reconstruction(graph: Graph, match: re.Match[str]) -> Job:
    name = match["name"]
    reference = graph.reconstruction_reference(name)
    inputs = (
        *_images(graph.tokenizer_dataset(name)),
        *graph.extractor_inputs(reference),
        f"results/references/{reference}.npz",
        graph.tokenizer_file(name),
    )
    return Job("reconstruct", name, inputs=inputs)


@makes(r"tokenizers/{name}\.parquet", name=lambda graph: graph.tokenizers(trained=True))
@makes(
    r"tokenizers/{name}\.(safetensors|json)",
    name=lambda graph: graph.config.tokenizers,
)
def _tokenizer(graph: Graph, match: re.Match[str]) -> Job:
    name = match["name"]
    if name in graph.tokenizers(trained=False):
        inputs = tuple(graph.tokenizer_source(name))
        return Job("prepare_tokenizer", name, inputs=inputs)
    return Job("train_tokenizer", name, inputs=_images(graph.tokenizer_dataset(name)))


def _images(folder: str) -> tuple[str, ...]:
    names = ("dataset.json", "images.npy", "labels.npy")
    return tuple(f"{folder}/{name}" for name in names)


# ---- samples, times, scores, rows ----


@makes(r"{experiment}/{sampler}/seed(?P<seed>\d+)/samples\.json")
def _sample(graph: Graph, match: re.Match[str]) -> Job:
    cell = (match["experiment"], match["sampler"])
    if graph.sampling_jobs(cell[0]) > 1:
        parts = tuple(graph.sample_parts(about(match)))
        return Job("quick", f"samples {'/'.join(cell)}", match["seed"], parts)
    return Job("sample", "/".join(cell), match["seed"], _drawn_with(graph, cell))


@makes(
    r"{experiment}/{sampler}/seed(?P<seed>\d+)"
    r"/parts/(?P<number>\d+-of-(?P<parts>[1-9]\d*))\.json",
    experiment=lambda graph: graph.sampled_in_parts(True),
)
def _sample_part(graph: Graph, match: re.Match[str]) -> Job:
    cell = (match["experiment"], match["sampler"])
    number = f"{match['seed']}, {match['number']}"
    inputs, share = _drawn_with(graph, cell), 1 / int(match["parts"])
    return Job("sample", "/".join(cell), number, inputs, share)


def _drawn_with(graph: Graph, cell: Cell) -> tuple[str, ...]:
    return (graph.weights_input(cell), graph.plan(cell), *graph.companions(cell))


@makes(
    r"{experiment}/{sampler}/timing\.(json|parquet)",
    experiment=lambda graph: graph.timed_apart(),
)
def _timing(graph: Graph, match: re.Match[str]) -> Job:
    cell = (match["experiment"], match["sampler"])
    both = (cell, graph.baseline(cell[0]))
    inputs = [graph.weights_input(one) for one in both]
    inputs += [graph.plan(one) for one in both]
    return Job("timing", "/".join(cell), inputs=tuple(inputs))


@makes(
    r"{experiment}/timing\.(json|parquet)",
    experiment=lambda graph: graph.timed_in_one_job(),
)
def _timing_together(graph: Graph, match: re.Match[str]) -> Job:
    name = match["experiment"]
    rival = graph.baseline(name)
    cells = [(name, sampler) for sampler in graph.timed(name)]
    inputs = (
        f"results/{name}/model.safetensors",
        graph.weights_input(rival),
        *(graph.plan(cell) for cell in [*cells, rival]),
        *graph.timed_companions(name),
    )
    return Job("timing_together", name, inputs=inputs)


@makes(r"{experiment}/{sampler}/scores\.json")
def _score(graph: Graph, match: re.Match[str]) -> Job:
    reference = graph.reference_of(match["experiment"])
    inputs = (
        *graph.seed_files("samples.json")(about(match)),
        f"results/references/{reference}.npz",
        *graph.extractor_inputs(reference),
    )
    return Job("score", f"{match['experiment']}/{match['sampler']}", inputs=inputs)


@makes(r"{experiment}_{sampler}_fid\.json")
def _evaluation(graph: Graph, match: re.Match[str]) -> Job:
    cell = (match["experiment"], match["sampler"])
    folder, wildcards = f"results/{'/'.join(cell)}", about(match)
    inputs = (
        f"{folder}/scores.json",
        graph.timing_file(cell),
        *graph.seed_files("samples.json")(wildcards),
        graph.plan(cell),
        *graph.real_images(wildcards),
    )
    return Job("quick", f"row {'/'.join(cell)}", inputs=inputs)


@makes(r"{experiment}/{sampler}/grid\.png")
def _grid(graph: Graph, match: re.Match[str]) -> Job:
    first = graph.seed_files("samples.json")(about(match))[0]
    name = f"grid {match['experiment']}/{match['sampler']}"
    return Job("quick", name, inputs=(first,))


@makes(r"{experiment}/{sampler}/seed(?P<seed>\d+)/adm\.npz")
def _adm_batch(graph: Graph, match: re.Match[str]) -> Job:
    del graph
    folder = f"results/{match['experiment']}/{match['sampler']}/seed{match['seed']}"
    return Job("quick", f"adm {folder}", inputs=(f"{folder}/samples.json",))


@makes(r"{experiment}/training\.png", experiment=trained_here)
def _training_chart(graph: Graph, match: re.Match[str]) -> Job:
    del graph
    table = f"results/{match['experiment']}/training.parquet"
    return Job("quick", f"curve {match['experiment']}", inputs=(table,))


@makes(
    r"tokenizers/export/{name}\.(safetensors|json)",
    name=lambda graph: graph.config.tokenizers,
)
def _exported_tokenizer(graph: Graph, match: re.Match[str]) -> Job:
    model = graph.tokenizer_file(match["name"])
    return Job("quick", f"export tokenizer {match['name']}", inputs=(model,))


@makes(r"{experiment}/export/{name}\.(safetensors|json)")
def _exported(graph: Graph, match: re.Match[str]) -> Job:
    del graph
    model = f"results/{match['experiment']}/model.safetensors"
    return Job("quick", f"export {match['name']}", inputs=(model,))


@makes(r"smoke/smoke\.(json|txt)")
def _smoke(graph: Graph, match: re.Match[str]) -> Job:
    del match
    inputs = tuple(f"results/smoke/{name}.json" for name in graph.smoked())
    return Job("quick", "smoke", inputs=inputs)


@makes(r"smoke/{experiment}\.json", experiment=lambda graph: graph.smoked())
def _smoke_architecture(graph: Graph, match: re.Match[str]) -> Job:
    del graph
    return Job("quick", f"smoke {match['experiment']}")


@makes(r"demo/report\.(html|json)")
def _demo(graph: Graph, match: re.Match[str]) -> Job:
    del match
    return Job("quick", "demo", inputs=tuple(graph.report_inputs(graph.demo())))
