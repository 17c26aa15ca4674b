"""Results: row checks, verdicts, summaries, and tables that processes share."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewstep import results
from fewstep.codedigest import closure
from fewstep.results import (
    EVALUATIONS,
    TABLES,
    TRAINING,
    agreement,
    docs,
    read,
    sampler_order,
    summarize,
    upsert,
    verdict,
)
from fewstep.results.__main__ import main

NOW = "2026-11-21T22:42:05Z"


@pytest.mark.parametrize(
    "stage", ["train_par", "train_tokenizer", "train_tarflow", "train_flow"]
)
def test_a_training_depends_on_its_own_table_alone(stage: str) -> None:
    """An edited column, verdict or summary of evaluations trains nothing anew."""
    found = {
        name.removeprefix("fewstep.results.")
        for name in closure(f"fewstep.stages.{stage}")
        if name.startswith("fewstep.results.")
    }
    assert found == {"columns", "common", "parquet", "training"}


@pytest.mark.parametrize("stage", ["rank", "search", "timing"])
def test_a_measurement_depends_on_no_evaluation(stage: str) -> None:
    """An edited column of evaluations searches and times nothing anew."""
    found = set(closure(f"fewstep.stages.{stage}"))
    assert "fewstep.results.measured" in found
    for name in ("evaluations", "comparisons", "verdicts", "tables"):
        assert f"fewstep.results.{name}" not in found


def test_every_public_name_is_found() -> None:
    """Names are loaded when they are used; an unknown one is an AttributeError."""
    assert set(results._HOMES) == set(results.__all__)
    for name in results.__all__:
        assert getattr(results, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'EVALUATION'"):
        results.__getattr__("EVALUATION")


def evaluation(seed: int = 0, score: float = 12.5, **more: Any) -> dict[str, Any]:
    """A complete evaluation row."""
    values: dict[str, Any] = {
        "experiment": "demo",
        "system": "tarflow",
        "sampler": "for",
        "seed": seed,
        "n": 500,
        "labels": "balanced",
        "protocol": "classifier-1234",
        "extractor": "digits-classifier",
        "metric": "frechet",
        "frechet": score,
        "status": "ok",
        "created_utc": NOW,
        **more,
    }
    return EVALUATIONS.new_row(**values)


def training(step: int, loss: float = 1.0, experiment: str = "demo") -> dict[str, Any]:
    """A complete row of the training table."""
    return TRAINING.new_row(
        experiment=experiment, step=step, loss=loss, lr=0.1, seconds=1.0
    )


def digest(path: Path) -> str:
    """Hash of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


# Row checks


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sampel": "for"}, "unknown column 'sampel', did you mean 'sampler'"),
        ({"n": 1.5}, "column 'n' takes integer, not 1.5"),
        ({"n": 500.0}, "column 'n' takes integer"),
        ({"n": True}, "column 'n' takes integer, not True"),
        ({"n": 2**63}, "column 'n' takes integer"),
        ({"n": 0}, "column 'n' is >= 1, not 0"),
        ({"group": 0}, "column 'group' is >= 1, not 0"),
        ({"seed": None}, "column 'seed' must not be null"),
        ({"frechet": "12.5"}, "column 'frechet' takes number"),
        ({"frechet": True}, "column 'frechet' takes number"),
        ({"frechet": math.nan}, "column 'frechet' must be finite"),
        ({"kid": math.inf}, "column 'kid' must be finite"),
        ({"dirty": 1}, "column 'dirty' takes flag"),
        ({"sampler": 3}, "column 'sampler' takes text"),
        ({"labels": "random"}, "column 'labels' is one of balanced, iid, none"),
        ({"created_utc": "2026-11-21 22:42"}, "column 'created_utc' takes time"),
        ({"speedup": 2.0}, "'speedup' and 'baseline' are given together"),
        ({"speedup": 2.0, "baseline": "for"}, "'timing_batch' must say"),
        ({"fid": 3.0}, "column 'fid' must be null"),
        ({"frechet": None}, "column 'frechet' must not be null"),
        ({"difference": 1.0}, "column 'difference' needs"),
        ({"published_value": 12.0, "difference": 3.0}, "'difference' is not"),
        ({"status": "failed"}, "column 'error' must say why"),
        ({"metric": "fid", "fid": 3.0, "frechet": None}, "'fid' needs Inception"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(change: dict[str, Any], words: str) -> None:
    """Each misfit is a ValueError that names the table and the column."""
    with pytest.raises(ValueError, match="evaluations: ") as caught:
        EVALUATIONS.check({**evaluation(), **change})
    assert words in str(caught.value)


def test_a_missing_column_is_refused() -> None:
    """A row without a column is not filled with null in silence."""
    row = evaluation()
    del row["kid"]
    with pytest.raises(ValueError, match="column 'kid' is missing"):
        EVALUATIONS.check(row)


def test_good_rows_of_all_kinds_pass() -> None:
    """FID with Inception, a published difference, a failed cell with its reason."""
    fid = evaluation(
        metric="fid",
        fid=13.7,
        frechet=None,
        extractor="inception-v3-compat",
        published_value=13.6,
        difference=0.1,
        kid=-1e-4,
        speedup=0.5,
        baseline="for",
        timing_batch=16,
    )
    failed = evaluation(frechet=None, status="failed", error="3 NaN images")
    for row in (fid, failed):
        assert EVALUATIONS.check(row) == row


@pytest.mark.parametrize(
    "given",
    [{"score": 3.0}, {"score": 3.0, "score_n": 500}, {"score_metric": "fid"}],
)
def test_a_score_on_the_way_says_what_it_is(given: dict[str, Any]) -> None:
    """A snapshot's score stands in the curve only with its name and its n."""
    whole = {"score": 3.0, "score_n": 500, "score_metric": "fid"}
    row = {**training(5), **whole}
    assert TRAINING.check(row) == row
    with pytest.raises(ValueError, match="given together or not"):
        TRAINING.check({**training(5), **given})


def test_numpy_scalars_become_plain_values() -> None:
    """numpy's numbers are taken and turned into Python's."""
    row = evaluation(
        seed=np.int64(3),  # type: ignore[arg-type]
        score=np.float32(1.5),  # type: ignore[arg-type]
        dirty=np.bool_(True),
    )
    assert (type(row["seed"]), type(row["frechet"])) == (int, float)
    assert row["dirty"] is True


def test_diverged_iterates_may_be_infinite_but_no_score_may() -> None:
    """NaN and infinity stand where an error may overflow, nowhere else."""
    allowed = {
        (table.name, column.name)
        for table in TABLES.values()
        for column in table.columns
        if not column.finite
    }
    assert allowed == {
        ("convergence", "error_max"),
        ("convergence", "error_rms"),
        ("convergence", "error_median"),
        ("strategies", "error"),
        ("strategies", "error_rms"),
        ("training", "loss"),
        ("training", "grad_norm"),
    }


# Schemas


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_every_schema_is_sound_and_carries_its_descriptions(
    table: Any, tmp_path: Path
) -> None:
    """Names are unique, keys required; version and descriptions are in the file."""
    assert len(set(table.names)) == len(table.names)
    required = {column.name for column in table.columns if column.required}
    assert set(table.key) <= required
    path = tmp_path / f"{table.name}.parquet"
    upsert(path, [])
    schema = pq.read_schema(path)
    assert schema.metadata[b"fewstep.schema_version"] == str(table.version).encode()
    for column in table.columns:
        found = schema.field(column.name)
        assert found.metadata[b"description"].decode() == column.description
        assert found.nullable is not column.required
    assert list(read(path).columns) == list(table.names)


def test_evaluations_hold_what_the_design_asks_for() -> None:
    """The columns that the design and the users' asks name are all there."""
    asked = """experiment system sampler seed n labels protocol extractor
    extractor_sha256 reference_sha256 metric fid frechet kid kid_std isc isc_std
    precision recall class_agreement steps iterations nfe nan_events redrawn clipped
    mode tol dtype guidance temperature self_denoise
    seconds_per_image images_per_second seconds_end_to_end_per_image timing_batch
    baseline speedup error_to_exact peak_memory_mb batch device threads torch python
    fewstep commit dirty code_digest checkpoint_sha256 strategy dataset_sha256
    published_value published_source published_n difference verdict status error
    created_utc world_size driver solver segments straightness seq_straightness
    train_step published_table sfid group top_k top_p guidance_shape seconds_batch1
    images_per_second_best best_batch"""
    assert set(asked.split()) <= set(EVALUATIONS.names)


# Verdicts


@pytest.mark.parametrize(
    ("value", "sd", "expected"),
    [
        (10.0, None, "matches"),
        (10.2, None, "matches"),
        (10.21, None, "worse"),
        (9.79, 0.01, "better"),
        (10.9, 0.5, "matches"),
        (8.9, 0.5, "better"),
        (11.1, 0.5, "worse"),
        (None, None, "not comparable"),
        (math.nan, None, "not comparable"),
    ],
)
def test_verdict_band(value: float | None, sd: float | None, expected: str) -> None:
    """A match is within 2 % or two standard deviations, whichever is more."""
    found = verdict(value, sd, 10.0, 50_000, 50_000, True)
    assert found.verdict == expected
    assert found.reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n": 500}, "n = 500, published with 50,000"),
        ({"published_n": None}, "published number of images is unknown"),
        ({"protocol_ok": False}, "another protocol"),
        ({"protocol_ok": False, "protocol_note": "other resize"}, "other resize"),
        ({"metric": "frechet"}, "ours is frechet, the published one fid"),
    ],
)
def test_what_is_not_comparable(change: dict[str, Any], words: str) -> None:
    """Another n, protocol or metric is never judged, however near the numbers."""
    base: dict[str, Any] = {"n": 50_000, "published_n": 50_000, "protocol_ok": True}
    found = verdict(10.0, 0.1, 10.0, **{**base, **change})
    assert found.verdict == "not comparable"
    assert words in found.reason


def test_verdict_without_a_published_value() -> None:
    """Where nothing was published the verdict says just that."""
    found = verdict(10.0, 0.1, None, 500, None, False)
    assert found.verdict == "no published value"


def test_verdict_of_a_score_where_more_is_better() -> None:
    """The direction can be turned round, and the published spread widens the band."""
    args: tuple[Any, ...] = (0.5, 0.0, 0.4, 50, 50, True)
    assert verdict(*args, lower_is_better=False).verdict == "better"
    assert verdict(*args, published_sd=0.05).verdict == "matches"


@given(
    value=st.floats(0.1, 500),
    published=st.floats(0.1, 500),
    sd=st.floats(0, 50),
    factor=st.floats(0.01, 100),
)
def test_verdict_does_not_depend_on_the_unit(
    value: float, published: float, sd: float, factor: float
) -> None:
    """Scaling all numbers by one factor leaves the verdict, away from the edge."""
    band = max(0.02 * published, 2 * sd)
    if math.isclose(abs(value - published), band, rel_tol=1e-6):
        return
    one = verdict(value, sd, published, 9, 9, True).verdict
    scaled = verdict(value * factor, sd * factor, published * factor, 9, 9, True)
    assert scaled.verdict == one


def test_agreement_of_two_samplers() -> None:
    """Two of our scores agree within their spread; one seed cannot be worse."""
    assert agreement(10.5, 0.2, 10.0, 0.3).verdict == "matches"
    assert agreement(12.0, 0.2, 10.0, 0.3).verdict == "worse"
    assert agreement(8.0, 0.2, 10.0, 0.3).verdict == "better"
    assert agreement(12.0, None, 10.0, None).verdict == "not comparable"
    assert agreement(None, None, 10.0, None).verdict == "not comparable"


# Summaries


def test_summary_over_seeds() -> None:
    """Mean and sample standard deviation over seeds, rows sorted by seed."""
    found = summarize([evaluation(2, 14.0), evaluation(0, 10.0), evaluation(1, 12.0)])
    assert (found["mean"], found["sd"], found["seeds"]) == (12.0, 2.0, [0, 1, 2])
    assert (found["metric"], found["n"], len(found["rows"])) == ("frechet", 500, 3)


def test_summary_of_the_further_scores() -> None:
    """Each has its own mean and spread, over the seeds that gave it."""
    rows = [
        evaluation(0, sfid=6.0, precision=0.5),
        evaluation(1, sfid=8.0),
        evaluation(2, frechet=None, sfid=99.0, status="failed", error="NaN"),
    ]
    scores = summarize(rows)["scores"]
    assert scores["sfid"] == {"mean": 7.0, "sd": pytest.approx(2**0.5)}
    assert scores["precision"] == {"mean": 0.5, "sd": None}
    assert "recall" not in scores


def test_summary_of_failed_seeds() -> None:
    """A failed seed keeps its row and is left out of the mean."""
    failed = evaluation(1, frechet=None, status="failed", error="NaN")
    some = summarize([evaluation(0, 10.0), failed])
    assert (some["mean"], some["sd"], some["seeds"]) == (10.0, None, [0, 1])
    assert summarize([failed])["mean"] is None


@pytest.mark.parametrize(
    "change", [{"n": 501}, {"protocol": "other"}, {"reference_sha256": "aa"}]
)
def test_rows_of_another_protocol_are_not_averaged(change: dict[str, Any]) -> None:
    """Rows of another n, protocol or reference never share a mean."""
    with pytest.raises(ValueError, match="never averaged"):
        summarize([evaluation(0), evaluation(1, **change)])


def test_samplers_stand_in_one_order() -> None:
    """The known samplers come first, in the order of exact to searched."""
    assert sampler_order(["x", "auto", "for", "gsj"]) == ["for", "gsj", "auto", "x"]


def test_samplers_with_numbers_stand_in_their_order() -> None:
    """Euler with 16 steps comes after Euler with 8, and each solver by itself."""
    names = ["euler-1", "euler-8", "euler-16", "heun-2", "heun-10", "rk45"]
    assert sampler_order(sorted(names)) == names


def test_summary_refuses_nothing_and_doubles() -> None:
    """No rows, or a seed twice, is a mistake of the caller."""
    with pytest.raises(ValueError, match="no rows"):
        summarize([])
    with pytest.raises(ValueError, match="stands twice"):
        summarize([evaluation(0), evaluation(0)])


# The page of outputs


def test_the_page_of_outputs_is_that_of_the_schemas() -> None:
    """docs/outputs.md does not drift from the schemas."""
    docs.check()


def test_the_page_names_every_column_of_every_table() -> None:
    """No column is without its line, and no line without words."""
    page = docs.outputs_markdown()
    for table in TABLES.values():
        part = page.split(f"## Table `{table.name}`")[1].split("\n## ")[0]
        for column in table.columns:
            line = next(
                x for x in part.splitlines() if x.startswith(f"| `{column.name}`")
            )
            assert column.description in line


def test_fix_writes_once_and_check_complains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing or edited page fails the check in one line; fixing it mends it."""
    page = tmp_path / "outputs.md"
    for name in ("check", "fix"):
        monkeypatch.setattr(f"fewstep.report.readme.{name}", lambda: None)
    monkeypatch.setattr(docs.check, "__defaults__", (page,))
    monkeypatch.setattr(docs.fix, "__defaults__", (page,))
    assert main(["--check"]) == 1
    assert "run python -m fewstep.results --fix" in capsys.readouterr().err
    assert main(["--fix"]) == 0
    assert main(["--check"]) == 0
    assert docs.fix(page) is False
    page.write_text(page.read_text() + "more\n")
    assert main(["--check"]) == 1


def test_the_pages_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pandas and the DuckDB snippet work in a folder that holds results."""
    monkeypatch.chdir(tmp_path)
    row = evaluation(seconds_per_image=0.25)
    upsert(Path("results/tables/evaluations.parquet"), [row])
    page = docs.outputs_markdown()
    python = page.split("```python\n")[1].split("```")[0]
    exec(python, {})
    assert "0.25" in capsys.readouterr().out
    found = duckdb.sql(page.split("```sql\n")[1].split("```")[0]).fetchall()
    assert found == [("demo", "for", "classifier-1234", 500, 12.5)]
