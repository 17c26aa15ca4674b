"""Stand-ins of the published files, and the way of the real ones through `prepare`."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from fewstep import adm, checkpoints, files, standins
from fewstep.checkpoints import read_manifest, read_state_dict
from fewstep.errors import UserError
from fewstep.extractors import load_extractor
from fewstep.graph import Graph
from fewstep.references import load_reference
from fewstep.standins import PUBLISHED, Scale, Weights

ROOT = Path(__file__).parents[1]
CHECKPOINTS = {k: own for k, own in PUBLISHED.items() if isinstance(own, Weights)}
STAGES = {
    "tarflow": "prepare_tarflow",
    "seqrf": "prepare_flow",
    "par": "prepare_par",
    "vq": "prepare_tokenizer",
}
FEW = Scale(layers=1, blocks=2)
FEW_CODES = Scale(layers=1, model={"vocab_size": 64})
NARROW = {
    "tarflow": Scale(layers=1, blocks=2, model={"channels": 64}),
    "seqrf": Scale(layers=1, model={"nf": 32}),
    "par": Scale(layers=1, model={"vocab_size": 64, "dim": 64, "n_head": 4}),
    "vq": Scale(layers=1, model={"ch": 32}),
}
TRIED = sorted(set(CHECKPOINTS) - {"llamagen-3b", "par-3b-4x"})
"""One of the three largest is enough: half a gigabyte even with one layer."""


@pytest.fixture(scope="module")
def graph() -> Graph:
    """The repository's own configuration."""
    return Graph(ROOT)


def scale_of(kind: str) -> Scale:
    """Full width, few layers; of a transformer also few codes, which are its ends."""
    return FEW_CODES if CHECKPOINTS[kind].layout == "par" else FEW


def spec_of(graph: Graph, kind: str, scale: Scale) -> dict[str, Any]:
    """What the rule gives the stage, with as many layers as the stand-in has."""
    own = CHECKPOINTS[kind]
    if own.layout == "vq":
        known = graph.config.tokenizers.items()
        name = next(n for n, one in known if one.checkpoint == kind)
        spec = graph.tokenizer_model(name)
    else:
        named = graph.experiments.items()
        name = next(n for n, one in named if one.checkpoint == kind)
        keys = ("model", "segments") if own.layout == "seqrf" else ("model",)
        spec = graph.experiment(name, *keys)
    small = scale.of(own).items()
    changed = {key: value for key, value in small if own.model.get(key) != value}
    return {**spec, "model": {**spec["model"], **changed}}


def prepare(kind: str, spec: dict[str, Any], source: Path, out: Path) -> None:
    """The stage of the system that a checkpoint is of."""
    stage = import_module(f"fewstep.stages.{STAGES[CHECKPOINTS[kind].layout]}")
    stage.prepare(spec, source, None, out)


def held(path: Path) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Type and shape of every tensor in a file of ours."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return {name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()}


@pytest.mark.parametrize(
    ("kind", "tensors", "parameters"),
    [
        ("afhq-model", 825, 463_481_856),
        ("img128-model", 825, 823_927_552),
        ("img64uncond-model", 817, 460_142_784),
        ("img64cond-model", 825, 817_636_096),
        ("img64cond-patch2-model", 825, 466_286_784),
        ("rf-cifar10", 565, 61_804_419),
        ("rf-church", 646, 65_574_549),
        ("vq-16", 344, 71_883_403),
        ("llamagen-b", 88, 110_888_448),
        ("llamagen-l", 172, 342_910_976),
        ("llamagen-xl", 256, 774_699_520),
        ("llamagen-xxl", 340, 1_410_972_672),
        ("llamagen-3b", 172, 3_096_659_200),
        ("par-xl-4x", 257, 774_699_520 + 3 * 1280),
        ("par-3b-16x", 173, 3_096_659_200 + 15 * 3200),
    ],
)
def test_layouts_have_the_published_sizes(
    kind: str, tensors: int, parameters: int
) -> None:
    """Number of tensors and of weights are those of the papers and released code."""
    entries = standins.entries(kind)
    idle = ("var", "quantize.codebook_used")
    counted = [e for e in entries if e.kind == "normal" and e.name not in idle]
    assert len(entries) == tensors
    assert sum(math.prod(e.shape) for e in counted) == parameters


def test_there_is_a_stand_in_of_every_asset_that_is_not_shipped(graph: Graph) -> None:
    """The asset table and the list of stand-ins name the same published files."""
    assets = graph.config.assets.items()
    away = {n for n, own in assets if own.path.startswith("data/assets/")}
    assert away == set(PUBLISHED)


@pytest.mark.parametrize("kind", TRIED)
def test_a_published_architecture_is_converted(
    kind: str, graph: Graph, tmp_path: Path
) -> None:
    """At full width the rule's own stage turns the file into float32 safetensors."""
    scale, source = scale_of(kind), tmp_path / "published.pt"
    standins.write(kind, source, scale=scale)
    spec, out = spec_of(graph, kind, scale), tmp_path / "out" / "model.safetensors"
    prepare(kind, spec, source, out)
    wanted = {
        e.name: (torch.float64 if e.kind == "sigmas" else torch.float32, e.shape)
        for e in standins.entries(kind, scale)
        if e.kind != "tril" and e.name != "quantize.codebook_used"
    }
    assert held(out) == wanted
    manifest = files.read_json(out.with_suffix(".json"))
    assert manifest["source_sha256"] == files.sha256_file(source)
    assert manifest["sha256"] == files.sha256_file(out)
    assert read_manifest(out)["model"] == spec["model"]


def test_converted_values_are_those_of_the_file(graph: Graph, tmp_path: Path) -> None:
    """Of a TarFlow the weights themselves, of a training file the average."""
    for kind in ("img64uncond-model", "rf-cifar10"):
        scale = NARROW[CHECKPOINTS[kind].layout]
        source = tmp_path / f"{kind}.pth"
        standins.write(kind, source, scale=scale, seed=1)
        out = tmp_path / f"{kind}.safetensors"
        prepare(kind, spec_of(graph, kind, scale), source, out)
        content: Any = torch.load(source, weights_only=False)
        raw: dict[str, Tensor] = content.get("model", content)
        found = read_state_dict(out)
        factor = 0.99 if "ema" in content else 1.0
        for name, value in found.items():
            if name not in ("sigmas", "var"):
                source_name = f"module.{name}" if "ema" in content else name
                torch.testing.assert_close(value, factor * raw[source_name])


def maps_of(path: Path) -> list[tuple[int, int]]:
    """Address ranges of this process that are a file (Linux)."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    found = [line.split()[0].split("-") for line in lines if line.endswith(str(path))]
    return [(int(start, 16), int(stop, 16)) for start, stop in found]


@pytest.mark.parametrize("kind", ["img64uncond-model", "llamagen-xxl", "par-xl-4x"])
def test_conversion_copies_no_weights(
    kind: str, graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written is still the mapped source: 12 GB of it are never in memory."""
    scale, source = NARROW[CHECKPOINTS[kind].layout], tmp_path / "published.pt"
    standins.write(kind, source, scale=scale)
    seen: dict[str, bool] = {}

    def write(out: Path, tensors: dict[str, Tensor], *_: Any) -> None:
        del out
        ranges = maps_of(source)
        for name, tensor in tensors.items():
            address = tensor.data_ptr()
            seen[name] = any(start <= address < stop for start, stop in ranges)

    monkeypatch.setattr(checkpoints, "write_state_dict", write)
    prepare(kind, spec_of(graph, kind, scale), source, tmp_path / "out.safetensors")
    assert len(seen) > 10
    assert all(seen.values())


def test_the_seed_decides_the_values(tmp_path: Path) -> None:
    """Equal seeds give equal weights, another seed others; none is constant."""
    scale = Scale(layers=1, blocks=1, model={"channels": 64})
    named = {"a": 0, "b": 0, "c": 1}
    for name, seed in named.items():
        standins.write("afhq-model", tmp_path / name, scale=scale, seed=seed)
    a, b, c = (torch.load(tmp_path / name) for name in named)
    weight = "blocks.0.attn_blocks.0.attention.qkv.weight"
    assert torch.equal(a[weight], b[weight])
    assert not torch.equal(a[weight], c[weight])
    assert float(a["blocks.0.proj_out.weight"].std()) > 0


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("afhq-model", {"channels": 128}, r"shape \(1024, 64\); expected shape \(102"),
        ("afhq-model", {"layers_per_block": 2}, "attn_blocks.1.*: absent; expected"),
        ("afhq-model", {"num_classes": 4}, r"class_embed: shape \(3, 1, 64\)"),
        ("rf-cifar10", {"ch_mult": [1, 2, 2, 4]}, "expected shape"),
        ("llamagen-b", {"dim": 128}, "expected shape"),
        ("llamagen-b", {"n_layer": 2}, "layers.1.*: absent; expected"),
        ("llamagen-b", {"ar_token_num": 4}, "1 token a step, ar_token_num says 4"),
        ("vq-16", {"num_res_blocks": 2}, "absent; expected shape"),
    ],
)
def test_another_architecture_is_one_line(
    kind: str, change: dict[str, Any], message: str, graph: Graph, tmp_path: Path
) -> None:
    """A width, depth or number of classes that differs is named; no file appears."""
    scale = NARROW[CHECKPOINTS[kind].layout]
    source = tmp_path / "published.pt"
    standins.write(kind, source, scale=scale)
    spec, out = spec_of(graph, kind, scale), tmp_path / "model.safetensors"
    spec["model"].update(change)
    with pytest.raises(UserError, match=message) as caught:
        prepare(kind, spec, source, out)
    assert "\n" not in str(caught.value)
    assert str(source) in str(caught.value)
    assert not out.exists()


def test_statistics_carry_their_network(tmp_path: Path) -> None:
    """A state of torchmetrics is read as a reference, and as Inception's weights."""
    path = tmp_path / "stats.pth"
    standins.write("afhq-stats", path)
    state = read_state_dict(path)
    assert len(state) == 572
    assert state["real_features_cov_sum"].dtype == torch.float64
    assert int(state["fake_features_num_samples"]) == 0
    reference = load_reference(path, expect_dim=2048)
    extractor = load_extractor("inception-v3-compat", weights=path)
    assert reference.n == 14630
    assert reference.weights_sha256 == extractor.weights_sha256
    assert np.linalg.eigvalsh(reference.sigma).min() > 0.04
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.isfinite(extractor(images).pool).all()
    standins.write("inception-weights", path)
    bare = load_extractor("inception-v3-compat", weights=path)
    assert bare.weights_sha256 == extractor.weights_sha256


def test_adm_s_reference_has_spatial_statistics_and_images(tmp_path: Path) -> None:
    """The .npz is read as statistics of both kinds, and as a list of images."""
    path = tmp_path / "virtual.npz"
    standins.write("imagenet-256-virtual", path, scale=Scale(images=3))
    reference = load_reference(path, expect_dim=2048)
    assert reference.mu_s is not None
    assert reference.mu_s.shape == (2023,)
    assert adm.open_images(path).shape == (3, 3, 256, 256)


def test_unknown_names_are_one_line(tmp_path: Path) -> None:
    """A name that is none of a published file is refused, with those that are."""
    with pytest.raises(UserError, match="no published file 'x'; expected afhq-model"):
        standins.write("x", tmp_path / "x")
    with pytest.raises(UserError, match="no published checkpoint 'afhq-stats'"):
        standins.entries("afhq-stats")
