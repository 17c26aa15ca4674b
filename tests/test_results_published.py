"""Published numbers beside ours: scores where they compare, times on like hardware."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fewstep import files
from fewstep.config import load_config
from fewstep.errors import UserError
from fewstep.results import PUBLISHED, compare, read_rows, summarize
from fewstep.results.comparisons import same_hardware
from fewstep.stages import evaluate, report
from tests import results_samples as samples

ROOT = Path(__file__).parents[1]
SAID: dict[str, Any] = {
    "value": 2.61,
    "sd": None,
    "n": 50_000,
    "source": "PAR",
    "table": "Table 2",
    "others": {"isc": 259.2, "precision": 0.82, "recall": None},
    "seconds": None,
    "seconds_batch1": 4.94,
    "hardware": "one A100, batch 1",
    "unit": "",
    "note": "",
}


def rows(*, n: int = 50_000, **more: Any) -> list[dict[str, Any]]:
    """Three seeds of a cell with Inception features."""
    values: dict[str, Any] = {
        "isc": 258.0,
        "precision": 0.70,
        "recall": 0.56,
        "seconds_batch1": 1.2,
        "published_value": None,
        "difference": None,
        "hardware": "NVIDIA H200",
        **more,
    }
    found = [
        samples.published(seed, 2.60 + seed / 100, n=n, **values) for seed in (0, 1)
    ]
    return [*found, samples.published(2, 2.62, n=n, **values)]


def verdicts(found: list[dict[str, Any]]) -> dict[str, str]:
    """Verdict by quantity."""
    return {row["quantity"]: row["verdict"] for row in found}


def test_every_published_score_has_its_own_verdict() -> None:
    """FID matches inside 2 %; of IS and precision more is better."""
    found = compare(rows(), SAID)
    assert verdicts(found) == {
        "fid": "matches",
        "isc": "matches",
        "precision": "worse",
        "seconds_batch1": "not comparable",
    }
    assert verdicts(compare(rows(precision=0.9), SAID))["precision"] == "better"
    fid = found[0]
    assert (fid["ours"], fid["published"]) == (pytest.approx(2.61), 2.61)
    assert (fid["seeds"], fid["n"], fid["published_n"]) == (3, 50_000, 50_000)
    assert fid["sd"] == pytest.approx(0.01)


def test_two_standard_deviations_widen_the_band() -> None:
    """A score outside 2 % matches where the seeds differ by as much."""
    calm = [
        samples.published(s, 2.80, published_value=None, difference=None)
        for s in (0, 1)
    ]
    wide = [
        samples.published(s, score, published_value=None, difference=None)
        for s, score in enumerate((2.6, 3.0))
    ]
    assert verdicts(compare(calm, SAID))["fid"] == "worse"
    assert verdicts(compare(wide, SAID))["fid"] == "matches"


@pytest.mark.parametrize(
    ("given", "note", "reason"),
    [
        ({"n": 10_000}, "", "n = 10,000, published with 50,000"),
        ({}, "another Inception network", "another Inception network"),
    ],
)
def test_scores_of_other_n_or_protocol_are_not_compared(
    given: dict[str, Any], note: str, reason: str
) -> None:
    """No score is judged then, and each says what differs."""
    found = [
        row
        for row in compare(rows(**given), SAID, note)
        if row["quantity"] in "fid isc"
    ]
    assert set(verdicts(found).values()) == {"not comparable"}
    assert {row["reason"] for row in found} == {reason}


def test_one_seed_says_that_its_spread_is_unknown() -> None:
    """A verdict from one seed is given with that reservation."""
    (fid, *_) = compare(rows()[:1], SAID)
    assert "one seed: our spread is unknown" in fid["reason"]
    assert (fid["sd"], fid["seeds"]) == (None, 1)


@pytest.mark.parametrize(
    ("hardware", "verdict", "reason"),
    [
        (
            "NVIDIA H200",
            "not comparable",
            "hardware: ours on NVIDIA H200, publ",
        ),
        (None, "not comparable", "hardware: ours on unknown hardware"),
        ("NVIDIA A100-SXM4-80GB", "better", "differs by"),
    ],
)
def test_times_are_compared_on_like_hardware_alone(
    hardware: str | None, verdict: str, reason: str
) -> None:
    """Elsewhere a time stands beside ours, and the verdict names both machines."""
    time = compare(rows(hardware=hardware), SAID)[-1]
    assert (time["quantity"], time["ours"]) == ("seconds_batch1", 1.2)
    assert time["verdict"] == verdict
    assert time["reason"].startswith(reason)


def test_a_time_of_a_whole_run_is_told_by_the_image() -> None:
    """6,554 s for 50,000 images are 0.131 s an image, on eight GPUs never like ours."""
    said = {**SAID, "seconds": 6554.4, "seconds_batch1": None, "hardware": "8 x A800"}
    time = compare(rows(seconds_per_image=0.5), said)[-1]
    assert time["quantity"] == "seconds_per_image"
    assert time["published"] == pytest.approx(0.131088)
    assert time["verdict"] == "not comparable"
    assert not same_hardware("NVIDIA A800", "8 x A800")


def test_a_cell_that_we_did_not_time_says_so() -> None:
    """No time of ours is no verdict."""
    time = compare(rows(seconds_batch1=None), SAID)[-1]
    assert (time["verdict"], time["reason"]) == ("not comparable", "we have no time")


def test_a_number_that_nobody_verified_is_no_verdict() -> None:
    """A cell whose table could not be read stands there with its table's name."""
    (fid, *_) = compare(rows(), {**SAID, "value": None, "others": None})
    assert (fid["published"], fid["verdict"]) == (None, "no published value")
    assert fid["reason"] == "published in Table 2, number not verified"
    assert compare(rows(), None) == []


def test_every_published_cell_of_the_configuration_can_be_compared() -> None:
    """What config.yaml says of a cell has all that a comparison asks."""
    config = load_config(ROOT / "config.yaml", assets=ROOT / "workflow/assets.yaml")
    quantities = set()
    for own in config.experiments.values():
        for sampler in own.samplers.values():
            said = sampler.resolved()["published"]
            found = compare(rows(), said)
            quantities |= {row["quantity"] for row in found}
            assert bool(found) == bool(said)
    assert quantities == {
        *("fid", "isc", "precision", "recall"),
        *("seconds_per_image", "seconds_batch1"),
    }


def test_the_stage_files_what_was_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evaluation's JSON and the table `published` hold the same comparisons."""
    spec = {
        "name": "afhq",
        "system": "tarflow",
        "sampler": "gsj",
        "settings": {},
        "timing_batch": 1,
        "timed_as": "gsj",
        "published": {**SAID, "seconds_batch1": None, "others": None},
        "protocol_note": "",
        "code": "feed",
    }
    own = rows()[0]
    score = {
        "seed": 0,
        "row": {name: own[name] for name in ("metric", "fid", "n", "extractor")},
        "protocol": "inception",
        "protocol_facts": {"reference_sha256": "99"},
        "notes": {},
    }
    shard = {
        **dict.fromkeys(("steps", "iterations", "clipped", "peak_memory_mb"), 1.0),
        "count": 4,
        "nan_events": 0,
        "redrawn": 0,
        "batch": 4,
        "means": {},
    }
    extra = {
        "mode": "exact",
        "checkpoint_sha256": "cafe",
        "provenance": {"created_utc": samples.NOW, "hardware": "NVIDIA A100"},
    }
    manifest = {
        "options": {"labels": "iid", "num_classes": 3},
        "shards": [shard],
        "extra": extra,
    }
    entry = {"batch": 1, "seconds_per_image": 1.0, "images_per_second": 1.0}
    entry |= {"seconds_end_to_end": 1.0, "baseline": None, "ratio": None}
    contents = {
        "scores": {"seeds": [score]},
        "timing": {"batches": [{**entry, "error_to_exact": None}]},
        "samples": manifest,
        "plan": {"notation": "[7-8-32-10]"},
    }
    monkeypatch.chdir(tmp_path)
    for name, content in contents.items():
        files.write_json(f"{name}.json", content)
    paths = {name: Path(f"{name}.json") for name in contents}
    table = Path("tables/evaluations.parquet")
    evaluate.run(
        spec,
        paths["scores"],
        paths["timing"],
        [paths["samples"]],
        paths["plan"],
        Path("out.json"),
        table,
    )
    made = files.read_json("out.json")
    assert made["published"] == read_rows(table.with_stem("published"), PUBLISHED)
    (fid,) = made["published"]
    assert (fid["experiment"], fid["ours"], fid["verdict"]) == ("afhq", 2.6, "matches")
    assert made["rows"][0]["verdict"] == fid["verdict"]
    assert made["evaluated_utc"] > samples.NOW
    evaluate.run(
        {**spec, "published": None},
        paths["scores"],
        paths["timing"],
        [paths["samples"]],
        paths["plan"],
        Path("out.json"),
        table,
    )
    assert read_rows(table.with_stem("published"), PUBLISHED) == []


def evaluated(published: list[dict[str, Any]]) -> None:
    """The JSON of a cell with these comparisons."""
    files.write_json(
        Path("results/afhq_gsj_fid.json"), {**summarize(rows()), "published": published}
    )


def test_a_number_that_is_published_no_more_leaves_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An evaluation without comparisons clears those that its cell had."""
    monkeypatch.chdir(tmp_path)
    spec = {"experiments": {"afhq": ["gsj"]}}
    table = Path("results/tables/published.parquet")
    evaluated(compare(rows(), SAID))
    report.file_rows(spec)
    assert len(read_rows(table, PUBLISHED)) == 4
    evaluated([])
    report.file_rows(spec)
    assert read_rows(table, PUBLISHED) == []


def test_comparisons_of_an_older_fewstep_lack_columns_and_are_filed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column that they do not know is null, as in the rows."""
    monkeypatch.chdir(tmp_path)
    old = [{k: v for k, v in r.items() if k != "note"} for r in compare(rows(), SAID)]
    evaluated(old)
    report.file_rows({"experiments": {"afhq": ["gsj"]}})
    found = read_rows(Path("results/tables/published.parquet"), PUBLISHED)
    assert {row["note"] for row in found} == {None}
    assert len(found) == len(old)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"verdict": "splendid"}, "'verdict' is one of"),
        ({"more": 1}, "unknown column 'more'"),
        ({"sampler": "for"}, "a row of afhq_for"),
        ({"quantity": "isc"}, "two rows have the key"),
    ],
)
def test_a_comparison_that_does_not_fit_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], words: str
) -> None:
    """The file is named, and nothing is filed of what is wrong in it."""
    monkeypatch.chdir(tmp_path)
    first, *others = compare(rows(), SAID)
    evaluated([{**first, **change}, *others])
    with pytest.raises(UserError, match=words) as caught:
        report.file_rows({"experiments": {"afhq": ["gsj"]}})
    assert "results/afhq_gsj_fid.json" in str(caught.value)
    assert not Path("results/tables/evaluations.parquet").exists()
