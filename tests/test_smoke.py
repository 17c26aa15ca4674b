"""The smoke: published architectures on random weights, and the table of all."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from fewstep import estimate
from fewstep.errors import UserError
from fewstep.graph import Graph
from fewstep.stages import smoke as stage
from fewstep.stages.smoke_table import table
from fewstep.standins import Scale

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def graph() -> Graph:
    """The repository's own configuration."""
    return Graph(ROOT)


@pytest.fixture
def few_threads() -> Any:
    """Two threads, and the number that was set before."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def small(graph: Graph, name: str) -> dict[str, Any]:
    """A specification at full width with few layers."""
    spec = graph.smoke(name)
    if spec["system"] == "seqrf":
        spec["model"]["num_res_blocks"] = 1
        spec["scale"] = {"layers": 1}
    if spec["system"] == "tarflow":
        spec["model"].update(num_blocks=2, layers_per_block=1)
        spec["scale"] = {"blocks": 2, "layers": 1}
    if spec["system"] == "par":
        spec["model"].update(n_layer=1, grid=8)
        spec["tokenizer"]["model"]["num_res_blocks"] = 1
        spec["scale"] = {"layers": 1}
        spec.update(side=128, resize=96)
    return spec


def test_every_published_checkpoint_is_smoked_once(graph: Graph) -> None:
    """Whatever is downloaded or placed by hand is in the list, what is shipped not."""
    chosen = graph.smoked()
    checkpoints = [graph.experiments[name].checkpoint for name in chosen]
    paths = {n: own.path for n, own in graph.config.assets.items()}
    wanted = {
        own.checkpoint
        for own in graph.experiments.values()
        if own.checkpoint and not paths[own.checkpoint].startswith("workflow/")
    }
    assert len(checkpoints) == len(set(checkpoints))
    assert set(checkpoints) == wanted
    assert {"afhq", "cifar10-1rf", "church-1rf", "par-3b-16x"} <= set(chosen)


def test_only_the_largest_weights_are_not_allocated(graph: Graph) -> None:
    """Models of three billion parameters are checked by their shapes alone."""
    never = {name for name in graph.smoked() if graph.smoke(name)["meta"]}
    assert never == {"llamagen-3b", "par-3b-4x", "par-3b-16x"}


@pytest.mark.parametrize("name", ["img64cond", "cifar10-1rf", "par-xl-4x"])
@pytest.mark.usefixtures("few_threads")
def test_an_architecture_draws_two_images(
    name: str, graph: Graph, tmp_path: Path
) -> None:
    """Random weights are converted, loaded and drawn from; nothing of them is kept."""
    spec, out = small(graph, name), tmp_path / "record.json"
    (tmp_path / ".record.tmp").mkdir()  # a killed job's
    stage.smoke(spec, out)
    record = json.loads(out.read_text())
    scored = spec.get("resize") or spec["side"]
    assert record["drawn"] == [2, 3, spec["side"], spec["side"]]
    assert record["scored"] == [2, 3, scored, scored]
    assert record["finite"]
    assert record["levels"] > 50
    phases = {row["phase"]: row for row in record["phases"]}
    assert list(phases)[:2] == ["write", "prepare"]
    assert {"load", "draw"} <= set(phases)
    assert ("denoise" in phases) == (spec["system"] == "tarflow")
    assert phases["draw"]["measured_mb"] > 0
    assert phases["draw"]["estimated_mb"] <= record["estimated_mb"]
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


@pytest.mark.parametrize("name", ["afhq", "church-1rf", "par-3b-16x"])
def test_shapes_need_no_weights(name: str, graph: Graph, tmp_path: Path) -> None:
    """At full size an architecture runs without values, and says so."""
    spec = {**graph.smoke(name), "meta": True}
    stage.smoke(spec, tmp_path / "record.json")
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["weights"] == "never allocated"
    assert record["drawn"] == [2, 3, spec["side"], spec["side"]]
    assert record["checkpoint_bytes"] >= 4 * record["parameters"]
    assert record["estimated_mb"] * 1e6 > 4 * record["parameters"]


def test_shapes_are_those_of_the_published_file(graph: Graph) -> None:
    """A transformer of another depth does not take the weights, allocated or not."""
    spec = graph.smoke("par-3b-16x")
    spec["model"]["n_layer"] = 23
    module = import_module("fewstep.stages.smoke_par")
    with pytest.raises(UserError, match=r"layers.23.*expected absent"):
        module.shapes(spec, Scale(), 2)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 3, 8, 8), "the images are flat"),
        (torch.full((2, 3, 8, 8), torch.nan), "384 values are NaN or infinite"),
        (torch.rand(2, 3, 8, 4), r"images of shape \(2, 3, 8, 4\); expected \(2, 3, 8"),
    ],
)
def test_a_smoke_fails_in_one_line(images: torch.Tensor, message: str) -> None:
    """Flat images, values that are no numbers and other shapes are refused."""
    spec = {"name": "tried", "side": 8, "rounding": "round"}
    with pytest.raises(UserError, match=message) as caught:
        stage._checked(spec, images)
    assert "smoke of tried" in str(caught.value)


def record(name: str, phases: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """What `smoke` writes, as far as the table reads it."""
    own = {"experiment": name, "parameters": 2_000_000, "drawn": [2, 3, 8, 8]}
    return {**own, "phases": phases, "seconds": 30.0, **more}


def test_the_table_compares_estimate_and_measurement(tmp_path: Path) -> None:
    """A line a phase, the ratio where both are known, and the sum of all."""
    measured = {"estimated_mb": 150, "measured_mb": 100}
    draw = {"phase": "draw", "seconds": 2.0, "host_peak_mb": 2147, **measured}
    shapes = {"phase": "shapes", "seconds": 1.0, "host_peak_mb": 300}
    (tmp_path / "a.json").write_text(
        json.dumps(record("a", [draw], finite=True, scored=[2, 3, 4, 4]))
    )
    meta = record("b", [shapes], weights="never allocated", estimated_mb=900)
    (tmp_path / "b.json").write_text(json.dumps(meta))
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    table(paths, tmp_path / "smoke.json", tmp_path / "smoke.txt")
    _, first, second, total = (tmp_path / "smoke.txt").read_text().splitlines()
    columns = [" ".join(line.split()) for line in (first, second)]
    assert columns == [
        "a 2.0 M 2x3x8x8 -> 4 finite draw 150 100 1.50 2147 2.0",
        "b 2.0 M 2x3x8x8 never allocated shapes 900 300 1.0",
    ]
    assert total == "2 architectures, 1.0 minutes, at most 2.0 GiB of main memory"
    assert len(json.loads((tmp_path / "smoke.json").read_text())) == 2


def test_an_estimate_knows_the_short_plan(graph: Graph) -> None:
    """Drawing alone needs less than drawing and denoising, of one image less still."""
    spec = graph.smoke("afhq")
    strategy = import_module("fewstep.stages.smoke_tarflow").strategy(spec)
    drawing = stage._drawing(spec, strategy, 2)
    assert stage._drawing(spec, strategy, 1) < drawing < stage._estimate(spec, strategy)
    weights = 4 * estimate.parameters("tarflow", spec["model"])
    assert drawing > weights
