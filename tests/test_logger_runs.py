"""The logger plugin in real runs: with a terminal, without one, on a cluster."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from snakemake_logger_plugin_fewstep.handler import LOGS_ONLY
from tests.workflow.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SNAKEMAKE = (sys.executable, "-m", "snakemake")
LOGGED = ("--logger", "fewstep", "--quiet", "host", "--cores", "2", "-k")
CLUSTER = (
    *("--executor", "submitit", "--submitit-cluster", "local", "--jobs", "2"),
    *("--default-resources", "runtime=5", "mem_mb=200"),
    *("--seconds-between-status-checks", "1"),
)
WORKFLOW = f"""
include: "{ROOT}/rules/shell.smk"
rule all:
    input: "out/good.txt", "out/bad.txt"
rule good:
    output: "out/good.txt"
    log: "logs/good.log"
    message: "make the good one"
    shell: "(echo SECRET-OF-THE-LOG; {sys.executable} work.py; touch {{output}}) 2>&1"
        " | tee {{log}}"
rule bad:
    output: "out/bad.txt"
    log: "logs/bad.log"
    message: "make the bad one"
    shell: "(seq -f 'line %g' 300; echo 'fewstep: x.json: broken'; test -e mended;"
        " touch {{output}}) 2>&1 | tee {{log}}"
"""
BAR = re.compile(r"  make the good one .* 5\d %  [\d.e+]+/s, \d+:\d\d left")
WORK = """
import time
from pathlib import Path
from fewstep.progress import Progress
progress = Progress("the work", 40, every=0.0)
for number in range(40):
    time.sleep(0.01)
    progress.advance()
    while number == 20 and Path("wait").exists():
        time.sleep(0.05)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A workflow of a job that works and one that fails until `mended` is there."""
    (tmp_path / "Snakefile").write_text(WORKFLOW)
    (tmp_path / "work.py").write_text(WORK)
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Snakemake without a terminal."""
    return subprocess.run(
        [*SNAKEMAKE, *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def environment() -> dict[str, str]:
    """Of a user, who has no variable of ours set."""
    own = {k: v for k, v in os.environ.items() if k != LOGS_ONLY}
    # A coloured or narrow terminal of whoever runs the tests is not what is tested.
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "LINES"):
        own.pop(name, None)
    return {**own, "PYTHONPATH": str(ROOT / "src"), "TERM": "xterm-256color"}


def on_a_terminal(
    folder: Path, *arguments: str, interrupt: bool = False
) -> tuple[int, str]:
    """Exit status and all that was written to a terminal, by a job that waits.

    Args:
        folder: where Snakemake runs.
        arguments: of Snakemake.
        interrupt: Ctrl-C is typed when the job's bar was seen; else it may go on then.
    """
    (folder / "wait").touch()
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execve(SNAKEMAKE[0], [*SNAKEMAKE, *arguments], environment())
    text, deadline = "", time.monotonic() + 120
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 0.2)[0]:
            continue
        try:
            data = os.read(terminal, 65536)
        except OSError:  # the other side is closed
            break
        text += data.decode(errors="replace")
        if BAR.search(text) and (folder / "wait").exists():
            if interrupt:
                os.write(terminal, b"\x03")
            (folder / "wait").unlink()
    else:
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(terminal)
    return status, text


def again(text: str) -> list[str]:
    """The words of the command that repeats the failed job."""
    found = re.findall(r"^ {4}again  (.*?)\r?$", text, re.M)
    assert len(found) == 1, text
    return shlex.split(found[0])


def test_without_a_terminal_there_is_one_line_a_job(folder: Path) -> None:
    """Jobs write to their logs alone; the failed one shows its end; the status is 1."""
    done = run(folder, *LOGGED)
    assert done.returncode == 1
    assert done.stdout == ""
    text = done.stderr
    assert re.search(r"^\[\d/3\] ✓ make the good one +\d+ s$", text, re.M), text
    assert re.search(r"^\[\d/3\] ✗ make the bad one  failed after \d+ s$", text, re.M)
    assert text.count("    | line ") == 14
    assert "    | fewstep: x.json: broken\n    log    logs/bad.log\n" in text
    assert "SECRET" not in text
    assert "SECRET" in (folder / "logs/good.log").read_text()
    assert "100 %  40/40" in (folder / "logs/good.log").read_text()
    assert len(text.splitlines()) < 30
    assert "\x1b" not in text
    [log] = (folder / ".snakemake/log").glob("*.log")
    assert "Finished jobid" in log.read_text()


def test_the_command_for_a_failed_job_runs_that_job_alone(folder: Path) -> None:
    """As it is printed, after the cause was mended."""
    command = again(run(folder, *LOGGED).stderr)
    (folder / "mended").touch()
    (folder / "out/good.txt").unlink()
    assert command[1:4] == ["-m", "snakemake", "out/bad.txt"]
    done = run(folder, *command[3:])
    assert done.returncode == 0, done.stderr
    assert (folder / "out/bad.txt").exists()
    assert not (folder / "out/good.txt").exists()
    assert "1 of 1 jobs done" in done.stderr


def test_on_a_terminal_bars_move_and_the_cursor_comes_back(folder: Path) -> None:
    """The running job has its bar, a finished one its line, the region is gone."""
    status, text = on_a_terminal(folder, *LOGGED)
    assert status == 1
    assert BAR.search(text)
    assert re.search(r"/3 jobs  \d+:\d\d", text)
    assert re.search(r"✓ make the good one +\d+ s\r\n", text)
    assert "SECRET" not in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    assert "1 of 3 jobs done in " in text.rpartition("\x1b[?25h")[2]


def test_ctrl_c_leaves_a_clean_terminal(folder: Path) -> None:
    """The cursor is shown again, no report of what the user stopped."""
    status, text = on_a_terminal(folder, *LOGGED, "out/good.txt", interrupt=True)
    assert status != 0
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    assert "stopped: 0 of 1 jobs are done" in text
    assert "again" not in text


KILLED = f"""
include: "{ROOT}/rules/shell.smk"
rule killed:
    output: "out/killed.txt"
    log: "logs/killed.log"
    params: "a long specification"
    shell: "python killed.py '{{params}}' 2>&1 | tee {{log}}"
"""


def test_what_bash_says_of_a_killed_job_stands_in_its_log(folder: Path) -> None:
    """Its line with the whole command would stand amid the bars."""
    (folder / "Snakefile").write_text(KILLED)
    script = "import os\nprint('drawing', flush=True)\nos.kill(os.getpid(), 9)\n"
    (folder / "killed.py").write_text(script)
    done = run(folder, *LOGGED, "killed")
    assert done.returncode == 1
    assert "    ended by SIGKILL (out of memory?)\n" in done.stderr
    log = (folder / "logs/killed.log").read_text()
    assert re.search(r"^drawing\n.*\bKilled\b", log), log
    said = [line for line in done.stderr.splitlines() if "Killed" in line]
    assert all(line.startswith("    | ") for line in said)
    assert "a long specification" not in done.stderr


CHATTY = f"""
include: "{ROOT}/rules/shell.smk"
rule all:
    input: expand("out/{{number}}.txt", number=range(3))
rule chatty:
    output: "out/{{number}}.txt"
    run:
        raise ValueError("a word to nobody")
"""


@pytest.mark.timeout(120)
def test_a_closed_pipe_holds_up_no_run(folder: Path) -> None:
    """After `| head -1` the jobs of `run:`, Snakemakes of their own, still end."""
    (folder / "Snakefile").write_text(CHATTY)
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [*SNAKEMAKE, *LOGGED],
        cwd=folder,
        env=environment(),
        stdout=writer,
        stderr=writer,
        start_new_session=True,
    )
    os.close(writer)
    assert os.read(reader, 1)
    os.close(reader)
    try:
        assert process.wait(100) == 1
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_a_dry_run_is_one_line_a_job(folder: Path) -> None:
    """On standard output, with reasons; nothing is made."""
    done = run(folder, *LOGGED, "-n")
    assert done.returncode == 0
    assert "make the bad one  (Missing output files: out/bad.txt)\n" in done.stdout
    assert not (folder / "out").exists()


def test_what_fails_before_the_start_is_said(folder: Path) -> None:
    """An unknown target ends in Snakemake's own message."""
    done = run(folder, *LOGGED, "nonsense")
    assert done.returncode == 1
    assert "No rule to produce nonsense" in done.stderr


def test_a_cluster_s_jobs_print_into_their_own_logs(folder: Path) -> None:
    """The executor's lines stay, its log has the output, a failure is told once."""
    done = run(folder, *LOGGED, *CLUSTER)
    assert done.returncode == 1
    text = done.stderr
    assert re.search(r"^submitit: job \d+ \(good\) is local job \d+, log ", text, re.M)
    assert text.count("    fewstep: x.json: broken\n") == 1, text
    assert "| fewstep" not in text
    assert "    log    logs/bad.log\n    log    logs/submitit/bad/" in text
    [own] = folder.glob("logs/submitit/good/*/*.log")
    assert "SECRET" in own.read_text()
    assert "SECRET" in (folder / "logs/good.log").read_text()
    (folder / "mended").touch()
    repeated = run(folder, *again(text)[3:])
    assert repeated.returncode == 0, repeated.stderr
    assert (folder / "out/bad.txt").exists()
