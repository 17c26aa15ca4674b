"""From a hub on loopback to a score, through Snakemake as a user calls it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from fewstep import files
from fewstep.classifier import SmallClassifier
from fewstep.tarflow import TarFlow
from tests.hub_server import COMMIT, HubServer, Seen
from tests.workflow.conftest import Project, copy_project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CELL = "results/tiny_for_fid.json"
MODEL = "digits_model_2_64_2_1_0.10.pth"
STATISTICS = "digits_8_fid_stats.pth"
ASSETS = f"""
tiny-model:
  repo: o/tiny
  file: {MODEL}
  path: data/assets/{MODEL}
  licence: made by a test
tiny-stats:
  repo: o/tiny
  file: {STATISTICS}
  path: data/assets/{STATISTICS}
  licence: made by a test
"""


@dataclass(frozen=True)
class Downloaded:
    """A project whose weights and statistics came from a hub."""

    project: Project
    server: HubServer
    output: str
    seen: Sequence[Seen] = ()
    """What the hub was asked for."""

    def __call__(self) -> str:
        """Make the cell by the profile `local`; what was printed."""
        target = ("--profile", "local", CELL, "--configfile", "tiny.yaml")
        done = self.project.snakemake(*target)
        output = done.stdout + done.stderr
        assert done.returncode == 0, output
        return output

    def read(self, path: str) -> Any:
        """A JSON file of the project."""
        return files.read_json(self.project.folder / path)


def publish(folder: Path) -> None:
    """A model and statistics of real images in the formats of the published ones."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    model = TarFlow(
        img_size=8,
        patch_size=2,
        channels=64,
        num_blocks=2,
        layers_per_block=1,
        num_classes=10,
    )
    torch.save(model.state_dict(), folder / MODEL)
    features = torch.randn(200, SmallClassifier.dim, dtype=torch.float64)
    state = {
        "real_features_sum": features.sum(0),
        "real_features_cov_sum": features.T @ features,
        "real_features_num_samples": torch.tensor(len(features)),
    }
    torch.save(state, folder / STATISTICS)


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Downloaded]:
    """The cell, made once from what the hub serves to those who have its token."""
    folder = tmp_path_factory.mktemp("download")
    publish(folder / "served/o/tiny")
    (folder / "project").mkdir()
    project = copy_project(folder / "project", "download.yaml", [CELL])
    (project.folder / "local").symlink_to("profiles/local")
    with open(project.folder / "workflow/assets.yaml", "a") as table:
        table.write(ASSETS)
    token = "hf_tokenOfTheWorkflow"
    with (
        HubServer(folder / "served", token) as server,
        pytest.MonkeyPatch.context() as m,
    ):
        m.setenv("HF_ENDPOINT", server.endpoint)
        m.setenv("HF_HOME", str(folder / "hf"))
        m.setenv("HF_TOKEN", token)
        # The first connection breaks: the job continues, and nobody has to know.
        server.treat(MODEL, cut=1000, times=1, method="GET")
        found = Downloaded(project, server, "")
        output = found()
        yield Downloaded(project, server, output, tuple(server.seen))


def test_download_to_score(downloaded: Downloaded) -> None:
    """One command downloads, verifies, converts, samples and scores."""
    assert downloaded.read(CELL)["mean"] > 0
    ranges = [
        one.headers.get("range", "all")
        for one in downloaded.seen
        if one.method == "GET" and one.path.endswith(MODEL)
    ]
    assert ranges == ["all", "bytes=1000-"]


def test_the_lock_file_holds_what_came(downloaded: Downloaded) -> None:
    """Both files are recorded with the hub's commit and the hash of their bytes."""
    book = downloaded.read("data/assets.lock.json")
    assert list(book) == ["tiny-model", "tiny-stats"]
    for entry in book.values():
        served = downloaded.server.folder / "o/tiny" / entry["file"]
        assert entry["sha256"] == files.sha256_file(served)
        assert entry["revision"] == COMMIT


def test_the_hash_stands_in_the_chain(downloaded: Downloaded) -> None:
    """From the record over the model's manifest to the row, by hashes alone."""
    record = downloaded.read("results/assets/tiny-model.json")
    manifest = downloaded.read("results/tiny/model.json")
    assert manifest["asset"] == record
    assert manifest["source_sha256"] == record["sha256"]
    table = downloaded.project.folder / "results/tables/evaluations.parquet"
    row = pd.read_parquet(table).iloc[0]
    weights = downloaded.project.folder / "results/tiny/model.safetensors"
    assert row["checkpoint_sha256"] == files.sha256_file(weights)
    statistics = downloaded.read("results/assets/tiny-stats.json")
    assert json.loads(row["assets"]) == {
        "tiny-model": record["sha256"],
        "tiny-stats": statistics["sha256"],
    }
    reference = downloaded.read("results/references/tiny.json")
    assert row["reference_sha256"] == reference["statistics_sha256"]


def test_nobody_sees_the_token(downloaded: Downloaded) -> None:
    """It stands in no file of the project, and in nothing that was printed."""
    secret = downloaded.server.token
    assert secret not in downloaded.output
    for path in downloaded.project.folder.rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            assert secret.encode() not in path.read_bytes(), path


def test_second_run_has_nothing_to_do(downloaded: Downloaded) -> None:
    """Nothing is asked of the hub again."""
    asked = len(downloaded.server.seen)
    assert "Nothing to be done" in downloaded()
    assert len(downloaded.server.seen) == asked


def test_offline_with_the_files_there(
    downloaded: Downloaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network the files that lie there are verified, and rerun nothing."""
    asked = len(downloaded.server.seen)
    records = [f"results/assets/tiny-{kind}.json" for kind in ("model", "stats")]
    before = [downloaded.read(path) for path in records]
    for path in records:
        (downloaded.project.folder / path).unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    downloaded.project.run(*records)
    assert [downloaded.read(path) for path in records] == before
    assert len(downloaded.server.seen) == asked
    assert downloaded.project.pending() == {}


@pytest.fixture
def project(downloaded: Downloaded, tmp_path: Path) -> Project:
    """A copy of the finished project that a test may change."""
    folder = tmp_path / "copy"
    shutil.copytree(downloaded.project.folder, folder, symlinks=True)
    return Project(folder, [CELL])


def refusals(project: Project, *arguments: str) -> list[str]:
    """Lines of our own about what keeps a target from being made."""
    done = project.snakemake(*arguments, "--configfile", "tiny.yaml")
    assert done.returncode != 0
    return [one for one in done.stdout.splitlines() if one.startswith("fewstep: ")]


def test_a_deleted_checkpoint_reruns_nothing(project: Project) -> None:
    """Who frees the disk keeps the results, and is told how to get the file back."""
    record, model = "results/assets/tiny-model.json", "results/tiny/model.safetensors"
    place = project.folder / "data/assets" / MODEL
    place.unlink()
    assert project.pending(CELL, model) == {}
    (project.folder / model).unlink()
    assert refusals(project, model) == [
        f"fewstep: data/assets/{MODEL}: the file is gone since it was checked; "
        f"delete {record} and run again to fetch it anew, or put it back"
    ]
    (project.folder / record).unlink()
    project.run(model)
    assert place.exists()


def test_replaced_statistics_are_refused(project: Project) -> None:
    """Statistics that were replaced after their record was written score nothing."""
    place = project.folder / "data/assets" / STATISTICS
    place.write_bytes(place.read_bytes() + b"0")
    (project.folder / "results/references/tiny.npz").unlink()
    lines = refusals(project, "results/references/tiny.npz")
    assert len(lines) == 1
    assert "the file has changed since it was checked: sha256 " in lines[0]
    assert "delete results/assets/tiny-stats.json and run again" in lines[0]


def test_a_changed_file_is_refused(project: Project) -> None:
    """A file that is not the recorded one stops the run with one line.

    Whatever retries a profile has for other rules: an asset is not tried again.
    """
    target = "results/assets/tiny-stats.json"
    place = project.folder / "data/assets" / STATISTICS
    (project.folder / target).unlink()
    place.write_bytes(place.read_bytes() + b"0")
    lines = refusals(project, target, "--retries", "1")
    assert len(lines) == 1
    assert "as recorded in data/assets.lock.json at its first use" in lines[0]
