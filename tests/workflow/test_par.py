"""The whole chain of PAR in miniature, what makes it run again, what stops it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fewstep import files
from fewstep.par.codes import open_codes
from fewstep.results import TRAINING, read
from fewstep.samples import read_images
from tests.workflow.conftest import PAR_CELLS, Project, copy_project
from tests.workflow.test_flows import evaluations, kill_when, sha256

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FOUR = "results/four/model.safetensors"
SAMPLES = "results/four/cfg/seed0/samples.json"
FROM_SAMPLES = {"score": 1, "evaluation": 1, "grid": 1, "adm_batch": 1}
"""Jobs that follow from the samples of four/cfg."""


def record(project: Project, path: str) -> dict[str, Any]:
    """A JSON file of the results."""
    found: dict[str, Any] = files.read_json(project.folder / "results" / path)
    return found


def images_of(project: Project, cell: str) -> np.ndarray:
    """The images of a cell: (n, 3, 8, 8)."""
    path = project.folder / f"results/{cell}/seed0/samples.json"
    return np.concatenate(list(read_images(path)))


def test_every_cell_has_its_json_and_its_row(finished_par: Project) -> None:
    """Three cells end in a JSON each and in a row each of the shared table."""
    table = evaluations(finished_par)
    assert sorted(table.index) == sorted(PAR_CELLS)
    for name in PAR_CELLS:
        summary = record(finished_par, f"{name}_fid.json")
        assert summary["mean"] == pytest.approx(table.loc[name, "frechet"])
        assert (summary["system"], summary["n"]) == ("par", 60)


def test_rows_say_how_tokens_were_drawn(finished_par: Project) -> None:
    """n, steps, guidance and filters stand in every row; n = 1 takes a step a token."""
    table = evaluations(finished_par).loc[list(PAR_CELLS)]
    assert table["group"].tolist() == [1, 4, 4]
    assert table["steps"].tolist() == [16, 7, 7]
    assert table["guidance"].tolist() == [1.5, 1.5, 1]
    assert table["guidance_shape"].tolist() == ["constant"] * 3
    assert table["top_k"].tolist() == [0, 0, 8]
    assert table["top_p"].tolist() == [1, 1, 0.9]
    assert table["temperature"].tolist() == [1, 1, 0.8]
    assert table["labels"].tolist() == ["balanced", "balanced", "iid"]
    assert table["dtype"].tolist() == ["fp32"] * 3
    assert table["strategy"].tolist() == [
        "n = 1, 16 steps, cfg 1.5",
        "n = 4, 7 steps, cfg 1.5",
        "n = 4, 7 steps, temperature 0.8, top_k 8, top_p 0.9",
    ]
    assert table["nan_events"].tolist() == [0] * 3


def test_rows_say_how_fast_and_against_what(finished_par: Project) -> None:
    """Time at batch 1, the best rate with its batch, and the gain over n = 1."""
    table = evaluations(finished_par).loc[list(PAR_CELLS)]
    assert (table["seconds_batch1"] > 0).all()
    assert set(table["best_batch"]) <= {1, 4}
    best = table["images_per_second_best"]
    assert (best >= table["images_per_second"]).all()
    assert table["baseline"].fillna("").tolist() == ["", "one/cfg", "one/cfg"]
    assert table["speedup"].isna().tolist() == [True, False, False]
    for column in ("checkpoint_sha256", "dataset_sha256", "code_digest", "kid"):
        assert table[column].notna().all(), column
    clocks = record(finished_par, "four/timing.json")["samplers"]
    assert set(clocks) == {"cfg", "likely"}
    assert [one["batch"] for one in clocks["cfg"]["batches"]] == [1, 4]


def test_published_numbers_are_not_met_by_another_metric(
    finished_par: Project,
) -> None:
    """The classifier's distance is no FID, whatever a paper reports."""
    table = evaluations(finished_par).loc[list(PAR_CELLS)]
    assert table["published_value"].fillna(0).tolist() == [2.61, 2.61, 0]
    assert table["verdict"].tolist() == ["not comparable"] * 2 + ["no published value"]
    assert table["fid"].isna().all()


def test_codes_lie_in_shards_with_their_mirror(finished_par: Project) -> None:
    """Images of the built dataset, two views each, in two files of a manifest."""
    manifest = record(finished_par, "codes/digits/codes.json")
    assert [shard["count"] for shard in manifest["shards"]] == [900, 897]
    assert (manifest["count"], manifest["views"], manifest["tokens"]) == (1797, 2, 16)
    vq = sha256(finished_par, "results/tokenizers/vq.safetensors")
    assert manifest["origin"]["tokenizer_sha256"] == vq
    for shard in manifest["shards"]:
        path = f"results/codes/digits/{shard['file']}"
        assert sha256(finished_par, path) == shard["sha256"]
    data = open_codes(finished_par.folder / "results/codes/digits/codes.json")
    labels = np.load(finished_par.folder / "results/data/digits/labels.npy")
    codes, found = data.batch(np.arange(1797), np.zeros(1797, int))
    assert (found == labels).all()
    mirrored, _ = data.batch(np.arange(1797), np.ones(1797, int))
    assert (codes != mirrored).any()
    assert codes.max() < 32


def test_ten_crops_of_a_folder(finished_par: Project) -> None:
    """Every file gives ten views a range; labels follow the order of the folders."""
    index = record(finished_par, "codes/crops/index.json")
    assert index["count"] == 20
    assert index["files"][:3] == ["class0/0.png", "class0/1.png", "class1/0.png"]
    manifest = record(finished_par, "codes/crops/codes.json")
    assert (manifest["count"], manifest["views"]) == (20, 20)
    assert [shard["count"] for shard in manifest["shards"]] == [12, 8]
    data = open_codes(finished_par.folder / "results/codes/crops")
    _, labels = data.batch(np.arange(20), np.full(20, 19))
    assert labels.tolist() == [image // 2 for image in range(20)]
    assert not (finished_par.folder / "results/data/photos").exists()


def test_released_codes_are_those_of_the_files(finished_par: Project) -> None:
    """Imported shards hold the numbers of the .npy files, image by image."""
    data = open_codes(finished_par.folder / "results/codes/released")
    assert (len(data), data.views) == (40, 2)
    for image in (0, 17, 39):
        path = finished_par.folder / f"released/toy8_codes/{image}.npy"
        wanted = np.load(path)
        for view in (0, 1):
            codes, labels = data.batch([image], [view])
            assert (codes[0] == wanted[0, view]).all()
            assert labels.tolist() == [image % 10]


def test_weights_say_what_they_come_from(finished_par: Project) -> None:
    """Each training names its codes; those that start from others name their hash."""
    four = sha256(finished_par, FOUR)
    names = {"four": "digits", "imported": "released", "cropped": "crops"}
    for name, codes in names.items():
        own = record(finished_par, f"{name}/model.json")
        manifest = record(finished_par, f"codes/{codes}/codes.json")
        assert own["codes_sha256"] == manifest["sha256"]
        assert own["start_sha256"] == (None if name == "four" else four)
        assert (own["sha256"] == four) is (name == "four")


def test_trainings_learn(finished_par: Project) -> None:
    """Tokenizer and transformers end at a lower loss than they began with."""
    folder = finished_par.folder / "results"
    for path in ("tokenizers/vq", "one/training", "four/training"):
        curve = read(folder / f"{path}.parquet", TRAINING)
        assert curve["loss"].iloc[-1] < curve["loss"].iloc[0], path
        assert curve["validation_loss"].notna().all(), path


def test_reconstructions_are_judged_on_held_out_images(finished_par: Project) -> None:
    """A score beside its floor, the codebook's use, and a picture of pairs."""
    found = record(finished_par, "tokenizers/vq-reconstruction.json")
    assert (found["n"], found["held_out"], found["metric"]) == (40, True, "rfrechet")
    assert found["score"] > found["score_real"]
    assert 0 < found["used"] <= 1
    path = finished_par.folder / "results/tokenizers/vq-reconstruction.png"
    with Image.open(path) as picture:
        assert picture.format == "PNG"


def test_samples_for_adms_evaluator(finished_par: Project) -> None:
    """The .npz holds the same images, last axis colour, in another order."""
    path = finished_par.folder / "results/four/cfg/seed0/adm.npz"
    with np.load(path) as archive:
        found = archive["arr_0"]
    drawn = images_of(finished_par, "four/cfg").transpose(0, 2, 3, 1)
    assert (found.shape, found.dtype) == ((60, 8, 8, 3), np.uint8)
    assert (found != drawn).any()
    assert sorted(map(bytes, found)) == sorted(map(bytes, drawn))
    with Image.open(path.parents[1] / "grid.png") as grid:
        assert grid.format == "PNG"


def test_second_run_has_nothing_to_do(finished_par: Project) -> None:
    """The same command again runs no job."""
    assert finished_par.pending() == {}


def test_settings_rerun_just_what_they_decide(par: Project) -> None:
    """Batches and remarks nothing, guidance one cell, and no sampler a training."""
    par.edit("tiny.yaml", "sampling: {batch: 15,", "sampling: {batch: 12,")
    par.edit("tiny.yaml", "shard_size: 900, batch: 100", "shard_size: 900, batch: 64")
    par.edit("tiny.yaml", "    batch: 8\n", "    batch: 5\n")
    # A row tells the time at the batch of its samples.
    assert par.pending() == {"evaluation": 3}
    par.edit("tiny.yaml", "sampling: {batch: 12,", "sampling: {batch: 15,")
    line = "from __future__ import annotations\n"
    par.edit("src/fewstep/par/decoding.py", line, f"# A remark.\n{line}")
    assert par.pending() == {}
    par.edit("tiny.yaml", "      cfg: *cfg\n      likely", _CFG)
    assert par.pending() == {
        "par_plan": 1,
        "sample": 1,
        "timing_together": 1,
        **FROM_SAMPLES,
        "evaluation": 2,  # the clock is the experiment's
    }


_CFG = "      cfg: {cfg_scale: 2.5}\n      likely"
ADDED = "\n\n_ADDED_BY_A_TEST = 1\n"


def test_edited_code_reruns_what_it_runs_in(par: Project) -> None:
    """Decoding draws anew and trains nothing; the objective trains and all follows."""
    path = par.folder / "src/fewstep/par/decoding.py"
    text = path.read_text()
    path.write_text(text + ADDED)
    drawn = {"sample": 3, "timing_together": 2, "score": 3, "evaluation": 3}
    assert par.pending() == {**drawn, "grid": 1, "adm_batch": 1}
    path.write_text(text)
    path = par.folder / "src/fewstep/par/objective.py"
    path.write_text(path.read_text() + ADDED)
    pending = par.pending()
    assert pending == {**drawn, "grid": 1, "adm_batch": 1, "par_train": 4}


def test_killed_thrice_the_chain_ends_in_the_same_bits(par: Project) -> None:
    """kill -9 in codes, training and sampling: finished work stays, bits are equal."""
    codes, work = par.folder / "results/codes/digits", par.folder / ".cache/train/four"
    samples = par.folder / "results/four/cfg/seed0"
    kept = [f"results/codes/digits/shard-0000{i}.arrow" for i in range(2)]
    expected = [sha256(par, path) for path in (*kept, FOUR)]
    drawn = record(par, SAMPLES.removeprefix("results/"))["shards"]
    logs = par.folder / "logs/codes/digits"
    for folder in (codes, logs, work, samples):
        shutil.rmtree(folder)
    (par.folder / FOUR).unlink()
    target = [SAMPLES, "--rerun-incomplete", "--cores", "1"]

    kill_when(par, lambda: len(list(logs.glob("0*.log"))) == 2, *target)
    first = {path: path.stat().st_mtime_ns for path in codes.glob("shard-*.json")}
    assert len(first) == 1
    assert not (codes / "codes.json").exists()

    kill_when(par, (work / "last.pt").exists, *target)
    assert not (par.folder / FOUR).exists()

    kill_when(par, lambda: any(samples.glob("*/*.json")), *target)
    assert "going on from step" in (par.folder / "logs/four/train.log").read_text()
    first |= {path: path.stat().st_mtime_ns for path in samples.glob("*/*.json")}
    assert not (par.folder / SAMPLES).exists()

    par.run(*target)
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert [sha256(par, path) for path in (*kept, FOUR)] == expected
    found = record(par, SAMPLES.removeprefix("results/"))["shards"]
    assert [s["sha256"] for s in found] == [s["sha256"] for s in drawn]


def test_a_deleted_shard_of_codes_is_made_anew(par: Project) -> None:
    """Only that shard, to the same bytes; the other stays."""
    folder = par.folder / "results/codes/digits"
    shard, other = (folder / f"shard-0000{i}.arrow" for i in (1, 0))
    content, before = shard.read_bytes(), other.stat().st_mtime_ns
    shard.unlink()
    (par.folder / FOUR).unlink()
    pending = par.pending(FOUR)
    assert pending == {"par_codes": 1, "par_collect_codes": 1, "par_train": 1}
    par.run("results/codes/digits/shard-00001.arrow")
    assert shard.read_bytes() == content
    assert other.stat().st_mtime_ns == before


WRONG_N = """
  wrong:
    <<: *par
    train: null
    checkpoint: ./four.safetensors
"""


@pytest.fixture(scope="module")
def refusals(
    finished_par: Project, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """What several broken things are answered with, all in one run."""
    folder = tmp_path_factory.mktemp("broken") / "copy"
    shutil.copytree(finished_par.folder, folder, symlinks=True)
    project = Project(folder)
    shutil.copyfile(folder / FOUR, folder / "four.safetensors")
    path = folder / "tiny.yaml"
    path.write_text(path.read_text() + WRONG_N)
    (folder / "photos/class3/1.png").unlink()
    (folder / "released/toy8_codes/7.npy").unlink()
    shard = next((folder / SAMPLES).parent.glob("*/0000020.npy"))
    damage(shard)
    gone = ("codes/crops/index.json", "codes/released/codes.json")
    for name in (*gone, "four/cfg/scores.json"):
        (folder / "results" / name).unlink()
    done = project.snakemake(
        *(f"results/{name}" for name in (*gone, "four/cfg/scores.json")),
        "results/wrong/model.safetensors",
        *("--keep-going", "--configfile", str(project.config)),
    )
    output = done.stdout + done.stderr
    assert done.returncode == 1
    assert "Traceback" not in output
    return [line for line in output.splitlines() if line.startswith("fewstep: ")]


def damage(path: Path) -> None:
    """Change the last byte of a file, but not its length."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "parts",
    [
        ("photos: found 19 images", "expected 20"),
        ("released: 1 files are missing: toy8_codes/7.npy", "0 to 39"),
        ("0000020.npy: the shard's content has changed", "delete", "samples.json"),
        ("four.safetensors: the checkpoint draws 4 tokens a step", "says 1", "set "),
    ],
    ids=["image", "released codes", "samples", "n"],
)
def test_broken_files_are_one_line_each(
    refusals: list[str], parts: tuple[str, ...]
) -> None:
    """Which file, what is wrong with it, and what to do; never a traceback."""
    (line,) = [line for line in refusals if parts[0] in line]
    assert all(part in line for part in parts)
    assert len(refusals) == 4


def test_tables_and_report_of_what_is_there(par: Project) -> None:
    """`tables` gathers the rows of PAR anew, and `report` shows its experiments."""
    for path in (par.folder / "results/tables").glob("*.parquet"):
        path.unlink()
    par.run("tables", "report")
    table = read(par.folder / "results/tables/evaluations.parquet")
    assert sorted(table["group"]) == [1, 4, 4]
    curves = read(par.folder / "results/tables/training.parquet")
    assert {"one", "four"} <= set(curves["experiment"])
    page = (par.folder / "results/report/report.html").read_text()
    assert "four" in page
    assert 'src="http' not in page


def test_a_published_cell_needs_its_files_alone(tmp_path: Path) -> None:
    """Weights, tokenizer and statistics are fetched; no image of ImageNet is read."""
    done = copy_project(tmp_path).snakemake("-n", "results/par-xl-4x_cfg_fid.json")
    assert done.returncode == 0, done.stdout + done.stderr
    table = done.stdout.partition("Job stats:")[2].partition("total")[0]
    jobs = {line.split()[0]: int(line.split()[1]) for line in table.splitlines()[3:]}
    assert jobs == {
        "asset": 5,  # PAR-XL-4x, LlamaGen-XL, VQ-16, statistics, Inception
        "evaluation": 1,
        "par_plan": 2,
        "par_prepare": 2,
        "par_prepare_tokenizer": 1,
        "reference": 1,
        "sample_collect": 3,  # three seeds, eight jobs each
        "sample_part": 24,
        "score": 1,
        "timing_together": 1,
    }


def test_rows_of_the_curve_are_of_its_experiment(finished_par: Project) -> None:
    """A curve's table names its training, steps rise, and rates follow the recipe."""
    curve = read(finished_par.folder / "results/four/training.parquet")
    assert curve["experiment"].unique().tolist() == ["four"]
    assert curve["step"].tolist() == [5, 10, 15, 20]
    pd.testing.assert_series_equal(
        curve["images"], curve["step"] * 32, check_names=False, check_dtype=False
    )
