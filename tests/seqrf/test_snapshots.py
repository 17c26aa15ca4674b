"""Weights kept on the way of a training, and their scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewstep import checkpoints, files
from fewstep.classifier import SmallClassifier, load_classifier, save_classifier
from fewstep.config.seqrf import (
    SnapshotSpec,
)
from fewstep.data import open_dataset
from fewstep.references import save_reference
from fewstep.results import TRAINING
from fewstep.results.store import read_rows
from fewstep.seqrf.sampler import load_flow
from fewstep.seqrf.segments import Segments
from fewstep.stages.train_flow import Sources
from fewstep.statistics import dataset_reference
from tests.seqrf.world import (
    CPU,
    EULER,
    MODEL,
    Tensors,
    World,
    assert_equal,
    run,
    train_spec,
)


def scorer(world: World, folder: Path) -> tuple[dict[str, Any], Sources]:
    """A scored training's spec and sources: a small classifier with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    weights, reference = folder / "scorer.safetensors", folder / "reference.npz"
    torch.manual_seed(0)
    state = SmallClassifier(8, 2).state_dict()
    save_classifier(
        weights, state, {"size": 8, "num_classes": 2, "weights_sha256": "a" * 64}
    )
    extractor = load_classifier(weights, name="small")
    images = np.asarray(open_dataset(world.dataset).images)
    save_reference(reference, dataset_reference(images, extractor, 8, None, "none"))
    snapshots = SnapshotSpec(every=2, sampler="euler-4", n=6)
    spec = train_spec(2, objective="reflow", snapshots=snapshots)
    spec["scoring"] = {
        "seed": 3,
        "rounding": "truncate",
        "batch": 5,
        "extractor": {"kind": "classifier", "name": "small"},
        "real_levels": "plain",
        "sampler": {
            **EULER,
            "sampling": {
                "batch": 4,
                "shard_size": 5,
                "nan_policy": "fail",
                "max_redraws": 1,
                "precision": "fp32",
            },
        },
    }
    return spec, world.sources(reference=reference, extractor=weights)


def scores(folder: Path) -> list[tuple[int, float, str, int]]:
    """Steps with a score, the score, its name and number."""
    return [
        (row["step"], row["score"], row["score_metric"], row["score_n"])
        for row in read_rows(folder / "training.parquet", TRAINING)
        if row["score"] is not None
    ]


def test_snapshots_are_listed_and_leave_the_training_alone(
    world: World, tmp_path: Path
) -> None:
    """Weights at every second step, with hash and edges; the last are the model's."""
    snapshots = SnapshotSpec(every=2)
    spec = train_spec(2, objective="reflow", snapshots=snapshots)
    kept = run(tmp_path / "a", spec, world.sources())
    plain = train_spec(2, objective="reflow")
    assert_equal(kept, run(tmp_path / "b", plain, world.sources()))
    listed = files.read_json(tmp_path / "a/snapshots.json")["snapshots"]
    assert [entry["step"] for entry in listed] == [2, 4]
    for entry in listed:
        path = tmp_path / f"a/snapshots/step-{entry['step']:08d}.safetensors"
        assert files.sha256_file(path) == entry["sha256"]
        assert checkpoints.read_manifest(path)["steps"] == entry["step"]
        assert load_flow(MODEL, 2, path, CPU).segments == Segments.uniform(2)
    assert_equal(checkpoints.read_state_dict(path), kept)
    short = train_spec(2, objective="reflow", steps=2)
    first = tmp_path / "a/snapshots/step-00000002.safetensors"
    halfway = run(tmp_path / "c", short, world.sources())
    assert_equal(checkpoints.read_state_dict(first), halfway)


def test_snapshots_are_scored(world: World, tmp_path: Path) -> None:
    """A Fréchet distance from few samples beside its number; the weights are equal."""
    spec, sources = scorer(world, tmp_path)
    kept = run(tmp_path / "a", spec, sources)
    found = scores(tmp_path / "a")
    assert [(step, name, n) for step, _, name, n in found] == [
        (2, "frechet", 6),
        (4, "frechet", 6),
    ]
    assert all(score > 0 for _, score, _, _ in found)
    run(tmp_path / "b", spec, sources)
    assert scores(tmp_path / "b") == found
    del spec["scoring"]
    assert_equal(run(tmp_path / "c", spec, world.sources()), kept)
    assert scores(tmp_path / "c") == []


def test_a_snapshot_taken_twice_is_the_same(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the score and before it was saved, a run says the same again."""
    from fewstep.stages.snapshots import Snapshots

    spec, sources = scorer(world, tmp_path)
    taken, take = [], Snapshots.take

    def twice(self: Snapshots, step: int, tensors: Tensors) -> Any:
        taken.append((take(self, step, tensors), take(self, step, tensors)))
        return taken[-1][1]

    monkeypatch.setattr(Snapshots, "take", twice)
    kept = run(tmp_path / "a", spec, sources)
    assert all(one == other for one, other in taken)
    monkeypatch.undo()
    assert_equal(run(tmp_path / "b", spec, sources), kept)
    assert scores(tmp_path / "a") == scores(tmp_path / "b")


def test_snapshots_of_another_run_are_removed(world: World, tmp_path: Path) -> None:
    """A changed recipe leaves only its own files, samples of the others included."""
    spec, sources = scorer(world, tmp_path)
    run(tmp_path / "a", spec, sources)
    longer = json.loads(json.dumps(spec))
    longer["train"]["snapshots"]["every"] = 3
    run(tmp_path / "a", longer, sources)
    listed = files.read_json(tmp_path / "a/snapshots.json")["snapshots"]
    assert [entry["step"] for entry in listed] == [3]
    left = {path.name for path in (tmp_path / "a/snapshots").iterdir()}
    assert {name[:13] for name in left} == {"step-00000003"}


def test_another_scoring_scores_again(world: World, tmp_path: Path) -> None:
    """A finished run does not hand on the scores of another solver."""
    spec, sources = scorer(world, tmp_path)
    run(tmp_path / "a", spec, sources)
    before = scores(tmp_path / "a")
    spec["scoring"]["sampler"]["steps"] = 2
    run(tmp_path / "a", spec, sources)
    run(tmp_path / "b", spec, sources)
    assert scores(tmp_path / "a") == scores(tmp_path / "b") != before
