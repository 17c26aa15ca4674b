"""The profiles: they load, they plan, and the login node does nothing that is heavy."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from fewstep import cli, extractors
from snakemake_executor_plugin_submitit.settings import ExecutorSettings
from snakemake_executor_plugin_submitit.site import OPTIONAL, read_site
from tests.test_docs import blocks
from tests.workflow.conftest import ROOT, Project, copy_project

CLUSTERS = ("slurm", "slurm-tpu")
EXAMPLE = ROOT / "profiles/cluster.example.yaml"
TARGETS = {
    *("all", "tarflow", "seqrf", "par", "extract", "train", "demo", "demo_scratch"),
    "smoke",
}
NETWORK = {"asset", "inception"}
QUICK = {
    *("tables", "report", "demo_report", "evaluation", "grid"),
    *("training_chart", "tarflow_rank_charts", "seqrf_trajectory_chart"),
    *("seqrf_solvers", "tarflow_strategy", "seqrf_plan", "par_plan"),
    *("sample_collect", "tarflow_side_by_side"),
}
DEVICE = {
    *("tarflow_train", "seqrf_train", "par_train", "par_train_tokenizer", "reference"),
    *("tarflow_rank", "tarflow_search", "tarflow_trace", "seqrf_edges", "seqrf_pairs"),
    *("seqrf_trajectories", "par_codes", "par_reconstruct", "par_order"),
    *("sample", "sample_part", "score", "timing", "timing_together"),
    "smoke_architecture",
}
"""Rules whose stage computes on the device."""
PROBE = """
include: "Snakefile"
import json
from snakemake.shell import shell as bash
found = dict()
for one in workflow.rules:
    asked = {key: one.resources[key].raw for key in one.resources}
    found[one.name] = {"local": one.name in workflow._localrules, "asked": asked}
with open("rules.json", "w") as file:
    prefix = bash._get_process_prefix("bash")
    gpus = {name: GRAPH.reference_gpus(name) for name in GRAPH.config.references}
    json.dump({"rules": found, "prefix": prefix, "gpus": gpus}, file)
"""


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A checkout with nothing made yet, and no file of a cluster's values."""
    project = copy_project(tmp_path_factory.mktemp("fresh"))
    (project.folder / "profiles/cluster.yaml").unlink(missing_ok=True)
    for name in ("local", *CLUSTERS):
        (project.folder / name).symlink_to(f"profiles/{name}")
    return project


@pytest.fixture(scope="module")
def probed(fresh: Project) -> dict[str, Any]:
    """Rules as Snakemake has them, with what they say themselves of their resources."""
    (fresh.folder / "probe.smk").write_text(PROBE)
    done = fresh.snakemake("--snakefile", "probe.smk", "-n", "tables")
    assert done.returncode == 0, done.stderr
    content: dict[str, Any] = json.loads((fresh.folder / "rules.json").read_text())
    return content


@cache
def profile(name: str) -> dict[str, Any]:
    """The values of a profile."""
    text = (ROOT / "profiles" / name / "profile.yaml").read_text()
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def test_profile_links_are_committed() -> None:
    """`--profile slurm` and the others resolve from the root as typed."""
    for name in ("local", *CLUSTERS):
        assert (ROOT / name).is_symlink()
        assert (ROOT / name / "profile.yaml").is_file()
    # Snakemake would lay this one over every other profile.
    assert not (ROOT / "profiles/default").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "targets"),
    [("slurm", ["all", "demo"]), ("slurm-tpu", ["demo"]), ("local", ["demo"])],
)
def test_a_plan_needs_no_cluster(fresh: Project, name: str, targets: list[str]) -> None:
    """`-n` works on a fresh checkout, without a cluster file and without SLURM."""
    done = fresh.snakemake("--profile", name, "-n", *targets)
    assert done.returncode == 0, done.stderr
    counts = set(re.findall(r"^total +(\d+)$", done.stdout + done.stderr, re.M))
    assert len(counts) == 1
    assert int(counts.pop()) > 50
    assert not (fresh.folder / "results").exists()


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_s_profile_names_settings_that_exist(name: str) -> None:
    """Each `submitit-…` line is a setting of the executor; the site file is ours."""
    known = {f"submitit-{f.name.replace('_', '-')}" for f in fields(ExecutorSettings)}
    given = {key for key in profile(name) if key.startswith("submitit-")}
    assert given <= known
    assert profile(name)["executor"] == "submitit"
    site = Path(profile(name)["submitit-site"])
    assert site.with_name(f"{site.stem}.example.yaml") == EXAMPLE.relative_to(ROOT)
    assert set(profile(name)["default-resources"]) == {"runtime", "mem_mb"}


def test_the_profiles_of_clusters_differ_in_the_accelerator_alone() -> None:
    """What is changed in one is not forgotten in the other."""
    accelerator = {"submitit-accelerator": "tpu"}
    assert {**profile("slurm"), **accelerator} == profile("slurm-tpu")


def test_the_profile_of_this_machine_submits_nothing() -> None:
    """`--profile local` is Snakemake's own executor."""
    assert not any(k.startswith(("executor", "submitit")) for k in profile("local"))


def test_the_cluster_file_s_example_is_read(tmp_path: Path) -> None:
    """As it stands, and with every line that is commented out."""
    assert set(read_site(EXAMPLE).values("gpu")) == {"partition", "account"}
    path = tmp_path / "cluster.yaml"
    keys = "|".join(["tpu", "partition", "account", "setup", *OPTIONAL])
    pattern = rf"^( *)# ((?:  )*(?:(?:{keys}):|- ))"
    path.write_text(re.sub(pattern, r"\1\2", EXAMPLE.read_text(), flags=re.M))
    site = read_site(path)
    assert set(site.sections) == {"cpu", "gpu", "tpu"}
    assert set(site.values("gpu")) == {"partition", "account", *OPTIONAL}
    assert site.setup[0] == "module load cuda"


def test_the_cluster_file_is_not_for_git() -> None:
    """One user's account does not end in everybody's checkout."""
    lines = (ROOT / ".gitignore").read_text().splitlines()
    assert "/profiles/cluster.yaml" in lines


@pytest.mark.slow
def test_downloads_and_tables_stay_where_the_user_types(probed: dict[str, Any]) -> None:
    """What needs the network or takes a second is local, all else is submitted."""
    rules = probed["rules"]
    local = {name for name, rule in rules.items() if rule["local"]}
    trainings = {name for name in local if name.startswith("train_")}
    assert {"train_afhq", "train_cifar10-4seqrf", "train_par-xl-4x"} <= trainings
    assert local - trainings == TARGETS | NETWORK | QUICK
    assert rules.keys() >= DEVICE


@pytest.mark.slow
def test_submitted_rules_say_what_they_need(probed: dict[str, Any]) -> None:
    """Each has its own runtime and memory; a GPU where it computes on one."""
    for name, rule in probed["rules"].items():
        asked = set(rule["asked"])
        assert rule["local"] or asked >= {"runtime", "mem_mb"}, name
        assert ("gpu" in asked) == (name in DEVICE), name
        assert not rule["local"] or not asked & {"runtime", "mem_mb", "gpu"}, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "verbs"),
    [
        ("cifar10", {"dataset", "fetch", "reference"}),
        ("afhq", {"fetch", "reference"}),
    ],
)
def test_what_nodes_cannot_fetch_is_there_before_them(
    fresh: Project, name: str, verbs: set[str]
) -> None:
    """Statistics of images wait for Inception's weights, which are a download."""
    target = f"results/references/{name}.npz"
    done = fresh.snakemake(target, "-n", "--printshellcmds")
    assert done.returncode == 0, done.stderr
    pattern = r"-m fewstep (?:--threads \d+ )?([a-z-]+)"
    assert set(re.findall(pattern, done.stdout)) == verbs


@pytest.mark.slow
def test_statistics_that_are_only_read_need_no_gpu(probed: dict[str, Any]) -> None:
    """A published file is copied on a CPU; what is computed gets a GPU."""
    gpus = probed["gpus"]
    assert {name for name, count in gpus.items() if not count} == {
        *("afhq", "img128", "img64uncond", "img64cond"),
    }
    assert set(gpus.values()) == {0, 1}


def test_the_weights_of_inception_are_fetched_by_a_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It loads them, which downloads what is missing, and writes down their hash."""
    found = SimpleNamespace(weights_sha256="ab" * 32)
    monkeypatch.setattr(extractors, "load_extractor", lambda kind: found)
    out = tmp_path / "inception.json"
    monkeypatch.setattr(sys, "argv", ["fewstep", "fetch-inception", "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert json.loads(out.read_text())["weights_sha256"] == found.weights_sha256


STUBBORN = """
import signal, sys, time
def stop(*_):
    time.sleep(0.2)
    print("saved", file=sys.stderr)
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
print("ready", file=sys.stderr, flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_a_log_outlives_the_signal_that_stops_a_job(
    probed: dict[str, Any], tmp_path: Path
) -> None:
    """SIGTERM to all processes of a job: the stage saves and still says so."""
    (tmp_path / "stage.py").write_text(STUBBORN)
    log = tmp_path / "log"
    command = f"{probed['prefix']} {sys.executable} stage.py 2>&1 | tee {log}"
    job = subprocess.Popen(
        ["bash", "-c", command],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    until = time.monotonic() + 30
    while not (log.exists() and "ready" in log.read_text()):
        assert time.monotonic() < until
        time.sleep(0.02)
    os.killpg(job.pid, signal.SIGTERM)
    job.wait()
    while "saved" not in log.read_text():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_the_how_to_shows_the_cluster_file() -> None:
    """The page's example of a cluster file is one that is read."""
    (text,) = [t for t in blocks(ROOT / "docs/howto.md", "yaml") if "partition:" in t]
    assert {"cpu", "gpu"} <= set(yaml.safe_load(text))
