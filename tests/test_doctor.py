"""`fewstep doctor` on a fresh machine, and after something was put there."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from fewstep import cli
from fewstep.doctor import Diagnosis, examine, show
from fewstep.doctor.environment import environment
from fewstep.doctor.jobs import job_of
from fewstep.doctor.targets import expand
from fewstep.errors import UserError
from fewstep.graph import Graph
from fewstep.graph.assets import asset_users
from tests.workflow.conftest import (
    CHECKPOINT,
    FLOW_TARGETS,
    PAR_TARGETS,
    ROOT,
    TARGETS,
    draw_photos,
    write_released,
)

BY_HAND = {"rf-cifar10", "rf-church"}
FOLDERS = {"data/afhq/train/", "data/cifar10/train/", "data/lsun-church/train/"}
SECRET = "hf_averysecrettoken"


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with nothing made yet, as the working directory; no hub settings."""
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("rules", "workflow"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def diagnose(*targets: str, **overrides: Any) -> Diagnosis:
    """What the doctor says in the working directory."""
    return examine(Graph(Path(), overrides=overrides), targets)


def states(found: Diagnosis) -> dict[str, str]:
    """State of every source by its name."""
    return {source.name: source.state for source in found.sources}


def placed(path: str, content: bytes = b"x") -> Path:
    """A file put where it belongs."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def test_a_fresh_machine_misses_everything(fresh: Path) -> None:
    """Every published cell: what is to be placed by hand blocks, downloads do not."""
    found = diagnose()
    named = states(found)
    by_hand = {name for name, state in named.items() if state == "place by hand"}
    graph = Graph(Path())
    images = {f"{own.path}/" for own in graph.config.datasets.values() if own.path}
    assert BY_HAND | FOLDERS <= by_hand <= BY_HAND | images
    downloads = {name for name, state in named.items() if state == "to download"}
    assert {"afhq-model", "afhq-stats", "par-3b-16x", "vq-16"} <= downloads
    assert downloads <= {*graph.config.assets, "inception-fid"}
    assert {line.target for line in found.targets} == {e for e, _ in graph.published()}
    assert found.totals["results"] == len(graph.published())
    assert found.totals["done"] == 0
    assert found.blocked


def test_what_blocks_is_said_for_every_target(fresh: Path) -> None:
    """Images of AFHQ block its search alone, the flow's checkpoint all of its cells."""
    lines = {line.target: line for line in diagnose().targets}
    assert lines["afhq"].blocked == ["results/afhq_auto_fid.json"]
    assert lines["afhq"].blocked_by == ["data/afhq/train/"]
    assert lines["par-xl-4x"].blocked == []
    flow = lines["cifar10-1rf"]
    assert flow.blocked == flow.results
    assert set(flow.blocked_by) == {"rf-cifar10", "data/cifar10/train/"}
    sources = {source.name: source for source in diagnose("afhq").sources}
    assert sources["data/afhq/train/"].blocks == ["afhq"]
    assert sources["afhq-model"].blocks == []
    assert sources["afhq-model"].needed_by == ["afhq"]


def test_what_is_placed_is_missing_no_more(fresh: Path) -> None:
    """A checkpoint at its path, and a folder with an image in a class."""
    graph = Graph(Path())
    assert diagnose("cifar10-1rf").blocked
    placed(graph.config.assets["rf-cifar10"].path, b"\0" * 2_000_000)
    found = diagnose("cifar10-1rf")
    source = next(s for s in found.sources if s.name == "rf-cifar10")
    assert (source.state, source.mb, source.verified) == ("there", 2.0, False)
    assert found.targets[0].blocked_by == ["data/cifar10/train/"]
    placed("data/cifar10/train/notes.txt")
    placed("data/cifar10/train/cat/notes.txt")
    assert diagnose("cifar10-1rf").blocked
    placed("data/cifar10/train/cat/1.PNG")
    assert not diagnose("cifar10-1rf").blocked


def test_a_file_that_the_workflow_checked(fresh: Path) -> None:
    """Its record says so, as long as the file is the same."""
    file = placed("data/assets/par/vq_ds16_c2i.pt", b"abc")
    record = placed("results/assets/vq-16.json", b'{"bytes": 3}')
    os.utime(file, (1, 1))
    target = "results/tokenizers/vq-16.safetensors"
    (source,) = diagnose(target).sources
    assert source.verified
    record.write_text('{"bytes": 4}')
    assert diagnose(target).sources[0].verified is False
    record.write_text('{"bytes": 3}')
    os.utime(record, (0, 0))
    assert diagnose(target).sources[0].verified is False


def test_a_file_of_another_size(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It blocks as a missing one does, whether the table or the lock file says so."""
    table = yaml.safe_load(Path("workflow/assets.yaml").read_text())
    cut = placed(table["demo-model"]["path"], b"cut off")
    target = "results/demo-tarflow/model.safetensors"
    found = diagnose(target)
    wrong = f"wrong size (7 bytes, {table['demo-model']['bytes']} expected)"
    assert states(found) == {"demo-model": wrong}
    assert found.targets[0].blocked == [target]
    assert found.targets[0].blocked_by == ["demo-model"]
    assert found.sources[0].verified is False
    cut.write_bytes(b"\0" * table["demo-model"]["bytes"])
    assert not diagnose(target).blocked  # sizes only: a wrong hash is the workflow's
    own = table["vq-16"]
    file = placed(own["path"], b"abc")
    kept = {"repo": own["repo"], "file": own["file"], "revision": None, "from": "x"}
    book = {"vq-16": {"sha256": "0" * 64, "bytes": 4, **kept}}
    placed("data/assets.lock.json", json.dumps(book).encode())
    monkeypatch.setattr(
        sys, "argv", ["fewstep", "doctor", "results/tokenizers/vq-16.json"]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert "wrong size (3 bytes, 4 expected)" in capsys.readouterr().out
    file.write_bytes(b"abcd")
    assert not diagnose("results/tokenizers/vq-16.json").blocked


def test_an_inception_network_that_is_cut_off(fresh: Path) -> None:
    """Weights in torch's cache have the size that the asset table knows."""
    target, name = "results/extractors/inception-fid.json", "inception-fid"
    fetched = {"extractors": {name: {"weights": None}}}
    first = diagnose(target, **fetched)
    assert states(first) == {name: "to download"}
    placed(first.sources[0].path, b"cut off")
    found = diagnose(target, **fetched)
    assert states(found)[name].startswith("wrong size (7 bytes, 95628359")
    assert found.blocked


def test_what_is_made_counts_as_done(fresh: Path) -> None:
    """A result that is there needs nothing; weights that are there no checkpoint."""
    whole = diagnose("afhq_for").targets[0]
    placed("results/afhq/model.safetensors")
    part = diagnose("afhq_for")
    assert part.targets[0].jobs < whole.jobs
    assert "afhq-model" not in states(part)
    placed("results/afhq_for_fid.json")
    done = diagnose("afhq_for")
    line = done.targets[0]
    assert (line.done, line.jobs, line.gpu_hours) == (1, 0, 0)
    assert done.sources == []
    assert not done.blocked


def test_offline_downloads_block(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where downloads are forbidden, a missing file is as one to be placed by hand."""
    assert not diagnose("par-xl-4x").blocked
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert diagnose("par-xl-4x").blocked


def test_the_demo_can_start(fresh: Path) -> None:
    """It is shipped with all that it needs."""
    found = diagnose("demo")
    assert set(states(found).values()) == {"there"}
    assert not found.blocked
    assert found.totals["download_mb"] == 0
    assert 0 < found.totals["gpu_hours"] < 10


def test_hours_are_counted_once(fresh: Path) -> None:
    """Two cells share their weights and their clock: less in all than apart."""
    both = diagnose("cifar10-4seqrf_euler-4", "cifar10-4seqrf_euler-8")
    apart = [line.gpu_hours for line in both.targets]
    assert max(apart) < both.totals["gpu_hours"] < sum(apart)
    train = diagnose("train_cifar10-4seqrf").targets[0]
    assert train.gpu_hours < min(apart)
    assert both.totals["disk_gb"] > 20  # a million pairs


def test_a_small_gpu_is_told_what_fits(fresh: Path) -> None:
    """Sampling halves its batch by itself; a training says which parts would fit."""
    large, small = {"memory_gb": 1000.0}, {"memory_gb": 40.0, "name": "A40"}
    wanted = ("train_afhq", "afhq_for", "church-1seqrf_euler-4")
    assert all(line.fits for line in diagnose(*wanted, hardware=large).targets)
    found = diagnose(*wanted, hardware=small)
    training, sampling, pairs = found.targets
    (halved,) = diagnose("church-1rf_euler-4", hardware=small).targets
    assert any("draws 64 at a time instead" in text for text in halved.advice)
    assert not training.fits
    assert "train.accumulate" in training.advice[0]
    assert sampling.peak_memory_gb < 40
    assert sampling.fits
    assert any("batch" in advice for advice in pairs.advice)
    assert found.hardware["name"] == "A40"


@pytest.mark.parametrize(
    ("target", "labels"),
    [
        ("tarflow", {"afhq", "demo-tarflow"}),
        ("train", {"train_afhq", "train_par-l-4x"}),
        ("extract", {"results/codes/imagenet-384/codes.json"}),
        ("demo_scratch", {"demo_scratch"}),
        ("smoke", {"smoke"}),
        ("demo_report", {"demo_report"}),
        ("results/smoke/afhq.json", {"results/smoke/afhq.json"}),
        ("results/afhq_gsj_fid.json", {"results/afhq_gsj_fid.json"}),
        ("afhq_gsj", {"afhq_gsj"}),
        ("results/afhq/rank.png", {"results/afhq/rank.png"}),
        ("train_demo-tarflow", set()),
    ],
)
def test_targets_as_they_are_typed(fresh: Path, target: str, labels: set[str]) -> None:
    """Collections, experiments, trainings, cells, and files in results."""
    graph = Graph(Path())
    if not labels:
        with pytest.raises(UserError, match="no target is called"):
            expand(graph, [target])
        return
    found = expand(graph, [target])
    assert labels <= found.keys()
    for files in found.values():
        assert files
        assert all(job_of(graph, path) for path in files)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("afqh", "no target is called 'afqh'; expected such as afhq;"),
        (
            "results/afhq_gsk_fid.json",
            "no rule makes results/afhq_gsk_fid.json; expected such as results/afhq_",
        ),
    ],
)
def test_a_misspelt_target(fresh: Path, target: str, said: str) -> None:
    """One line with the nearest name, and nothing else."""
    with pytest.raises(UserError) as error:
        diagnose(target)
    assert str(error.value).startswith(said)


@pytest.mark.parametrize(
    "path",
    [
        *("no", "afhq/no.json", "nobody/model.json", "afhq/gsk/plan.json"),
        *("afhq/trajectories.png", "afhq/solvers.png", "afhq-scratch/state.json"),
        *("afhq/snapshots.json", "afhq/training.parquet", "afhq/training.png"),
        *("cifar10-1rf/rank.json", "cifar10-1rf/euler-4/trace.png"),
        *("cifar10-4seqrf/state.json", "afhq/for/strategies.parquet"),
        *("afhq/timing.json", "cifar10-1rf/rk45/timing.json"),
        *("tokenizers/vq-16-reconstruction.json", "tokenizers/vq-16.parquet"),
        *("tokenizers/no.json", "tokenizers/export/no.safetensors"),
        *("pairs/no/pairs.json", "pairs/cifar10-k1/edges.json"),
        *("pairs/demo-k2/shard-99999.json", "pairs/demo-k2/shard-99999.arrow"),
        *("codes/no/codes.json", "codes/no/index.json", "codes/demo/index.json"),
        *("codes/demo/shard-99999.json", "codes/no/shard-00000.arrow"),
        *("data/no/dataset.json", "references/no.npz", "assets/no.json"),
        *("extractors/no.json", "extractors/inception-fid.safetensors"),
        *("extractors/no.safetensors", "smoke/nobody.json"),
        "demo-tarflow/for/seed0/parts/0-of-1.json",
    ],
)
def test_a_file_that_no_rule_makes(fresh: Path, path: str) -> None:
    """Rules serve some experiments only, and so many shards: the rest is one line."""
    with pytest.raises(UserError, match=f"^no rule makes results/{path}; "):
        diagnose(f"results/{path}")


def test_a_wrong_file_of_the_command(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line and exit status 1, no traceback."""
    command = ["fewstep", "doctor", "results/cifar10-1rf/rank.json"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("fewstep: no rule makes results/cifar10-1rf/rank.json")
    assert error.count("\n") == 1


def test_what_shows_all_that_is_there(fresh: Path) -> None:
    """Report and tables wait for nothing, so nothing keeps them from starting."""
    found = diagnose("report", "tables")
    assert [line.target for line in found.targets] == ["report", "tables"]
    assert [line.jobs for line in found.targets] == [1, 1]
    assert found.sources == []
    assert not found.blocked


@pytest.mark.slow
def test_all_targets_of_snakemake_are_taken(fresh: Path) -> None:
    """Whatever `snakemake --list-target-rules` names is a target of the doctor's."""
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--list-target-rules"],
        capture_output=True,
        text=True,
        check=True,
    )
    targets = done.stdout.split()
    assert {"all", "demo", "demo_report", "report", "tables", "smoke"} <= {*targets}
    found = expand(Graph(Path()), targets)
    assert {"report", "train_afhq", "demo_scratch"} <= found.keys()


def test_a_part_of_the_samples_is_a_part_of_the_work(fresh: Path) -> None:
    """Where several jobs draw a seed, each does its share, and one more lists them."""
    one, four = (
        {"experiments": {"afhq": {"sampling": {"jobs": jobs}}}} for jobs in (1, 4)
    )
    seed = "results/afhq/for/seed0"
    alone = diagnose(f"{seed}/samples.json", **one).targets[0]
    all_four = diagnose(f"{seed}/samples.json", **four).targets[0]
    part = diagnose(f"{seed}/parts/1-of-4.json", **four).targets[0]
    assert all_four.jobs == alone.jobs + 4
    assert all_four.gpu_hours == pytest.approx(alone.gpu_hours, abs=0.02)
    assert part.jobs == alone.jobs
    assert part.gpu_hours < 0.5 * alone.gpu_hours


def planned(command: Sequence[str], graph: Graph) -> set[Any]:
    """Jobs that Snakemake would run here."""
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", "--summary", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = set()
    for row in csv.DictReader(io.StringIO(done.stdout), delimiter="\t"):
        job = job_of(graph, row["output_file"])
        assert job is not None, row
        found.add((job.kind, job.name, job.number))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "target", ["demo", "all", "train", "extract", "tarflow", "smoke"]
)
def test_the_jobs_are_those_of_snakemake(fresh: Path, target: str) -> None:
    """What the workflow would run on a fresh machine is what the doctor counts."""
    graph = Graph(Path())
    jobs = planned([target], graph)
    found = examine(graph, [target])
    assert found.totals["jobs"] == len(jobs)
    assets = {name for kind, name, _ in jobs if kind == "asset"}
    named = {source.name for source in found.sources if source.kind == "asset"}
    assert named - {"inception-fid"} == assets


def test_assets_are_those_of_the_configuration(fresh: Path) -> None:
    """Walking from results to assets, and asking an asset for its users, agree."""
    graph = Graph(Path())
    needed: dict[str, set[str]] = {}
    for cell in graph.cells():
        (path,) = graph.evaluations([cell])
        for source in examine(graph, [path]).sources:
            needed.setdefault(source.name, set()).add(path)
    for name, own in graph.config.assets.items():
        users = asset_users(graph.config, name)
        wanted = {target for target in users if target.endswith("_fid.json")}
        assert own.trained_by or needed.get(name, set()) == wanted, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "targets", "sources"),
    [
        ("config.yaml", [*TARGETS, "results/digits/side-by-side.png"], {}),
        ("flows.yaml", FLOW_TARGETS, {"rf-tiny.pth": "there"}),
        (
            "par.yaml",
            [*PAR_TARGETS, "results/four/cfg/order.png"],
            {"photos/": "there", "released/": "there"},
        ),
    ],
)
def test_the_jobs_of_the_tiny_chains(
    fresh: Path, config: str, targets: list[str], sources: dict[str, str]
) -> None:
    """Every rule of the three systems is read backwards, with files of the user's."""
    shutil.copy(ROOT / "tests/workflow" / config, "tiny.yaml")
    if config == "flows.yaml":
        shutil.copy(CHECKPOINT, "rf-tiny.pth")
    elif config == "par.yaml":
        draw_photos(Path("photos"))
        write_released(Path("released"))
    graph = Graph(Path(), [Path("tiny.yaml")])
    jobs = planned([*targets, "--configfile", "tiny.yaml"], graph)
    found = examine(graph, targets)
    assert found.totals["jobs"] == len(jobs)
    assert states(found) == sources
    assert not found.blocked


def test_the_answer_in_json(fresh: Path) -> None:
    """One value with everything, and exit status 1 where a target is blocked."""
    command = [sys.executable, "-m", "fewstep", "doctor", "cifar10-1rf", "--json"]
    secret = {
        **os.environ,
        "HF_TOKEN": SECRET,
        "HF_ENDPOINT": "https://u:pw@hub.test/x",
    }
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=secret
    )
    assert done.returncode == 1, done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert "u:pw" not in done.stdout
    found = json.loads(done.stdout)
    assert set(found) == {
        *("environment", "hardware", "sources", "targets", "totals", "blocked")
    }
    assert found["environment"]["hf_token_set"] is True
    assert found["environment"]["hf_endpoint"] == "hub.test"
    assert found["blocked"] is True
    (line,) = found["targets"]
    assert set(line) == {
        *("target", "results", "done", "jobs", "gpu_hours", "peak_memory_gb", "fits"),
        *("advice", "disk_gb", "download_mb", "blocked", "blocked_by"),
    }
    for source in found["sources"]:
        assert set(source) == {
            *("name", "kind", "path", "state", "mb", "origin", "verified"),
            *("needed_by", "blocks"),
        }


def test_the_command(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Plain columns where nobody looks, exit status 0 where nothing blocks."""
    monkeypatch.setenv("HF_TOKEN", SECRET)
    text = "hardware={memory_gb: 16, name: RTX-16GB}"
    command = ["fewstep", "doctor", "par-xl-4x", "--config", text]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert SECRET not in said
    assert "RTX-16GB" in said
    assert "token set" in said
    assert "par-xl-4x" in said
    assert "Nothing is blocked." in said
    assert not set("│┃━") & set(said)


@pytest.mark.parametrize("text", ["hardware", "hardware={"])
def test_a_setting_that_is_none(
    fresh: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
) -> None:
    """KEY without =VALUE, or a value that is no YAML, is one line."""
    monkeypatch.setattr(sys, "argv", ["fewstep", "doctor", "--config", text])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("fewstep: ")
    assert error.count("\n") == 1
    assert "--config" in error


def test_the_answer_in_a_terminal(fresh: Path) -> None:
    """Tables with lines, and the same facts."""
    console = Console(force_terminal=True, width=200, file=io.StringIO())
    show(diagnose("afhq", hardware={"memory_gb": 16.0}), console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "│" in said
    assert "data/afhq/train/" in said
    assert "1 of 3 blocked" in said
    assert "3 results are blocked" in said


def test_a_full_disk_is_said(fresh: Path) -> None:
    """Samples, checkpoints and downloads that do not fit are a line of their own."""
    found = diagnose("afhq_for")
    for free, wanted in ((1.0, True), (1e6, False)):
        found.totals["disk_free_gb"] = free
        console = Console(width=200, file=io.StringIO())
        show(found, console)
        said = console.file.getvalue()  # type: ignore[attr-defined]
        assert ("The disk here is too small" in said) == wanted


def test_the_environment() -> None:
    """Versions, devices, disk and scheduler are looked at; a token is never told."""
    facts = environment({"HF_TOKEN": SECRET})
    assert facts["hf_token_set"]
    assert SECRET not in json.dumps(facts)
    assert facts["packages"]["torch"]
    assert set(facts["slurm"]) >= {"sbatch", "squeue", "sacct"}
    assert facts["ram_gb"] > 0
    assert facts["disk_free_gb"] > 0
    assert not environment({})["hf_token_set"]
