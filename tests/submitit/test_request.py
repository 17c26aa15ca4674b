"""A rule's resources become submitit's parameters; nonsense is one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from submitit import AutoExecutor
from submitit.slurm.slurm import SlurmExecutor

from snakemake_executor_plugin_submitit.request import (
    FOREIGN,
    OWNED,
    Request,
    RequestError,
    request_of,
)
from snakemake_executor_plugin_submitit.site import Site
from tests.submitit.fake_slurm import FakeSlurm

SITE = Site(
    Path("profiles/cluster.yaml"),
    {
        "cpu": {"partition": "cpu", "account": None, "slurm_extra": "--nice=5"},
        "gpu": {"partition": "big", "account": "lab", "gpu_model": "a100"},
        "tpu": {"partition": "pods", "account": "lab", "qos": "tpu"},
    },
    ("module load cuda",),
)


def asked(threads: int = 1, accelerator: str = "gpu", **resources: Any) -> Request:
    """A request with a runtime and no site file."""
    return request_of("r", {"runtime": 60} | resources, threads, Site(), accelerator)


def refused(threads: int = 1, accelerator: str = "gpu", **resources: Any) -> str:
    """The one line with which a request is refused."""
    with pytest.raises(RequestError) as caught:
        asked(threads, accelerator, **resources)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("rule r: resources.")
    return text


@pytest.mark.parametrize(
    ("resources", "attribute", "value"),
    [
        ({"slurm_partition": "low"}, "partition", "low"),
        ({"partition": "low"}, "partition", "low"),
        ({"slurm_account": "lab"}, "account", "lab"),
        ({"account": "lab"}, "account", "lab"),
        ({"slurm_qos": "long"}, "qos", "long"),
        ({"qos": "long"}, "qos", "long"),
        ({"runtime": 90}, "minutes", 90),
        ({"mem_mb": 4000}, "mem_mb", 4000),
        ({"mem_mb_per_cpu": 500}, "mem_mb_per_cpu", 500),
        ({"cpus_per_task": 3}, "cpus", 3),
        ({"gpu": 2}, "gpus", "2"),
        ({"gpu": 2, "gpu_model": "a100"}, "gpus", "a100:2"),
        ({"gpus_per_node": "a100:2"}, "gpus", "a100:2"),
        ({"gpus_per_node": 2}, "gpus", "2"),
        ({"gres": "gpu:2"}, "gres", "gpu:2"),
        ({"gres": "gpu:2"}, "gpus", None),
        ({"gres": "tpu:4"}, "gres", "tpu:4"),
        ({"gres": "nvme:1"}, "gres", "nvme:1"),
        ({"nodes": 2}, "nodes", 2),
        ({"tasks_per_node": 4}, "tasks_per_node", 4),
        ({"nodes": 2, "tasks": 4}, "tasks_per_node", 2),
        ({"constraint": "h100&ib"}, "constraint", "h100&ib"),
        ({"exclude": "n[1-3]"}, "exclude", "n[1-3]"),
        ({"nodelist": "n7"}, "nodelist", "n7"),
        (
            {"slurm_extra": "--exclusive --mail-type=END"},
            "extra",
            (("exclusive", True), ("mail-type", "END")),
        ),
        ({"slurm_extra": "--licenses='a b'"}, "extra", (("licenses", "a b"),)),
        ({"gpu": 0}, "gpus", None),
        ({"disk_mb": 1000, "tmpdir": "/tmp", "download": 1}, "extra", ()),
    ],
)
def test_each_resource_has_its_place(
    resources: dict[str, Any], attribute: str, value: Any
) -> None:
    """Every resource that the documentation names ends in one field of the request."""
    assert getattr(asked(**resources), attribute) == value


def test_a_rule_that_asks_for_little_leaves_the_rest_to_the_cluster() -> None:
    """With a runtime alone nothing but a CPU, a node and the time is asked for."""
    assert asked() == Request(minutes=60)
    assert asked(threads=8).cpus == 8


def test_cpus_per_task_wins_over_threads() -> None:
    """`cpus_per_task` is the more exact word where a rule says both."""
    assert asked(threads=8, cpus_per_task=4).cpus == 4


def test_equal_requests_are_equal_and_hashable() -> None:
    """Jobs are put into one array by their requests, the order of resources aside."""
    one = asked(gpu=1, mem_mb=10, slurm_extra="--nice=1 --licenses=2")
    two = asked(slurm_extra="--licenses=2 --nice=1", mem_mb=10, gpu=1)
    assert one == two
    assert len({one, two}) == 1
    assert asked(gpu=2) != asked(gpu=1)


def test_gpus_are_counted_with_and_without_a_model() -> None:
    """The local cluster hands out GPUs by this number."""
    assert asked().gpu_count == 0
    assert asked(gpu=2).gpu_count == 2
    assert asked(gpu=3, gpu_model="a100").gpu_count == 3


# -- the site's values ------------------------------------------------------------


def test_the_site_says_what_the_rule_leaves_open() -> None:
    """A job without accelerator takes the section `cpu`, with it that of its name."""
    plain = request_of("r", {"runtime": 1}, 1, SITE)
    assert (plain.partition, plain.account) == ("cpu", None)
    assert plain.extra == (("nice", "5"),)
    assert plain.setup == ("module load cuda",)
    gpu = request_of("r", {"runtime": 1, "gpu": 2}, 1, SITE)
    assert (gpu.partition, gpu.account, gpu.gpus) == ("big", "lab", "a100:2")
    tpu = request_of("r", {"runtime": 1, "gpu": 4}, 1, SITE, "tpu")
    assert (tpu.partition, tpu.qos, tpu.gres, tpu.gpus) == (
        "pods",
        "tpu",
        "tpu:4",
        None,
    )


def test_the_rule_wins_over_the_site() -> None:
    """What a rule says itself is not the site's to change."""
    resources = {"runtime": 1, "slurm_partition": "mine", "slurm_account": "me"}
    request = request_of("r", resources | {"slurm_extra": "--nice=0"}, 1, SITE)
    assert (request.partition, request.account) == ("mine", "me")
    assert request.extra == (("nice", "0"),)
    model = request_of("r", {"runtime": 1, "gpu": 1, "gpu_model": "t4"}, 1, SITE)
    assert model.gpus == "t4:1"


def test_the_site_bounds_the_time() -> None:
    """A job that wants longer than its partition allows is requeued and goes on."""
    values = {"partition": "day", "account": None, "max_runtime": "1440"}
    site = Site(Path("cluster.yaml"), {"cpu": values})
    assert request_of("r", {"runtime": 5000}, 1, site).minutes == 1440
    assert request_of("r", {"runtime": 50}, 1, site).minutes == 50


def test_a_short_job_is_warned_later() -> None:
    """At the same moment as its start it would never get anywhere."""
    assert Request(minutes=90).notice(120) == 120
    assert Request(minutes=1).notice(120) == 20
    assert Request(minutes=1).notice(15) == 15


@pytest.mark.parametrize("resources", [{"gres": "gpu:1"}, {"gpus_per_node": "t4:1"}])
def test_a_gpu_asked_for_in_any_way_takes_the_gpu_section(
    resources: dict[str, Any],
) -> None:
    """The section follows what is asked for, not how."""
    assert request_of("r", {"runtime": 1} | resources, 1, SITE).partition == "big"


@pytest.mark.parametrize("accelerator", ["gpu", "tpu"])
def test_another_generic_resource_stays_beside_the_accelerator(
    accelerator: str,
) -> None:
    """A local disk and GPUs can be asked for together; neither is dropped."""
    request = asked(accelerator=accelerator, gpu=2, gres="nvme:1")
    everything = f"{request.gpus} {request.gres}"
    assert "nvme:1" in everything
    assert "2" in everything.replace("nvme:1", "")


def test_the_model_of_another_accelerator_is_kept() -> None:
    """`gpu_model` belongs to whatever `gpu` means."""
    request = asked(accelerator="tpu", gpu=4, gpu_model="v4")
    assert request.gres == "tpu:v4:4"


# -- refusals ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"gpu": 1, "gres": "gpu:1"}, ["two ways", "gres", "keep one"]),
        ({"gpu": 1, "gpus_per_node": 1}, ["two ways", "gpus_per_node", "keep one"]),
        ({"gres": "gpu:1", "gpus_per_node": 1}, ["two ways", "keep one"]),
        ({"gres": "nvme:1,gpu:1", "gpu": 1}, ["two ways", "keep one"]),
        ({"gpu": 1, "slurm_extra": "--gpus-per-task=1"}, ["two ways", "keep one"]),
        ({"gpu_model": "a100"}, ["gpu_model", "gpu: N"]),
        ({"gres": "gpu:1", "gpu_model": "a100"}, ["gpu_model", "gpu: N"]),
        ({"gpu": -1}, ["gpu", "from 1", "-1"]),
        ({"gpu": "two"}, ["gpu", "whole number", "two"]),
        ({"gpus_per_node": "a100"}, ["gpus_per_node", "a100:2"]),
        ({"gpus_per_node": "a100:0"}, ["gpus_per_node", "a100:2"]),
        ({"runtime": None}, ["runtime", "missing", "default-resources"]),
        ({"runtime": 0}, ["runtime", "minutes", "from 1"]),
        ({"runtime": -5}, ["runtime", "minutes", "-5"]),
        ({"runtime": "soon"}, ["runtime", "minutes", "2h", "soon"]),
        ({"runtime": 1.5}, ["runtime", "whole", "1.5"]),
        ({"runtime": True}, ["runtime", "minutes", "True"]),
        ({"runtime": 3_600_000}, ["runtime", "minutes, not seconds"]),
        ({"mem_mb": "4G"}, ["mem_mb", "whole number", "4G"]),
        ({"nodes": -1}, ["nodes", "from 1"]),
        ({"nodes": 2, "tasks": 3}, ["tasks", "nodes=2"]),
        ({"tasks": 2, "tasks_per_node": 2}, ["tasks", "keep one"]),
        ({"tasks_per_node": "x"}, ["tasks_per_node", "whole number"]),
        ({"cpus_per_task": -2}, ["cpus_per_task", "from 1"]),
        ({"partition": "a", "slurm_partition": "b"}, ["contradicts", "keep one"]),
        ({"slurm_extra": "-p low"}, ["slurm_extra", "--name", "-p"]),
        ({"slurm_extra": "exclusive"}, ["slurm_extra", "--name"]),
        ({"slurm_extra": "--comment='x"}, ["slurm_extra", "quotation"]),
        ({"slurm_extra": "--time=5"}, ["--time", "runtime"]),
        ({"slurm_extra": "--signal=USR1@5"}, ["--signal", "executor sets it"]),
    ],
)
def test_nonsense_is_refused_with_one_line(
    resources: dict[str, Any], words: list[str]
) -> None:
    """The line names rule and key, what was expected and what to do."""
    text = refused(**resources)
    for word in words:
        assert word in text


@pytest.mark.parametrize("name", sorted(FOREIGN))
def test_names_of_other_programs_are_refused(name: str) -> None:
    """A limit that would be ignored in silence names the word that works."""
    text = refused(**{name: 10})
    assert f"resources.{name}" in text
    assert "expected" in text


@pytest.mark.parametrize("name", ["time", "walltime", "timelimit", "time_min"])
def test_times_of_other_programs_name_runtime(name: str) -> None:
    """The time limit has one word, and one unit."""
    assert "runtime (minutes" in refused(**{name: "01:00:00"})


@pytest.mark.parametrize("name", sorted(OWNED))
def test_options_with_a_resource_are_refused_in_slurm_extra(name: str) -> None:
    """An option of sbatch that the executor sets itself would be given twice."""
    assert f"--{name} is not for here" in refused(slurm_extra=f"--{name}=1")


@pytest.mark.parametrize("accelerator", ["tpu", "npu"])
def test_two_ways_are_refused_for_every_accelerator(accelerator: str) -> None:
    """What `gpu` means by a setting may not be asked for by its gres as well."""
    text = refused(accelerator=accelerator, gpu=2, gres=f"{accelerator}:2")
    assert f"two ways of asking for {accelerator}s" in text


def test_gpus_for_each_task_are_asked_for_once() -> None:
    """`--gpus-per-task`, which has no resource, adds no GPUs of its own accord."""
    request = asked(slurm_extra="--gpus-per-task=2")
    assert request.extra == (("gpus-per-task", "2"),)
    assert "gpus-per-node" not in request.parameters(120)["slurm_additional_parameters"]


VALUES = st.one_of(
    st.none(), st.integers(), st.text(max_size=6), st.floats(), st.booleans()
)
NAMES = (
    *("gpu", "gres", "nodes", "tasks", "tasks_per_node", "cpus_per_task", "mem_mb"),
    *("mem_mb_per_cpu", "gpus_per_node", "gpu_model", "slurm_extra", "slurm_partition"),
    *("constraint", "runtime", "qos", "time"),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(NAMES), VALUES))
def test_any_values_are_taken_or_refused_with_one_line(
    resources: dict[str, Any],
) -> None:
    """Whatever a rule says, there is a sound request or one line with the rule."""
    text = None
    try:
        request = request_of("r", resources, 1, Site())
    except RequestError as error:
        text = str(error)
    if text is not None:
        assert text.startswith("rule r: resources.")
        assert len(text.splitlines()) == 1
        return
    assert min(request.minutes, request.cpus, request.nodes) >= 1
    assert request.tasks_per_node >= 1
    assert hash(request) == hash(request)


# -- what submitit and sbatch get -------------------------------------------------


def script(request: Request, folder: Path, warning: int = 120) -> dict[str, str]:
    """The options in the batch script that submitit writes."""
    executor = AutoExecutor(folder / "%j", cluster="slurm")
    executor.update_parameters(name="r", **request.parameters(warning))
    inner = executor._executor
    assert isinstance(inner, SlurmExecutor)
    text = inner._make_submission_file_text("run", "0")
    pairs = re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", text, re.MULTILINE)
    return {name: value.strip("'") for name, value in pairs} | {"text": text}


def test_submitit_writes_every_option(slurm: FakeSlurm, tmp_path: Path) -> None:
    """The batch script that AutoExecutor makes of a request asks for all of it."""
    request = asked(
        threads=4,
        runtime=90,
        slurm_partition="low",
        slurm_account="lab",
        slurm_qos="long",
        mem_mb=4500,
        gpu=2,
        gpu_model="a100",
        nodes=2,
        tasks_per_node=3,
        constraint="h100&ib",
        exclude="n[1-3]",
        nodelist="n7",
        gres=None,
        slurm_extra="--exclusive --mail-type=END",
    )
    options = script(request, tmp_path, warning=77)
    assert options["time"] == "90"
    assert options["partition"] == "low"
    assert options["account"] == "lab"
    assert options["qos"] == "long"
    assert options["mem"] == "4500M"
    assert options["cpus-per-task"] == "4"
    assert options["gpus-per-node"] == "a100:2"
    assert (options["nodes"], options["ntasks-per-node"]) == ("2", "3")
    assert (options["constraint"], options["exclude"]) == ("h100&ib", "n[1-3]")
    assert (options["nodelist"], options["mail-type"]) == ("n7", "END")
    assert options["signal"] == "USR2@77"
    assert {"exclusive", "requeue"} <= set(options)
    assert "srun --unbuffered" in options["text"]
    assert "--cpus-per-task=4 --wait=0 run" in options["text"]


def test_memory_of_each_cpu_wins() -> None:
    """Snakemake gives every job a default `mem_mb`, which must not stand in the way."""
    request = asked(mem_mb=1000, mem_mb_per_cpu=500)
    assert (request.mem_mb, request.mem_mb_per_cpu) == (None, 500)


def test_memory_of_each_cpu_replaces_that_of_the_job(
    slurm: FakeSlurm, tmp_path: Path
) -> None:
    """sbatch gets one of the two options, for it refuses both."""
    options = script(asked(mem_mb_per_cpu=500), tmp_path)
    assert options["mem-per-cpu"] == "500M"
    assert "mem" not in options


def test_a_small_request_leaves_no_option_to_chance(
    slurm: FakeSlurm, tmp_path: Path
) -> None:
    """Nothing that was not asked for is written, but time, nodes and tasks are."""
    options = script(asked(), tmp_path)
    assert options["time"] == "60"
    absent = {"partition", "account", "qos", "mem", "gres", "gpus-per-node"}
    assert not absent & set(options)


def test_setup_lines_stand_before_the_job(slurm: FakeSlurm, tmp_path: Path) -> None:
    """The site's shell lines run in the batch script, before srun."""
    text = script(request_of("r", {"runtime": 1}, 1, SITE), tmp_path)["text"]
    assert text.index("module load cuda") < text.index("srun ")


@pytest.mark.parametrize(
    "resources", [{"gpu": 1}, {"gres": "tpu:4"}, {"mem_mb": 1}, {"nodes": 2}]
)
def test_the_same_parameters_suit_the_other_clusters(
    resources: dict[str, Any], tmp_path: Path
) -> None:
    """AutoExecutor takes a request for `local` as well; what is SLURM's is ignored."""
    parameters = asked(**resources | {"nodes": 1}).parameters(120)
    executor = AutoExecutor(tmp_path / "%j", cluster="local")
    executor.update_parameters(**parameters)
    assert executor.parameters["timeout_min"] == 60
