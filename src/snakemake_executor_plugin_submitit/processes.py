"""The processes below this one: who catches a signal, and their end (Linux)."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER, prctl(2)
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


def adopt_orphans() -> None:
    """Processes whose parent ends become ours, so that none is lost from sight."""
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def die_with_parent() -> None:
    """In a child before exec: be killed when the parent is."""
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)


@dataclass(frozen=True)
class _Process:
    """One line of the table of processes that live."""

    pid: int
    parent: int
    session: int


def _table() -> tuple[list[_Process], set[int]]:
    """All processes, and the ids of those that have ended and were not waited for."""
    found, dead = [], set()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            # The name in parentheses may hold anything; fields follow it.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found.append(_Process(int(folder.name), int(fields[1]), int(fields[3])))
        if fields[0] == "Z":
            dead.add(int(folder.name))
    return found, dead


def descendants(root: int | None = None) -> list[int]:
    """Living processes below `root` (this one), parents before their children."""
    children: dict[int, list[int]] = {}
    table, dead = _table()
    for one in table:
        children.setdefault(one.parent, []).append(one.pid)
    found, todo = [], [root or os.getpid()]
    while todo:
        below = children.get(todo.pop(0), [])
        todo += below
        found += [pid for pid in below if pid not in dead]
    return found


def session(leader: int) -> list[int]:
    """Living processes of the session that a process has opened, itself included."""
    table, dead = _table()
    return [p.pid for p in table if p.session == leader and p.pid not in dead]


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and it has not ended yet."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler of its own for a signal."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    for line in lines:
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def send(pids: list[int], number: int) -> None:
    """Signal processes; those that are gone are no error."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def command_line(pid: int) -> list[str]:
    """The arguments that a process was started with."""
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return text.decode(errors="replace").rstrip("\0").split("\0")


def variable(pid: int, name: str) -> str | None:
    """A variable of the environment that a process was started in."""
    try:
        text = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return None
    for entry in text.split("\0"):
        key, equals, value = entry.partition("=")
        if equals and key == name:
            return value
    return None


def let_save(
    number: int,
    grace: float,
    *,
    spare: Callable[[int], bool] | None = None,
    waiting: Callable[[list[int]], None] | None = None,
) -> None:
    """Signal everything below, wait for those that catch it, end the rest.

    A program that has no handler has nothing to save: nobody waits for it.

    Args:
        number: the signal.
        grace: seconds after which nobody is waited for any more.
        spare: processes for which this is False are killed at once, before the
            signal, such as one that would take its child's end for a failure.
        waiting: told who is waited for.
    """
    if spare is not None:
        send([pid for pid in descendants() if not spare(pid)], signal.SIGKILL)
    below = descendants()
    saving = [pid for pid in below if catches(pid, number)]
    send(below, number)
    if waiting is not None:
        waiting(saving)
    end = time.monotonic() + grace
    while time.monotonic() < end:
        alive = set(descendants())
        if not any(pid in alive for pid in saving):
            break
        time.sleep(0.05)
    if saving:
        time.sleep(0.2)  # the last lines are still on their way through a pipe
    kill_all()


def kill_all(patience: float = 5.0) -> None:
    """SIGKILL to everything below, until nothing is left."""
    _kill_until_gone(descendants, patience)


def kill_session(leader: int, patience: float = 5.0) -> None:
    """SIGKILL to a session and all below its leader, until nothing is left."""
    _kill_until_gone(lambda: [*session(leader), *descendants(leader)], patience)


def _kill_until_gone(left: Callable[[], list[int]], patience: float) -> None:
    end = time.monotonic() + patience
    while (pids := left()) and time.monotonic() < end:
        send(pids, signal.SIGKILL)
        time.sleep(0.02)
