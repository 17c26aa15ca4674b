"""A small world for the stages of SeqRF: images, a teacher, its pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fewstep import checkpoints, files
from fewstep.config.seqrf import (
    FlowModelSpec,
    FlowTrainSpec,
    PairsSpec,
)
from fewstep.errors import UserError
from fewstep.seqrf.flow import build_model
from fewstep.seqrf.pairs import collect
from fewstep.seqrf.segments import Segments
from fewstep.stages import pairs as pairs_stage
from fewstep.stages.flow_recipe import Sources
from fewstep.stages.train_flow import train_flow
from tests.seqrf.conftest import TINY_FLOW

Golden = Callable[[str], dict[str, Any]]
Tensors = dict[str, Tensor]

CPU = torch.device("cpu")
MODEL = FlowModelSpec(**TINY_FLOW).resolved()
# What the golden checkpoint was trained as.
PUBLISHED = FlowModelSpec(**{**TINY_FLOW, "init_scale": 0.0}).resolved()
EULER = {
    "solver": "euler",
    "steps": 4,
    "tol": None,
    "error_norm": "sample",
    "mode": None,
}
RK45 = {**EULER, "solver": "rk45", "steps": None, "tol": 1e-2}


def make_dataset(folder: Path, count: int = 24) -> Path:
    """Random images, 3 x 8 x 8."""
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", np.zeros(count, dtype=np.int64))
    manifest = {
        "name": "noise",
        "size": 8,
        "channels": 3,
        "count": count,
        "num_classes": 1,
        "classes": ["none"],
        "sha256": files.sha256_file(folder / "images.npy"),
        "labels_sha256": files.sha256_file(folder / "labels.npy"),
    }
    files.write_json(folder / "dataset.json", manifest)
    return folder


def make_teacher(path: Path, heads: int = 1, seed: int = 0, **about: Any) -> Path:
    """A flow with random weights, smooth in time, as `prepare` would leave it."""
    torch.manual_seed(seed)
    network = build_model(MODEL, heads)
    network.state_dict()[network.time_names[0]].mul_(0.02)
    manifest = {"edges": list(Segments.uniform(heads).edges), "time_factor": "exact"}
    checkpoints.write_state_dict(path, network.state_dict(), {**manifest, **about})
    return path


def pair_spec(segments: int, heads: int = 1, **changes: Any) -> dict[str, Any]:
    """The spec of a shard of pairs, as the graph resolves it."""
    given = {"count": 20, "shard_size": 12, "tol": 1e-2, "batch": 8, **changes}
    spec = PairsSpec(teacher="teacher", segments=segments, **given)
    resolved = spec.resolved(without=("teacher",))
    return {**resolved, "name": "tried", "model": MODEL, "heads": heads, "code": "c0de"}


def make_pairs(
    folder: Path,
    spec: dict[str, Any],
    teacher: Path,
    data: Path,
    edges: Path | None = None,
) -> Path:
    """All shards of a spec and their manifest; gives its path."""
    count = -(-spec["count"] // spec["shard_size"])
    shards = [folder / f"shard-{number:05d}.arrow" for number in range(count)]
    for number, out in enumerate(shards):
        pairs_stage.shard(spec, number, teacher, data, edges, out)
    collect([shard.with_suffix(".json") for shard in shards], folder / "pairs.json")
    return folder / "pairs.json"


def train_spec(segments: int = 1, **changes: Any) -> dict[str, Any]:
    """The spec of a training, as the graph resolves it."""
    given = {
        "steps": 4,
        "batch": 4,
        "lr": 1e-3,
        "min_lr": 1e-3,
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "clip": 1.0,
        "ema": 0.9,
        "log_every": 1,
        "save_every": 1,
        "holdout": 0.2,
        "betas": (0.9, 0.999),
    }
    train = FlowTrainSpec(**{**given, **changes}).resolved()
    return {"name": "tried", "model": MODEL, "segments": segments, "train": train}


def run(folder: Path, spec: dict[str, Any], sources: Sources) -> Tensors:
    """Train in a folder; gives the weights that were kept."""
    out = folder / "model.safetensors"
    train_flow(spec, sources, folder / "work", out, folder / "training.parquet")
    return checkpoints.read_state_dict(out)


def assert_equal(one: Tensors, other: Tensors) -> None:
    """Equal to the bit."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def tiled(tensors: Tensors, heads: int) -> Tensors:
    """One-headed tensors of the tiny network with every head a copy, by hand."""
    time = [f"all_modules.{i}.{part}" for i in (0, 1) for part in ("weight", "bias")]
    return {
        name: torch.cat([value] * heads) if name in time else value
        for name, value in tensors.items()
    }


def complaint(act: Callable[[], Any]) -> str:
    """The one line of a user's mistake."""
    with pytest.raises(UserError) as caught:
        act()
    line = str(caught.value)
    assert "\n" not in line
    return line


class World:
    """Files that the tests read and never change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dataset = make_dataset(folder / "data")
        self.teacher = make_teacher(folder / "teacher.safetensors")
        self.pairs = {
            k: make_pairs(folder / f"k{k}", pair_spec(k), self.teacher, self.dataset)
            for k in (1, 2)
        }

    def sources(self, k: int = 2, **changes: Any) -> Sources:
        """What a training on the pairs of k segments reads."""
        return replace(Sources(pairs=self.pairs[k], teacher=self.teacher), **changes)
