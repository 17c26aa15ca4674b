"""What jobs ask a cluster for: estimated from architecture and batch, or configured."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fewstep.errors import UserError
from fewstep.graph import Graph
from fewstep.graph.needs_systems import jobs

ROOT = Path(__file__).parents[1]
DAY = 24 * 60


@pytest.fixture(scope="module")
def graph() -> Graph:
    """The repository's own configuration."""
    return Graph(ROOT)


def changed(**experiment: Any) -> Graph:
    """With keys of the experiment `afhq` changed."""
    return Graph(ROOT, overrides={"experiments": {"afhq": experiment}})


def everything(graph: Graph) -> list[tuple[str, str]]:
    """Kind and name of one job of each sort for every part of the configuration."""
    found = []
    for name, own in graph.experiments.items():
        found.append(("train" if own.train else "prepare", name))
        kinds = ["sample", "score", *([] if own.timed_together else ["timing"])]
        kinds += ["trace"] if own.system == "tarflow" else []
        found += [(kind, f"{name}/{s}") for kind in kinds for s in own.samplers]
        found += [("timing_together", name)] if own.timed_together else []
        extra = {"tarflow": "rank", "seqrf": "trajectories"}.get(own.system)
        found += [(extra, name)] if extra else []
    found += [("search", cell) for cell in graph.plans(searched=True)]
    found += [("pairs", name) for name in graph.config.pairs]
    found += [("edges", n) for n, own in graph.config.pairs.items() if own.adaptive]
    found += [("codes", name) for name in graph.codes_of(released=False)]
    for trained, kind in ((True, "train_tokenizer"), (False, "prepare_tokenizer")):
        found += [(kind, name) for name in graph.tokenizers(trained=trained)]
    found += [("reconstruct", name) for name in graph.reconstructed()]
    found += [("dataset", name) for name in graph.config.datasets]
    found += [("reference", name) for name in graph.config.references]
    return found


def test_every_job_asks_for_something_sensible(graph: Graph) -> None:
    """Half an hour to a day, 4 to 200 GB of main memory, at most 8 GPUs a node."""
    asked = {job: graph.ask(*job) for job in everything(graph)}
    assert {kind for kind, _ in asked} == set(jobs(graph))
    for job, ask in asked.items():
        assert 30 <= ask.runtime <= DAY, job
        assert 4_000 <= ask.mem_mb <= 200_000, job
        assert ask.mem_mb % 1_000 == 0
        assert 0 <= ask.gpu <= 8, job
        assert ask.gpu_model is None


def test_it_is_quick() -> None:
    """A graph and all that it asks for take less than three seconds, without torch."""
    code = (
        "import sys, time; began = time.process_time()\n"
        "from pathlib import Path; from fewstep.graph import Graph\n"
        "from tests.test_graph_resources import everything\n"
        "graph = Graph(Path('.'))\n"
        "for job in everything(graph): graph.ask(*job)\n"
        "print('torch' in sys.modules, time.process_time() - began)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    torch, seconds = done.stdout.split()
    assert torch == "False"
    assert float(seconds) < 3


def test_an_estimate_is_made_once(graph: Graph) -> None:
    """A thousand equal jobs cost one estimate."""
    graph.ask("pairs", "cifar10-k1")
    began = time.process_time()
    for _ in range(1000):
        graph.ask("pairs", "cifar10-k1")
    assert time.process_time() - began < 0.5


def test_the_demo_stays_small(graph: Graph) -> None:
    """Its jobs ask for the least time, one GPU at most, and a laptop's memory."""
    for kind, name in everything(graph):
        if name.startswith("demo") and not name.split("/")[0].endswith("-scratch"):
            ask = graph.ask(kind, name)
            assert (ask.runtime, ask.gpu) in {(30, 0), (30, 1)}, (kind, name)
            assert ask.mem_mb <= 32_000


def test_jobs_without_a_gpu_ask_for_none(graph: Graph) -> None:
    """Conversions, datasets, and statistics that are only read."""
    for job in (
        *(("prepare", "afhq"), ("dataset", "afhq-256"), ("reference", "afhq")),
        ("prepare_tokenizer", "vq-16"),
    ):
        assert graph.ask(*job).gpu == 0
    assert graph.ask("reference", "cifar10").gpu == 1


def test_time_follows_from_work(graph: Graph) -> None:
    """Twice the margin over the estimate; a bigger model or a slower GPU takes more."""
    need = graph.need("sample", "afhq/for")
    assert graph.ask("sample", "afhq/for").runtime == -(-2 * need.seconds // 60)
    small = graph.need("sample", "llamagen-l/cfg").seconds
    assert graph.need("sample", "llamagen-3b/cfg").seconds > 2 * small
    assert graph.need("sample", "par-3b-4x/cfg").seconds < (
        graph.need("sample", "llamagen-3b/cfg").seconds
    )
    slow = {"hardware": {"efficiency": 0.1, "margin": 3.0, "launch_us": 24.0}}
    slower = Graph(ROOT, overrides=slow)
    assert slower.need("sample", "afhq/for").seconds > 3 * need.seconds
    assert slower.ask("sample", "afhq/for").runtime == DAY


def test_a_share_of_the_samples_takes_a_share_of_the_time(graph: Graph) -> None:
    """Eight jobs ask for an eighth each, and never for less than half an hour."""
    whole = graph.ask("sample", "afhq/for").runtime
    assert graph.ask("sample", "afhq/for", share=1 / 8).runtime == -(-whole // 8)
    assert graph.ask("sample", "afhq/for", share=1e-6).runtime == 30


def test_a_training_asks_for_a_slice(graph: Graph) -> None:
    """Longer ones go on in the next job; GPUs are those of one node."""
    ask = graph.ask("train", "afhq-scratch")
    assert ask.runtime == DAY
    train = graph.experiments["afhq-scratch"].train
    assert train is not None
    assert ask.gpu == train.gpus // train.nodes
    nodes = {"experiments": {"afhq-scratch": {"train": {"gpus": 8, "nodes": 4}}}}
    assert Graph(ROOT, overrides=nodes).ask("train", "afhq-scratch").gpu == 2
    day = Graph(ROOT, overrides={"hardware": {"slice_hours": 4}})
    assert day.ask("train", "afhq-scratch").runtime == 240


def test_main_memory_follows_from_the_model(graph: Graph) -> None:
    """What is loaded and converted fits: 3.1 B parameters are 12.4 GB, twice."""
    assert graph.ask("prepare", "par-3b-4x").mem_mb > 3 * 12_400
    assert graph.ask("sample", "par-3b-4x/cfg").mem_mb > 2 * 12_400
    assert graph.ask("prepare", "afhq").mem_mb < 16_000


def test_the_configuration_wins() -> None:
    """Each value of `resources` stands for itself; the others stay estimated."""
    plain = Graph(ROOT)
    said = changed(
        resources={
            "sample": {"runtime": 90, "gpu_model": "h100"},
            "search": {"mem_mb": 99_000},
            "timing": {"gpu": 0},
        }
    )
    sample = said.ask("sample", "afhq/gsj")
    assert (sample.runtime, sample.gpu, sample.gpu_model) == (90, 1, "h100")
    assert sample.mem_mb == plain.ask("sample", "afhq/gsj").mem_mb
    assert said.ask("search", "afhq/auto").mem_mb == 99_000
    assert said.ask("timing", "afhq/for").gpu == 0
    assert said.ask("score", "afhq/for") == plain.ask("score", "afhq/for")
    assert said.ask("sample", "img128/gsj") == plain.ask("sample", "img128/gsj")


def test_pairs_ask_as_their_teacher_says() -> None:
    """Pairs have no resources of their own: `pairs` stands at the teacher."""
    said = {"experiments": {"cifar10-1rf": {"resources": {"pairs": {"runtime": 77}}}}}
    graph = Graph(ROOT, overrides=said)
    assert graph.ask("pairs", "cifar10-k4").runtime == 77
    assert graph.ask("edges", "cifar10-ada4").runtime == 77
    assert graph.ask("pairs", "church-k4").runtime != 77


def test_a_job_that_does_not_exist_is_refused() -> None:
    """A misspelt job, or one of another system, is an error that names the place."""
    with pytest.raises(UserError, match=r"experiments\.afhq\.resources"):
        changed(resources={"smaple": {"runtime": 90}})
    with pytest.raises(UserError, match="runtime"):
        changed(resources={"sample": {"runtime": 0}})
    with pytest.raises(UserError, match=r"unknown job 'pairs'.*\(tarflow\)"):
        changed(resources={"pairs": {"runtime": 90}})


def test_resources_that_mean_nothing_are_refused() -> None:
    """GPUs of a training beside its recipe's; a type of GPU where there is none."""
    with pytest.raises(UserError, match=r"train\.gpus instead"):
        changed(resources={"train": {"gpu": 2}})
    with pytest.raises(UserError, match="a type of GPU for a job without one"):
        changed(resources={"timing": {"gpu": 0, "gpu_model": "h100"}})


def test_resources_are_no_params(graph: Graph) -> None:
    """Nothing of a job's identity changes with what it asks for."""
    said = Graph(
        ROOT,
        overrides={
            "hardware": {"efficiency": 0.1},
            "experiments": {"afhq": {"resources": {"sample": {"runtime": 90}}}},
        },
    )
    cell = ("afhq", "auto")
    assert said.sample(cell) == graph.sample(cell)
    assert said.search("afhq/auto") == graph.search("afhq/auto")
    assert said.timing(cell) == graph.timing(cell)
    assert said.evaluation(cell) == graph.evaluation(cell)
    assert said.rank("afhq") == graph.rank("afhq")


def test_estimates_say_which_batch_fits(graph: Graph) -> None:
    """A small GPU halves the batch; one that holds no single image says so."""
    small = Graph(ROOT, overrides={"hardware": {"memory_gb": 12.0}})
    assert graph.need("sample", "afhq/for").batch == 128
    # Denoising, eight images at a time, needs more than drawing 128 of them.
    assert small.need("sample", "afhq/for").batch in (2, 4)
    tiny = Graph(ROOT, overrides={"hardware": {"memory_gb": 1.0}})
    assert tiny.need("sample", "afhq/for").batch is None
    assert tiny.need("train", "afhq-scratch").batch is None
    alone = {"experiments": {"church-1seqrf": {"train": {"gpus": 1, "batch": 64}}}}
    assert Graph(ROOT, overrides=alone).need("train", "church-1seqrf").batch == 32
