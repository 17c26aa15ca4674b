"""The stages of SeqRF around its training: edges, pairs, paths, pictures, export."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep import checkpoints, files
from fewstep.config.seqrf import (
    AdaptiveSpec,
    TrajectorySpec,
)
from fewstep.data import open_dataset
from fewstep.results.flows import STRAIGHTNESS, TRAJECTORIES, edges_of
from fewstep.results.parquet import read_rows
from fewstep.samples import draw_samples
from fewstep.sampling import SampleOptions
from fewstep.seqrf.flow import load_flow
from fewstep.seqrf.model import NCSNpp
from fewstep.seqrf.pairs import open_pairs
from fewstep.seqrf.sampler import make_sampler
from fewstep.seqrf.segments import Segments
from fewstep.stages import edges as edges_stage
from fewstep.stages import pairs as pairs_stage
from fewstep.stages import prepare_flow
from fewstep.stages.export import export
from fewstep.stages.flow_recipe import Sources
from fewstep.stages.trajectories import measure, solver_pictures
from tests.seqrf.world import (
    CPU,
    EULER,
    MODEL,
    RK45,
    World,
    complaint,
    make_pairs,
    make_teacher,
    pair_spec,
    run,
    train_spec,
)

# ---- pairs and edges ----


def test_a_shard_made_twice_has_equal_bits(world: World, tmp_path: Path) -> None:
    """The bytes of a shard are decided by its spec, weights and images."""
    spec = pair_spec(2)
    found = []
    for name in ("a", "b"):
        out = tmp_path / f"{name}.arrow"
        pairs_stage.shard(spec, 1, world.teacher, world.dataset, None, out)
        found.append(out.read_bytes())
    assert (
        found[0]
        == found[1]
        == (world.pairs[2].parent / "shard-00001.arrow").read_bytes()
    )


def test_pairs_are_made_by_a_compiled_network_where_the_settings_say_so(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher's, before the first pair, and never else."""
    asked: list[NCSNpp] = []
    monkeypatch.setattr(pairs_stage, "compile_network", asked.append)
    for wanted in (False, True):
        spec = pair_spec(2, count=2, shard_size=2, compile=wanted)
        make_pairs(tmp_path / str(wanted), spec, world.teacher, world.dataset)
        assert len(asked) == wanted


def test_pairs_say_where_they_come_from(world: World) -> None:
    """Teacher, images, precision and code stand in the manifest; so does the mode."""
    data = open_pairs(world.pairs[2], verify=True)
    assert data.manifest["origin"] == {
        "teacher_sha256": files.sha256_file(world.teacher),
        "dataset_sha256": open_dataset(world.dataset).sha256,
        "precision": "fp32",
        "code": "c0de",
    }
    assert (len(data), data.plan.edges) == (20, (1.0, 0.5, 0.0))
    assert data.plan.time_factor == "exact"


def test_the_mode_of_pairs_follows_the_teacher(world: World, tmp_path: Path) -> None:
    """Null is the weights' own; a mode that is given wins."""
    teacher = make_teacher(tmp_path / "t.safetensors", time_factor="released")
    for mode, wanted in ((None, "released"), ("exact", "exact")):
        spec = pair_spec(2, mode=mode, count=2, shard_size=2)
        path = make_pairs(tmp_path / str(mode), spec, teacher, world.dataset)
        assert open_pairs(path).plan.time_factor == wanted


def edges_of_teacher(
    folder: Path, teacher: Path, heads: int = 1, segments: int = 3
) -> Path:
    """`edges.json` of a teacher."""
    adaptive = AdaptiveSpec(steps=20, samples=5).resolved()
    spec = {
        "name": "tried",
        "segments": segments,
        "adaptive": adaptive,
        "precision": "fp32",
        "mode": None,
        "model": MODEL,
        "heads": heads,
    }
    edges_stage.run(spec, teacher, folder / "edges.json")
    return folder / "edges.json"


def test_adaptive_edges_reach_pairs_and_the_trained_model(
    world: World, tmp_path: Path
) -> None:
    """k + 1 descending edges; pairs span them; the student's manifest has them."""
    path = edges_of_teacher(tmp_path, world.teacher)
    found = files.read_json(path)
    edges = found["edges"]
    assert len(edges) == 4
    assert (edges[0], edges[-1]) == (1.0, 0.0)
    assert all(a > b for a, b in pairwise(edges))
    assert edges == pytest.approx([1 - step / 20 for step in found["path"]])
    assert found["teacher_sha256"] == files.sha256_file(world.teacher)
    assert edges != pytest.approx(Segments.uniform(3).edges)
    pairs = make_pairs(tmp_path, pair_spec(3), world.teacher, world.dataset, path)
    data = open_pairs(pairs)
    assert data.plan.edges == tuple(edges)
    _, _, t0, t1, segment = data.batch(range(20))
    np.testing.assert_allclose(t1, np.array(edges)[segment], atol=1e-6)
    np.testing.assert_allclose(t0, np.array(edges)[segment + 1], atol=1e-6)
    spec = train_spec(3, objective="distill", steps=1)
    run(tmp_path / "run", spec, world.sources(pairs=pairs))
    model = tmp_path / "run/model.safetensors"
    assert checkpoints.read_manifest(model)["edges"] == edges
    assert load_flow(MODEL, 3, model, CPU).segments.edges == tuple(edges)


def test_edges_are_made_twice_alike(world: World, tmp_path: Path) -> None:
    """The same teacher and seed give the same file."""
    one = edges_of_teacher(tmp_path / "a", world.teacher)
    other = edges_of_teacher(tmp_path / "b", world.teacher)
    assert one.read_bytes() == other.read_bytes()


def test_a_teacher_of_other_segments_is_refused(world: World, tmp_path: Path) -> None:
    """A head makes pairs of the segment that it was trained for, and of no other."""
    edges = [1.0, 0.7, 0.0]
    teacher = make_teacher(tmp_path / "t.safetensors", heads=2, edges=edges)
    spec, out = pair_spec(2, heads=2, count=2, shard_size=2), tmp_path / "0.arrow"

    def shard(given: Path | None) -> None:
        pairs_stage.shard(spec, 0, teacher, world.dataset, given, out)

    assert complaint(lambda: shard(None)) == (
        f"{teacher}: its heads were trained for segments with edges 1 0.7 0; "
        "expected 1 0.5 0, those of the pairs; "
        "take a teacher of one segment, or pairs with its edges"
    )
    assert not out.exists()
    same = tmp_path / "same.json"
    files.write_json(same, {"edges": edges})
    shard(same)
    assert out.exists()
    line = complaint(lambda: edges_of_teacher(tmp_path, teacher, 2, 2))
    assert line.startswith(f"{teacher}: 2 segments, each with its own head")


# ---- paths and pictures ----


def path_spec(segments: int, fine: bool = True, **changes: Any) -> dict[str, Any]:
    """The spec of straightness and paths."""
    given = {"count": 3, "steps": 8, "compare": [2, 4], "shown": 2, **changes}
    return {
        "name": "tried",
        "model": MODEL,
        "segments": segments,
        "trajectory": {**TrajectorySpec(**given).resolved(), "fine": fine},
        "solvers": {"euler-4": EULER, "rk45": RK45},
        "precision": "fp32",
        "code": "c0de",
    }


def measured(
    folder: Path, spec: dict[str, Any], weights: Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of both tables, read back through their rules."""
    rows, paths = folder / "straightness.parquet", folder / "trajectories.parquet"
    measure(spec, weights, rows, paths)
    return read_rows(rows, STRAIGHTNESS), read_rows(paths, TRAJECTORIES)


def test_straightness_rows_obey_their_table(world: World, tmp_path: Path) -> None:
    """Every solver's steps and sum; the path also in other numbers of segments."""
    rows, _ = measured(tmp_path, path_spec(1), world.teacher)
    by: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by.setdefault(row["sampler"], []).append(row)
        STRAIGHTNESS.check(row)
    steps = {name: len(own) - 1 for name, own in by.items()}
    assert steps == {"path": 8, "path-k2": 8, "path-k4": 8, "euler-4": 4, "rk45": 1}
    assert [by[f"path{k}"][0]["edges"] for k in ("", "-k2", "-k4")] == [
        "1 0",
        "1 0.5 0",
        "1 0.75 0.5 0.25 0",
    ]
    sums = {name: own[0] for name, own in by.items()}
    assert all(row["point"] == -1 and row["n"] == 3 for row in sums.values())
    assert (sums["euler-4"]["nfe"], sums["path"]["nfe"]) == (4, 8)
    assert sums["rk45"]["nfe"] >= 8
    # Of one segment both are the same; more segments are never less straight.
    assert sums["path"]["seq_straightness"] == pytest.approx(
        sums["path"]["straightness"]
    )
    parts = [sums[f"path{k}"]["seq_straightness"] for k in ("", "-k2", "-k4")]
    assert parts[0] > parts[1] > parts[2] > 0
    assert (
        len({round(sums[f"path{k}"]["straightness"], 9) for k in ("", "-k2", "-k4")})
        == 1
    )


def test_straightness_is_what_sampling_says(world: World, tmp_path: Path) -> None:
    """The sum of a solver's row is the number that its draws give."""
    rows, _ = measured(tmp_path, path_spec(1), world.teacher)
    flow = load_flow(MODEL, 1, world.teacher, CPU)
    for name, solver in (("euler-4", EULER), ("rk45", RK45)):
        made = make_sampler(flow, solver, "fp32")
        noise = made.inputs(0, [0, 1, 2], None, purpose="trajectory")
        draw = made.draw(noise)
        row = next(r for r in rows if (r["sampler"], r["point"]) == (name, -1))
        for key in ("straightness", "seq_straightness", "nfe"):
            assert row[key] == pytest.approx(
                float(draw.numbers[key].mean()), rel=1e-4
            ), key


def test_trajectory_rows_obey_their_table(world: World, tmp_path: Path) -> None:
    """Sixteen pixels of the first samples, from the same noise for every solver."""
    _, rows = measured(tmp_path, path_spec(1), world.teacher)
    for row in rows:
        TRAJECTORIES.check(row)
    points = {"path": 9, "euler-4": 5, "rk45": 9}
    for name, count in points.items():
        own = [row for row in rows if row["sampler"] == name]
        assert len(own) == 2 * 16 * count
        assert {row["t"] for row in own} == set(np.linspace(1, 0, count))
    starts = [
        {
            (row["sample"], row["pixel"]): row["value"]
            for row in rows
            if row["sampler"] == name and row["point"] == 0
        }
        for name in points
    ]
    assert starts[0] == starts[1]
    assert starts[0] == pytest.approx(starts[2])


def test_a_flow_of_k_segments_is_not_compared_with_itself(
    world: World, tmp_path: Path
) -> None:
    """Its own k in `compare` adds nothing; the path passes through its edges."""
    weights = make_teacher(tmp_path / "two.safetensors", heads=2)
    spec = path_spec(2, compare=[4, 2])
    rows, paths = measured(tmp_path, spec, weights)
    found = {row["sampler"]: row["edges"] for row in rows if row["point"] == -1}
    assert found == {
        **dict.fromkeys(("path", "euler-4", "rk45"), "1 0.5 0"),
        "path-k4": "1 0.75 0.5 0.25 0",
    }
    assert {tuple(edges_of(row["edges"])) for row in paths} == {(1.0, 0.5, 0.0)}


def test_a_distilled_flow_has_no_path_of_its_own(world: World, tmp_path: Path) -> None:
    """Not fine: the solvers alone, as between its times the flow means nothing."""
    rows, paths = measured(tmp_path, path_spec(1, fine=False), world.teacher)
    for table in (rows, paths):
        assert {row["sampler"] for row in table} == {"euler-4", "rk45"}


def test_segments_that_the_path_does_not_hit_are_one_clear_line(
    world: World, tmp_path: Path
) -> None:
    """The steps of a flow with unequal segments may pass over other edges."""
    weights = make_teacher(tmp_path / "t.safetensors", heads=2, edges=[1.0, 0.7, 0.0])
    line = complaint(lambda: measured(tmp_path, path_spec(2, compare=[4]), weights))
    assert line.startswith("trajectory.compare: no point of the path lies at the edge")


def samples_of(folder: Path, weights: Path, name: str, shard: int) -> Path:
    """`samples.json` of six samples."""
    made = make_sampler(load_flow(MODEL, 1, weights, CPU), EULER, "fp32")
    options = SampleOptions(seed=0, start=0, stop=6, batch=6, shard=shard)
    path = folder / name / "samples.json"
    draw_samples(made, options, path, key="k" * 12, extra={"sampler": name})
    return path


def test_solvers_stand_side_by_side(world: World, tmp_path: Path) -> None:
    """A PNG with a row a solver and as many columns as asked, however they lie."""
    whole = samples_of(tmp_path, world.teacher, "aa", shard=6)
    parts = samples_of(tmp_path, world.teacher, "bb", shard=2)
    pictures = {}
    for name, chosen in (
        ("one", [whole, whole]),
        ("two", [whole, parts]),
        ("three", [parts, whole]),
    ):
        out = tmp_path / f"{name}.png"
        solver_pictures(chosen, out, columns=5)
        with Image.open(out) as image:
            assert image.format == "PNG"
            pictures[name] = np.asarray(image.convert("RGB"))
    assert pictures["one"].shape == pictures["two"].shape == pictures["three"].shape
    # The images are the same in both rows: the titles apart, so are the pictures.
    height, width, _ = pictures["one"].shape
    images = slice(width // 6, None)
    assert np.array_equal(pictures["one"][:, images], pictures["two"][:, images])
    assert height > 2 * 64


# ---- export ----


def test_an_export_halves_weights_and_keeps_tables(
    world: World, tmp_path: Path
) -> None:
    """float32 becomes float16, float64 stays; the history is in the header."""
    run(tmp_path, train_spec(), Sources(dataset=world.dataset))
    source, out = tmp_path / "model.safetensors", tmp_path / "asset.safetensors"
    export(source, out, "make demo")
    before, after = (
        checkpoints.read_state_dict(source),
        checkpoints.read_state_dict(out),
    )
    assert before.keys() == after.keys()
    assert after["sigmas"].dtype == torch.float64
    assert torch.equal(after["sigmas"], before["sigmas"])
    assert {v.dtype for k, v in after.items() if k != "sigmas"} == {torch.float16}
    about = checkpoints.read_manifest(out)
    assert about["command"] == "make demo"
    assert about["full_precision_sha256"] == files.sha256_file(source)
    assert about["time_factor"] == "exact"


def test_an_export_is_an_asset(world: World, tmp_path: Path) -> None:
    """What was exported is prepared again as weights with their segments."""
    edges = [1.0, 0.7, 0.0]
    source = make_teacher(tmp_path / "s.safetensors", heads=2, edges=edges)
    asset, out = tmp_path / "asset.safetensors", tmp_path / "model.safetensors"
    export(source, asset, "make demo")
    spec = {"name": "shipped", "model": MODEL, "segments": 2}
    prepare_flow.prepare(spec, asset, None, out)
    flow = load_flow(MODEL, 2, out, CPU)
    assert (list(flow.segments.edges), flow.time_factor) == (edges, "exact")
    before, after = (
        checkpoints.read_state_dict(source),
        checkpoints.read_state_dict(out),
    )
    for name, value in before.items():
        assert after[name].dtype == value.dtype
        torch.testing.assert_close(after[name], value, rtol=1e-3, atol=1e-6)


def test_an_asset_of_another_k_is_one_clear_line(world: World, tmp_path: Path) -> None:
    """One head cannot be prepared as two segments."""
    spec = {"name": "shipped", "model": MODEL, "segments": 2}
    out = tmp_path / "model.safetensors"
    line = complaint(lambda: prepare_flow.prepare(spec, world.teacher, None, out))
    assert line.startswith(f"{world.teacher}: the file has 1 head, segments says 2")
    assert not out.exists()


def test_a_changed_asset_is_one_clear_line(world: World, tmp_path: Path) -> None:
    """A file that is not the one that was checked is refused."""
    record, out = tmp_path / "record.json", tmp_path / "model.safetensors"
    files.write_json(record, {"sha256": "f" * 64})
    spec = {"name": "shipped", "model": MODEL, "segments": 1}
    line = complaint(lambda: prepare_flow.prepare(spec, world.teacher, record, out))
    assert "the file has changed since it was checked" in line
    assert not out.exists()
