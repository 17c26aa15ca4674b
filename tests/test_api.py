"""fewstep in a notebook: load, sample, time, score, search."""

from __future__ import annotations

import json
import os
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
PAR_FILE = ASSETS / "demo-par-n16.safetensors"
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
    model = fewstep.load(PAR_FILE, tokenizer=vq)
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
        (lambda m: m.sample(0), "found the number 0; expected a whole number"),
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


def write_rank(folder: Path) -> None:
    """`rank.json` as the workflow writes it: block 2 is the tough one."""
    ranked = {"tough": [2], "guess": [0, 0, 1], "igm": [[1.0, 2.0]] * 3}
    (folder / "rank.json").write_text(json.dumps(ranked))


def test_a_rule_on_the_crm_reads_the_rank_beside_the_weights(
    project: Path, tmp_path: Path
) -> None:
    """It draws what the same lists draw; without a rank it names the job."""
    folder = tmp_path / "results/digits"
    shutil.copytree(project / "results/digits", folder)
    shutil.copy(project / "config.yaml", tmp_path)
    rule = {"strategy": {"crm": {"segments": 4, "max_jacobi": 2, "else": 3}}}
    model = fewstep.load("digits", config=tmp_path / "config.yaml")
    with pytest.raises(UserError, match=r"--profile local results/digits/rank.json`"):
        model.sample(2, rule)
    write_rank(folder)
    lists = {"num_gs": [4, 1, 1], "max_jacobi": [2, 3, 3], "guess": [1, 0, 0]}
    drawn = model.sample(2, rule)
    assert torch.equal(drawn, model.sample(2, {"strategy": lists}))
    assert not torch.equal(drawn, model.sample(2, "for"))


def test_what_no_job_makes_is_not_asked_of_snakemake(
    digits: fewstep.Model, project: Path
) -> None:
    """A search for a sampler of the notebook, and all of a local file, is its own."""
    mine = fewstep.load(project / "results/digits/model.safetensors")
    rule = {"crm": {"segments": 4, "max_jacobi": 2, "else": 3}}
    for model, wanted in ((digits, "auto"), (mine, "auto"), (mine, rule)):
        with pytest.raises(UserError, match=r"use what model\.search") as caught:
            model.sample(1, {"strategy": wanted})
        assert "snakemake" not in str(caught.value)


def test_a_file_of_statistics_may_be_a_text_or_a_path(
    digits: fewstep.Model, project: Path
) -> None:
    """Both are read with the extractor of the experiment."""
    images, path = noise_images(8, 30), project / "results/references/digits.npz"
    expected = digits.score(images)
    for reference in (path, str(path)):
        found = digits.score(images, reference=reference)
        assert found.value == pytest.approx(expected.value, rel=1e-6)


def test_one_sampler_is_timed_alone(digits: fewstep.Model) -> None:
    """A name or settings need no list; slashes and long settings are kept as said."""
    assert digits.time("gsj", batch=1, repeats=1).index.tolist() == ["gsj"]
    lists = {"num_gs": [4, 1, 1], "max_jacobi": [2, 3, 3], "guess": [1, 0, 0]}
    long = {"strategy": lists, "mode": "released", "sampling": {"temperature": 0.9}}
    table = digits.time([long, "[0/2-4-4-4]"], batch=1, repeats=1)
    first, second = table.index
    assert (first[:16], second) == ("strategy {'num_g", "[0/2-4-4-4]")
    assert len(first) < 80
    shown = repr(table)
    assert all(column in shown for column in table.columns)


def test_labels_are_texts_of_anything() -> None:
    """Numbers under images are written as they read."""
    images = noise_images(8, 3)
    said = fewstep.show(images, labels=["0", "1", "2"])
    assert fewstep.show(images, labels=range(3)).tobytes() == said.tobytes()


def test_whole_numbers_of_numpy_are_taken(digits: fewstep.Model) -> None:
    """An int64 draws what an int draws."""
    one, two = np.int64(1), torch.tensor(2)
    assert torch.equal(digits.sample(two, "for", start=one), digits.sample(2, start=1))
    assert digits.score(np.int64(3), "for").n == 3


NOISE = noise_images(8, 4)
A_WHOLE_NUMBER = "expected a whole number, at least 1"


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda m: m.sample(1.5), f"n: found the number 1.5; {A_WHOLE_NUMBER}"),
        (lambda m: m.sample("3"), f"n: found the text '3'; {A_WHOLE_NUMBER}"),
        (lambda m: m.sample(True), "n: found the truth value true"),
        (lambda m: m.sample(1, start=-1), "start: found the number -1"),
        (lambda m: m.sample(2, start=2**63 - 2), "at most 1"),
        (lambda m: m.sample(1, seed=0.5), "seed: found the number 0.5"),
        (lambda m: m.sample(1, batch=-3), f"found the number -3; {A_WHOLE_NUMBER}"),
        (lambda m: m.sample(1, batch=0), f"found the number 0; {A_WHOLE_NUMBER}"),
        (lambda m: m.sample(1, 5), "sampler: found the number 5; expected one of"),
        (lambda m: m.sample(1, ["for"]), "sampler: found a list; expected one of"),
        (lambda m: m.sample(1, {1: 2}), "key 'strategy' is missing"),
        (lambda m: m.sample(2, classes=[[1], [2, 3]]), "classes: not whole numbers"),
        (lambda m: m.time([]), "no sampler to time"),
        (lambda m: m.time(5), "samplers: found the number 5"),
        (lambda m: m.time("fro"), "no sampler is called 'fro'"),
        (
            lambda m: m.time("for", batch=0),
            f"batch: found the number 0; {A_WHOLE_NUMBER}",
        ),
        (
            lambda m: m.time("for", repeats=0),
            f"repeats: found the number 0; {A_WHOLE_NUMBER}",
        ),
        (lambda m: m.score(noise_images(16, 4)), "16 x 16 pixels; expected 8 x 8"),
        (lambda m: m.score(NOISE, reference=3), "reference: found the number 3"),
        (lambda m: m.score(NOISE, reference=NOISE[:1]), "at least 2 real images"),
        (lambda m: m.score(NOISE, reference=noise_images(16, 4)), "expected 8 x 8"),
        (lambda m: m.score([[1], [2, 3]]), "images: found a list"),
        (lambda m: m.score(1), "images: found the number 1"),
        (lambda m: m.search(images=noise_images(16, 4)), "16 x 16 pixels; expected 8"),
        (lambda m: m.search(segments=[3]), "3 segments do not divide 16 tokens"),
        (
            lambda m: fewstep.show(NOISE, -1),
            f"columns: found the number -1; {A_WHOLE_NUMBER}",
        ),
        (lambda m: fewstep.show(NOISE, 0), "columns: found the number 0"),
        (lambda m: fewstep.show(NOISE, labels=["a"]), "1 labels; expected a text for"),
        (lambda m: fewstep.show(NOISE, labels="abcd"), "labels: found the text 'abcd'"),
        (lambda m: fewstep.show(NOISE[:0]), "images: no image"),
        (lambda m: fewstep.show(torch.zeros(1).bfloat16()), "type bfloat16"),
        (lambda m: fewstep.save_grid(NOISE, "."), "is a folder; expected a file's"),
        (lambda m: fewstep.save_grid(NOISE, "a.txt/x.png"), "cannot be written (file"),
        (lambda m: fewstep.save_grid(NOISE, 5), "path: found the number 5"),
        (lambda m: fewstep.load(m.weights, samplers={}), "samplers: found 0 entries"),
        (lambda m: fewstep.load(m.weights, samplers=["for"]), "samplers: found a list"),
        (lambda m: fewstep.load(m.weights, model=5), "model: found the number 5"),
        (lambda m: fewstep.load(m.weights, system=["par"]), "does not say what model"),
        (lambda m: fewstep.load("digits", config=5), "config: found the number 5"),
        (
            lambda m: fewstep.load(PAR_FILE, tokenizer=5),
            "tokenizer: found the number 5",
        ),
        (lambda m: fewstep.load(PAR_FILE, tokenizer="no"), "no: no such file"),
    ],
)
def test_wrong_arguments_are_one_line(
    digits: fewstep.Model,
    mistake: Mistake,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A value of another kind is refused with what was expected, before any work."""
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("a file")
    with pytest.raises(UserError) as caught:
        mistake(digits)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["rk45-e", "rk45-", "euler", "euler-1.5"])
def test_half_a_solver_is_no_sampler(text: str) -> None:
    """A solver's name with something that is no number is refused."""
    with pytest.raises(UserError, match="no sampler is called"):
        settings_of("seqrf", text)


def test_a_plan_is_for_its_own_architecture(digits: fewstep.Model) -> None:
    """A plan of another number of blocks or of another system is refused."""
    blocks = [{"segments": 1, "max_jacobi": 4, "guess": "block", "tol": None}] * 2
    content = {"strategy": {"blocks": blocks, "tokens": 16}}
    plan = Plan("[1-1-4-4]", 0.0, 0.1, 1, 1.0, 1.0, content)
    with pytest.raises(UserError, match="a plan for 2 blocks of 16 tokens; expected 3"):
        digits.sample(1, plan)
    flow = fewstep.load("shipped-flow", config=ROOT / "config.yaml")
    with pytest.raises(UserError, match="a plan is for a TarFlow; expected seqrf"):
        flow.sample(1, plan)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("HF_HUB_OFFLINE", "1", "cannot be reached: HF_HUB_OFFLINE is set"),
        ("HF_ENDPOINT", "http://127.0.0.1:9", "cannot be reached"),
    ],
)
def test_a_published_model_without_a_network_is_one_line(
    name: str, value: str, says: str, tmp_path: Path
) -> None:
    """It says so, and where the file may be placed by hand."""
    shutil.copy(ROOT / "config.yaml", tmp_path)
    shutil.copytree(ROOT / "workflow", tmp_path / "workflow")
    code = (
        "import fewstep, fewstep.errors, fewstep.hub.patience as p; p.WAITS = ()\n"
        "try: fewstep.load('llamagen-b')\n"
        "except fewstep.errors.UserError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, name: value},
        capture_output=True,
        text=True,
        check=True,
    )
    assert says in done.stdout and "by hand" in done.stdout
    assert done.stdout.count("\n") == 1


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
