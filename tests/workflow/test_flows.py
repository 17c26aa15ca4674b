"""The whole chain of SeqRF in miniature, what makes it run again, what stops it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image

from fewstep import files
from fewstep.results import read
from tests.workflow.conftest import FLOW_CELLS, FLOW_TARGETS, Project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

AFTER_SEQ2 = {
    "timing_together": 1,
    "sample": 4,
    "score": 2,
    "evaluation": 2,
    "seqrf_trajectories": 1,
    "seqrf_trajectory_chart": 1,
    "seqrf_solvers": 1,
    "training_chart": 1,
}
"""Jobs that follow from the weights of `seq2` and its curve."""
STUDENT = "results/seq2/model.safetensors"
PAIRS = "results/pairs/k2/pairs.json"


def evaluations(project: Project) -> pd.DataFrame:
    """The shared table, by `experiment_sampler`."""
    table = read(project.folder / "results/tables/evaluations.parquet")
    return table.set_index(table["experiment"] + "_" + table["sampler"])


def sha256(project: Project, path: str) -> str:
    """Hash of a file of the project."""
    return files.sha256_file(project.folder / path)


def kill_when(project: Project, ready: Callable[[], bool], *arguments: str) -> None:
    """Start Snakemake, kill -9 it with its jobs once `ready`, and free its lock."""
    child = project.start(*arguments)
    while child.poll() is None and not ready():
        time.sleep(0.002)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert child.returncode == -signal.SIGKILL, "it ended before it was killed"
    subprocess.run(
        [sys.executable, "-m", "fewstep", "unlock"], cwd=project.folder, check=True
    )


def refusal(output: str) -> str:
    """The one line in which a stage says what is wrong."""
    assert "Traceback" not in output
    (line,) = [s for s in output.splitlines() if s.startswith("fewstep: ")]
    return line


def test_every_cell_has_its_json_and_its_row(finished_flows: Project) -> None:
    """Three cells end in a JSON each and in a row each of the shared table."""
    table = evaluations(finished_flows)
    assert sorted(table.index) == sorted(FLOW_CELLS)
    for name in FLOW_CELLS:
        path = finished_flows.folder / f"results/{name}_fid.json"
        summary = files.read_json(path)
        assert summary["mean"] == pytest.approx(table.loc[name, "frechet"])
        assert (summary["system"], summary["n"]) == ("seqrf", 80)


def test_rows_say_how_the_flow_was_solved(finished_flows: Project) -> None:
    """Evaluations, segments, solver and training step stand in every row."""
    table = evaluations(finished_flows)
    assert table["solver"].to_dict() == {
        "base_rk45": "rk45",
        "seq2_euler-2": "euler",
        "seq2_euler-2-at20": "euler",
    }
    students = table.loc[["seq2_euler-2", "seq2_euler-2-at20"]]
    assert students["segments"].tolist() == [2, 2]
    assert students["nfe"].tolist() == [2, 2]
    assert table.loc["base_rk45", "segments"] == 1
    assert table.loc["base_rk45", "nfe"] >= 7
    assert table["straightness"].min() > 0
    # One step a segment is straight within it, whatever the weights.
    assert students["seq_straightness"].max() < 1e-6
    assert table["train_step"].isna().tolist() == [
        name != "seq2_euler-2-at20" for name in table.index
    ]
    assert table.loc["seq2_euler-2-at20", "train_step"] == 20
    assert students["baseline"].tolist() == ["base/rk45"] * 2
    for column in ("seconds_per_image", "checkpoint_sha256", "dataset_sha256"):
        assert table[column].notna().all(), column
    assert table["mode"].tolist() == ["exact"] * 3
    assert table["nan_events"].tolist() == [0] * 3


def test_a_sweep_scores_the_weights_of_its_step(finished_flows: Project) -> None:
    """The repeated sampler draws from the snapshot, not from the last weights."""
    table = evaluations(finished_flows)
    found = table["checkpoint_sha256"]
    snapshot = "results/seq2/snapshots/step-00000020.safetensors"
    assert found["seq2_euler-2-at20"] == sha256(finished_flows, snapshot)
    assert found["seq2_euler-2"] == sha256(finished_flows, STUDENT)
    assert found.nunique() == 3


def test_an_unread_table_keeps_its_name_and_has_no_value(
    finished_flows: Project,
) -> None:
    """A published null is an empty cell beside its table; a sweep repeats no table."""
    table = evaluations(finished_flows)
    row = table.loc["seq2_euler-2"]
    assert row["published_table"] == "Table 1"
    assert row["published_n"] == 50000
    assert pd.isna(row["published_value"])
    assert pd.isna(row["difference"])
    others = table.drop("seq2_euler-2")
    assert others["published_table"].isna().all()


def test_the_curve_holds_the_scores_of_the_snapshots(finished_flows: Project) -> None:
    """Snapshots are scored under the name and number of their samples."""
    curve = read(finished_flows.folder / "results/seq2/training.parquet")
    scored = curve[curve["score"].notna()]
    assert scored["step"].tolist() == [20, 40]
    assert scored["score_n"].tolist() == [40, 40]
    assert scored["score_metric"].tolist() == ["frechet", "frechet"]
    assert curve["loss"].iloc[-1] < curve["loss"].iloc[0]
    base = read(finished_flows.folder / "results/base/training.parquet")
    assert base["score"].isna().all()


def test_weights_say_what_they_come_from(finished_flows: Project) -> None:
    """Students name what they started from, and pairs the weights that made them."""

    def record(path: str) -> dict[str, Any]:
        found: dict[str, Any] = files.read_json(
            finished_flows.folder / "results" / path
        )
        return found

    def origin(pairs: str) -> str:
        return str(record(f"pairs/{pairs}/pairs.json")["origin"]["teacher_sha256"])

    seq2, distilled, stepped = (
        record(f"{name}/model.json") for name in ("seq2", "distilled", "stepped")
    )
    base = sha256(finished_flows, "results/base/model.safetensors")
    assert [own["sources"]["start"] for own in (seq2, distilled)] == [base, base]
    state = sha256(finished_flows, "results/released/state.safetensors")
    assert stepped["sources"]["start"] == state
    assert [origin(pairs) for pairs in ("k2", "ada")] == [base, base]
    released = sha256(finished_flows, "results/released/model.safetensors")
    assert origin("k1") == released
    sources = [own["sources"]["pairs"] for own in (seq2, distilled, stepped)]
    assert len(set(sources)) == 3
    edges = record("pairs/ada/edges.json")["edges"]
    assert edges[1] != 0.5
    assert [own["edges"] for own in (seq2, distilled, stepped)] == [
        [1, 0.5, 0],
        edges,
        [1, 0],
    ]


def test_pairs_are_in_shards_of_both_segments(finished_flows: Project) -> None:
    """Sixty pairs lie in three files, half of them in each segment."""
    manifest = files.read_json(finished_flows.folder / PAIRS)
    assert [shard["count"] for shard in manifest["shards"]] == [20, 20, 20]
    assert manifest["segment_counts"] == [30, 30]
    for shard in manifest["shards"]:
        path = f"results/pairs/k2/{shard['file']}"
        assert sha256(finished_flows, path) == shard["sha256"]


def test_paths_and_pictures(finished_flows: Project) -> None:
    """Every solver has its straightness and its path; pictures are pictures."""
    folder = finished_flows.folder / "results/seq2"
    rows = read(folder / "straightness.parquet")
    paths = read(folder / "trajectories.parquet")
    solvers = {"path", "rk45", "heun-2", "euler-2"}
    assert set(rows["sampler"]) == {*solvers, "path-k4"}
    assert set(paths["sampler"]) == solvers
    whole = rows[rows["point"] == -1].set_index("sampler")
    assert whole["nfe"].drop("rk45").to_dict() == {
        "path": 8,
        "path-k4": 8,
        "heun-2": 4,
        "euler-2": 2,
    }
    segments = whole["seq_straightness"]
    assert segments["path-k4"] < segments["path"] < whole["straightness"]["path"]
    for target in FLOW_TARGETS:
        if target.endswith(".png"):
            with Image.open(finished_flows.folder / target) as image:
                assert image.format == "PNG"
                colours = image.convert("RGB").getcolors(1 << 24)
                assert colours is not None
                assert len(colours) > 10, target


def test_times_of_a_path_fall_from_noise_to_image(finished_flows: Project) -> None:
    """Stored paths begin at 1 and end at 0, whatever the solver."""
    paths = read(finished_flows.folder / "results/seq2/trajectories.parquet")
    for _, own in paths.groupby(["sampler", "sample", "pixel"]):
        times = own.sort_values("point")["t"].tolist()
        assert times[0] == 1
        assert times[-1] == 0
        assert all(later < earlier for earlier, later in pairwise(times))


def test_every_solver_has_its_own_time(finished_flows: Project) -> None:
    """What the common clock says of a sampler was measured with that sampler's plan."""
    clocks = files.read_json(finished_flows.folder / "results/seq2/timing.json")
    assert set(clocks["samplers"]) == {"rk45", "heun-2", "euler-2"}
    for name, clock in clocks["samplers"].items():
        plan = finished_flows.folder / f"results/seq2/{name}/plan.json"
        assert clock["strategy"] == files.read_json(plan)["notation"]
        nfe = {entry["nfe"] for entry in clock["batches"]}
        steps = {entry["steps"] for entry in clock["batches"]}
        if name != "rk45":
            assert nfe == steps == {{"heun-2": 4, "euler-2": 2}[name]}


def test_second_run_has_nothing_to_do(finished_flows: Project) -> None:
    """The same command again runs no job."""
    assert finished_flows.pending() == {}


def test_tables_and_report_of_what_is_there(flows: Project) -> None:
    """`tables` gathers the rows of flows, and `report` shows their experiments."""
    for path in (flows.folder / "results/tables").glob("*.parquet"):
        path.unlink()
    flows.run("tables", "report")
    for name in ("evaluations", "straightness", "trajectories", "training", "timing"):
        assert len(read(flows.folder / f"results/tables/{name}.parquet")), name
    page = (flows.folder / "results/report/report.html").read_text()
    assert "seq2" in page
    assert "euler-2-at20" in page


def test_a_longer_training_reruns_exactly_its_dependents(flows: Project) -> None:
    """More steps for one student leave teacher, pairs and other students alone."""
    old = "pairs: k2\n      steps: 40"
    flows.edit("tiny.yaml", old, old.replace("40", "60"))
    assert flows.pending() == {"seqrf_train": 1, **AFTER_SEQ2}


def test_another_tolerance_makes_pairs_and_students_anew(flows: Project) -> None:
    """The pairs' tolerance touches no teacher and no edges."""
    flows.edit(
        "tiny.yaml", "tol: 1e-2\n    shard_size: 20", "tol: 1e-3\n    shard_size: 20"
    )
    assert flows.pending() == {
        "seqrf_pairs": 5,
        "seqrf_collect": 3,
        "seqrf_train": 3,
        **AFTER_SEQ2,
    }


def test_a_comment_in_the_solver_reruns_nothing(flows: Project) -> None:
    """A remark is no code; another constant is, and what integrates runs again."""
    line = "from __future__ import annotations\n"
    flows.edit("src/fewstep/seqrf/ode.py", line, f"# A remark.\n{line}")
    assert flows.pending() == {}
    path = flows.folder / "src/fewstep/seqrf/ode.py"
    path.write_text(path.read_text() + "\n\n_ADDED_BY_A_TEST = 1\n")
    pending = flows.pending()
    assert pending["seqrf_pairs"] == 5
    assert pending["sample"] == 5
    assert not {"dataset", "extractor", "reference"} & pending.keys()


def test_a_killed_training_goes_on_to_the_same_bits(flows: Project) -> None:
    """kill -9 at the first snapshot, and again: weights, snapshots, curve are equal."""
    folder = flows.folder / "results/seq2"
    first, last = (f"snapshots/step-000000{step}.safetensors" for step in (20, 40))
    kept = [STUDENT, *(f"results/seq2/{name}" for name in (first, last))]
    expected = [sha256(flows, path) for path in kept]
    curve = read(folder / "training.parquet")
    work = flows.folder / ".cache/train/seq2"
    shutil.rmtree(folder)
    shutil.rmtree(work)
    target = [STUDENT, "--rerun-incomplete"]
    kill_when(flows, (work / first).exists, *target)
    assert not (flows.folder / STUDENT).exists()
    saved = torch.load(work / "last.pt", weights_only=True)
    assert 20 <= saved["step"] < 40
    output = flows.run(*target)
    assert f"going on from step {saved['step']}" in output
    assert [sha256(flows, path) for path in kept] == expected
    same = ["step", "loss", "lr", "score", "score_n", "score_metric"]
    again = read(folder / "training.parquet")
    pd.testing.assert_frame_equal(again[same], curve[same])


def test_killed_pairs_go_on_with_the_next_shard(flows: Project) -> None:
    """kill -9 after the first shard, and again: it stays, all bits are the same."""
    folder = flows.folder / "results/pairs/k2"
    logs = flows.folder / "logs/pairs/k2"
    names = [
        shard["file"] for shard in files.read_json(folder / "pairs.json")["shards"]
    ]
    expected = {name: files.sha256_file(folder / name) for name in names}
    shutil.rmtree(folder)
    shutil.rmtree(logs)

    def second_began() -> bool:
        return len(list(logs.glob("0*.log"))) == 2

    target = [PAIRS, "--rerun-incomplete"]
    kill_when(flows, second_began, "--cores", "1", *target)
    (kept,) = folder.glob("*.json")
    time_of = kept.stat().st_mtime_ns, kept.with_suffix(".arrow").stat().st_mtime_ns
    assert not (flows.folder / PAIRS).exists()
    flows.run(*target)
    again = kept.stat().st_mtime_ns, kept.with_suffix(".arrow").stat().st_mtime_ns
    assert again == time_of
    assert {name: files.sha256_file(folder / name) for name in names} == expected


def test_a_truncated_shard_stops_the_training(flows: Project) -> None:
    """One line names the file; once it is deleted, only that shard is made anew."""
    expected = sha256(flows, STUDENT)
    folder = flows.folder / "results/pairs/k2"
    shard = folder / "shard-00001.arrow"
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    (flows.folder / STUDENT).unlink()
    done = flows.snakemake(STUDENT, "--configfile", str(flows.config))
    assert done.returncode == 1
    line = refusal(done.stdout + done.stderr)
    assert "results/pairs/k2/shard-00001.arrow: " in line
    assert "delete it and run again" in line
    shard.unlink()
    pending = flows.pending(STUDENT)
    assert pending == {"seqrf_pairs": 1, "seqrf_collect": 1, "seqrf_train": 1}
    others = [folder / f"shard-0000{i}.arrow" for i in (0, 2)]
    before = [path.stat().st_mtime_ns for path in others]
    flows.run(STUDENT)
    assert [path.stat().st_mtime_ns for path in others] == before
    assert shard.read_bytes() == content
    assert sha256(flows, STUDENT) == expected


def test_pairs_of_replaced_weights_are_not_trained_on(flows: Project) -> None:
    """The workflow makes the pairs anew; the stage itself refuses the old ones."""
    command = train_command(flows)
    teacher = flows.folder / "results/base/model.safetensors"
    shutil.copyfile(flows.folder / "results/stepped/model.safetensors", teacher)
    pending = flows.pending(STUDENT, "results/distilled/model.safetensors")
    assert pending == {
        "seqrf_edges": 1,
        "seqrf_pairs": 4,
        "seqrf_collect": 2,
        "seqrf_train": 2,
    }
    done = subprocess.run(
        command,
        shell=True,
        cwd=flows.folder,
        env=flows.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    line = refusal(done.stderr)
    assert line.startswith("fewstep: results/pairs/k2/pairs.json: the pairs were made")
    assert files.sha256_file(teacher)[:12] in line


def train_command(project: Project) -> str:
    """The command of the student's training, as the rule has it."""
    done = project.snakemake(
        STUDENT,
        *("-n", "--printshellcmds", "--forcerun", "seqrf_train"),
        *("--configfile", str(project.config)),
    )
    commands = [s for s in done.stdout.splitlines() if " train-flow " in s]
    (line,) = {s for s in commands if "results/seq2/model" in s}
    command = line.partition("python")[2].partition(" 2>&1")[0]
    return f"{sys.executable} {command}"
