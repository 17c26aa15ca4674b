"""Paths in bounded memory: edges and straightness in batches, their names."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fewstep import files
from fewstep.config.seqrf import AdaptiveSpec, TrajectorySpec
from fewstep.results.flows import STRAIGHTNESS, TRAJECTORIES
from fewstep.results.parquet import read_rows
from fewstep.seqrf import adaptive, integration
from fewstep.seqrf.adaptive import adaptive_edges, segment_costs
from fewstep.seqrf.integration import path_batches
from fewstep.seqrf.sampler import FlowSampler
from fewstep.seqrf.segments import Segments
from fewstep.seqrf.straightness import gaps, sequential_gaps
from fewstep.stages import edges as edges_stage
from fewstep.stages import solver_plan
from fewstep.stages.trajectories import measure
from tests.seqrf.world import EULER, MODEL, RK45, World, make_teacher

VALUES = 3 * 8 * 8


def limit(monkeypatch: pytest.MonkeyPatch, samples: int, points: int) -> list[int]:
    """Let paths of so many samples and states fit; gives the batches as they come."""
    size = 4 * samples * points * VALUES
    monkeypatch.setattr(integration, "PATH_BYTES", size)
    monkeypatch.setattr(integration, "_LEAST_POINTS", 1)
    seen: list[int] = []
    plain = FlowSampler.integrate

    def watched(self: FlowSampler, noise: Tensor, **options: Any) -> Any:
        seen.append(len(noise))
        return plain(self, noise, **options)

    monkeypatch.setattr(FlowSampler, "integrate", watched)
    return seen


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor that is made, views not counted."""

    numel = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Look at what an operation gives."""
        del types
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        old = {x.untyped_storage().data_ptr() for x in given}
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and x.untyped_storage().data_ptr() not in old:
                self.numel = max(self.numel, x.numel())
        return out


# ---- batches ----


@given(
    count=st.integers(1, 200),
    points=st.integers(1, 600),
    size=st.sampled_from([8, 32, 64, 128, 256]),
)
@settings(max_examples=50, deadline=None)
def test_batches_hold_every_sample_and_fit(count: int, points: int, size: int) -> None:
    """Samples come once and in order; more than one only where their paths fit."""
    batches = list(path_batches(count, points, 3 * size**2))
    assert list(itertools.chain(*batches)) == list(range(count))
    for batch in batches:
        weight = 4 * len(batch) * points * 3 * size**2
        assert len(batch) == 1 or weight <= integration.PATH_BYTES


def test_large_images_come_in_small_batches() -> None:
    """At 256 x 256 the defaults take one sample for edges, a few for straightness."""
    values = 3 * 256**2
    assert len(next(path_batches(128, 501, values))) == 1
    assert 1 < len(next(path_batches(64, 129, values))) < 8
    # Even where hardly a path is kept, not 64 images go through a network at once.
    assert len(next(path_batches(64, 1, values))) < 16
    assert len(next(path_batches(64, 129, 3 * 32**2))) == 64


# ---- edges ----


def found_edges(folder: Path, teacher: Path, **changes: Any) -> dict[str, Any]:
    """What `edges.json` of a teacher says."""
    spec = {
        "name": "tried",
        "segments": 3,
        "adaptive": AdaptiveSpec(steps=20, samples=5).resolved(),
        "precision": "fp32",
        "mode": None,
        "model": MODEL,
        "heads": 1,
        **changes,
    }
    edges_stage.run(spec, teacher, folder / "edges.json")
    found: dict[str, Any] = files.read_json(folder / "edges.json")
    return found


def test_edges_in_batches_are_those_of_all_samples(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of 2, 2 and 1 give the edges and cost of one trajectory of 5."""
    whole = found_edges(tmp_path, world.teacher)
    seen = limit(monkeypatch, samples=2, points=21)
    parts = found_edges(tmp_path, world.teacher)
    assert seen == [2, 2, 1]
    assert parts["path"] == whole["path"]
    assert parts["cost"] == pytest.approx(whole["cost"], rel=1e-5)


def test_edges_follow_the_mode_of_the_pairs(tmp_path: Path) -> None:
    """A given mode wins; null is the weights' own."""
    teachers = {
        factor: make_teacher(tmp_path / f"{factor}.safetensors", time_factor=factor)
        for factor in ("exact", "released")
    }
    cost = {
        (factor, mode): found_edges(tmp_path, teacher, mode=mode)["cost"]
        for factor, teacher in teachers.items()
        for mode in (None, "exact", "released")
    }
    for factor in teachers:
        assert cost[factor, None] == cost[factor, factor]
    assert cost["exact", "released"] == cost["released", None]
    assert cost["exact", "exact"] != cost["exact", "released"]


def test_costs_need_no_copy_of_the_trajectory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a part of a larger batch too, the costs come from small pieces."""
    path = torch.randn(9, 6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = segment_costs(path[:, 1:5].clone())
    monkeypatch.setattr(adaptive, "_CHUNK_BYTES", 8.0 * 9 * 50)
    with Largest() as largest:
        costs = segment_costs(path[:, 1:5])
    assert costs == pytest.approx(expected, rel=1e-9)
    assert largest.numel <= 4 * 3 * 16 * 16
    assert adaptive_edges(path[:, 1:5], 2).cost == pytest.approx(
        float(min(expected[0, j] + expected[j, 8] for j in range(1, 8))), rel=1e-9
    )


# ---- straightness and paths ----


def measured(
    folder: Path, weights: Path, segments: int = 1, **changes: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of both tables, read back through their rules."""
    given = {"count": 5, "steps": 8, "compare": [2, 4], "shown": 3, **changes}
    spec = {
        "name": "tried",
        "model": MODEL,
        "segments": segments,
        "trajectory": {**TrajectorySpec(**given).resolved(), "fine": True},
        "solvers": {"euler-4": EULER, "rk45": RK45},
        "precision": "fp32",
        "code": "c0de",
    }
    rows, paths = folder / "straightness.parquet", folder / "trajectories.parquet"
    measure(spec, weights, rows, paths)
    return read_rows(rows, STRAIGHTNESS), read_rows(paths, TRAJECTORIES)


def test_straightness_and_paths_in_batches_are_those_of_all_samples(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of 2, 2 and 1 give the rows that one batch of 5 gives."""
    whole = measured(tmp_path, world.teacher)
    seen = limit(monkeypatch, samples=2, points=9)
    parts = measured(tmp_path, world.teacher)
    # Straightness and paths of the path and Euler's; RK45's one image at a time.
    assert seen == [2, 2, 1, 2, 1] * 2 + [2, 2, 1, 1, 1, 1]
    for table, others in zip(whole, parts, strict=True):
        assert len(table) == len(others)
        for one, other in zip(table, others, strict=True):
            for key in one.keys() - {"created_utc"}:
                if isinstance(one[key], float):
                    close = math.isclose(one[key], other[key], rel_tol=2e-4)
                    assert close or abs(one[key] - other[key]) < 1e-4, key
                else:
                    assert one[key] == other[key], key


@pytest.mark.parametrize("segments", [1, 2])
def test_every_number_of_segments_has_one_name(tmp_path: Path, segments: int) -> None:
    """Numbers said twice and the flow's own add nothing; a name tells its edges."""
    weights = make_teacher(tmp_path / "t.safetensors", heads=segments)
    rows, _ = measured(tmp_path, weights, segments, compare=[4, 2, 4, 1, 2])
    keys = [(row["sampler"], row["point"]) for row in rows]
    assert len(set(keys)) == len(keys)
    found = {row["sampler"]: row["segments"] for row in rows}
    others = {f"path-k{k}": k for k in (1, 2, 4) if k != segments}
    solvers = dict.fromkeys(("path", "euler-4", "rk45"), segments)
    assert found == {**solvers, **others}


@pytest.mark.parametrize("parts", [Segments.uniform(1), Segments.uniform(4)])
def test_gaps_convert_one_state_at_a_time(parts: Segments) -> None:
    """Nothing larger than one state of the batch is made of a path."""
    generator = torch.Generator().manual_seed(0)
    path = torch.randn(17, 3, 2, 8, 8, generator=generator)
    times = torch.linspace(1, 0, 17)
    for measured_by in (gaps, lambda x, t: sequential_gaps(x, t, parts)):
        with Largest() as largest:
            measured_by(path, times)
        assert largest.numel == 3 * 2 * 8 * 8


# ---- a solver in words ----


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"error_norm": "batch"}, "RK45 0.001 (batch norm), k = 4"),
        ({"error_norm": "sample"}, "RK45 0.001, k = 4"),
        # Of fixed steps it decides nothing.
        (
            {"solver": "euler", "steps": 8, "tol": None, "error_norm": "batch"},
            "Euler 8, k = 4",
        ),
    ],
)
def test_a_solver_says_that_a_batch_shares_its_steps(
    changes: dict[str, Any], words: str
) -> None:
    """Error control of the whole batch stands in the notation, of a sample not."""
    spec = {**RK45, "tol": 1e-3, "segments": 4, **changes}
    assert solver_plan.notation(spec) == words
