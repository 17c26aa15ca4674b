"""Failed jobs and the cells behind them: exit status, rows, and what they say."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import snakemake

from fewstep import failures
from fewstep.graph import Graph
from fewstep.progress import bar
from fewstep.results import FailedCell, failed_cells, read
from tests.workflow.conftest import CELLS, ROOT

CONFIG = ROOT / "tests/workflow/config.yaml"
CLUSTER = (
    *("--executor", "submitit", "--submitit-cluster", "local"),
    *("--default-resources", "runtime=5", "mem_mb=200"),
    *("--seconds-between-status-checks", "1"),
)
SNAKEFILE = f"""
from pathlib import Path
from fewstep.failures import file_failed_run
from fewstep.graceful import stop_without_deadlock
from fewstep.graph import Graph
GRAPH = Graph(Path("{ROOT}"), ["{CONFIG}"])
onstart:
    stop_without_deadlock(workflow)
onerror:
    file_failed_run(workflow, GRAPH, log)
rule all:
    input: expand("results/digits_{{sampler}}_fid.json", sampler=["for", "gsj"])
rule weights:
    output: "results/digits/model"
    log: "logs/weights.log"
    message: "train digits"
    shell: "(test -e weights; touch {{output}}) 2> {{log}}"
rule sample:
    input: "results/digits/model"
    output: "results/digits/{{sampler}}/samples"
    log: "logs/{{sampler}}.log"
    message: "sample digits/{{wildcards.sampler}}"
    shell: "(echo drawing; echo 'fewstep: {{wildcards.sampler}}: NaN'; echo; "
        "test -e {{wildcards.sampler}}; touch {{output}}) > {{log}}"
rule evaluation:
    input: "results/digits/{{sampler}}/samples"
    output: "results/{{experiment}}_{{sampler}}_fid.json"
    shell: "touch {{output}}"
rule grid:
    input: "results/digits/{{sampler}}/samples"
    output: "results/digits/{{sampler}}/grid"
    shell: "touch {{output}}"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two cells of the tiny configuration, whose jobs fail until a file is there."""
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Snakemake as anybody calls it, without a profile."""
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def filed(folder: Path) -> list[FailedCell]:
    """The failed cells in the folder's table."""
    return failed_cells(folder / failures.TABLE)


@pytest.mark.slow
def test_a_failing_cell_is_a_row_and_the_status_is_not_zero(folder: Path) -> None:
    """With keep-going the cell that works is made; the other one says why it is not."""
    for name in ("weights", "for"):
        (folder / name).touch()
    done = run(folder, "--keep-going")
    assert done.returncode == 1
    assert (folder / "results/digits_for_fid.json").exists()
    assert filed(folder) == [
        FailedCell(
            experiment="digits",
            sampler="gsj",
            system="tarflow",
            seed=seed,
            metric="frechet",
            n=100,
            job="sample digits/gsj",
            error="gsj: NaN",
            log="logs/gsj.log",
        )
        for seed in (0, 1)
    ]
    table = read(folder / failures.TABLE)
    assert set(table["status"]) == {"failed"}
    assert (
        "1 cell filed as failed in results/tables/evaluations.parquet: digits_gsj"
        in (done.stdout + done.stderr)
    )


@pytest.mark.slow
def test_all_cells_behind_a_job_fail_with_it(folder: Path) -> None:
    """A training that fails takes every sampler that was asked for along."""
    done = run(folder)
    assert done.returncode == 1
    found = filed(folder)
    assert {cell.sampler for cell in found} == {"for", "gsj"}
    assert {cell.job for cell in found} == {"train digits"}
    assert {cell.error for cell in found} == {
        "the job ended without a word: it may have been killed"
    }


@pytest.mark.slow
def test_a_cluster_s_word_on_a_silent_job_is_its_error(folder: Path) -> None:
    """What submitit says of a job that left nothing in its log stands in the row."""
    done = run(folder, "--jobs", "1", *CLUSTER)
    assert done.returncode == 1
    errors = {cell.error for cell in filed(folder)}
    assert len(errors) == 1
    assert re.fullmatch(r"local job \d+ failed: exit status 1", errors.pop())


@pytest.mark.slow
def test_what_nobody_asked_for_has_not_failed(folder: Path) -> None:
    """A picture whose job fails leaves the table as it was; so does a good run."""
    assert run(folder, "results/digits/for/grid").returncode == 1
    assert not (folder / failures.TABLE).exists()
    for name in ("weights", "for", "gsj"):
        (folder / name).touch()
    assert run(folder).returncode == 0
    assert not (folder / failures.TABLE).exists()


@pytest.mark.slow
def test_a_table_that_cannot_be_written_hides_no_failure(folder: Path) -> None:
    """The run still says what failed; the bookkeeping adds one warning."""
    (folder / "results").mkdir()
    (folder / "results/tables").write_text("in the way")
    done = run(folder)
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert "Error in rule weights" in said
    assert "the failed cells could not be filed in results/tables" in said
    assert "Traceback" not in said


def test_an_executor_s_reason_is_found_in_snakemake_s_log(tmp_path: Path) -> None:
    """The last one of each job; killed jobs leave none of their own."""
    log = tmp_path / "x.snakemake.log"
    log.write_text(
        "submitit: job 3 (sample) is slurm job 8, log logs/8.log\n"
        "submitit: job 3 (sample): slurm job 8 failed: preempted\n"
        "submitit: job 3 (sample): slurm job 9 failed: used more memory than it asked"
        " for (mem_mb), the end of logs/9.log:\n    drawing\n"
        "submitit: job 13 (score): slurm job 7 failed: cancelled from outside\n"
    )
    assert failures._reasons([str(log), str(tmp_path / "none.log")]) == {
        "3": "slurm job 9 failed: used more memory than it asked for (mem_mb)",
        "13": "slurm job 7 failed: cancelled from outside",
    }


@pytest.mark.parametrize(
    ("text", "reason", "expected"),
    [
        ("drawing\nfewstep: a: b\nRemoving\n", "exit status 1", "a: b"),
        ("drawing\n", "slurm job 9 failed: killed", "slurm job 9 failed: killed"),
        ("Traceback\nKeyError: 'x'\n", "", "KeyError: 'x'"),
        (
            f"  work  {bar(0.5)}   50 %  1/2  1/s, 0:01 left\n",
            "",
            "the job ended without",
        ),
        ("", "", "the job ended without"),
        ("fewstep: " + "long " * 200, "", "long long"),
    ],
)
def test_why_a_job_failed_is_one_line(
    tmp_path: Path, text: str, reason: str, expected: str
) -> None:
    """Its own last words, else the executor's, else what it printed last."""
    log = tmp_path / "a.log"
    log.write_text(text)
    found = failures.why(str(log), reason)
    assert found.startswith(expected)
    assert len(found) <= 300
    assert "\n" not in found


def test_a_job_without_a_log_has_failed_too() -> None:
    """Its reason is the executor's, or none."""
    assert failures.why(None, "gone") == "gone"
    assert failures.why("/nowhere/x.log").startswith("the job ended without a word")


def workflow(failed: list[Any], jobs: Sequence[Any] = (), **scheduler: Any) -> Any:
    """What is asked of Snakemake's workflow."""
    dag = SimpleNamespace(
        depending={},
        jobs=[*failed, *jobs],
        jobid=lambda job: job.number,
        bfs=lambda depending, job: [job],
    )
    state = SimpleNamespace(**{"failed": failed, "_user_kill": None, **scheduler})
    return SimpleNamespace(dag=dag, scheduler=state)


def evaluation(number: int, sampler: str, **more: Any) -> Any:
    """A job that would have filed a row."""
    given = {
        "number": number,
        "message": f"evaluation digits/{sampler}",
        "log": [],
        "rule": SimpleNamespace(name=failures.EVALUATION),
        "wildcards": SimpleNamespace(experiment="digits", sampler=sampler),
        "is_group": lambda: False,
    }
    return SimpleNamespace(**{**given, **more})


TOLD = """\
[Sun Nov 22 16:00:00 2026]
localrule sample:
    jobid: 2

[Sun Nov 22 16:00:01 2026]
Error in rule sample:
    message: slurm job 8 failed
    jobid: 2
    output: results/x

Trying to restart job 2.
MissingOutputException in rule sample in file x, line 2:
Job 7 completed successfully, but some output files are missing. x
[Sun Nov 22 16:00:02 2026]
Error in rule grid:
    jobid: 5
"""
ENDS = (
    "Will exit after finishing currently running jobs (scheduler).\n",
    "Terminating processes on user request, this might take some time.\n",
)


@pytest.mark.parametrize("end", ENDS)
def test_what_failed_before_a_signal_is_told_by_snakemake_s_log(
    tmp_path: Path, end: str
) -> None:
    """Not what was tried once more, nor what the signal itself ended."""
    log = tmp_path / "x.snakemake.log"
    log.write_text(TOLD)
    assert failures._told_failed([str(log)]) == ({"5", "7"}, False)
    log.write_text(f"{TOLD}{end}Error in rule sample:\n    jobid: 9\n")
    gone = str(tmp_path / "none.log")
    assert failures._told_failed([gone, str(log)]) == ({"5", "7"}, True)


@pytest.mark.parametrize(
    "died",
    [
        "Command 'x' died with <Signals.SIGTERM: 15>.",
        "Command 'x' returned non-zero exit status 130.",
    ],
)
def test_a_job_may_die_of_the_signal_before_snakemake_names_it(
    tmp_path: Path, died: str
) -> None:
    """What SIGTERM or SIGINT ended has not failed, though its end was told first."""
    log, error = tmp_path / "x.snakemake.log", "Error in rule sample:\n    jobid: 9\n"
    log.write_text(f"{TOLD}RuleException:\n{died}\n{error}{ENDS[1]}")
    assert failures._told_failed([str(log)]) == ({"5", "7"}, True)
    other = "Command 'x' returned non-zero exit status 1."
    log.write_text(f"{TOLD}RuleException:\n{other}\n{error}{ENDS[1]}")
    assert failures._told_failed([str(log)]) == ({"5", "7", "9"}, True)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_failure_before_a_signal_is_filed(folder: Path, number: int) -> None:
    """The job that the signal ended has not failed, the one before it has."""
    check = '"test -e {wildcards.sampler};'
    # Built in and by exec: a shell ignores a SIGINT while its child ends by itself.
    wait = '"[ {wildcards.sampler} = for ] || (: > waits; exec sleep 300); '
    assert check in SNAKEFILE
    text = SNAKEFILE.replace(check, wait + check[1:])
    (folder / "Snakefile").write_text(text)
    (folder / "weights").touch()
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--keep-going"]
    with open(folder / "said", "wb") as said:
        process = subprocess.Popen(
            command, cwd=folder, stdout=said, stderr=said, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (
            (folder / "waits").exists()
            and any(
                "Error in rule sample" in log.read_text()
                for log in (folder / ".snakemake/log").glob("*.log")
            )
        ):
            time.sleep(0.05)
        os.killpg(process.pid, number)
        assert process.wait(60) != 0, (folder / "said").read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert {(cell.sampler, cell.error) for cell in filed(folder)} == {
        ("for", "for: NaN")
    }, (folder / "said").read_text()


@pytest.fixture(scope="module")
def graph() -> Graph:
    """The tiny configuration."""
    return Graph(ROOT, [CONFIG])


def test_jobs_of_a_group_fail_one_by_one(graph: Graph) -> None:
    """A group has no cell of its own; the first failed job of a cell is named."""
    members = [evaluation(n, name) for n, name in enumerate(CELLS)]
    group = SimpleNamespace(is_group=lambda: True, jobs=members)
    again = evaluation(9, "for", message="later")
    found = failures.failed_run(workflow([again, group]), graph)
    assert {(cell.sampler, cell.job) for cell in found} == {
        (name, f"evaluation digits/{name}") for name in CELLS
    }


def test_a_run_that_the_user_stopped_files_nothing(graph: Graph) -> None:
    """The signal that ended it reached its jobs too: nothing is wrong with them."""
    stopped = workflow([evaluation(1, "for")], _user_kill="graceful")
    assert failures.failed_run(stopped, graph) == []


def test_a_failure_that_the_scheduler_had_no_time_to_note_is_filed(
    graph: Graph, tmp_path: Path
) -> None:
    """SIGINT may come between Snakemake's word of a failure and its set of them."""
    log = tmp_path / "x.snakemake.log"
    log.write_text(f"Error in rule evaluation:\n    jobid: 1\n{ENDS[1]}")
    stopped = workflow([], [evaluation(1, "for"), evaluation(2, "gsj")])
    found = failures.failed_run(stopped, graph, [str(log)])
    assert {cell.sampler for cell in found} == {"for"}


def test_a_signal_that_ends_the_last_jobs_is_not_told_in_the_log(
    graph: Graph, tmp_path: Path
) -> None:
    """The scheduler's flag says that one came, and the log which job died of it."""
    log = tmp_path / "x.snakemake.log"
    log.write_text(
        "Error in rule evaluation:\n    jobid: 1\nRuleException:\n"
        "Command 'x' died with <Signals.SIGTERM: 15>.\n"
        "Error in rule evaluation:\n    jobid: 2\n"
    )
    jobs = [evaluation(1, "for"), evaluation(2, "gsj")]
    found = failures.failed_run(
        workflow(jobs, _user_kill="graceful"), graph, [str(log)]
    )
    assert {cell.sampler for cell in found} == {"for"}


def test_a_score_on_inception_s_features_is_called_fid(graph: Graph) -> None:
    """A failed row has the name of the score that it would have been."""
    assert failures.metric_of(graph, "digits") == "frechet"
    own = Graph(ROOT, [ROOT / "config.yaml"])
    assert failures.metric_of(own, "afhq") == "fid"


def test_nothing_heavy_is_loaded_before_something_fails() -> None:
    """The Snakefile imports it at every start, and Snakemake the logger plugin."""
    program = (
        "import sys, fewstep.failures, snakemake_logger_plugin_fewstep\n"
        "heavy = {'torch', 'pandas', 'pyarrow', 'numpy', 'rich.console'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


def test_the_rule_and_the_parts_of_snakemake_are_there() -> None:
    """What is read of Snakemake 9.27 and of our own rules has these names."""
    home = Path(snakemake.__file__).parent
    source = (home / "scheduling/job_scheduler.py").read_text()
    assert "self.failed = set()" in source
    assert "self._user_kill = None" in source
    dag = (home / "dag.py").read_text()
    assert "def jobs(self):" in dag
    assert "def bfs(self, direction, *jobs" in dag
    assert "self.depending = defaultdict" in dag
    rules = (ROOT / "rules/evaluate.smk").read_text()
    assert f"rule {failures.EVALUATION}:" in rules
    assert "file_failed_run(workflow, GRAPH, log)" in (ROOT / "Snakefile").read_text()
