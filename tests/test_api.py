"""fewstep in a notebook: load, sample, time, score, search."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import fewstep
from fewstep import checkpoints
from fewstep.api.experiment import Plan, settings_of
from fewstep.classifier import save_classifier, train_classifier
from fewstep.errors import UserError
from fewstep.extractors import CLASSIFIER, load_extractor
from fewstep.graph import Graph
from fewstep.references import save_reference
from fewstep.samples import read_images
from fewstep.stages import (
    prepare_flow,
    prepare_par,
    prepare_tarflow,
    prepare_tokenizer,
    sample,
    solver_plan,
    strategy,
    token_plan,
)
from fewstep.statistics import dataset_reference
from fewstep.tarflow import TarFlow
from tests.documents import ROOT, blocks

ASSETS = ROOT / "workflow/assets"
MODEL = {
    "img_size": 8,
    "patch_size": 2,
    "channels": 64,
    "num_blocks": 3,
    "layers_per_block": 1,
    "num_classes": 10,
}


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Converted weights go to a cache of the module's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def noise_images(size: int, count: int = 40) -> NDArray[np.uint8]:
    """Images without meaning (count, 3, size, size)."""
    rng = np.random.default_rng(size)
    return rng.integers(256, size=(count, 3, size, size), dtype=np.uint8)


def write_tiny(path: Path) -> None:
    """A random TarFlow that does not invert trivially, as fewstep writes weights."""
    torch.manual_seed(0)
    model = TarFlow(**MODEL, in_channels=3)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    tensors = {k: v for k, v in model.state_dict().items() if "attn_mask" not in k}
    checkpoints.write_state_dict(path, tensors, {"model": {**MODEL, "in_channels": 3}})


def write_scorer(folder: Path, name: str, reference: str, size: int) -> None:
    """An untrained classifier, and statistics of noise, where the workflow has them."""
    images = noise_images(size)
    labels = np.arange(len(images)) % 10
    weights = folder / f"results/extractors/{name}.safetensors"
    state, manifest = train_classifier(images, labels, 10, size, epochs=1)
    save_classifier(weights, state, manifest)
    extractor = load_extractor(CLASSIFIER, weights=weights, name=name)
    found = dataset_reference(images, extractor, 64, None, "none", 40)
    save_reference(folder / f"results/references/{reference}.npz", found)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits' configuration with weights, a classifier and a reference."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "tests/workflow/config.yaml", folder)
    write_tiny(folder / "results/digits/model.safetensors")
    write_scorer(folder, "classifier", "digits", 8)
    return folder


@pytest.fixture(scope="module")
def digits(project: Path) -> fewstep.Model:
    """The tiny TarFlow as an experiment."""
    return fewstep.load("digits", config=project / "config.yaml")


def test_import_loads_nothing() -> None:
    """`import fewstep`, and a look at its names, load neither torch nor pandas."""
    code = (
        "import sys, fewstep; assert {'load', 'show'} <= set(dir(fewstep));"
        "assert not {'torch', 'numpy', 'pandas', 'fewstep.api'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_there_is_no_other_name() -> None:
    """A name that the package does not have is an AttributeError."""
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = fewstep.lod


def workflow_images(
    cell: tuple[str, str], seed: int, count: int, folder: Path
) -> NDArray[np.uint8]:
    """Images of the stages that the rules call."""
    graph = Graph(ROOT, [ROOT / "config.yaml"])
    name, system = cell[0], graph.experiments[cell[0]].system
    source = ASSETS / f"{ {'shipped-flow': 'demo-flow'}.get(name, name) }.safetensors"
    source = Path(str(source).replace("shipped-", "demo-"))
    weights, plan = folder / "model.safetensors", folder / "plan.json"
    spec = graph.sample(cell)
    if system == "tarflow":
        about = graph.experiment(name, "model")
        prepare_tarflow.prepare(about, source, None, weights)
        strategy.write(graph.strategy("/".join(cell)), None, plan)
    elif system == "seqrf":
        about = graph.experiment(name, "model", "segments")
        prepare_flow.prepare(about, source, None, weights)
        solver_plan.write(graph.solver_plan("/".join(cell)), plan)
    else:
        prepare_par.prepare(graph.experiment(name, "model"), source, None, weights)
        place, about = folder / "vq.safetensors", graph.tokenizer_model("demo-vq")
        vq = ASSETS / "demo-vq.safetensors"
        prepare_tokenizer.prepare(about, vq, None, place)
        spec["tokenizer"]["path"] = str(place)
        token_plan.write(graph.token_plan("/".join(cell)), place, plan)
    out = folder / "samples.json"
    sample.run(
        {**spec, "n": count}, weights, plan, seed, graph.sampling_batch(cell), out
    )
    return np.concatenate([np.asarray(part) for part in read_images(out)])


@pytest.mark.parametrize(
    "cell",
    [("demo-tarflow", "for"), ("shipped-flow", "euler-8"), ("shipped-par-n4", "cfg")],
)
def test_images_are_the_workflow_s(cell: tuple[str, str], tmp_path: Path) -> None:
    """Of all three systems, bit for bit, from the shipped weights."""
    name, sampler = cell
    config = ROOT / "config.yaml"
    drawn = fewstep.load(name, config=config).sample(3, sampler, seed=1)
    expected = workflow_images(cell, 1, 3, tmp_path)
    assert drawn.dtype == torch.uint8
    np.testing.assert_array_equal(drawn.numpy(), expected)


def test_a_sample_depends_on_its_seed_and_number_alone(digits: fewstep.Model) -> None:
    """A later start and another batch give the same images; another seed does not."""
    whole = digits.sample(6, "for")
    assert whole.shape == (6, 3, 8, 8)
    part = digits.sample(4, "for", start=2, batch=3)
    assert (part.int() - whole[2:].int()).abs().max() <= 1
    assert not torch.equal(digits.sample(6, "for", seed=1), whole)


def test_samplers_in_words_are_those_of_the_configuration(
    digits: fewstep.Model,
) -> None:
    """A notation, and the same as settings, draw what the named sampler draws."""
    named = digits.sample(3, "gsj")
    assert torch.equal(digits.sample(3, "[2-4-4-4]"), named)
    assert torch.equal(digits.sample(3, {"strategy": "[2-4-4-4]"}), named)
    assert digits.samplers == ["for", "gsj", "auto"]


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("euler-8", {"solver": "euler", "steps": 8}),
        ("heun_released-4", {"solver": "heun_released", "steps": 4}),
        ("rk45", {"solver": "rk45", "tol": 1e-3}),
        ("rk45-1e-4", {"solver": "rk45", "tol": 1e-4}),
    ],
)
def test_solvers_in_words(text: str, settings: dict[str, Any]) -> None:
    """A solver's name with its steps or tolerance."""
    assert settings_of("seqrf", text) == settings


def test_classes_by_hand_are_those_of_the_policy(digits: fewstep.Model) -> None:
    """The classes that the policy gives, given by hand, draw the same images."""
    drawn = digits.sample(3, "for", start=1)
    assert torch.equal(digits.sample(3, "for", start=1, classes=[1, 2, 3]), drawn)
    same = digits.sample(3, "for", start=1, classes=2)
    assert torch.equal(same[1], drawn[1]) and not torch.equal(same[0], drawn[0])


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        ([1, 2], "2 classes for 3 samples"),
        ([0, 1, 10], "class 10; classes; expected 0 to 9"),
        (-1, "class -1"),
        ([0.5, 1.0, 2.0], "not whole numbers"),
    ],
)
def test_wrong_classes_are_one_line(
    digits: fewstep.Model, classes: Any, says: str
) -> None:
    """Classes that do not fit say what would."""
    with pytest.raises(UserError) as caught:
        digits.sample(3, "for", classes=classes)
    message = str(caught.value)
    assert all(part in message for part in says.split("; ")), message


def test_times_are_relative_to_the_first(digits: fewstep.Model) -> None:
    """A row a sampler; the baseline has no ratio, and the error is that to For."""
    table = digits.time(["for", "[2-4-4-4]"], batch=2, repeats=1)
    assert list(table.index) == ["for", "[2-4-4-4]"]
    assert (table["batch"] == 2).all()
    assert (table["seconds_per_image"] > 0).all()
    assert table["times_as_fast"].isna().tolist() == [True, False]
    assert table.loc["for", "error_to_exact"] == 0
    other = digits.time(["for"], baseline="gsj", batch=2, repeats=1)
    assert list(other.index) == ["gsj", "for"]
    assert other["times_as_fast"].isna().tolist() == [True, False]
    assert "error_to_exact" not in other


def test_a_searched_plan_keeps_its_tolerance(digits: fewstep.Model) -> None:
    """The plan says what it cost, and its samples are those of For within it."""
    settings = {"calibration": 4, "repeats": 1, "max_iterations": 16}
    real = noise_images(8, 8)
    plan = digits.search(tolerance=0.02, batch=2, images=real, **settings)
    assert isinstance(plan, Plan)
    assert plan.error <= plan.tolerance == 0.02
    assert plan.strategy in repr(plan)
    difference = digits.sample(4, plan).int() - digits.sample(4, "for").int()
    assert difference.abs().float().mean() <= 0.02 * 127.5 + 1
    table = digits.time(["for", plan], batch=2, repeats=1)
    assert table.index.tolist() == ["for", f"search {plan.strategy}"]


def test_a_score_says_its_protocol(digits: fewstep.Model, project: Path) -> None:
    """The experiment's reference, the same file, and real images give one distance."""
    images = noise_images(8, 30)
    score = digits.score(images)
    assert score.metric == "frechet"
    assert (score.n, score.value > 0) == (30, True)
    assert score.protocol.startswith("classifier:")
    assert "n = 30" in repr(score)
    real = digits.score(images, reference=noise_images(8))
    assert real.value == pytest.approx(score.value, rel=1e-6)
    assert digits.score(4, "for").n == 4


def test_a_checkpoint_that_fewstep_wrote_knows_its_model(project: Path) -> None:
    """Its path alone loads it, and it draws what the experiment draws."""
    path = project / "results/digits/model.safetensors"
    mine = fewstep.load(path, sampling={"guidance": 0.5}, noise={"std": 0.1})
    assert "tarflow model: samplers for" in repr(mine)
    assert mine.sample(2).shape == (2, 3, 8, 8)


def test_a_foreign_checkpoint_needs_its_architecture(
    project: Path, tmp_path: Path
) -> None:
    """With system and model it draws the same images as our own file of the weights."""
    ours = project / "results/digits/model.safetensors"
    path = tmp_path / "mine.pth"
    torch.save(checkpoints.read_state_dict(ours), path)
    with pytest.raises(UserError, match="does not say what model it holds"):
        fewstep.load(path)
    mine = fewstep.load(path, system="tarflow", model=MODEL)
    assert torch.equal(mine.sample(2), fewstep.load(ours).sample(2))


def test_par_takes_its_tokenizer_from_a_file() -> None:
    """Two shipped files are a model of PAR."""
    vq = ASSETS / "demo-vq.safetensors"
    model = fewstep.load(ASSETS / "demo-par-n16.safetensors", tokenizer=vq)
    assert model.sample(2, {"cfg_scale": 2.0}).shape == (2, 3, 16, 16)


def test_pictures(tmp_path: Path) -> None:
    """A grid is a PIL image with room for all, and a PNG file of the same size."""
    images = torch.from_numpy(noise_images(8, 6))
    shown = fewstep.show(images, columns=3)
    assert isinstance(shown, Image.Image)
    assert shown.width > shown.height
    path = fewstep.save_grid(images, tmp_path / "grid.png", 3)
    with Image.open(path) as saved:
        assert (saved.format, saved.size) == ("PNG", shown.size)


Mistake = Callable[[fewstep.Model], object]


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda m: fewstep.load("nobody"), "no experiment 'nobody'"),
        (lambda m: fewstep.load("demo-1rf"), "are trained by the workflow"),
        (lambda m: fewstep.load("demo-tarflow", system="par"), "is an experiment"),
        (lambda m: fewstep.load("none/x.pth"), "no such file"),
        (lambda m: m.sample(0), "0 samples"),
        (lambda m: m.sample(1, "euler-2"), "no sampler is called 'euler-2'"),
        (lambda m: m.sample(1, "[9-4-4-4]"), "block 9 does not exist"),
        (lambda m: m.sample(1, "[2-5-4-4]"), "5 segments do not divide 16 tokens"),
        (lambda m: m.sample(1, {"strat": "for"}), "unknown key 'strat'"),
        (lambda m: m.sample(1, "auto"), "comes from measurements"),
        (lambda m: m.score(noise_images(8, 4), reference="nix"), "no reference 'nix'"),
        (lambda m: m.score(torch.zeros(4, 3, 8, 8)), "images of type float32"),
        (lambda m: m.search(tolerence=1.0), "unknown key 'tolerence'"),
        (lambda m: fewstep.show(noise_images(8, 4)[0]), "expected uint8"),
    ],
)
def test_mistakes_are_one_line(
    digits: fewstep.Model,
    mistake: Mistake,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Each is a UserError that says what is wrong, in one line."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "config.yaml", tmp_path)
    shutil.copytree(ROOT / "workflow", tmp_path / "workflow")
    with pytest.raises(UserError) as caught:
        mistake(digits)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", range(5))
def test_the_page_s_examples_run(
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each block of docs/python.md runs as it stands, in the project's folder."""
    page = ROOT / "docs/python.md"
    examples = blocks(page, "python")
    assert len(examples) == 5
    shutil.copy(ROOT / "config.yaml", tmp_path)
    shutil.copytree(ROOT / "workflow", tmp_path / "workflow")
    if ".score(" in examples[number]:
        write_scorer(tmp_path, "classifier-16", "colour-mnist-16", 16)
    monkeypatch.chdir(tmp_path)
    exec(compile(examples[number], page.name, "exec"), {})
    assert capsys.readouterr().out
