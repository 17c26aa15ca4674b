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
        ({"sampling": {"guidance": 2.0}}, {"sample", "search", "timing"}),
        ({"noise": {"std": 0.2}}, {"train", "rank", "search", "sample", "timing"}),
        ({"samplers": {"gsj": {"strategy": "[2-4-3-4]"}}}, {"gsj"}),
    ],
)
def test_a_change_reaches_just_the_stages_that_use_it(
    change: dict[str, Any], expected: set[str]
) -> None:
    """Each setting stands in the specs of the stages that read it."""
    before, after = graph(), graph(**change)
    changed = {
        name
        for name, spec in SPECS.items()
        if as_json(spec(before)) != as_json(spec(after))
    }
    assert changed == expected


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
        *("afhq", "img128", "img64uncond", "img64cond"),
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
