"""The handler: what each of Snakemake's messages becomes."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Sequence
from logging import ERROR, INFO, WARNING, LogRecord
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_logger_plugin_fewstep import logs
from snakemake_logger_plugin_fewstep.again import Again
from snakemake_logger_plugin_fewstep.board import Board, Job
from snakemake_logger_plugin_fewstep.display import Display, open_display, took

LOGS_ONLY = "FEWSTEP_LOGS_ONLY"
"""Set while this handler shows progress: jobs then write to their logs alone."""
_TAIL = 15
_NAMED = 20
_RULES = 7
_COLUMN = 62
# What a run says of its own machinery; the log file in .snakemake/log has it all.
_MACHINERY = re.compile(
    r"Assuming unrestricted shared|Building DAG|Using shell|Provided |Select jobs|"
    r"Execute \d+ jobs|Singularity containers: ignored|Conda environments: ignored|"
    r"Group jobs: inactive|Removing output files of failed job|Job stats:|"
    r"Exiting because a job execution failed|Complete log\(s\)|Elapsed time|"
    r"Rules claiming more threads|Shutting down, this might|None$|$"
)
_STOPPING = re.compile(
    r"Terminating processes on user request|Will exit after finishing currently running"
)
_ENDED = re.compile(r"Elapsed time: ")
# A shell command's exit status: the job's own report follows, with its log.
_SHELL = re.compile(r"CalledProcessError")
_SIGNAL = re.compile(r"exit status (1[3-9]\d)\b|died with <Signals\.(SIG\w+)")
# The executor has shown the end of this job's output.
_SHOWN = re.compile(r"submitit: job (\d+) \(.*, the end of ", re.DOTALL)
# It lies in a queue; its log will tell when it runs.
_QUEUED = re.compile(
    r"submitit: job (\d+) \(.*\) (?:is|goes on as) |Job (\d+) has been submitted"
)
_MISSING = re.compile(r"Job (\d+) +completed successfully, but")
_HINT = "; For further error details see"
_AT_THE_END = "At least one job did not complete successfully"
_QUIET = (
    *(LogEvent.RESOURCES_INFO, LogEvent.JOB_STARTED, LogEvent.RULEGRAPH),
    LogEvent.WORKFLOW_STARTED,
    *(LogEvent.GROUP_INFO, LogEvent.GROUP_ERROR),  # of its jobs each has its own
)


class LogHandler(LogHandlerBase):
    """One line a job; a live region on a terminal; a short report of a failed job."""

    def __post_init__(self) -> None:
        common = self.common_settings
        self._quiet = {str(one.name) for one in common.quiet or ()}
        self._board = Board()
        self._again = Again()
        self._shown: set[int] = set()
        self._planned = self._stopping = False
        # What a shell command's end was, by the thread that tells of it.
        self._ends: dict[int | None, str] = {}
        stream = sys.stdout if common.stdout else sys.stderr
        self._display: Display = open_display(
            stream, self._board, colour=not common.nocolor
        )
        self._handlers = {
            LogEvent.JOB_INFO: self._job_starts,
            LogEvent.JOB_FINISHED: self._job_finished,
            LogEvent.JOB_ERROR: self._job_failed,
            LogEvent.PROGRESS: self._progress,
            LogEvent.RUN_INFO: self._plan,
            LogEvent.ERROR: self._error,
        }
        # Nobody would see what jobs print, or how far they are, where all is quiet.
        if not common.dryrun and not self._quiet & {"ALL", "PROGRESS"}:
            os.environ[LOGS_ONLY] = "1"

    def emit(self, record: LogRecord) -> None:
        """Show one message; a fault in showing it must not end the run."""
        try:
            self._emit(record)
        except Exception:  # noqa: BLE001
            self.handleError(record)

    def _emit(self, record: LogRecord) -> None:
        event = getattr(record, "event", None)
        if self._is_unwanted(record, event):
            return
        handle = self._handlers.get(event) if event is not None else None
        if handle is not None:
            handle(record)
        elif event in (LogEvent.SHELLCMD, LogEvent.DEBUG_DAG):
            self._say(self.format(record))
        elif event not in _QUIET or self.common_settings.verbose:
            self._message(record)

    def _is_unwanted(self, record: LogRecord, event: LogEvent | None) -> bool:
        """Whether Snakemake's own settings say that this is not for the screen."""
        common = self.common_settings
        if "ALL" in self._quiet and not common.dryrun:
            return True
        quietness = getattr(record, "quietness", None)
        if quietness is not None and str(quietness.name) in self._quiet:
            return True
        if event == LogEvent.SHELLCMD:
            return not common.printshellcmds
        if event == LogEvent.DEBUG_DAG:
            return not common.debug_dag
        return bool(common.debug_dag and not common.verbose and record.levelno < INFO)

    # ---- jobs ----

    def _job_starts(self, record: LogRecord) -> None:
        given = record.__dict__
        what = _what(given)
        if self.common_settings.dryrun:
            if "RULES" not in self._quiet:
                self._say(self._would_run(what, given))
            return
        target = next(iter(given["output"]), given["rule_name"])
        self._board.start(
            Job(
                given["jobid"],
                what,
                given["rule_name"],
                tuple(map(_path, given["log"])),
                _path(target),
                # A target such as `all`: done when its inputs are.
                collects=not (given["output"] or given["shellcmd"] or given["log"]),
            )
        )
        if "PROGRESS" not in self._quiet:
            self._display.begin()

    def _would_run(self, what: str, given: dict[str, Any]) -> str:
        reason = "" if "REASON" in self._quiet else _reason(given["reason"])
        return f"{what}  ({reason})" if reason else what

    def _job_finished(self, record: LogRecord) -> None:
        job, done = self._board.finish(record.__dict__["job_id"])
        if job is None or self.common_settings.dryrun or "RULES" in self._quiet:
            return
        if job.collects:
            return
        self._say(f"{self._count(done)}✓ {job.what:{_COLUMN}} {took(job.seconds):>7}")

    def _job_failed(self, record: LogRecord) -> None:
        given = record.__dict__
        take = self._board.stop if self._stopping else self._board.fail
        job = take(given["jobid"])
        rule, paths = given["rule_name"], tuple(map(_path, given["log"]))
        what = job.what if job else f"rule {rule}"
        spent = f" after {took(job.seconds)}" if job else ""
        if self._stopping:
            self._say(f"{self._count(self._board.done)}✗ {what}  stopped{spent}")
            return
        target = job.target if job else next(iter(given["output"]), rule)
        lines = [f"{self._count(self._board.done)}✗ {what}  failed{spent}"]
        if given["jobid"] not in self._shown:
            said = _one_line(given.get("rule_msg") or "").partition(_HINT)[0]
            killed = self._killed_by(record)
            lines += [f"    {text}" for text in (said, killed) if text]
            lines += _ends(paths)
        self._shown.discard(given["jobid"])  # it may be tried once more
        # A path alone on its line can be opened from most terminals.
        lines += [f"    log    {path}" for path in paths if os.path.exists(path)]
        lines += [f"    again  {self._again.command(_path(target))}"]
        self._say("\n".join(lines), "red")

    def _killed_by(self, record: LogRecord) -> str:
        """Which signal ended the job's shell command; "" where that is not known.

        Snakemake tells of the command's end first, in the same thread and without the
        job's number, and of all members of a group after it.
        """
        text = self._ends.get(record.thread, "")
        command = str(record.__dict__.get("shellcmd") or "").strip()
        if not command or command not in text:
            return ""
        del self._ends[record.thread]
        return _signal_in(text)

    def _count(self, done: int) -> str:
        """`[17/186] `, where no total stands below; all lines begin alike."""
        total = 0 if self._display.shows_total else self._board.total
        return f"[{done:{len(str(total))}}/{total}] " if total else ""

    # ---- the run ----

    def _plan(self, record: LogRecord) -> None:
        stats = dict(record.__dict__.get("stats") or {})
        if self.common_settings.dryrun:
            # Snakemake says it before the jobs and after them.
            if not self._planned or "PROGRESS" in self._quiet:
                self._say(self.format(record))
        elif not self._planned:
            self._board.plan(stats)
            if "PROGRESS" not in self._quiet:
                self._say(_jobs(stats))
        self._planned = True

    def _progress(self, record: LogRecord) -> None:
        self._board.total = record.__dict__["total"]

    def _error(self, record: LogRecord) -> None:
        text = str(record.msg)
        if _SHELL.search(text) or (self._planned and _AT_THE_END in text):
            self._ends[record.thread] = text  # the job's report comes next
            return
        missing = _MISSING.search(text)
        if missing:
            self._board.fail(int(missing[1]))
        self._say(self.format(record), "red")

    def _message(self, record: LogRecord) -> None:
        """A message without a kind of its own."""
        text = str(record.msg)
        shown = _SHOWN.match(text)
        if shown:
            self._shown.add(int(shown[1]))
        queued = _QUEUED.match(text)
        if queued:
            self._board.queue(int(queued[1] or queued[2]))
        if _STOPPING.match(text):
            if self._stopping:
                return  # the scheduler says it at every job that ends
            self._stopping = True
        if _ENDED.match(text):
            self._end()
        if _MACHINERY.match(text) and not self.common_settings.verbose:
            return
        style = {ERROR: "red", WARNING: "yellow"}.get(record.levelno, "")
        self._say(self.format(record), style)

    def _end(self) -> None:
        """How the run ended, and once more which jobs failed."""
        self._display.close()
        board = self._board
        if not self._planned or self.common_settings.dryrun:
            return
        failed, count = board.failed(), f"{board.done} of {board.total} jobs"
        if self._stopping:
            jobs = f"stopped: {count} are done"
        else:
            jobs = f"{count} done in {took(board.elapsed())}"
        lines = [f"{jobs}, {len(failed)} failed:" if failed else jobs]
        lines += _named(failed)
        if "PROGRESS" not in self._quiet or failed or self._stopping:
            self._say("\n".join(lines), "red" if failed else "")

    def _say(self, text: str, style: str = "") -> None:
        self._display.say(text.strip("\n"), style)

    def close(self) -> None:
        """Give the terminal back."""
        self._display.close()
        os.environ.pop(LOGS_ONLY, None)
        super().close()

    @property
    def writes_to_stream(self) -> bool:
        """It is the one that writes to the screen."""
        return True

    @property
    def writes_to_file(self) -> bool:
        """Snakemake's own log file is Snakemake's."""
        return False

    @property
    def has_filter(self) -> bool:
        """`quiet: rules` would take the jobs away that this handler counts."""
        return True

    @property
    def has_formatter(self) -> bool:
        """What has no form here gets Snakemake's."""
        return False

    @property
    def needs_rulegraph(self) -> bool:
        """Counts are enough."""
        return False


def _what(given: dict[str, Any]) -> str:
    """A job's message, or its rule and wildcards."""
    if given["rule_msg"]:
        return " ".join(str(given["rule_msg"]).split())
    words = [f"{name}={value}" for name, value in dict(given["wildcards"]).items()]
    return " ".join([given["rule_name"], *words])


def _path(shown: str) -> str:
    """A path as Snakemake shows it, without what it adds in brackets."""
    return str(shown).partition(" (")[0]


def _signal_in(text: str) -> str:
    """Which signal ended a shell command; "" where none did."""
    found = _SIGNAL.search(text)
    if not found:
        return ""
    try:
        name = found[2] or signal.Signals(int(found[1]) - 128).name
    except ValueError:
        return ""
    guess = " (out of memory?)" if name == "SIGKILL" else ""
    return f"ended by {name}{guess}"


def _one_line(text: str) -> str:
    """Several lines as one."""
    return "; ".join(" ".join(line.split()) for line in text.splitlines() if line)


def _reason(text: str) -> str:
    """Why a job would run; of several files the first.

    That inputs come anew is left out where an output is missing anyway.
    """
    parts = [part for part in text.split("; ") if part]
    if len(parts) > 1 and parts[0].startswith("Missing output"):
        parts = [part for part in parts if not part.startswith("Input files updated")]
    return "; ".join(map(_shortened, parts))


def _shortened(part: str) -> str:
    head, colon, listed = part.partition(": ")
    names = listed.split(", ")
    if not colon or len(names) < 2 or not head.endswith(("files", "job")):
        return _one_line(part)
    return f"{head}: {names[0]} and {len(names) - 1} more"


def _jobs(stats: dict[str, int]) -> str:
    """`186 jobs: 60 sample, 20 score, …`, the most frequent first."""
    rules = {rule: count for rule, count in stats.items() if rule != "total"}
    order = sorted(rules, key=lambda rule: -rules[rule])
    shown = order if len(order) <= _RULES else order[: _RULES - 1]
    named = [f"{rules[rule]} {rule}" for rule in shown]
    named += [f"{len(order) - len(shown)} other rules"] * (len(shown) < len(order))
    total = stats.get("total", sum(rules.values()))
    return f"{total} job{'s' * (total != 1)}: {', '.join(named)}"


def _named(failed: Sequence[Job]) -> list[str]:
    """A line for each failed job, with its log where it has left one."""
    lines = []
    for job in failed[:_NAMED]:
        log = next((path for path in job.logs if os.path.exists(path)), "")
        lines.append(f"  ✗ {job.what}{'  ' if log else ''}{log}")
    more = len(failed) - _NAMED
    return lines + [f"  … and {more} more"] * (more > 0)


def _ends(paths: Sequence[str]) -> list[str]:
    """The last lines of the first of the logs that has any."""
    for path in paths:
        found = logs.tail(path, _TAIL)
        if found:
            return [f"    | {line}" for line in found]
    return []
