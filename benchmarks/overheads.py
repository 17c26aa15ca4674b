"""What the workflow costs beside the work of its stages.

`dry_run`: seconds of the processor until `snakemake -n all` names its first job, and
    those of a graph of as many jobs whose rules hold no functions and no settings.
`job`: a stage with next to no work, and an import of torch alone.
`fork_30_jobs`: 30 such jobs on this machine, with and without the fork server; of the
    wall, because a server's children are no children of Snakemake.
`second_demo`: `make demo` in the folder `$DEMO`, where it has run before.
"""

from __future__ import annotations

import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import Job, Row, main, row

ROOT = Path(__file__).resolve().parents[1]
SNAKEMAKE = (sys.executable, "-m", "snakemake", "--cores", "2")
JOBS = 30
LIMIT = 15.0
"""Seconds that a second `make demo` may take."""
PLAN = '{"strategy":"for","num_blocks":2,"tokens":16}'
TRIVIAL = ("--threads", "1", "strategy", "--spec", PLAN, "--out")
"""A stage that imports torch and writes a file of 20 lines."""

BARE = """
rule all:
    input: expand("b/{{i}}", i=range({half}))
rule first:
    output: "a/{{i}}"
    shell: "touch {{output}}"
rule second:
    input: "a/{{i}}"
    output: "b/{{i}}"
    shell: "touch {{output}}"
"""
THIRTY = f"""
from fewstep.graph import use_this_python
use_this_python()
include: "{ROOT}/rules/shell.smk"
rule all:
    input: expand("{{i}}.json", i=range({JOBS}))
rule plan:
    output: "{{i}}.json"
    log: "{{i}}.log"
    params: words={list(TRIVIAL)!r}
    shell: "python -m fewstep {{params.words:q}} {{output}} 2>&1 | tee {{log}}"
"""


def taken(command: list[str], folder: Path, until: str = "", **more: str) -> float:
    """Seconds of the processor that a command takes, itself and what it waits for.

    Args:
        command: to run; its output is not shown.
        folder: where.
        until: it is killed when it prints a line that starts with this expression.
        more: further environment.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    pipe, said = subprocess.PIPE, re.compile(until)
    with subprocess.Popen(
        command,
        cwd=folder,
        env={**environment(), **more},
        stdout=pipe,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if until and said.match(line):
                process.kill()
                break
    if process.returncode != 0 and not until:
        sys.exit(f"{' '.join(command)}: {''.join(lines[-5:])}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def environment() -> dict[str, str]:
    """Ours without warnings, and with the bytecode that a user's Python keeps."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONWARNINGS": "ignore"}


def wall(call: Callable[[], object]) -> float:
    """Seconds of the wall that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def beside(
    name: str,
    unit: str,
    rivals: Mapping[str, Callable[[], float]],
    repeats: int,
    what: str,
) -> Row:
    """The row of two rivals that are measured in turn, ours first.

    Each is called once before it counts: bytecode is there from the second time on.
    """
    for call in rivals.values():
        call()
    rounds = [[call() for call in rivals.values()] for _ in range(repeats)]
    ours, theirs = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratios = [b / a for a, b in rounds]
    spread = [min(ratios), max(ratios)]
    partner = list(rivals)[1]
    return row(name, ours, unit, partner, theirs, spread=spread, what=what)


def dry_run(job: Job) -> list[Row]:
    """Time to the first job of `snakemake -n all`."""
    first = r"(local)?rule |\[.*\]$"
    listed = subprocess.run(
        [*SNAKEMAKE, "-n", "all", "--quiet", "rules"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    match = re.search(r"^total +(\d+)$", listed.stdout + listed.stderr, re.MULTILINE)
    if match is None:
        sys.exit("nothing is left to do for `all` here")
    jobs = int(match[1])
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "Snakefile").write_text(BARE.format(half=jobs // 2))
        rivals = {
            "ours": lambda: taken([*SNAKEMAKE, "-n", "all"], ROOT, first),
            "Snakemake, as many bare jobs": lambda: taken(
                [*SNAKEMAKE, "-n"], Path(name), first
            ),
        }
        what = f"{jobs} jobs, until the first is named"
        made = beside("overhead_dry_run_all", "CPU s", rivals, job.repeats, what)
    return [made]


def one_job(job: Job) -> list[Row]:
    """A stage with next to no work, beside an import of torch."""
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stage = [sys.executable, "-m", "fewstep", *TRIVIAL, "plan.json"]
        torch = [sys.executable, "-c", "import torch"]
        rivals = {
            "ours": lambda: taken(stage, folder, **threads),
            "python -c 'import torch'": lambda: taken(torch, folder, **threads),
        }
        made = beside("overhead_job", "CPU s", rivals, job.repeats, "")
    made["what"] = f"beyond torch: {made['value'] - made['partner_value']:.2f} s"
    return [made]


def fork_30_jobs(job: Job) -> list[Row]:
    """Trivial jobs with the fork server, and without."""

    def run(switch: str) -> float:
        with tempfile.TemporaryDirectory() as name:
            (Path(name) / "Snakefile").write_text(THIRTY)
            more = {"FEWSTEP_FORKSERVER": switch}
            return wall(lambda: taken([*SNAKEMAKE], Path(name), **more))

    rivals = {"ours": lambda: run("1"), "without fork server": lambda: run("0")}
    what = f"{JOBS} jobs that import torch, two at a time"
    return [beside("overhead_fork_30_jobs", "s", rivals, job.repeats, what)]


def second_demo(job: Job) -> list[Row]:
    """`make demo` where nothing is left to do."""
    folder = os.environ.get("DEMO", "")
    if not (Path(folder) / "results/demo/report.html").is_file():
        sys.exit("second_demo needs DEMO=FOLDER, a checkout where `make demo` has run")
    runs = [
        wall(lambda: taken(["make", "demo"], Path(folder))) for _ in range(job.repeats)
    ]
    what = "`make demo`, nothing to do"
    value = statistics.median(runs)
    return [row("overhead_second_demo", value, "s", "the limit", LIMIT, what=what)]


if __name__ == "__main__":
    parts = {"dry_run": dry_run, "job": one_job, "fork_30_jobs": fork_30_jobs}
    main(
        "overheads",
        __doc__,
        {**parts, "second_demo": second_demo},
        default=list(parts),
        packages=("snakemake", "torch"),
    )
