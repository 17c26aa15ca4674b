"""What a job asks the cluster for: a rule's resources, checked and in submitit's words.

The names of the resources are those of Snakemake's own SLURM executor, so that profiles
stay exchangeable; the parameters are those of `submitit.AutoExecutor`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snakemake_executor_plugin_submitit.site import Site

# Names of other programs that would be ignored in silence here.
FOREIGN = {
    **dict.fromkeys(
        ("time", "walltime", "timelimit", "time_min", "timeout_min", "time_limit"),
        "runtime (minutes, or text such as 2h)",
    ),
    **dict.fromkeys(("mem_gb", "memory", "mem_per_cpu"), "mem_mb or mem_mb_per_cpu"),
    **dict.fromkeys(("gpus", "n_gpus", "num_gpus", "ngpus"), "gpu"),
    **dict.fromkeys(("slurm_time", "slurm_gres"), "runtime or gres"),
    **dict.fromkeys(("cpus", "ntasks"), "threads or tasks"),
    "reservation": "slurm_extra: --reservation=NAME",
    "cpus_per_gpu": "threads",
    "clusters": "SLURM_CLUSTERS in the environment",
}
# Options of sbatch that have a resource, or that the executor needs for itself.
OWNED = {
    "time": "runtime",
    "t": "runtime",
    "mem": "mem_mb",
    "nodes": "nodes",
    "mem-per-cpu": "mem_mb_per_cpu",
    "N": "nodes",
    "cpus-per-task": "threads",
    "c": "threads",
    "ntasks": "tasks",
    "n": "tasks",
    "partition": "slurm_partition",
    "ntasks-per-node": "tasks_per_node",
    "p": "slurm_partition",
    "q": "slurm_qos",
    "account": "slurm_account",
    "A": "slurm_account",
    "qos": "slurm_qos",
    "constraint": "constraint",
    "C": "constraint",
    "exclude": "exclude",
    "x": "exclude",
    "nodelist": "nodelist",
    "w": "nodelist",
    "gres": "gres",
    "gpus": "gpu",
    "G": "gpu",
    "gpus-per-node": "gpus_per_node",
    **dict.fromkeys(
        ("array", "a", "output", "o", "error", "e", "open-mode", "signal", "comment"),
        "",
    ),
    **dict.fromkeys(
        ("requeue", "no-requeue", "job-name", "J", "wrap", "wait", "W"), ""
    ),
    **dict.fromkeys(("chdir", "D", "export", "parsable"), ""),
}
YEAR = 366 * 24 * 60
# "2", "a100:2"
_GPUS = re.compile(r"(?:[\w.-]+:)?[1-9]\d*")


class RequestError(Exception):
    """A rule asks for something that means nothing; its text is one line."""


@dataclass(frozen=True)
class Request:
    """What one job asks for; equal requests may share an array.

    Attributes:
        minutes: time limit.
        cpus: of each task.
        nodes, tasks_per_node: as SLURM has them.
        mem_mb, mem_mb_per_cpu: 10^6 bytes as Snakemake counts them; None: the
            partition's default.
        gpus: of each node, "2" or "a100:2".
        gres: other generic resources of each node, "tpu:4".
        partition, account, qos, constraint, exclude, nodelist: None: the cluster's
            default.
        extra: further options of sbatch with their values; True: a flag.
        setup: shell lines before the job.
    """

    minutes: int
    cpus: int = 1
    nodes: int = 1
    tasks_per_node: int = 1
    mem_mb: int | None = None
    mem_mb_per_cpu: int | None = None
    gpus: str | None = None
    gres: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    nodelist: str | None = None
    extra: tuple[tuple[str, str | bool], ...] = ()
    setup: tuple[str, ...] = ()

    @property
    def gpu_count(self) -> int:
        """GPUs of each node."""
        return int(self.gpus.rpartition(":")[2]) if self.gpus else 0

    def notice(self, warning: int) -> int:
        """Seconds between SLURM's signal and the time limit.

        A third of a short limit at most: a job must get somewhere before it is told to
        leave, or it would be requeued for ever.
        """
        return min(warning, self.minutes * 20)

    def parameters(self, warning: int) -> dict[str, Any]:
        """Keyword arguments of `AutoExecutor.update_parameters`.

        Args:
            warning: as the user has set it (`notice`).
        """
        cpus = f"--cpus-per-task={self.cpus}"
        further: dict[str, str | bool] = {"requeue": True, **dict(self.extra)}
        if self.gpus:
            further["gpus-per-node"] = self.gpus
        slurm = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "exclude": self.exclude,
            "nodelist": self.nodelist,
            "gres": self.gres,
            "mem": None if self.mem_mb is None else f"{self.mem_mb}M",
            "mem_per_cpu": self.mem_mb_per_cpu and f"{self.mem_mb_per_cpu}M",
            "signal_delay_s": self.notice(warning),
            "setup": list(self.setup) or None,
            # Since 22.05 srun does not take it over from sbatch.
            # Of several tasks all but the first end at once, and it goes on.
            "srun_args": [cpus, "--wait=0"],
            "additional_parameters": further,
        }
        return {
            "timeout_min": self.minutes,
            "nodes": self.nodes,
            "tasks_per_node": self.tasks_per_node,
            "cpus_per_task": self.cpus,
            **{f"slurm_{k}": v for k, v in slurm.items() if v is not None},
        }


def request_of(
    rule: str,
    resources: Mapping[str, Any],
    threads: int,
    site: Site,
    accelerator: str = "gpu",
) -> Request:
    """A job's resources as a request.

    Args:
        rule: for messages.
        resources: of the job; those that are not for the cluster are left alone.
        threads: of the job.
        site: the cluster's values for what the job leaves open.
        accelerator: what `gpu` asks for.

    Raises:
        RequestError: for a contradiction, a name that would be ignored, or a value
            that means nothing; one line with rule, key and what to do.
    """
    asked = _Asked(rule, resources)
    asked.refuse_foreign_names()
    extra = _extra(asked, asked.text("slurm_extra"))
    needed, count = _accelerator(asked, accelerator, extra)
    site_values = site.values(accelerator if needed else "cpu")
    extra = {**_extra(asked, site_values.get("slurm_extra")), **extra}
    if count and asked.given("gpu"):
        model = asked.text("gpu_model") or site_values.get("gpu_model")
        count = f"{model}:{count}" if model else count
    gpus, gres = count, asked.text("gres")
    if count and accelerator != "gpu":
        gpus, gres = None, ",".join(filter(None, (gres, f"{accelerator}:{count}")))

    def either(key: str) -> str | None:
        own = asked.text(f"slurm_{key}", key)
        return own if own is not None else site_values.get(key)

    nodes = asked.number("nodes", default=1)
    memory, memory_per_cpu = _memory(asked)
    return Request(
        minutes=min(asked.minutes(), int(site_values.get("max_runtime") or YEAR)),
        cpus=asked.number("cpus_per_task", default=max(1, threads)),
        nodes=nodes,
        tasks_per_node=_tasks(asked, nodes),
        mem_mb=memory,
        mem_mb_per_cpu=memory_per_cpu,
        gpus=gpus,
        gres=gres,
        partition=either("partition"),
        account=either("account"),
        qos=either("qos"),
        constraint=either("constraint"),
        exclude=either("exclude"),
        nodelist=either("nodelist"),
        extra=tuple(sorted(extra.items())),
        setup=site.setup,
    )


@dataclass(frozen=True)
class _Asked:
    """The resources of one rule, read with errors that name it."""

    rule: str
    resources: Mapping[str, Any]

    def error(self, key: str, what: str) -> RequestError:
        return RequestError(f"rule {self.rule}: resources.{key}: {what}")

    def refuse_foreign_names(self) -> None:
        for key, instead in FOREIGN.items():
            if self.given(key):
                raise self.error(key, f"would be ignored; expected {instead}")

    def given(self, *keys: str) -> bool:
        return any(self.resources.get(k) not in {None, "", 0} for k in keys)

    def text(self, *keys: str) -> str | None:
        """The one that is given, as text."""
        found = [k for k in keys if self.given(k)]
        if len(found) > 1 and len({str(self.resources[k]) for k in found}) > 1:
            raise self.error(found[0], f"contradicts {found[1]}; keep one of them")
        return str(self.resources[found[0]]).strip() if found else None

    def number(self, key: str, default: int) -> int:
        value = self.resources.get(key)
        if value is None or value == "":
            return default
        if isinstance(value, bool) or not str(value).isdigit() or int(value) < 1:
            raise self.error(key, f"expected a whole number from 1, not {value!r}")
        return int(value)

    def minutes(self) -> int:
        """The time limit, in minutes."""
        value = self.resources.get("runtime")
        if value is None or value == "":
            raise self.error(
                "runtime",
                "is missing; set the minutes there, or for all rules by "
                "`default-resources: runtime=60` in the profile",
            )
        if isinstance(value, bool) or not str(value).isdigit() or int(value) < 1:
            raise self.error(
                "runtime",
                f"expected whole minutes from 1, or text such as 2h, not {value!r}",
            )
        if int(value) > YEAR:
            raise self.error(
                "runtime",
                f"{value} minutes are more than a year; it counts minutes, not seconds",
            )
        return int(value)


def _tasks(asked: _Asked, nodes: int) -> int:
    if asked.given("tasks") and asked.given("tasks_per_node"):
        raise asked.error("tasks", "is given beside tasks_per_node; keep one of them")
    tasks = asked.number("tasks", default=0) if asked.given("tasks") else 0
    if tasks % nodes:
        raise asked.error("tasks", f"{tasks} do not divide by nodes={nodes}")
    return tasks // nodes or asked.number("tasks_per_node", default=1)


def _memory(asked: _Asked) -> tuple[int | None, int | None]:
    """(of a node, of a CPU), one of them; the latter wins.

    Snakemake gives every job a default mem_mb beside it.
    """
    if asked.given("mem_mb_per_cpu"):
        return None, asked.number("mem_mb_per_cpu", default=1)
    return (asked.number("mem_mb", 1) if asked.given("mem_mb") else None), None


def _accelerator(
    asked: _Asked, accelerator: str, extra: Mapping[str, str | bool]
) -> tuple[bool, str | None]:
    """Whether it is asked for, and for each node "2" or "a100:2".

    None: not at all, or in other words, which go to sbatch as they are.
    """
    ways = [k for k in ("gpu", "gpus_per_node") if asked.given(k)]
    gres = asked.text("gres") or ""
    if gres and any(p.split(":")[0] == accelerator for p in gres.split(",")):
        ways.append("gres")
    ways += [f"slurm_extra --{k}" for k in extra if k.startswith("gpus")]
    if len(ways) > 1:
        raise asked.error(
            ways[0].split(" ")[0],
            f"there are two ways of asking for {accelerator}s, {ways[0]} and "
            f"{ways[1]}; keep one of them",
        )
    if asked.given("gpu_model") and ways != ["gpu"]:
        raise asked.error("gpu_model", "needs gpu: N beside it, and no other way")
    if ways == ["gpu"]:
        return True, str(asked.number("gpu", default=1))
    if ways == ["gpus_per_node"]:
        value = asked.text("gpus_per_node") or ""
        if not _GPUS.fullmatch(value):
            raise asked.error("gpus_per_node", f"expected 2 or a100:2, not {value!r}")
        return True, value
    return bool(ways), None


def _extra(asked: _Asked, text: str | None) -> dict[str, str | bool]:
    """Options of sbatch from "--exclusive --mail-type=END"."""
    found: dict[str, str | bool] = {}
    try:
        words = shlex.split(text or "")
    except ValueError as error:
        raise asked.error("slurm_extra", f"{error} in {text!r}") from None
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name:
            raise asked.error(
                "slurm_extra",
                f"expected options as --name or --name=value, not {word!r}",
            )
        if name in OWNED:
            instead = OWNED[name]
            do = f"use the resource {instead}" if instead else "the executor sets it"
            raise asked.error("slurm_extra", f"--{name} is not for here; {do}")
        found[name] = value if equals else True
    return found
