"""Training a flow from data, from pairs, from a published checkpoint."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep import checkpoints, files
from fewstep.config.seqrf import SnapshotSpec
from fewstep.data import open_dataset
from fewstep.results import TRAINING
from fewstep.results.parquet import read_rows
from fewstep.seqrf.flow import build_model, load_flow
from fewstep.seqrf.objectives import ReflowObjective
from fewstep.seqrf.pairs import open_pairs
from fewstep.seqrf.segments import Segments
from fewstep.stages import prepare_flow
from fewstep.stages.flow_recipe import Sources
from fewstep.training import PreemptedError
from tests.seqrf.conftest import CHECKPOINT
from tests.seqrf.world import (
    CPU,
    MODEL,
    PUBLISHED,
    Golden,
    Tensors,
    World,
    assert_equal,
    complaint,
    make_pairs,
    make_teacher,
    pair_spec,
    run,
    tiled,
    train_spec,
)

# ---- training ----


def test_a_flow_is_trained_from_data(world: World, tmp_path: Path) -> None:
    """Weights move; curve and manifest say how, and of which flow."""
    spec = train_spec(flip=True)
    kept = run(tmp_path, spec, Sources(dataset=world.dataset))
    torch.manual_seed(0)
    fresh = build_model(MODEL, 1).state_dict()
    assert any(not torch.equal(kept[name], fresh[name]) for name in kept)
    about = checkpoints.read_manifest(tmp_path / "model.safetensors")
    assert (about["edges"], about["time_factor"]) == ([1.0, 0.0], "exact")
    assert about["segments"] == 1
    assert about["sources"] == {"dataset": open_dataset(world.dataset).sha256}
    assert files.read_json(tmp_path / "model.json")["steps"] == 4
    rows = read_rows(tmp_path / "training.parquet", TRAINING)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["images"] for row in rows] == [4, 8, 12, 16]
    assert all(row["validation_loss"] > 0 and row["grad_norm"] > 0 for row in rows)
    assert {row["score"] for row in rows} == {None}
    assert files.read_json(tmp_path / "snapshots.json") == {"snapshots": []}
    load_flow(MODEL, 1, tmp_path / "model.safetensors", CPU)


OBJECTIVES = [
    ("reflow", 2, {}),
    ("distill", 2, {}),
    ("step_distill", 1, {"distill_steps": 4}),
]


@pytest.mark.parametrize(("objective", "k", "more"), OBJECTIVES)
def test_flows_learn_from_pairs(
    world: World, tmp_path: Path, objective: str, k: int, more: dict[str, Any]
) -> None:
    """Each objective trains; the manifest names the pairs and the start."""
    spec = train_spec(k, objective=objective, steps=12, **more)
    start = make_teacher(tmp_path / "start.safetensors", seed=9)
    run(tmp_path, spec, world.sources(k, start=start))
    about = checkpoints.read_manifest(tmp_path / "model.safetensors")
    assert about["sources"] == {
        "pairs": open_pairs(world.pairs[k]).identity,
        "start": files.sha256_file(start),
    }
    assert (about["segments"], about["edges"]) == (k, list(Segments.uniform(k).edges))
    rows = read_rows(tmp_path / "training.parquet", TRAINING)
    assert rows[-1]["validation_loss"] < rows[0]["validation_loss"]


def test_objectives_are_not_the_same_training(world: World, tmp_path: Path) -> None:
    """From the same weights and pairs each objective leads elsewhere."""
    found = [
        run(
            tmp_path / name,
            train_spec(1, objective=name, steps=1, **more),
            world.sources(1, start=world.teacher),
        )
        for name, _, more in OBJECTIVES
    ]
    last = "all_modules.4.Conv_0.weight"
    for i, one in enumerate(found):
        assert not any(torch.equal(one[last], other[last]) for other in found[:i])


@pytest.mark.parametrize("k", [1, 2])
def test_every_head_starts_as_the_teacher(world: World, tmp_path: Path, k: int) -> None:
    """Before the first step all k heads are the one-headed weights."""
    spec = train_spec(k, objective="reflow", steps=1)
    spec["train"].update(lr=0.0, min_lr=0.0, start_lr=0.0)
    kept = run(tmp_path, spec, world.sources(k, start=world.teacher))
    assert_equal(kept, tiled(checkpoints.read_state_dict(world.teacher), k))
    student = load_flow(MODEL, k, tmp_path / "model.safetensors", CPU).model
    teacher = load_flow(MODEL, 1, world.teacher, CPU).model
    x, label = torch.randn(2, 3, 8, 8), torch.tensor([5.0, 700.0])
    with torch.no_grad():
        for head in range(k):
            torch.testing.assert_close(
                student(x, label, head), teacher(x, label), atol=1e-5, rtol=0
            )


def test_a_student_starts_from_a_student(world: World, tmp_path: Path) -> None:
    """Weights with k heads are taken as they are."""
    start = make_teacher(tmp_path / "student.safetensors", heads=2, seed=5)
    spec = train_spec(2, objective="distill", steps=1)
    spec["train"].update(lr=0.0, min_lr=0.0, start_lr=0.0)
    kept = run(tmp_path / "run", spec, world.sources(2, start=start))
    assert_equal(kept, checkpoints.read_state_dict(start))


# ---- the published checkpoint ----


def published(folder: Path) -> tuple[Path, Path]:
    """The golden checkpoint as weights and as state."""
    model, state = folder / "model.safetensors", folder / "state.safetensors"
    spec = {"name": "published", "model": PUBLISHED, "segments": 1}
    prepare_flow.prepare(spec, CHECKPOINT, None, model)
    prepare_flow.state(CHECKPOINT, None, state)
    return model, state


@torch.no_grad()
def test_the_published_weights_are_the_average(
    golden_seqrf: Golden, tmp_path: Path
) -> None:
    """`prepare` keeps the moving average, and says how such a flow is sampled."""
    flow = load_flow(PUBLISHED, 1, published(tmp_path)[0], CPU)
    assert (flow.segments.edges, flow.time_factor) == ((1.0, 0.0), "released")
    case = golden_seqrf("rf_checkpoint_cifar_tiny_expect")
    error = (flow.model(case["x"], case["t"]) - case["out_ema"]).abs().flatten(1)
    assert bool(
        (error.amax(1) <= 2e-5 * case["out_ema"].abs().flatten(1).amax(1)).all()
    )
    about = checkpoints.read_manifest(tmp_path / "model.safetensors")
    assert about["steps"] == int(case["step"])
    assert about["source_sha256"] == files.sha256_file(CHECKPOINT)


def test_an_imported_optimizer_goes_on(world: World, tmp_path: Path) -> None:
    """Raw weights, average, moments and count are the checkpoint's, for every head."""
    model, state = published(tmp_path)
    spec = {**pair_spec(2), "model": PUBLISHED}
    pairs = make_pairs(tmp_path / "pairs", spec, model, world.dataset)
    spec = {
        **train_spec(
            2, objective="reflow", optimizer="imported", steps=1, count_offset=800
        ),
        "model": PUBLISHED,
    }
    spec["train"].update(lr=0.0, min_lr=0.0, start_lr=0.0)
    sources = Sources(pairs=pairs, teacher=model, start=state)
    kept = run(tmp_path / "run", spec, sources)
    parts: dict[str, Tensors] = {}
    for name, tensor in checkpoints.read_state_dict(state).items():
        part, _, rest = name.partition("/")
        parts.setdefault(part, {})[rest] = tensor
    wide = {name: tiled(tensors, 2) for name, tensors in parts.items()}
    for name, value in kept.items():
        wanted = 0.9 * wide["ema"][name] + 0.1 * wide["model"][name]
        torch.testing.assert_close(value, wanted.to(value.dtype), msg=name)
    last = torch.load(tmp_path / "run/work/last.pt", weights_only=True)
    assert_equal(dict(last["model"]), wide["model"])
    names = [name for name, _ in build_model(PUBLISHED, 2).named_parameters()]
    optimizer = last["optimizer"]["state"]
    assert {int(entry["step"]) for entry in optimizer.values()} == {801}
    # What is new in the first moments is a tenth of a gradient of norm 1.
    new = [
        optimizer[number]["exp_avg"] - 0.9 * wide["exp_avg"][name]
        for number, name in enumerate(names)
    ]
    norm = torch.cat([part.flatten() for part in new]).norm()
    assert float(norm) == pytest.approx(0.1, rel=1e-3)
    for number, name in enumerate(names):
        second = optimizer[number]["exp_avg_sq"] - 0.999 * wide["exp_avg_sq"][name]
        torch.testing.assert_close(
            second, 0.001 * (new[number] * 10).square(), atol=1e-8, rtol=1e-3
        )


def test_weights_without_moments_cannot_be_imported(
    world: World, tmp_path: Path
) -> None:
    """A model is no training state: one line says what to do."""
    spec = train_spec(2, objective="reflow", optimizer="imported")
    sources = world.sources(2, start=world.teacher)
    assert complaint(lambda: run(tmp_path, spec, sources)) == (
        f"{world.teacher}: no ema and exp_avg and exp_avg_sq and model in it; "
        "expected the state of a published training checkpoint; "
        "set train.optimizer to fresh"
    )
    _, state = published(tmp_path)
    halved = {
        name: tensor
        for name, tensor in checkpoints.read_state_dict(state).items()
        if not name.startswith("exp_avg_sq")
    }
    checkpoints.write_state_dict(state, halved, {})
    sources = world.sources(2, start=state)
    assert "no exp_avg_sq in it" in complaint(lambda: run(tmp_path, spec, sources))


# ---- what does not fit ----


def test_pairs_of_another_checkpoint_are_refused(world: World, tmp_path: Path) -> None:
    """One line with both hashes; what was there before stays."""
    spec = train_spec(2, objective="reflow")
    run(tmp_path, spec, world.sources())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = make_teacher(tmp_path.parent / f"{tmp_path.name}.safetensors", seed=1)
    line = complaint(lambda: run(tmp_path, spec, world.sources(teacher=other)))
    assert line.startswith(
        f"{world.pairs[2]}: the pairs were made by another checkpoint "
        f"(sha256 {files.sha256_file(world.teacher)[:12]}…); "
        f"expected checkpoint {files.sha256_file(other)[:12]}…"
    )
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before


def test_another_k_is_refused(world: World, tmp_path: Path) -> None:
    """Pairs and weights of another number of segments, in one line each."""
    spec = train_spec(3, objective="reflow")
    line = complaint(lambda: run(tmp_path, spec, world.sources()))
    assert f"{world.pairs[2]}: the pairs are of 2 segments; expected 3" in line
    start = make_teacher(tmp_path / "three.safetensors", heads=3)
    spec = train_spec(2, objective="reflow")
    line = complaint(lambda: run(tmp_path, spec, world.sources(start=start)))
    assert line.startswith(f"{start}: the file has 3 heads, segments says 2")


def test_more_pairs_than_there_are_is_refused(world: World, tmp_path: Path) -> None:
    """`pair_count` beyond the manifest's."""
    spec = train_spec(2, objective="reflow", pair_count=21)
    line = complaint(lambda: run(tmp_path, spec, world.sources()))
    assert f"{world.pairs[2]}: 20 pairs, but 21 are asked for" in line


def test_a_truncated_shard_is_refused(world: World, tmp_path: Path) -> None:
    """One line with the file and both sizes; nothing is written."""
    path = make_pairs(tmp_path / "p", pair_spec(2), world.teacher, world.dataset)
    shard = path.parent / "shard-00001.arrow"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    spec = train_spec(2, objective="reflow")
    sources = world.sources(pairs=path)
    line = complaint(lambda: run(tmp_path / "run", spec, sources))
    assert line.startswith(
        f"{shard}: {len(whole) - 100} bytes; expected {len(whole)} bytes"
    )
    assert not list(tmp_path.glob("run/*.safetensors"))


def test_weights_of_another_architecture_are_refused(
    world: World, tmp_path: Path
) -> None:
    """One line names the first tensor that differs and both shapes."""
    spec = train_spec(2, objective="reflow")
    spec["model"] = {**MODEL, "ch_mult": [1, 4]}
    line = complaint(lambda: run(tmp_path, spec, world.sources(start=world.teacher)))
    assert line == (
        f"{world.teacher}: tensor all_modules.5.Conv_0.weight: shape (16, 8, 3, 3); "
        "expected shape (32, 8, 3, 3): checkpoint and model do not fit; "
        "check the experiment's model against the checkpoint"
    )


def test_damaged_weights_are_refused(world: World, tmp_path: Path) -> None:
    """Without one of the time layers there is nothing to make heads of."""
    tensors = checkpoints.read_state_dict(world.teacher)
    del tensors["all_modules.1.bias"]
    start = tmp_path / "start.safetensors"
    checkpoints.write_state_dict(start, tensors, {})
    spec = train_spec(2, objective="reflow")
    line = complaint(lambda: run(tmp_path, spec, world.sources(start=start)))
    assert "tensor all_modules.1.bias: absent" in line


# ---- resuming ----


@pytest.mark.parametrize("every", [None, 1])
def test_a_resume_gives_the_same_bits(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int | None
) -> None:
    """Stopped after two steps and started again, with snapshots or without."""
    snapshots = None if every is None else SnapshotSpec(every=every)
    spec = train_spec(2, objective="reflow", snapshots=snapshots)
    spec["model"] = {**MODEL, "dropout": 0.3}
    sources = world.sources(start=world.teacher)
    whole = run(tmp_path / "whole", spec, sources)
    loss, calls = ReflowObjective.loss, []

    def stopping(self: ReflowObjective, model: Any, *rest: Any) -> Tensor:
        calls.append(model.training)
        if calls.count(True) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(self, model, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(ReflowObjective, "loss", stopping)
        with pytest.raises(PreemptedError, match="step 2"):
            run(tmp_path / "rest", spec, sources)
    assert not (tmp_path / "rest/model.safetensors").exists()
    assert_equal(run(tmp_path / "rest", spec, sources), whole)
    curves = [
        [
            (row["step"], row["loss"], row["validation_loss"])
            for row in read_rows(tmp_path / name / "training.parquet", TRAINING)
        ]
        for name in ("whole", "rest")
    ]
    assert curves[0] == curves[1]
    steps = [
        [
            entry["step"]
            for entry in files.read_json(tmp_path / name / "snapshots.json")[
                "snapshots"
            ]
        ]
        for name in ("whole", "rest")
    ]
    assert steps == [[1, 2, 3, 4] if every else []] * 2


def test_another_recipe_does_not_resume(world: World, tmp_path: Path) -> None:
    """The checkpoint of a run with another rate, start or k of pairs is not used."""
    spec = train_spec(2, objective="reflow", steps=2)
    other = train_spec(2, objective="reflow", steps=2, lr=5e-3, min_lr=5e-3)
    run(tmp_path / "a", spec, world.sources())
    found = run(tmp_path / "a", other, world.sources())
    assert_equal(found, run(tmp_path / "b", other, world.sources()))
    start = world.sources(start=world.teacher)
    assert_equal(run(tmp_path / "a", other, start), run(tmp_path / "c", other, start))
