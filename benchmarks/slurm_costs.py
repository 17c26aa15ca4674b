"""What the executor `submitit` costs: scheduler calls, seconds and memory a job.

    python benchmarks/slurm_costs.py            # all; needs SLURM and root, 3 minutes
    python benchmarks/slurm_costs.py memory     # one part: memory, calls or seconds

Calls and seconds are measured on a real SLURM of two nodes on this machine
(`tests/slurm/cluster.py`), the memory with 1,000 pending jobs on a fake one. The
numbers go into `slurm_costs.json` and into the table of `README.md`, beside this file;
a part replaces its own numbers and leaves the others.
"""

from __future__ import annotations

import os
import pickle
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Job, Row, machine, main, row
from tests.slurm.cluster import Cluster
from tests.submitit.fake_slurm import FakeSlurm, wait_for

WORKFLOW = """
rule jobs:
    input: expand("jobs/{i}", i=range(int(config["count"])))

rule one:
    output: "jobs/{i}"
    shell: "touch {output}"

rule chain:
    input: "chain/" + str(int(config["count"]) - 1)

rule link:
    input: lambda w: [] if w.i == "0" else f"chain/{int(w.i) - 1}"
    output: "chain/{i}"
    shell: "touch {output}"
"""
OPTIONS = (
    *("--executor", "submitit", "--jobs", "1000", "--cores", "4", "--nocolor"),
    *("--seconds-between-status-checks", "1", "--latency-wait", "5"),
    *("--default-resources", "runtime=5", "mem_mb=200"),
)
CALLS = ("sbatch", "squeue", "sacct", "scancel", "sinfo")
PATIENCE = 600.0


class Snakemakes:
    """Snakemake in folders of its own, in an environment."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = {
            **environment,
            "PYTHONWARNINGS": "ignore",
            "OMP_NUM_THREADS": "1",
        }
        self._count = 0

    def start(
        self, target: str, count: int, *options: str
    ) -> tuple[subprocess.Popen[bytes], Path]:
        """Start it; the process and its folder, where `log` is what it prints."""
        self._count += 1
        work = self.folder / f"work{self._count}"
        work.mkdir(parents=True)
        (work / "Snakefile").write_text(WORKFLOW)
        words = [target, *OPTIONS, *options, "--config", f"count={count}"]
        with (work / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "snakemake", *words],
                cwd=work,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return process, work

    def run(self, target: str, count: int, *options: str) -> tuple[float, Path]:
        """Run it to its end; seconds, and its folder."""
        began = time.monotonic()
        process, work = self.start(target, count, *options)
        status = process.wait(PATIENCE)
        seconds = time.monotonic() - began
        if status:
            raise SystemExit((work / "log").read_text())
        return seconds, work


@contextmanager
def real_cluster(folder: Path) -> Iterator[tuple[Cluster, Snakemakes]]:
    """A SLURM of two nodes on this machine."""
    with Cluster(folder / "slurm") as cluster:
        yield cluster, Snakemakes(folder, cluster.environment)


# -- memory -----------------------------------------------------------------------


def memory(folder: Path) -> list[Row]:
    """Resident memory of the submitting process with pending jobs (a fake SLURM)."""
    one, _, _ = pending(folder / "one", 1)
    many, sbatch, squeue = pending(folder / "many", 1000)
    return [
        row(
            "slurm_memory_1000_pending",
            many,
            "MB",
            "the same Snakemake with 1 pending job",
            one,
        ),
        row(
            "slurm_submissions_1000_jobs",
            sbatch,
            "sbatch calls",
            "one for each job",
            1000,
        ),
        row(
            "slurm_polls_1000_pending_2_min",
            squeue,
            "squeue calls in 2 minutes",
            "one for each job a minute",
            2000,
        ),
    ]


def pending(folder: Path, count: int) -> tuple[float, int, int]:
    """MB of the process, calls of sbatch, and those of squeue in two minutes."""
    slurm = FakeSlurm.create(folder / "fake")
    environment = {**os.environ, "PATH": slurm.path}
    process, _ = Snakemakes(folder, environment).start("jobs", count)
    wait_for(lambda: len(slurm.names()) == count, PATIENCE, "all submissions")
    before = slurm.count()
    time.sleep(120)
    calls = slurm.count()
    status = Path(f"/proc/{process.pid}/status").read_text()
    size = re.search(r"VmRSS:\s+(\d+) kB", status)
    os.killpg(process.pid, signal.SIGINT)
    process.wait(PATIENCE)
    slurm.close()
    assert size
    return int(size[1]) / 1000, calls["sbatch"], calls["squeue"] - before["squeue"]


# -- calls ------------------------------------------------------------------------


def calls(folder: Path) -> list[Row]:
    """Calls of SLURM's commands for 40 jobs, in arrays and one by one."""
    rows = []
    with real_cluster(folder) as (_, snakemakes):
        _, work = snakemakes.run("jobs", 40)
        arrays = told(work)
        _, work = snakemakes.run("jobs", 40, "--submitit-array", "1")
        single = told(work)
    for name, unit, keys in (
        ("slurm_submission_calls", "sbatch calls a job", ("sbatch",)),
        ("slurm_polling_calls", "squeue and sacct calls a job", ("squeue", "sacct")),
    ):
        value = sum(arrays[k] for k in keys) / 40
        partner = sum(single[k] for k in keys) / 40
        rows.append(row(name, value, unit, "without arrays", partner))
    return rows


def told(work: Path) -> dict[str, int]:
    """The calls that the executor's closing line counts."""
    text = (work / "log").read_text()
    found = {
        name: re.search(rf"scheduler calls:.*{name} (\d+)", text) for name in CALLS
    }
    return {name: int(match[1]) for name, match in found.items() if match}


# -- seconds ----------------------------------------------------------------------


def seconds(folder: Path) -> list[Row]:
    """Seconds that a job takes longer than `srun` of its command."""
    with real_cluster(folder) as (cluster, snakemakes):
        # Differences of two runs: Snakemake's own start is in both.
        short, _ = snakemakes.run("chain", 1)
        long, work = snakemakes.run("chain", 6)
        link = (long - short) / 5
        few, _ = snakemakes.run("jobs", 4)
        many, _ = snakemakes.run("jobs", 24)
        beside = (many - few) / 20
        alone = statistics.median(srun(cluster, folder, 1) for _ in range(9))
        together = statistics.median(
            (srun(cluster, folder, 24) - srun(cluster, folder, 4)) / 20
            for _ in range(5)
        )
    nested = statistics.median(inner_seconds(work))
    each = "srun of the same command"
    return [
        row("slurm_seconds_one_after_the_other", link, "s a job", each, alone),
        row("slurm_seconds_side_by_side", beside, "s a job", each, together),
        row(
            "slurm_seconds_nested_snakemake",
            nested,
            "s a job, part of the above",
            each,
            alone,
        ),
    ]


def srun(cluster: Cluster, folder: Path, count: int) -> float:
    """Seconds of so many `srun` of a job's command, started together."""
    began = time.monotonic()
    processes = [
        subprocess.Popen(
            [
                "srun",
                "--quiet",
                "--ntasks=1",
                "--mem=200M",
                "touch",
                str(folder / f"srun{k}"),
            ],
            env=cluster.environment,
            stdin=subprocess.DEVNULL,
        )
        for k in range(count)
    ]
    if any(process.wait(PATIENCE) for process in processes):
        raise SystemExit("srun failed")
    return time.monotonic() - began


def inner_seconds(work: Path) -> list[float]:
    """Seconds of the nested Snakemakes, from their results."""
    found = []
    for path in work.glob("logs/submitit/**/*_result.pkl"):
        _, outcome = pickle.loads(path.read_bytes())
        found.append(float(outcome.seconds))
    return found


# -- what is kept -----------------------------------------------------------------


NAMES = {
    "memory": (
        "slurm_memory_1000_pending",
        "slurm_submissions_1000_jobs",
        "slurm_polls_1000_pending_2_min",
    ),
    "calls": ("slurm_submission_calls", "slurm_polling_calls"),
    "seconds": (
        "slurm_seconds_one_after_the_other",
        "slurm_seconds_side_by_side",
        "slurm_seconds_nested_snakemake",
    ),
}


def part(measure: Callable[[Path], list[Row]]) -> Callable[[Job], list[Row]]:
    """A part in a folder of its own, its rows with SLURM's version."""

    def run(_: Job) -> list[Row]:
        with tempfile.TemporaryDirectory(prefix="slurm-costs-") as folder:
            rows = measure(Path(folder) / "part")
        return [{**each, "machine": where()} for each in rows]

    return run


def where() -> str:
    """The machine, with SLURM's version."""
    slurm = subprocess.run(
        ["slurmctld", "-V"], capture_output=True, text=True, check=False
    )
    words = [machine(("snakemake", "submitit")), slurm.stdout.strip()]
    return "; ".join(word for word in words if word)


PARTS = {"memory": part(memory), "calls": part(calls), "seconds": part(seconds)}

if __name__ == "__main__":
    main("slurm_costs", __doc__, PARTS)
