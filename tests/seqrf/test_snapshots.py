"""Weights kept on the way of a training, and their scores."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewstep import checkpoints, files
from fewstep.classifier import SmallClassifier, load_classifier, save_classifier
from fewstep.config.seqrf import SnapshotSpec
from fewstep.data import open_dataset
from fewstep.references import save_reference
from fewstep.results import TRAINING
from fewstep.results.parquet import read_rows
from fewstep.seqrf.flow import load_flow
from fewstep.seqrf.segments import Segments
from fewstep.stages.flow_recipe import Sources
from fewstep.statistics import dataset_reference
from tests.seqrf.world import (
    CPU,
    EULER,
    MODEL,
    Tensors,
    World,
    assert_equal,
    complaint,
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
    """A changed recipe leaves only its own weights, and no samples."""
    spec, sources = scorer(world, tmp_path)
    run(tmp_path / "a", spec, sources)
    spec["train"].update(lr=2e-3, snapshots={**spec["train"]["snapshots"], "every": 3})
    run(tmp_path / "a", spec, sources)
    listed = files.read_json(tmp_path / "a/snapshots.json")["snapshots"]
    assert [entry["step"] for entry in listed] == [3]
    left = {path.name for path in (tmp_path / "a/snapshots").iterdir()}
    assert left == {"step-00000003.safetensors"}


def test_a_snapshot_that_was_not_kept_is_one_clear_line(
    world: World, tmp_path: Path
) -> None:
    """A run that kept other steps is refused before it goes on, and loses nothing."""
    spec = train_spec(2, objective="reflow", snapshots=SnapshotSpec(every=2))
    run(tmp_path, spec, world.sources())
    before = (tmp_path / "model.safetensors").read_bytes()
    spec["train"]["snapshots"]["every"] = 3
    line = complaint(lambda: run(tmp_path, spec, world.sources()))
    assert "snapshots every 3 steps, but this run keeps every 2" in line
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_lost_results_are_made_from_the_finished_run(
    world: World, tmp_path: Path
) -> None:
    """Whoever deletes the results finds weights, snapshots and scores again."""
    spec, sources = scorer(world, tmp_path)
    kept = run(tmp_path / "a", spec, sources)
    found = scores(tmp_path / "a")
    listed = (tmp_path / "a/snapshots.json").read_bytes()
    for path in (tmp_path / "a").iterdir():
        if path.name != "work":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert_equal(run(tmp_path / "a", spec, sources), kept)
    assert scores(tmp_path / "a") == found
    assert (tmp_path / "a/snapshots.json").read_bytes() == listed


def test_another_scoring_scores_again(world: World, tmp_path: Path) -> None:
    """A finished run does not hand on the scores of another solver."""
    spec, sources = scorer(world, tmp_path)
    run(tmp_path / "a", spec, sources)
    before = scores(tmp_path / "a")
    spec["scoring"]["sampler"]["steps"] = 2
    run(tmp_path / "a", spec, sources)
    run(tmp_path / "b", spec, sources)
    assert scores(tmp_path / "a") == scores(tmp_path / "b") != before
