"""Small programs that jobs run: they count, save and are stopped."""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path

# Counts to a number, kept in `state`; `starts` has a line a start. It ends in its last
# start and never before. On USR2 or TERM it takes its time, saves and exits with 75.
COUNTER = """
import pathlib, signal, sys, time
folder, steps, saving = pathlib.Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
state = folder / "state"
done = int(state.read_text()) if state.exists() else 0
told = []
for number in (signal.SIGUSR2, signal.SIGTERM):
    signal.signal(number, lambda n, frame: told.append(n))
with open(folder / "starts", "a+") as starts:
    print(done, file=starts, flush=True)
    starts.seek(0)
    last = len(starts.readlines()) >= int(sys.argv[4])
while not last or done < steps:
    (folder / "ready").touch()
    time.sleep(0.02)
    if told:
        time.sleep(saving)
        part = folder / "part"
        part.write_text(str(done))
        part.replace(state)
        print("saved", done, "after", signal.Signals(told[0]).name, flush=True)
        sys.exit(75)
    done += done < steps
print("counted to", done, flush=True)
(folder / "done").write_text(str(done))
"""
# As Snakemake does: takes its child's end for a failure, and cleans up after it.
NESTED = """
import pathlib, subprocess, sys
status = subprocess.run(sys.argv[2:]).returncode
if status:
    pathlib.Path(sys.argv[1], "cleaned").touch()
sys.exit(status)
"""


def counter(
    folder: Path, last: int = 1, *, steps: int = 10, saving: float = 0.0
) -> str:
    """The shell line of a counter that keeps its state in a folder.

    Args:
        folder: of its own.
        last: the number of the start in which it ends; in those before it counts
            until it is told to leave.
        steps: to count to.
        saving: seconds that keeping the state takes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "counter.py"
    program.write_text(COUNTER)
    words = [sys.executable, "-S", str(program), str(folder)]
    return shlex.join([*words, str(steps), str(saving), str(last)])


def below_a_snakemake(folder: Path, command: str) -> str:
    """The shell line of a program named snakemake that runs a command."""
    program = folder / "bin" / "snakemake"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(NESTED)
    words = [sys.executable, "-S", str(program), str(folder), "bash", "-c", command]
    return shlex.join(words)


def starts(folder: Path) -> list[int]:
    """At which count each start of a counter began."""
    path = folder / "starts"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def children(root: int) -> list[int]:
    """Living processes below one, itself not among them."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            number = int(entry.name)
        except (OSError, ValueError):
            continue
        if fields[0] != "Z":
            parents.setdefault(int(fields[1]), []).append(number)
    found, todo = [], [root]
    while todo:
        below = parents.get(todo.pop(), [])
        todo += below
        found += below
    return found


def signal_all(pids: list[int], number: int) -> None:
    """As SLURM: every process of a step gets the signal."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return text.rpartition(")")[2].split()[0] in {"Z", "X"}


def mentioning(text: str) -> list[int]:
    """Processes with a text in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if entry.name.isdigit() and text in line and not gone(int(entry.name)):
            found.append(int(entry.name))
    return found


def settled(seconds: float = 0.5) -> None:
    """Let what should not happen have the time to."""
    time.sleep(seconds)
