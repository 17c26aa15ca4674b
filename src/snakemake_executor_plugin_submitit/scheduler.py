"""SLURM's commands, each asked about all jobs at once, and counted."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterable

from snakemake_executor_plugin_submitit.states import JobState, short

# squeue's fields; the comment comes last, for it may hold anything.
_FORMAT = "%i|%T|%r|%N|%k"
_RANGE = re.compile(r"(\d+)(?:-(\d+))?(?::(\d+))?")
_CHUNK = 200
_DAY = 24 * 60


class SchedulerAwayError(Exception):
    """The controller does not answer; that says nothing about the jobs."""


class SchedulerError(Exception):
    """The controller answered with a refusal."""


# What SLURM's programs print when the controller is restarting, busy or cut off.
AWAY = (
    *("Unable to contact slurm controller", "Socket timed out", "Connection refused"),
    *("Connection timed out", "Zero Bytes were transmitted", "Transport endpoint"),
    "Resource temporarily unavailable",
    *("Unable to establish controller", "Communication connection failure"),
    *("in standby mode", "slurmctld communications", "Message receive failure"),
    "Slurm temporarily unable",
)


def is_away(text: str) -> bool:
    """Whether an error text says that the controller cannot answer now."""
    folded = text.lower()
    return any(part.lower() in folded for part in AWAY)


class Scheduler:
    """The cluster's controller, through its commands.

    Attributes:
        calls: how often each command was run.
        timeout: seconds after which a command counts as not answered.
    """

    def __init__(self, timeout: float = 60.0) -> None:
        self.calls: Counter[str] = Counter()
        self.timeout = timeout
        self._accounting: bool | None = None

    def _run(self, *command: str) -> str:
        self.calls[command[0]] += 1
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=self.timeout,
                check=False,
                stdin=subprocess.DEVNULL,
                # Ctrl-C is for us; a half-done scancel would leave jobs behind.
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            raise SchedulerAwayError(
                f"{command[0]}: no answer in {self.timeout:.0f} s"
            ) from None
        except OSError as error:
            raise SchedulerError(f"{command[0]}: {error.strerror}") from error
        if done.returncode:
            text = " ".join((done.stderr or done.stdout).split())
            if is_away(text) or not text:
                raise SchedulerAwayError(text or f"{command[0]} failed")
            raise SchedulerError(text)
        return done.stdout

    def queue(self) -> dict[str, JobState]:
        """All jobs of this user that the controller still knows, by id.

        Raises:
            SchedulerAwayError: when it does not answer.
        """
        user = str(os.getuid())
        options = ("--noheader", "--array", "--states=all", f"--user={user}")
        try:
            text = self._run("squeue", *options, f"--format={_FORMAT}")
        except SchedulerError as error:
            raise SchedulerAwayError(str(error)) from error
        return parse_queue(text)

    def past(self, ids: Iterable[str]) -> dict[str, JobState]:
        """Jobs that the controller has forgotten, from accounting; {} without it."""
        wanted = sorted(ids)
        found: dict[str, JobState] = {}
        for start in range(0, len(wanted), _CHUNK):
            if self._accounting is False:
                break
            jobs = ",".join(wanted[start : start + _CHUNK])
            options = ("--noheader", "--allocations", "--parsable2")
            fields = "--format=JobID,State,ExitCode,NodeList"
            try:
                text = self._run("sacct", *options, fields, f"--jobs={jobs}")
            except SchedulerError:
                self._accounting = False  # "accounting storage is disabled"
                break
            found.update(parse_accounting(text))
        return found

    def use_accounting(self, mode: str) -> None:
        """`states` of the settings: auto, sacct or squeue."""
        self._accounting = {"sacct": True, "squeue": False}.get(mode)

    def cancel(self, ids: Iterable[str]) -> None:
        """End jobs; those that are gone are no error."""
        wanted = sorted(ids)
        for start in range(0, len(wanted), _CHUNK):
            try:
                self._run("scancel", *wanted[start : start + _CHUNK])
            except SchedulerError:
                continue

    def partitions(self) -> dict[str, int | None]:
        """Longest time limits in minutes by partition; "" is the default one.

        Raises:
            SchedulerAwayError, SchedulerError: without an answer.
        """
        text = self._run("sinfo", "--all", "--noheader", "--format=%P|%l")
        found: dict[str, int | None] = {}
        for line in text.splitlines():
            name, _, limit = line.strip().partition("|")
            found[name.rstrip("*")] = minutes(limit)
            if name.endswith("*"):
                found[""] = minutes(limit)
        return found


def parse_queue(text: str) -> dict[str, JobState]:
    """Lines of `squeue --format=%i|%T|%r|%N|%k`."""
    found = {}
    for line in text.splitlines():
        parts = line.strip().split("|", 4)
        if len(parts) < 4:
            continue
        job, state, reason, node = parts[:4]
        comment = parts[4] if len(parts) > 4 else ""
        known = JobState(short(state), reason, node, comment.replace("(null)", ""))
        for single in expand(job):
            found[single] = known
    return found


def parse_accounting(text: str) -> dict[str, JobState]:
    """Lines of `sacct --format=JobID,State,ExitCode,NodeList`; the last one counts."""
    found = {}
    for line in text.splitlines():
        parts = line.strip().split("|")
        if len(parts) != 4 or "." in parts[0]:
            continue
        job, state, code, node = parts
        reason = "" if code in {"", "0:0"} else f"exit {code}"
        for single in expand(job):
            found[single] = JobState(short(state), reason, node)
    return found


def expand(job: str) -> list[str]:
    """Ids of single jobs: "12", "12_7", and "12_[3-5,9%2]" for four of an array."""
    base, bracket, inside = job.partition("_[")
    if not bracket:
        return [job]
    found = []
    for part in inside.rstrip("]").partition("%")[0].split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            continue  # squeue shortens long lists with "..."
        first, last, step = match.groups()
        numbers = range(int(first), int(last or first) + 1, int(step or 1))
        found += [f"{base}_{number}" for number in numbers]
    return found


def minutes(text: str) -> int | None:
    """A time limit of SLURM, "2-00:00:00" or "30:00", in minutes; None: none."""
    match = re.fullmatch(r"(?:(\d+)-)?((?:\d+:)*\d+)", text.strip())
    if match is None:
        return None  # "infinite", "UNLIMITED", "n/a"
    parts = [int(p) for p in match[2].split(":")]
    if match[1]:
        hours, *rest = [*parts, 0][:2]
        return int(match[1]) * _DAY + hours * 60 + sum(rest)
    if len(parts) == 3:
        return parts[0] * 60 + parts[1]
    return parts[0]
