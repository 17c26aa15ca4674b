"""The clock of a sampler beside its baseline: what differs, and what is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from fewstep import files
from fewstep.stages import timing
from fewstep.tarflow import Strategy
from fewstep.tarflow.sampler import TarFlowSampler
from tests.tarflow.conftest import random_model

SHARED = {"name": "tiny", "system": "tarflow", "mode": "exact", "tol": None}
FOR, JACOBI = "For", "[3-1-6-6]"


def spec_of(**changed: Any) -> dict[str, Any]:
    """What the clock of a sampler `auto` beside `for` is told."""
    return {
        **SHARED,
        "sampler": "auto",
        "num_classes": 3,
        "labels": "balanced",
        "code": "0",
        "timing": {"batches": [1, 2], "repeats": 1, "warmup": 0},
        "baseline": {**SHARED, "sampler": "for"},
        "baseline_name": "for",
        "exact_baseline": True,
        **changed,
    }


def clocked(
    folder: Path, monkeypatch: pytest.MonkeyPatch, notation: str, **changed: Any
) -> list[dict[str, Any]]:
    """What `timing.json` says of each batch, for a plan of the notation."""
    model = random_model()
    jacobi = Strategy.from_lists([1] * 3, [6] * 3)
    plan = Strategy.sequential(3) if notation == FOR else jacobi
    made = iter([Strategy.sequential(3), plan])
    monkeypatch.setattr(
        timing, "load_sampler", lambda *_: TarFlowSampler(model, next(made))
    )
    weights = folder / "model.safetensors"
    weights.write_bytes(b"weights")
    for name, words in (("auto", notation), ("for", FOR)):
        (folder / name).mkdir()
        files.write_json(folder / name / "plan.json", {"notation": words})
    plans = [folder / name / "plan.json" for name in ("auto", "for")]
    out, rows = folder / "timing.json", folder / "timing.parquet"
    timing.run(spec_of(**changed), weights, plans[0], weights, plans[1], out, rows)
    found: list[dict[str, Any]] = files.read_json(out)["batches"]
    ratios = pq.read_table(rows).to_pylist()
    assert [row["ratio"] for row in ratios] == [each["ratio"] for each in found]
    return found


def test_a_search_that_finds_the_baseline_is_as_fast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same plan in the same run: what its clocks differ by is no ratio."""
    for each in clocked(tmp_path, monkeypatch, FOR):
        assert each["ratio"] == 1.0
        assert each["seconds_baseline"] == each["seconds"] > 0
        assert each["error_to_exact"] == 0.0


def test_another_plan_has_the_ratio_of_its_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seconds of the baseline over its own, both from this run."""
    for each in clocked(tmp_path, monkeypatch, JACOBI):
        assert each["ratio"] == pytest.approx(
            each["seconds_baseline"] / each["seconds"]
        )
        assert each["ratio"] != 1.0


def test_another_setting_has_the_ratio_of_its_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For in the released mode is another sampler than For."""
    for each in clocked(tmp_path, monkeypatch, FOR, mode="released"):
        assert each["ratio"] != 1.0
