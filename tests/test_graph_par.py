"""PAR's part of the graph: what a change reaches, and what a target rests on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fewstep.codedigest import closure
from fewstep.config import Config, load_config
from fewstep.graph import Graph, as_json
from fewstep.graph import par as graph_par
from tests.test_graph import changed

ROOT = Path(__file__).parents[1]
PAR = ROOT / "tests" / "workflow" / "par.yaml"

SPECS = {
    "tokenizer": lambda g: g.tokenizer_train("vq"),
    "reconstruction": lambda g: g.reconstruction("vq"),
    "codes": lambda g: g.code_spec("digits"),
    "codes listed": lambda g: g.code_spec("digits"),
    "crops": lambda g: g.code_spec("crops"),
    "index": lambda g: g.code_index("crops"),
    "released": lambda g: g.import_spec("released"),
    "train one": lambda g: g.par_train("one"),
    "train": lambda g: g.par_train("four"),
    "train on": lambda g: g.par_train("on"),
    "plan one": lambda g: g.token_plan("one/cfg"),
    "plan": lambda g: g.token_plan("four/cfg"),
    "plan likely": lambda g: g.token_plan("four/likely"),
    "sample one": lambda g: g.sample(("one", "cfg")),
    "sample": lambda g: g.sample(("four", "cfg")),
    "sample likely": lambda g: g.sample(("four", "likely")),
    "timing one": lambda g: g.timed_together("one"),
    "timing": lambda g: g.timed_together("four"),
    "score": lambda g: g.score("four"),
    "row": lambda g: g.evaluation(("four", "cfg")),
    "row likely": lambda g: g.evaluation(("four", "likely")),
}
DRAWN = {"sample", "sample likely", "timing"}
CELL = {"plan", "sample", "timing", "row"}
TWIN = {"sample likely", "timing"}


def par(**changes: Any) -> Graph:
    """The tiny configuration with changes to the experiment `four`."""
    return Graph(ROOT, [PAR], {"experiments": {"four": changes}})


@pytest.fixture(scope="module")
def before() -> Graph:
    """The tiny configuration as it is."""
    return Graph(ROOT, [PAR])


@pytest.fixture(scope="module")
def paper() -> Config:
    """The project's own configuration."""
    return load_config(ROOT / "config.yaml", ROOT / "workflow/assets.yaml", root=ROOT)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"description": "new"}, set()),
        ({"samplers": {"cfg": {"cfg_scale": 2.0}}}, CELL),
        ({"samplers": {"cfg": {"guidance_shape": "linear"}}}, CELL),
        ({"samplers": {"cfg": {"guidance_last": 0.5}}}, CELL - {"row"}),
        ({"samplers": {"cfg": {"published": None}}}, {"row"}),
        ({"samplers": {"likely": {"sampling": {"labels": "balanced"}}}}, TWIN),
        ({"sampling": {"shard_size": 30}}, DRAWN - {"timing"}),
        ({"sampling": {"jobs": 2}}, set()),
        ({"evaluation": {"batch": 7}}, set()),
        ({"train": {"save_every": 9}}, set()),
        ({"sampling": {"precision": "bf16"}}, {*DRAWN, "row", "row likely"}),
        ({"timing": {"repeats": 2}}, {"timing"}),
        ({"evaluation": {"n": 61}}, {"sample", "sample likely", "score"}),
        ({"evaluation": {"kid_subsets": 5}}, {"score"}),
        ({"train": {"lr": 1e-3}}, {"train"}),
        ({"train": {"dropout": 0.2}}, {"train"}),
        ({"train": {"gpus": 4}}, set()),
        ({"train": {"codes": "digits"}}, set()),
    ],
)
def test_a_change_reaches_just_the_stages_that_use_it(
    before: Graph, change: dict[str, Any], expected: set[str]
) -> None:
    """Guidance trains nothing, and a sampler's change leaves the other's images."""
    assert changed(SPECS, before, par(**change)) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"tokenizers": {"vq": {"train": {"gpus": 2}}}}, set()),
        ({"tokenizers": {"vq": {"train": {"lr": 1e-3}}}}, {"tokenizer"}),
        ({"tokenizers": {"vq": {"train": {"beta": 0.5}}}}, {"tokenizer"}),
        ({"tokenizers": {"vq": {"reconstruction": {"n": 41}}}}, {"reconstruction"}),
        ({"codes": {"digits": {"batch": 7}, "crops": {"batch": 9}}}, set()),
        ({"codes": {"digits": {"views": "plain"}}}, {"codes", "codes listed"}),
        ({"codes": {"crops": {"crop_ranges": [1.2]}}}, {"crops"}),
        ({"codes": {"released": {"shard_size": 9}}}, {"released"}),
        ({"datasets": {"photos": {"licence": "CC BY", "attribution": "B"}}}, set()),
        ({"datasets": {"photos": {"path": "other"}}}, {"crops", "index"}),
    ],
)
def test_tokenizers_and_codes_have_their_own_settings(
    before: Graph, change: dict[str, Any], expected: set[str]
) -> None:
    """What makes codes trains no transformer by its settings, but by its files."""
    assert changed(SPECS, before, Graph(ROOT, [PAR], change)) == expected


def test_another_model_is_trained_and_drawn_from_anew(before: Graph) -> None:
    """Architecture reaches trainings, samples and times; neither plans nor codes."""
    names = ("four", "on", "imported", "cropped")
    model = {"model": {"rope_base": 500.0}}
    change = {"experiments": dict.fromkeys(names, model)}
    found = changed(SPECS, before, Graph(ROOT, [PAR], change))
    assert found == {"train", "train on", *DRAWN}


def test_another_tokenizer_model_reaches_all_that_runs_it(before: Graph) -> None:
    """Its architecture stands in every job that builds it; plans hold its hash."""
    change = {"tokenizers": {"vq": {"model": {"num_res_blocks": 2}}}}
    found = changed(SPECS, before, Graph(ROOT, [PAR], change))
    made = {"tokenizer", "reconstruction", "codes", "codes listed", "crops", "released"}
    assert found == {*made, *DRAWN, "sample one", "timing one"}


def test_batch_sizes_draw_and_train_nothing_anew(before: Graph) -> None:
    """Another batch only chooses the time that a row tells."""
    after = par(sampling={"batch": 9})
    assert after.sampling_batch(("four", "cfg")) == 9
    assert changed(SPECS, before, after) == {"row", "row likely"}
    assert (
        Graph(ROOT, [PAR], {"codes": {"crops": {"batch": 9}}}).code_batch("crops") == 9
    )


def test_a_bf16_sample_belongs_to_its_batch() -> None:
    """There another batch draws anew, as the last bit of a logit may differ."""
    half = {"precision": "bf16", "batch": 15}
    found = changed(SPECS, par(sampling=half), par(sampling={**half, "batch": 9}))
    assert found == {"sample", "sample likely", "timing", "row", "row likely"}


def test_one_clock_times_all_samplers_of_an_experiment(before: Graph) -> None:
    """Both samplers stand in one job, beside the baseline of the other experiment."""
    files = {before.timing_file(("four", name)) for name in ("cfg", "likely")}
    assert files == {"results/four/timing.json"}
    spec = before.timed_together("four")
    assert list(spec["samplers"]) == before.timed("four") == ["cfg", "likely"]
    assert (spec["baseline"]["name"], spec["baseline_name"]) == ("one", "one/cfg")
    assert before.timed_companions("four") == ["results/tokenizers/vq.safetensors"]
    assert set(before.timed_in_one_job()) == set(before.experiments)


def test_samplers_that_draw_alike_share_a_time() -> None:
    """Labels take no time: such a twin is timed once, under the first name."""
    twin = {"cfg_scale": 1.5, "sampling": {"labels": "iid"}}
    g = par(samplers={"twin": twin})
    assert g.timed("four") == ["cfg", "likely"]
    assert g.timed_as(("four", "twin")) == "cfg"
    compiled = par(samplers={"twin": {**twin, "sampling": {"compile": True}}})
    assert compiled.timed_as(("four", "twin")) == "twin"


def test_a_batch_of_its_own_is_timed() -> None:
    """A sampler's `batch` is timed beside the experiment's, and told by its row."""
    g = par(samplers={"cfg": {"batch": 7}})
    assert g.timed_together("four")["timing"]["batches"] == [1, 4, 7]
    assert g.evaluation(("four", "cfg"))["timing_batch"] == 7
    assert g.evaluation(("four", "likely"))["timing_batch"] == 15


def test_a_training_rests_on_its_codes_and_its_start(before: Graph) -> None:
    """Shards are inputs, so that a deleted one is made anew, and weights of a start."""
    found = {
        name: before.par_train_inputs(SimpleNamespace(experiment=name))
        for name in ("four", "on", "imported", "cropped")
    }
    assert found["four"] == {
        "codes": ["results/codes/digits/codes.json"],
        "shards": [f"results/codes/digits/shard-0000{i}.arrow" for i in range(2)],
    }
    assert found["on"]["start"] == ["results/four/model.safetensors"]
    assert set(found["imported"]) == {"codes", "start"}
    assert len(found["cropped"]["shards"]) == 2


def test_codes_of_files_rest_on_their_index(before: Graph) -> None:
    """A packaged dataset is built first; a folder is listed, and never copied."""
    assert before.code_source("crops") == ["results/codes/crops/index.json"]
    assert before.code_source("digits")[0] == "results/data/digits/dataset.json"
    shard = before.code_spec("crops")
    assert (shard["size"], shard["grid"], shard["count"]) == (8, 4, 20)


SAMPLING = ("stages.sample", "par.sampler")


@pytest.mark.parametrize(
    ("module", "reached"),
    [
        ("par.decoding", {"sample"}),
        ("par.generation", {"sample"}),
        ("par.sampler", {"sample"}),
        ("par.model", {"sample", "train"}),
        ("par.order", {"sample", "train"}),
        ("par.objective", {"train"}),
        ("par.codes", {"train", "codes", "import"}),
        ("par.views", {"codes", "import"}),
        ("stages.codes", {"codes"}),
        ("stages.import_codes", {"import"}),
        ("par.vq_losses", {"tokenizer"}),
        ("par.tokenizer", {"sample", "codes", "tokenizer", "import"}),
        ("par.checkpoint", set()),
        ("datasets.folder", set()),
        ("metrics", set()),
        ("tarflow.model", set()),
        ("seqrf.model", set()),
    ],
)
def test_an_edited_module_reaches_the_jobs_that_run_it(
    module: str, reached: set[str]
) -> None:
    """Decoding trains nothing, the objective draws nothing, scores touch neither."""
    jobs = {
        "sample": SAMPLING,
        "train": ("stages.train_par",),
        "codes": ("stages.codes",),
        "import": ("stages.import_codes",),
        "tokenizer": ("stages.train_tokenizer",),
    }
    assert (ROOT / f"src/fewstep/{module.replace('.', '/')}.py").is_file()
    found = {
        name
        for name, modules in jobs.items()
        if f"fewstep.{module}" in closure(*(f"fewstep.{one}" for one in modules))
    }
    assert found == reached


@pytest.mark.parametrize(
    ("module", "reached"),
    [
        ("training", {"tokenizer", "train"}),
        ("recipe", {"tokenizer", "train"}),
        ("par.objective", {"train"}),
        ("par.model", {"train"}),
        ("par.vq_losses", {"tokenizer"}),
        ("par.tokenizer", {"tokenizer"}),
        ("stages.train_par", set()),
        ("stages.train_tokenizer", set()),
        ("stages.training", set()),
        ("results.training", set()),
        ("provenance", set()),
        ("checkpoints", set()),
    ],
)
def test_what_a_stage_writes_keeps_a_half_finished_training(
    before: Graph, monkeypatch: pytest.MonkeyPatch, module: str, reached: set[str]
) -> None:
    """A run's identity holds the code of its loss, batches, model and loop alone."""
    monkeypatch.setattr(graph_par, "code", lambda *names: names)
    assert (ROOT / f"src/fewstep/{module.replace('.', '/')}.py").is_file()
    found = set()
    for name in ("tokenizer", "train"):
        modules = SPECS[name](before)["weights_code"]
        if f"fewstep.{module}" in closure(*(f"fewstep.{one}" for one in modules)):
            found.add(name)
    assert found == reached


def test_specs_hold_the_digests_of_their_code(before: Graph) -> None:
    """Every spec that decides a file carries the digest of what makes it."""
    for name in ("tokenizer", "codes", "index", "train", "sample", "timing", "row"):
        assert len(SPECS[name](before)["code"]) == 16, name
    codes = {SPECS[name](before)["code"] for name in ("train", "sample", "codes")}
    assert len(codes) == 3
    for name in ("tokenizer", "train"):
        spec = SPECS[name](before)
        assert len(spec["weights_code"]) == 16 and spec["weights_code"] != spec["code"]
    assert before.import_spec("digits") != before.code_spec("digits")


def test_sizes_are_resolved_to_their_numbers(paper: Config) -> None:
    """A job gets the numbers of a size, never its name; those of LlamaGen's sizes."""
    model = paper.experiments["par-xl-4x"].resolved()["model"]
    assert {key: model[key] for key in ("dim", "n_layer", "n_head")} == {
        "dim": 1280,
        "n_layer": 36,
        "n_head": 20,
    }
    assert (model["ar_token_num"], model["grid"], model["vocab_size"]) == (4, 24, 16384)
    assert "size" not in model
    g = Graph(ROOT)
    assert g.sample(("par-3b-16x", "cfg"))["model"]["dim"] == 3200
    assert g.token_plan("par-3b-16x/cfg")["group"] == 16


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("llamagen-xl", 576),
        ("par-xl-4x", 147),
        ("par-3b-16x", 51),
        ("demo-par-n4", 19),
        ("demo-par-n16", 19),
    ],
)
def test_steps_of_an_image(paper: Config, name: str, steps: int) -> None:
    """n first tokens, and groups of n after them."""
    assert paper.experiments[name].model.steps == steps


def test_samples_depend_on_no_batch(before: Graph) -> None:
    """The spec of a draw knows no batch, but labels and the pixels' way to bytes."""
    spec = before.sample(("four", "likely"))
    assert "batch" not in spec["sampling"]
    assert (spec["rounding"], spec["resize"]) == ("half_up", None)
    assert spec["labels"] == "iid"
    assert spec["draw"]["top_k"] == 8
    assert spec["tokenizer"]["path"] == "results/tokenizers/vq.safetensors"


NEUTRAL = {
    "sfid": False,
    "resize": None,
    "ema_warmup": False,
    "accumulate": 1,
    "seconds_batch1": None,
}
"""What PAR added to all systems, as the others have it."""
PARTS = (
    *("afhq-scratch", "img128-scratch", "img64uncond-scratch", "img64cond-scratch"),
    *("img64cond-patch2-scratch", "img64uncond-density"),
)
"""Trainings whose steps are made of parts."""


def test_other_systems_keep_what_they_resolve_to(paper: Config) -> None:
    """Keys that came with PAR change nothing for the experiments that know them not."""
    for name, own in paper.experiments.items():
        if own.system != "par":
            had = ("ema_warmup", "accumulate") if own.system == "seqrf" else ()
            # TarFlow's own trainings use it by now: their batch does not fit at once.
            had = ("accumulate",) if name in PARTS else had
            for key, value in leaves(own.resolved()):
                if key in NEUTRAL and key not in had:
                    assert value == NEUTRAL[key], f"{name}: {key}"
            assert own.evaluation.protocol.rounding == "truncate"


def leaves(value: Any) -> list[tuple[str, Any]]:
    """Keys and values of nested mappings."""
    found: list[tuple[str, Any]] = []
    for key, inner in value.items():
        found += leaves(inner) if isinstance(inner, dict) else [(key, inner)]
    return found


@pytest.mark.parametrize("name", ["par-xl-4x", "llamagen-3b", "par-l-4x"])
def test_imagenet_is_never_built(name: str) -> None:
    """Published cells rest on no images; codes of ImageNet are made file by file."""
    g = Graph(ROOT)
    assert g.real_images(SimpleNamespace(experiment=name)) == []
    assert g.reference_inputs(g.reference_of(name)) == [
        "results/assets/imagenet-256-virtual.json"
    ]


def test_the_demo_rests_on_its_images() -> None:
    """A small dataset is built, and the row names its hash."""
    cell = SimpleNamespace(experiment="demo-par-n4")
    expected = ["results/data/colour-mnist-16/dataset.json"]
    assert Graph(ROOT).real_images(cell) == expected


def test_targets_of_paper_scale_leave_the_demo_out() -> None:
    """`extract` and `train` are what needs a cluster; `all` is what was published."""
    g = Graph(ROOT)
    assert g.codes_at_paper_scale() == ["results/codes/imagenet-384/codes.json"]
    assert len(g.code_shards("imagenet-384")) == 129
    trained = g.trainings_at_paper_scale()
    assert "results/par-l-4x/model.safetensors" in trained
    assert "results/afhq-scratch/model.safetensors" in trained
    assert not any("demo" in path or "shipped" in path for path in trained)
    assert ("par-xl-4x", "cfg") in g.published()
    assert g.par_train("par-3b-4x-scratch")["train"]["sharded"] is True
    assert g.gpus("par-3b-4x-scratch") == 32


def test_a_report_shows_every_grid(before: Graph) -> None:
    """Rows, curves and pictures of each cell are inputs of a report."""
    found = before.report_inputs(["four"])
    for name in ("cfg", "likely"):
        assert f"results/four_{name}_fid.json" in found
        assert f"results/four/{name}/grid.png" in found
    assert "results/four/training.parquet" in found


def test_specs_are_json_and_stay_equal(before: Graph) -> None:
    """The same configuration gives the same parameters, letter by letter."""
    again = Graph(ROOT, [PAR])
    for name, spec in SPECS.items():
        assert as_json(spec(before)) == as_json(spec(again)), name
