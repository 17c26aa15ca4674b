"""The logger plugin: what each of Snakemake's messages becomes on the screen."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake.logging import DefaultFormatter
from snakemake.settings.enums import Quietness
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

from fewstep.progress import Progress, bar
from snakemake_logger_plugin_fewstep import LogHandler, display, logs
from snakemake_logger_plugin_fewstep.again import Again
from snakemake_logger_plugin_fewstep.board import Board, Job
from snakemake_logger_plugin_fewstep.display import Plain, Terminal, took
from snakemake_logger_plugin_fewstep.handler import LOGS_ONLY

TIME = "T"


class Screen:
    """A handler that writes to a string, and the messages of a run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", self.stream)
        monkeypatch.setattr(sys, "stdout", self.stream)
        monkeypatch.setattr(sys, "argv", ["snakemake", "--profile", "local", "demo"])
        names = (
            "dryrun",
            "printshellcmds",
            "nocolor",
            "debug_dag",
            "verbose",
            "stdout",
        )
        common = SimpleNamespace(**dict.fromkeys(names, False), quiet=None)
        vars(common).update(settings)
        self.handler = LogHandler(common, None)
        self.handler.setFormatter(DefaultFormatter())

    def tell(self, event: LogEvent | None, message: Any = None, **extra: Any) -> None:
        """One message, as it comes through the queue."""
        level = extra.pop("level", logging.INFO)
        record = {"msg": message, "levelno": level, "event": event, **extra}
        self.handler.emit(logging.makeLogRecord(record))

    def plan(self, total: int) -> None:
        """How many jobs there are."""
        self.tell(
            LogEvent.RUN_INFO, "Job stats:\n…", stats={"a": total, "total": total}
        )

    def start(self, number: int, message: str, log: str = "", **extra: Any) -> None:
        """A job is given out."""
        given: dict[str, Any] = {
            "rule_msg": message,
            "rule_name": "a",
            "wildcards": {},
            "output": [f"out/{number}.txt", "out/second.txt"],
            "log": [log] if log else [],
            "reason": "Missing output files: x, y; Input files updated by another job:"
            " z",
            "shellcmd": "python …",
        }
        self.tell(LogEvent.JOB_INFO, jobid=number, **{**given, **extra})

    def finish(self, number: int) -> None:
        """A job has ended well."""
        self.tell(LogEvent.JOB_FINISHED, job_id=number)

    def fail(
        self, number: int, log: str = "", msg: str | None = None, **extra: Any
    ) -> None:
        """A job has failed."""
        self.tell(
            LogEvent.JOB_ERROR,
            level=logging.ERROR,
            jobid=number,
            rule_name="a",
            rule_msg=msg,
            output=[f"out/{number}.txt"],
            log=[f"{log} (check log file(s) for error details)"] if log else [],
            **extra,
        )

    @property
    def lines(self) -> list[str]:
        """What was printed."""
        return self.stream.getvalue().splitlines()


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    """A handler without a terminal."""
    made = Screen(monkeypatch)
    yield made
    made.handler.close()


@pytest.fixture(autouse=True)
def _no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test leaves no variable behind."""
    monkeypatch.delenv(LOGS_ONLY, raising=False)


def test_snakemake_finds_the_plugin() -> None:
    """`--logger fewstep` is this one."""
    registry = LoggerPluginRegistry()
    assert registry.get_plugin("fewstep").log_handler is LogHandler


def test_a_finished_job_is_one_line(screen: Screen) -> None:
    """Without a terminal it says how many are done; nothing at a start."""
    screen.plan(186)
    screen.tell(None, "Select jobs to execute...")
    screen.tell(LogEvent.JOB_STARTED, "Execute 1 jobs...", jobs=[3])
    screen.start(3, "sample demo/for,\n seed 0")
    screen.tell(LogEvent.SHELLCMD, "Shell command: …", shellcmd="…")
    screen.finish(3)
    screen.tell(LogEvent.PROGRESS, None, done=1, total=186)
    assert len(screen.lines) == 2
    assert screen.lines[0] == "186 jobs: 186 a"
    assert screen.lines[1].startswith("[  1/186] ✓ sample demo/for, seed 0  ")
    assert re.search(r" \d+ s$", screen.lines[1])


def test_the_plan_names_the_most_frequent_rules(screen: Screen) -> None:
    """In one line, however many there are."""
    stats = {**{f"r{i}": i for i in range(1, 10)}, "total": 45}
    screen.tell(LogEvent.RUN_INFO, "Job stats:\n…", stats=stats)
    assert screen.lines == [
        "45 jobs: 9 r9, 8 r8, 7 r7, 6 r6, 5 r5, 4 r4, 3 other rules",
    ]


def test_a_job_without_a_message_has_its_rule_and_wildcards(screen: Screen) -> None:
    """Other workflows need not write messages."""
    screen.plan(1)
    screen.start(1, "", wildcards={"x": "1", "y": "b"})
    screen.finish(1)
    assert "✓ a x=1 y=b " in screen.lines[-1]


def test_a_target_that_only_collects_is_counted_and_not_named(screen: Screen) -> None:
    """`all` is done when its inputs are, which says nothing new."""
    screen.plan(2)
    screen.start(1, "make 1")
    screen.finish(1)
    screen.start(2, "", output=[], log=[], shellcmd=None)
    screen.finish(2)
    screen.tell(None, "Elapsed time: 0:00:03")
    heads = [line.partition("  ")[0] for line in screen.lines[1:]]
    assert [re.sub(r"\d+ s$", TIME, head) for head in heads] == [
        *("[1/2] ✓ make 1", f"2 of 2 jobs done in {TIME}"),
    ]


def test_a_failed_job_shows_the_end_of_its_log_and_the_command(
    screen: Screen, tmp_path: Path
) -> None:
    """Message, fifteen lines, the log's path, and what repeats it alone."""
    log = tmp_path / "a.log"
    log.write_text("".join(f"line {i}\n" for i in range(300)) + "\nfewstep: x: bad\n")
    screen.plan(2)
    screen.start(1, "make a", str(log))
    screen.fail(1, str(log))
    head, *shown, path, again = screen.lines[1:]
    assert head.startswith("[0/2] ✗ make a  failed after ")
    assert shown == [
        *(f"    | line {i}" for i in range(286, 300)),
        "    | fewstep: x: bad",
    ]
    assert path == f"    log    {log}"
    assert again == "    again  snakemake out/1.txt --profile local"


def test_what_the_executor_has_shown_is_not_shown_twice(
    screen: Screen, tmp_path: Path
) -> None:
    """submitit prints the end of the output itself; its line stays as it is."""
    log = tmp_path / "a.log"
    log.write_text("fewstep: x: bad\n")
    screen.plan(1)
    screen.start(1, "make a", str(log))
    said = (
        "submitit: job 1 (a): slurm job 7 failed: exit status 1, the end of l:\n    bad"
    )
    screen.tell(None, said, level=logging.ERROR)
    screen.fail(1, str(log), "slurm job 7 failed: exit status 1\n")
    text = "\n".join(screen.lines)
    assert said in text
    assert "| fewstep" not in text
    assert text.count("exit status 1") == 1
    screen.start(1, "make a", str(log))  # tried once more, and killed without a word
    screen.fail(1, str(log), "slurm job 8 failed: out of memory\nFor further error …")
    assert "    slurm job 8 failed: out of memory; For further error …" in screen.lines
    assert "    | fewstep: x: bad" in screen.lines


def test_the_end_names_what_failed_again(screen: Screen, tmp_path: Path) -> None:
    """Hundreds of lines may lie between; a log that was never written is not named."""
    log, never = tmp_path / "2.log", tmp_path / "3.log"
    log.write_text("drawing\n")
    screen.plan(4)
    for number, path in ((1, log), (2, log), (3, never)):
        screen.start(number, f"make {number}", str(path))
    screen.finish(1)
    screen.fail(2, str(log))
    screen.fail(3, str(never))
    screen.tell(None, "Elapsed time: 0:00:03")
    assert re.match(r"1 of 4 jobs done in \d+ s, 2 failed:$", screen.lines[-3])
    assert screen.lines[-2:] == [f"  ✗ make 2  {log}", "  ✗ make 3"]
    assert str(never) not in "\n".join(screen.lines)


def test_a_job_that_succeeds_at_its_second_try_has_not_failed(screen: Screen) -> None:
    """`retries` mend what they can."""
    screen.plan(1)
    screen.start(1, "make 1")
    screen.fail(1)
    screen.start(1, "make 1")
    screen.finish(1)
    screen.tell(None, "Elapsed time: 0:00:03")
    assert re.match(r"1 of 1 jobs done in \d+ s$", screen.lines[-1])


def test_after_ctrl_c_jobs_are_stopped_and_not_failed(
    screen: Screen, tmp_path: Path
) -> None:
    """What the user ended needs no report of its end."""
    (tmp_path / "a.log").write_text("Traceback …\n")
    screen.plan(2)
    screen.start(1, "make 1", str(tmp_path / "a.log"))
    for _ in range(3):
        screen.tell(None, "Will exit after finishing currently running jobs (sched…).")
    screen.fail(1, str(tmp_path / "a.log"))
    screen.tell(None, "Elapsed time: 0:00:03")
    assert len(screen.lines) == 4
    assert "✗ make 1  stopped after " in screen.lines[2]
    assert screen.lines[-1] == "stopped: 0 of 2 jobs are done"


@pytest.mark.parametrize("word", ["Will exit after finishing", "Terminating processes"])
def test_what_failed_before_ctrl_c_is_named_at_the_end(
    screen: Screen, word: str
) -> None:
    """A real failure is not forgotten because the user then stopped the rest."""
    ends = {"Will": " currently running jobs.", "Terminating": " on user request, …"}
    screen.plan(3)
    for number in (1, 2, 3):
        screen.start(number, f"make {number}")
    screen.fail(1)
    screen.tell(None, word + ends[word.partition(" ")[0]])
    screen.fail(2)
    screen.tell(None, "Elapsed time: 0:00:03")
    assert screen.lines[-2:] == [
        "stopped: 0 of 3 jobs are done, 1 failed:",
        "  ✗ make 1",
    ]


@pytest.mark.parametrize(
    "message",
    [
        "Building DAG of jobs...",
        "Using shell: /usr/bin/bash",
        "Provided cores: 2",
        "Select jobs to execute...",
        "Singularity containers: ignored",
        "Complete log(s): /x/.snakemake/log/y",
        "Removing output files of failed job a since they might be corrupted:\nx",
    ],
)
def test_the_machinery_is_silent(screen: Screen, message: str) -> None:
    """What nobody reads stands in Snakemake's log file alone."""
    screen.tell(None, message)
    assert screen.lines == []


@pytest.mark.parametrize(
    ("level", "message"),
    [
        (logging.INFO, "Nothing to be done (all requested files are present)."),
        (logging.INFO, "submitit: job 3 (a) is slurm job 4, log logs/4.log"),
        (logging.INFO, "Trying to restart job 3."),
        (logging.WARNING, "this file system has no locks"),
        (logging.ERROR, "Directory cannot be locked."),
    ],
)
def test_what_concerns_the_user_is_shown(
    screen: Screen, level: int, message: str
) -> None:
    """Messages, warnings and errors of Snakemake and of executors stand as they are."""
    screen.tell(None, message, level=level)
    assert screen.lines == [message]


def test_an_error_before_the_start_is_shown_whole(screen: Screen) -> None:
    """A rule that is missing, or a bug in the Snakefile."""
    screen.tell(LogEvent.ERROR, "MissingRuleException:\nNo rule to produce x", level=40)
    assert screen.lines == ["MissingRuleException:", "No rule to produce x"]


def test_the_exit_status_of_a_shell_is_no_message_of_its_own(screen: Screen) -> None:
    """The job's own report follows it, and that some job failed is known by then."""
    screen.plan(1)
    screen.tell(
        LogEvent.ERROR, "RuleException:\nCalledProcessError in file x", level=40
    )
    screen.tell(LogEvent.ERROR, "At least one job did not complete successfully.")
    assert len(screen.lines) == 1
    screen.start(5, "make 5")
    missing = "MissingOutputException:\nJob 5 completed successfully, but some …"
    screen.tell(LogEvent.ERROR, missing, level=40)
    screen.tell(None, "Elapsed time: 0:00:03")
    assert screen.lines[-1] == "  ✗ make 5"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("returned non-zero exit status 137.", "    ended by SIGKILL (out of memory?)"),
        ("died with <Signals.SIGSEGV: 11>.", "    ended by SIGSEGV"),
        ("returned non-zero exit status 1.", ""),
        ("returned non-zero exit status 190.", ""),
    ],
)
def test_a_job_that_was_killed_says_by_what(
    screen: Screen, error: str, said: str
) -> None:
    """Its log can tell nothing of it; the next failure is another one."""
    screen.plan(2)
    for number in (1, 2):
        screen.start(number, f"make {number}")
    screen.tell(LogEvent.ERROR, _ended("set -e; y", error), level=40)
    screen.fail(1, shellcmd="y")
    screen.fail(2, shellcmd="y")
    assert [line for line in screen.lines if "ended by" in line] == [said] * bool(said)


def _ended(command: str, how: str) -> str:
    """What Snakemake says of a shell command that failed."""
    head = "RuleException:\nCalledProcessError in file x"
    return f"{head}:\nCommand '{command}' {how}"


def test_a_signal_is_told_of_the_job_that_it_ended(screen: Screen) -> None:
    """Messages of jobs that fail at once mix; what names no job blames none."""
    screen.plan(4)
    for number in range(1, 5):
        screen.start(number, f"make {number}")
    killed = "returned non-zero exit status 137."
    common, segv = killed.replace("37", ""), "died with <Signals.SIGSEGV: 11>."
    screen.tell(LogEvent.ERROR, _ended("set -e; a", killed), level=40, thread=1)
    screen.tell(LogEvent.ERROR, _ended("set -e; b", common), level=40, thread=2)
    screen.tell(LogEvent.ERROR, _ended("set -e; c", segv), level=40, thread=3)
    screen.fail(2, shellcmd="b", thread=2)
    screen.fail(4, thread=3)  # of a group: the command is another member's
    screen.fail(1, shellcmd="a", thread=1)
    screen.fail(3, shellcmd="c", thread=3)
    told: dict[str, str] = {}
    for line in screen.lines[1:]:
        if "✗" in line:
            name = line.split("✗ ")[1].partition("  ")[0]
        elif "ended by" in line:
            told[name] = line.strip()
    assert told == {
        "make 1": "ended by SIGKILL (out of memory?)",
        "make 3": "ended by SIGSEGV",
    }


def test_a_dry_run_says_what_would_run_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts once, then one line a job with its reason."""
    screen = Screen(monkeypatch, dryrun=True, stdout=True)
    screen.plan(1)
    screen.start(1, "make 1")
    screen.finish(1)
    screen.plan(1)
    screen.handler.close()
    assert screen.lines == [
        *("Job stats:", "…"),
        "make 1  (Missing output files: x and 1 more)",
    ]
    assert LOGS_ONLY not in os.environ


@pytest.mark.parametrize(
    ("quiet", "lines"),
    [
        ({Quietness.RULES}, ["Job stats:", "…"]),
        ({Quietness.REASON}, ["Job stats:", "…", "make 1"]),
    ],
)
def test_a_dry_run_obeys_quiet(
    monkeypatch: pytest.MonkeyPatch, quiet: set[Quietness], lines: list[str]
) -> None:
    """Without the rules the counts alone, without reasons the messages alone."""
    screen = Screen(monkeypatch, dryrun=True, stdout=True, quiet=quiet)
    screen.plan(1)
    screen.start(1, "make 1")
    assert screen.lines == lines


def test_quiet_runs_still_show_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--quiet rules` hides what went well; `--quiet all` hides everything."""
    for quiet, shown in ((Quietness.RULES, True), (Quietness.ALL, False)):
        screen = Screen(monkeypatch, quiet={quiet})
        screen.plan(2)
        screen.start(1, "make 1")
        screen.start(2, "make 2")
        screen.finish(1)
        screen.fail(2)
        text = "\n".join(screen.lines)
        assert "✓" not in text
        assert ("✗ make 2" in text) == shown
        screen.handler.close()


def test_jobs_write_to_their_logs_alone_while_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The variable that `tee` in the rules obeys is gone afterwards."""
    screen = Screen(monkeypatch)
    assert os.environ[LOGS_ONLY] == "1"
    screen.handler.close()
    assert LOGS_ONLY not in os.environ
    Screen(monkeypatch, quiet={Quietness.PROGRESS}).handler.close()
    assert LOGS_ONLY not in os.environ


def test_a_fault_in_showing_does_not_end_the_run(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message of an unknown form is reported, not raised."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    screen.tell(LogEvent.JOB_FINISHED)  # without its number
    screen.tell(None, "the next one")
    assert screen.lines == ["the next one"]


def test_nobody_at_the_other_end_of_the_pipe(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`| head` ends no run: the rest is said to nobody, also by what starts later."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(screen.handler._display, "_stream", stream)
        for number in range(3):
            screen.tell(None, f"message {number}")
        screen.start(1, "make 1")
        screen.fail(1)
        assert os.path.samestat(os.fstat(writer), os.stat(os.devnull))


# ---- logs ----


def test_the_last_progress_of_a_log_is_read(tmp_path: Path) -> None:
    """Behind other lines too, and not from an earlier run."""
    log = tmp_path / "a.log"
    with open(log, "w") as file:
        progress = Progress("work", 4, every=0.0, write=lambda s: print(s, file=file))
        for _ in range(3):
            progress.due = 0.0
            progress.advance()
        print("  something else", file=file)
    fresh, reading = logs.progress(str(log), time.time() - 60)
    assert fresh
    assert reading is not None
    assert (reading.done, reading.total) == (3, 4)
    assert logs.progress(str(log), time.time() + 60) == (False, None)
    assert logs.progress(str(tmp_path / "b.log"), 0.0) == (False, None)
    tail = logs.tail(str(log), 15)
    assert len(tail) == 2  # of three lines of progress the last
    assert tail[1] == "  something else"


def test_the_end_of_a_log_may_be_anything(tmp_path: Path) -> None:
    """Bytes that are no text, lines that are rewritten, no log at all."""
    log = tmp_path / "a.log"
    log.write_bytes(b"\xff\xfe\n10%\r50%\r100%\n\nend")
    assert logs.tail(str(log), 2) == ["100%", "end"]
    log.write_text("")
    assert logs.tail(str(log), 2) == []
    assert logs.tail(str(tmp_path), 2) == []


# ---- the board and the displays ----


def job(number: int, rule: str = "a", log: str = "") -> Job:
    """A job that was just given out."""
    what = f"make {number}"
    logs = (log,) if log else ()
    return Job(number, what, rule, logs, f"out/{number}.txt", time.monotonic())


def test_the_rest_is_estimated_from_jobs_of_the_same_rule(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two at a time: what is left of a rule takes as long as it did before."""
    clock = {"now": 1000.0}
    monkeypatch.setattr(time, "monotonic", lambda: clock["now"])
    board = Board()
    board.plan({"short": 4, "long": 3, "total": 7})
    assert board.remaining() is None
    for number in range(4):
        board.start(job(number, "short"))
        clock["now"] += 10
        board.finish(number)
    board.start(job(8, "long"))
    board.start(job(9, "long"))
    clock["now"] += 100
    board.finish(8)
    board.finish(9)
    # 240 seconds of jobs in 140: one long job is left, at 1.7 at a time.
    assert board.remaining() == pytest.approx(100 / (240 / 140))


def test_a_queued_job_begins_when_its_log_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Hours in a queue are not shown as hours of work."""
    clock = {"now": 1000.0}
    monkeypatch.setattr(time, "monotonic", lambda: clock["now"])
    log, board = tmp_path / "a.log", Board()
    board.start(job(1, log=str(log)))
    board.start(job(2))
    board.queue(1)
    clock["now"] += 3600
    assert [(one.number, one.waits) for one in board.running()] == [
        (2, False),
        (1, True),
    ]
    log.write_text("  something\n")
    clock["now"] += 10
    first = board.running()[0]
    assert (first.number, first.waits, first.seconds) == (1, False, 0.0)


def test_a_queue_of_the_executor_is_heard(screen: Screen) -> None:
    """submitit's line on a submission means that the job waits."""
    screen.plan(1)
    screen.start(3, "make 3")
    screen.tell(None, "submitit: job 3 (a) is slurm job 4, log logs/4.log")
    [running] = screen.handler._board.running()
    assert running.waits


def test_what_runs_is_said_now_and_then_without_a_terminal(tmp_path: Path) -> None:
    """In one line, three jobs by name; nothing where nothing runs."""
    log, board, stream = tmp_path / "a.log", Board(), io.StringIO()
    plain = Plain(stream, board, every=0.01)
    assert plain.now() == ""
    board.plan({"a": 9, "total": 9})
    log.write_text(f"  work  {bar(0.5)}   50 %  5/10  0.5/s, 0:10 left\n")
    for number in range(1, 7):
        board.start(job(number, log=str(log) if number == 1 else ""))
    board.queue(6)
    line = "[0/9] 0:00; running: make 1 50 % (0:10 left); make 2 0:00; make 3 0:00"
    assert (
        re.sub(r"\b0:0\d(?! left)", "0:00", plain.now()) == f"{line}; 2 more; 1 waiting"
    )
    plain.begin()
    deadline = time.monotonic() + 20
    while not stream.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)
    plain.close()
    assert stream.getvalue().splitlines()[0].startswith("[0/9] ")
    assert not any("_tell" in thread.name for thread in threading.enumerate())


def test_an_old_remaining_time_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A loop that says nothing for a minute needs no longer what it said."""
    clock = {"now": 1000.0}
    monkeypatch.setattr(time, "monotonic", lambda: clock["now"])
    log, board = tmp_path / "a.log", Board()
    text = f"  work  {bar(0.5)}   50 %  5/10  0.5/s, 0:10 left\n"
    log.write_text(text)
    board.plan({"a": 1, "total": 1})
    board.start(job(1, log=str(log)))
    said = []
    for _ in range(3):
        said.append(Plain(io.StringIO(), board).now().partition("; running: ")[2])
        clock["now"] += 20
    assert said == [*["make 1 50 % (0:10 left)"] * 2, "make 1 50 %"]
    [running] = board.running()
    monkeypatch.setenv("TERM", "xterm")
    line = display._line(running, 120).plain
    assert "50 %  0.5/s" in line
    assert "left" not in line
    log.write_text(f"{text}  work  {bar(0.6)}   60 %  6/10  0.5/s, 0:08 left\n")
    clock["now"] += 20
    assert "60 % (0:08 left)" in Plain(io.StringIO(), board).now()


class Tty(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_thousand_jobs_fit_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The region is never higher or wider than the terminal, and counts the rest."""
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setenv("LINES", "12")
    monkeypatch.setenv("TERM", "xterm")
    board, stream = Board(), Tty()
    terminal = Terminal(stream, board, colour=False)
    board.plan({"a": 2186, "total": 2186})
    for number in range(1000):
        board.start(job(number))
    region = terminal._region()
    lines = [line.plain for line in region.renderables]
    assert len(lines) == 10
    assert "… and 992 more" in lines[-2]
    assert lines[-1].startswith(f"{bar(0)}  0/2186 jobs  0:")
    assert max(map(len, lines)) < 70


def test_lines_stay_above_the_region(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cursor is hidden while it lives and is back afterwards."""
    monkeypatch.setenv("TERM", "xterm")
    board, stream = Board(), Tty()
    terminal = Terminal(stream, board, colour=False)
    board.plan({"a": 1, "total": 1})
    board.start(job(1))
    terminal.begin()
    terminal.begin()
    terminal.say("✓ a line [bold]as it is[/bold] :smile:", "red")
    terminal.close()
    terminal.close()
    text = stream.getvalue()
    assert "✓ a line [bold]as it is[/bold] :smile:\n" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    assert text.index("\x1b[?25l") < text.index("\x1b[?25h")


def test_short_times_are_seconds() -> None:
    """And longer ones a clock."""
    assert [took(s) for s in (0.2, 59.4, 59.6, 3725)] == [
        "0 s",
        "59 s",
        "1:00",
        "1:02:05",
    ]


# ---- the command that repeats a job ----


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--profile", "local", "demo"], "out/a --profile local"),
        (["results/x.json", "y.json", "-k", "-c2"], "out/a -k -c2"),
        (["-F", "--profile", "local"], "out/a --profile local"),
        (["x", "--config", "a=1", "b={c: 2}"], "out/a --config a=1 'b={c: 2}'"),
        (["--profile", "demo", "demo"], "out/a --profile demo"),
        (
            ["--configfile", "tiny.yaml", "--cores", "2"],
            "out/a --configfile tiny.yaml --cores 2",
        ),
    ],
)
def test_the_command_is_the_one_that_was_typed(given: list[str], expected: str) -> None:
    """The job's file stands in place of the targets, and nothing forces more."""
    assert Again(["snakemake", *given]).command("out/a") == f"snakemake {expected}"


def test_the_program_is_called_as_it_was(tmp_path: Path) -> None:
    """By its path where its name does not lead to it, or through Python."""
    module = f"{tmp_path}/snakemake/__main__.py"
    assert Again([module, "x"]).command("out/a").endswith("-m snakemake out/a")
    other = tmp_path / "snakemake"
    other.touch()
    assert Again([str(other)]).command("a") == f"{other} a"
