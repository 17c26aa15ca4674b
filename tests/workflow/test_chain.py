"""The whole TarFlow chain in miniature, and what makes it run again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fewstep import files
from fewstep.results import read
from tests.test_docs import blocks
from tests.workflow.conftest import CELLS, ROOT, TARGETS, Project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


AFTER_A_PLAN = {
    "sample": 2,
    "timing": 1,
    "score": 1,
    "evaluation": 1,
    "grid": 1,
    "tarflow_trace": 1,
}
"""Jobs that follow from a sampler's plan."""


def test_every_evaluation_has_its_json_and_its_rows(finished: Project) -> None:
    """Each sampler ends in a JSON and one row a seed in the shared table."""
    table = read(finished.folder / "results/tables/evaluations.parquet")
    assert sorted(zip(table["sampler"], table["seed"], strict=True)) == [
        (name, seed) for name in sorted(CELLS) for seed in (0, 1)
    ]
    for name in CELLS:
        path = finished.folder / f"results/digits_{name}_fid.json"
        summary = files.read_json(path)
        rows = table[table["sampler"] == name]
        assert summary["mean"] == pytest.approx(rows["frechet"].mean())
        assert summary["seeds"] == [0, 1]
        assert summary["n"] == 100


def test_a_score_without_inception_is_never_called_fid(finished: Project) -> None:
    """With the classifier the column `fid` is empty and the extractor is named."""
    table = read(finished.folder / "results/tables/evaluations.parquet")
    assert table["fid"].isna().all()
    assert (table["metric"] == "frechet").all()
    assert (table["extractor"] == "classifier").all()


def test_rows_say_what_they_are(finished: Project) -> None:
    """No row lacks its speed, its partner, its hashes or its code digest."""
    table = read(finished.folder / "results/tables/evaluations.parquet")
    for column in (
        "seconds_per_image",
        "error_to_exact",
        "steps",
        "iterations",
        "protocol",
        "checkpoint_sha256",
        "dataset_sha256",
        "reference_sha256",
        "code_digest",
        "torch",
        "strategy",
        "class_agreement",
        "kid",
        "precision",
    ):
        assert table[column].notna().all(), column
    searched = table[table["sampler"] == "auto"]
    assert searched["notes"].str.contains("search at batch 8: ").all()
    fast = table[table["sampler"] != "for"]
    assert (fast["baseline"] == "for").all()
    assert (table.loc[table["sampler"] == "for", "error_to_exact"] == 0).all()
    assert (table["nan_events"] == 0).all()


def test_samplers_agree_because_they_share_the_noise(finished: Project) -> None:
    """Searched samples are those of For within the tolerance, and score alike."""
    folder = finished.folder / "results/digits"
    plan = files.read_json(folder / "auto/plan.json")
    assert plan["search"]["error"] <= plan["search"]["tolerance"]

    def images(name: str) -> np.ndarray:
        seed = folder / name / "seed0"
        shards = files.read_json(seed / "samples.json")["shards"]
        parts = [np.load(seed / shard["file"]) for shard in shards]
        return np.concatenate(parts).astype(int)

    # Self-denoising and the rounding to bytes may add a level or two.
    difference = np.abs(images("auto") - images("for"))
    assert np.mean(difference <= 4) > 0.99


def test_tables_of_the_model_are_written(finished: Project) -> None:
    """Blocks, curves, candidates and times stand in tables of the right shape."""
    folder = finished.folder / "results/digits"
    blocks = pd.read_parquet(folder / "blocks.parquet")
    assert len(blocks) == 2 * 3
    assert blocks.groupby("variant")["crm_percent"].sum().tolist() == pytest.approx(
        [100, 100]
    )
    profile = pd.read_parquet(folder / "convergence.parquet")
    assert set(profile["start"]) == {"z", "zeros"}
    candidates = pd.read_parquet(folder / "auto/strategies.parquet")
    chosen = candidates[candidates["chosen"]]
    assert sorted(chosen["block"]) == [-1, 0, 1, 2]
    assert candidates["reason"].str.len().min() > 0
    curve = pd.read_parquet(folder / "training.parquet")
    assert curve["loss"].iloc[-1] < curve["loss"].iloc[0]


def test_pictures_are_pictures(finished: Project) -> None:
    """Grids, traces and charts are PNG files with more than one colour."""
    for target in TARGETS:
        if target.endswith(".png"):
            with Image.open(finished.folder / target) as image:
                assert image.format == "PNG"
                colours = image.convert("RGB").getcolors(1 << 24)
                assert colours is not None
                assert len(colours) > 10, target


def test_second_run_has_nothing_to_do(finished: Project) -> None:
    """The same command again runs no job."""
    assert finished.pending() == {}
    assert "Nothing to be done" in finished.run(*TARGETS)


def test_touch_comment_and_checkout_rerun_nothing(project: Project) -> None:
    """Touched sources, comments, docstrings and a git checkout run no job."""
    git = [
        "git",
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@t",
        "-C",
        str(project.folder),
    ]
    for command in (["init", "-q"], ["add", "src", "rules"], ["commit", "-qm", "a"]):
        subprocess.run([*git, *command], check=True)
    for path in (project.folder / "src").rglob("*.py"):
        os.utime(path)
    assert project.pending() == {}
    project.edit(
        "src/fewstep/metrics.py", "from __future__", "# A remark.\nfrom __future__"
    )
    project.edit("src/fewstep/noise.py", '"""Counter-based randomness', '"""Randomness')
    assert project.pending() == {}
    subprocess.run([*git, "checkout", "-q", "."], check=True)
    assert project.pending() == {}


def test_an_edited_helper_reruns_exactly_its_dependents(project: Project) -> None:
    """A change in the search reruns the search and what follows from its plan."""
    project.edit("src/fewstep/tarflow/search.py", "_IGM_TIE = 1.25", "_IGM_TIE = 1.3")
    assert project.pending() == {"tarflow_search": 1, **AFTER_A_PLAN}


def test_an_edited_metric_reruns_only_the_scores(project: Project) -> None:
    """A change in the metrics draws no sample and trains nothing."""
    text = (project.folder / "src/fewstep/metrics.py").read_text()
    path = project.folder / "src/fewstep/metrics.py"
    path.write_text(text + "\n\n_ADDED_BY_A_TEST = 1\n")
    assert project.pending() == {"score": 3, "evaluation": 3}


def test_a_changed_strategy_reruns_only_that_sampler(project: Project) -> None:
    """Another plan for gsj leaves for and auto alone."""
    project.edit("tiny.yaml", '"[2-4-4-4]"', '"[2-4-3-4]"')
    assert project.pending() == {"tarflow_strategy": 1, **AFTER_A_PLAN}


def test_more_seeds_draw_only_the_new_ones(project: Project) -> None:
    """A third seed draws three sets of samples, one a sampler."""
    project.edit("tiny.yaml", "seeds: [0, 1]\n      kid", "seeds: [0, 1, 2]\n      kid")
    pending = project.pending()
    assert pending["sample"] == 3
    assert "tarflow_train" not in pending


def test_tables_and_report_of_what_is_there(project: Project) -> None:
    """`tables` rebuilds deleted tables; `report` writes a page without addresses."""
    for path in (project.folder / "results/tables").glob("*.parquet"):
        path.unlink()
    project.run("tables")
    for name in ("evaluations", "blocks", "strategies", "convergence", "timing"):
        assert len(read(project.folder / f"results/tables/{name}.parquet")), name
    project.run("report")
    page = (project.folder / "results/report/report.html").read_text()
    assert "digits" in page
    assert 'src="http' not in page


def test_a_killed_workflow_goes_on_where_it_was(project: Project) -> None:
    """kill -9 of Snakemake and its jobs, then again: whole shards stay, bits too."""
    folder = project.folder / "results/digits/for/seed0"
    expected = files.read_json(folder / "samples.json")["shards"]
    shutil.rmtree(folder)
    target = ["results/digits/for/seed0/samples.json", "--rerun-incomplete"]
    child = project.start(*target)
    while child.poll() is None and not list(folder.glob("*/*.json")):
        time.sleep(0.002)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert not (folder / "samples.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.json")}
    assert kept
    subprocess.run(
        [sys.executable, "-m", "fewstep", "unlock"], cwd=project.folder, check=True
    )
    project.run(*target)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    found = files.read_json(folder / "samples.json")["shards"]
    assert [s["sha256"] for s in found] == [s["sha256"] for s in expected]


def test_the_documented_query_runs(
    finished: Project,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The example of docs/outputs.md works on a finished run."""
    monkeypatch.chdir(finished.folder)
    for code in blocks(ROOT / "docs/outputs.md", "python"):
        exec(compile(code, "outputs.md", "exec"), {})
    assert "digits" in capsys.readouterr().out


def sample_command(project: Project, out: Path) -> list[str]:
    """The command of one sampling job, as the rule has it."""
    done = project.snakemake(
        "results/digits/for/seed0/samples.json",
        *("-n", "--printshellcmds", "--forcerun", "sample"),
        *("--configfile", str(project.config)),
    )
    line = next(s for s in done.stdout.splitlines() if " sample --spec" in s)
    spec = line.partition("--spec ")[2].partition(" --model")[0].strip("'")
    folder = project.folder / "results/digits"
    return [
        *(sys.executable, "-m", "fewstep", "--threads", "1", "sample"),
        *("--spec", json.dumps({**json.loads(spec), "n": 100})),
        *("--model", str(folder / "model.safetensors")),
        *("--plan", str(folder / "for/plan.json")),
        *("--seed", "0", "--batch", "16", "--out", str(out)),
    ]


def test_killed_sampling_resumes_to_the_same_bits(
    finished: Project, tmp_path: Path
) -> None:
    """kill -9 after the first shard, and again: the hashes are those of the chain."""
    out = tmp_path / "seed0" / "samples.json"
    command = sample_command(finished, out)
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while child.poll() is None and not list(tmp_path.glob("seed0/*/*.json")):
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not out.exists()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    expected = files.read_json(
        finished.folder / "results/digits/for/seed0/samples.json"
    )
    hashes = [shard["sha256"] for shard in files.read_json(out)["shards"]]
    assert hashes == [shard["sha256"] for shard in expected["shards"]]


def test_several_jobs_draw_the_samples_of_one(project: Project) -> None:
    """`jobs: 2` makes two jobs a seed and a list of their shards: the same bytes."""
    path = "results/digits/for/seed0/samples.json"
    expected = files.read_json(project.folder / path)
    shutil.rmtree((project.folder / path).parent)
    project.edit("tiny.yaml", "shard_size: 40", "shard_size: 40, jobs: 2")
    assert project.pending(path) == {"sample_part": 2, "sample_collect": 1}
    project.run(path)
    found = files.read_json(project.folder / path)
    hashes = [shard["sha256"] for shard in found["shards"]]
    assert hashes == [shard["sha256"] for shard in expected["shards"]]
    assert (found["key"], found["extra"]["parts"]) == (expected["key"], 2)
    assert project.pending(path) == {}
