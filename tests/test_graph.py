"""Specs hold what decides a job's output, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fewstep.errors import UserError
from fewstep.graph import Graph, as_json, one_of

ROOT = Path(__file__).parents[1]
TINY = ROOT / "tests" / "workflow" / "config.yaml"


FLOWS = ROOT / "tests" / "workflow" / "flows.yaml"


def graph(**overrides: Any) -> Graph:
    """The tiny configuration with changes to the experiment `digits`."""
    return Graph(ROOT, [TINY], {"experiments": {"digits": overrides}})


SPECS = {
    "train": lambda g: g.tarflow_train("digits"),
    "rank": lambda g: g.rank("digits"),
    "search": lambda g: g.search("digits/auto"),
    "gsj": lambda g: g.strategy("digits/gsj"),
    "sample": lambda g: g.sample(("digits", "for")),
    "timing": lambda g: g.timing(("digits", "gsj")),
    "score": lambda g: g.score("digits"),
}


@pytest.fixture
def flow_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder that holds the checkpoint of flows.yaml."""
    (tmp_path / "rf-tiny.pth").touch()
    monkeypatch.chdir(tmp_path)


def changed(specs: dict[str, Any], before: Graph, after: Graph) -> set[str]:
    """Names of the specs that differ."""
    return {
        name
        for name, spec in specs.items()
        if as_json(spec(before)) != as_json(spec(after))
    }


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"description": "new"}, set()),
        ({"train": {"lr": 1e-3}}, {"train"}),
        ({"rank": {"num_mc": 65}}, {"rank"}),
        ({"search": {"batch": 9}}, {"search"}),
        ({"search": {"tolerance": 0.5}}, {"search", "rank"}),
        ({"timing": {"repeats": 3}}, {"timing"}),
        ({"evaluation": {"kid_subsets": 9}}, {"score"}),
        ({"evaluation": {"n": 99}}, {"score", "sample"}),
        ({"evaluation": {"batch": 9}}, set()),
        ({"train": {"save_every": 9, "gpus": 2, "nodes": 2}}, set()),
        ({"sampling": {"jobs": 2}}, set()),
        ({"sampling": {"shard_size": 9, "max_redraws": 3}}, {"sample"}),
        ({"sampling": {"guidance": 2.0}}, {"sample", "search", "timing"}),
        ({"noise": {"std": 0.2}}, {"train", "rank", "search", "sample", "timing"}),
        ({"samplers": {"gsj": {"strategy": "[2-4-3-4]"}}}, {"gsj"}),
    ],
)
def test_a_change_reaches_just_the_stages_that_use_it(
    change: dict[str, Any], expected: set[str]
) -> None:
    """Each setting stands in the specs of the stages that read it."""
    assert changed(SPECS, graph(), graph(**change)) == expected


FLOW_SPECS = {
    "edges": lambda g: g.edges("ada"),
    "pairs": lambda g: g.pair_shard("k2", 1),
    "ada pairs": lambda g: g.pair_shard("ada", 0),
    "train base": lambda g: g.flow_train("base"),
    "train": lambda g: g.flow_train("seq2"),
    "train distilled": lambda g: g.flow_train("distilled"),
    "solver": lambda g: g.solver_plan("seq2/euler-2"),
    "swept solver": lambda g: g.solver_plan("seq2/euler-2-at20"),
    "sample": lambda g: g.sample(("seq2", "euler-2")),
    "sample rk45": lambda g: g.sample(("seq2", "rk45")),
    "timing": lambda g: g.timed_together("seq2"),
    "trajectories": lambda g: g.trajectories("seq2"),
    "score": lambda g: g.score("seq2"),
    "row": lambda g: g.evaluation(("seq2", "euler-2")),
}


def seq2(**changes: Any) -> dict[str, Any]:
    """Changes to the experiment `seq2`."""
    return {"experiments": {"seq2": changes}}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"pairs": {"k2": {"tol": 1e-3}}}, {"pairs"}),
        ({"pairs": {"k2": {"count": 90}}}, set()),
        ({"pairs": {"k2": {"batch": 9}}}, set()),
        ({"pairs": {"ada": {"adaptive": {"samples": 9}}}}, {"edges"}),
        ({"pairs": {"ada": {"seed": 1}}}, {"ada pairs"}),
        (seq2(train={"lr": 2e-3}), {"train"}),
        (seq2(train={"steps": 60}), {"train"}),
        (seq2(train={"gpus": 4}), set()),
        (seq2(train={"save_every": 9}), set()),
        (seq2(evaluation={"batch": 9}), set()),
        (seq2(sampling={"shard_size": 9, "jobs": 2}), {"sample", "sample rk45"}),
        (seq2(evaluation={"n": 90}), {"sample", "sample rk45", "score"}),
        (seq2(evaluation={"isc_splits": 3}), {"score"}),
        (seq2(timing={"repeats": 2}), {"timing"}),
        (seq2(trajectory={"shown": 1}), {"trajectories"}),
        (
            seq2(samplers={"rk45": {"tol": 0.1}}),
            {"sample rk45", "timing", "trajectories"},
        ),
        (
            seq2(samplers={"euler-2": {"steps": 3}}),
            {"solver", "swept solver", "sample", "train", "timing", "trajectories"},
        ),
        (seq2(samplers={"euler-2": {"published": None}}), {"row"}),
        (seq2(sweep={"steps": [20, 40]}), set()),
    ],
)
@pytest.mark.usefixtures("flow_folder")
def test_a_change_to_flows_reaches_just_the_stages_that_use_it(
    change: dict[str, Any], expected: set[str]
) -> None:
    """Pairs, trainings, solvers and pictures each depend on their own settings."""
    after = Graph(ROOT, [FLOWS], change)
    assert changed(FLOW_SPECS, Graph(ROOT, [FLOWS]), after) == expected


@pytest.mark.usefixtures("flow_folder")
def test_a_batch_preset_reaches_pairs_samples_and_trainings() -> None:
    """A device's batches are laid over the flows of a dataset; weights alone differ."""
    preset = {"tpu": {"digits": {"train": 20, "sample": 12}}}
    change = {"batch_presets": preset, "batch_preset": "tpu"}
    before, after = Graph(ROOT, [FLOWS]), Graph(ROOT, [FLOWS], change)
    cell = ("seq2", "euler-2")
    assert (before.pair_batch("k2"), after.pair_batch("k2")) == (8, 12)
    assert (before.sampling_batch(cell), after.sampling_batch(cell)) == (40, 12)
    assert after.flow_train("base")["train"]["batch"] == 20
    assert after.flow_train("seq2")["train"]["batch"] == 20
    drawn = {name: FLOW_SPECS[name] for name in ("pairs", "sample", "sample rk45")}
    assert changed(drawn, before, after) == set()


@pytest.mark.usefixtures("flow_folder")
def test_the_clock_knows_every_sampler_of_a_flow() -> None:
    """Times of a sweep are those of the sampler that it repeats; none is missing."""
    own = {"heun-3": {"solver": "heun", "steps": 3, "train_step": 20}}
    g = Graph(ROOT, [FLOWS], seq2(samplers=own))
    timed = g.timed("seq2")
    assert sorted(timed) == ["euler-2", "heun-2", "heun-3", "rk45"]
    assert g.timed_as(("seq2", "euler-2-at20")) == "euler-2"
    assert g.timed_as(("seq2", "heun-3")) == "heun-3"
    assert list(g.timed_together("seq2")["samplers"]) == timed


@pytest.mark.usefixtures("flow_folder")
def test_weights_of_a_step_come_from_the_snapshots() -> None:
    """A swept sampler rests on the list of snapshots and loads the file of its step."""
    g = Graph(ROOT, [FLOWS])
    swept = ("seq2", "euler-2-at20")
    assert g.weights(swept) == "results/seq2/snapshots/step-00000020.safetensors"
    assert g.weights_input(swept) == "results/seq2/snapshots.json"
    assert g.weights_input(("seq2", "euler-2")) == "results/seq2/model.safetensors"


@pytest.mark.usefixtures("flow_folder")
def test_a_training_rests_on_what_its_objective_reads() -> None:
    """Pairs with their shards and teacher, or the images; the state where imported."""
    g = Graph(ROOT, [FLOWS])
    found = {
        name: g.train_inputs(SimpleNamespace(experiment=name))
        for name in ("base", "seq2", "stepped")
    }
    assert set(found["base"]) == {"dataset"}
    assert found["seq2"]["pairs"] == [
        "results/pairs/k2/pairs.json",
        *(f"results/pairs/k2/shard-0000{i}.arrow" for i in range(3)),
    ]
    assert found["seq2"]["teacher"] == ["results/base/model.safetensors"]
    assert found["seq2"]["reference"] == ["results/references/digits.npz"]
    assert found["stepped"]["start"] == ["results/released/state.safetensors"]
    assert "reference" not in found["stepped"]
    assert g.checkpoint_inputs("released") == ["rf-tiny.pth"]


def test_parsing_the_graph_needs_no_torch() -> None:
    """What the Snakefile imports imports neither torch nor pandas."""
    program = (
        "import sys; from fewstep.graph import Graph; from pathlib import Path; "
        f"g = Graph(Path({str(ROOT)!r})); [g.sample(c) for c in g.cells()]; "
        "sys.exit(bool({'torch', 'pandas', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert done.returncode == 0


def test_constraints_admit_just_the_names() -> None:
    """Names are alternatives with their dots taken literally; none admits nothing."""
    assert one_of(["a.b", "c"]) == r"a\.b|c"
    assert one_of([]) == "(?!)"


def test_published_cells_are_whole_experiments() -> None:
    """`all` holds every sampler of the four papers' models, the demo not."""
    cells = Graph(ROOT).published()
    assert ("afhq", "auto") in cells
    assert ("img64cond", "gsj") in cells
    tarflows = {name for name, _ in Graph(ROOT).cells("tarflow")}
    assert {name for name, _ in cells} & tarflows == {
        *("afhq", "img128", "img64uncond", "img64cond", "img64cond-patch2"),
    }
    assert ("cifar10-4seqrf", "euler-8") in cells
    assert not any(name.startswith("demo-") for name, _ in cells)


def test_gpus_are_no_part_of_what_decides_the_weights() -> None:
    """A training on eight GPUs is the training on one, and asks for eight."""
    assert as_json(graph(train={"gpus": 8}).tarflow_train("digits")) == as_json(
        graph().tarflow_train("digits")
    )
    assert Graph(ROOT).gpus("afhq-scratch") == 8


def test_published_weights_and_statistics_need_no_images() -> None:
    """A row rests on a dataset only where a model or a reference is made from it."""
    g = Graph(ROOT)
    cell = SimpleNamespace(experiment="img128")
    assert g.real_images(cell) == []
    cell.experiment = "demo-tarflow"
    assert g.real_images(cell) == ["results/data/colour-mnist-16/dataset.json"]


def test_two_configfiles_are_refused() -> None:
    """Which of two configurations counts is not guessed."""
    with pytest.raises(UserError, match="more than one --configfile"):
        Graph(ROOT, [TINY, TINY])
