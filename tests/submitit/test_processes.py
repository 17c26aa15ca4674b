"""Process trees: who is waited for, who is ended, and that nobody is left."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_plugin_submitit import processes
from tests.submitit.fake_slurm import wait_for
from tests.submitit.programs import gone

# The tests act in a process of their own: what they end is everything below it.
HEAD = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
from snakemake_executor_plugin_submitit import processes
folder = Path(sys.argv[1])
def wait(name):
    while not (folder / name).exists():
        time.sleep(0.02)
def tell(**values):
    print(json.dumps(values))
    # What is above must not wait for what may be left.
    sys.stdout.flush()
SAVES = '''
import signal, sys, time, pathlib
folder, seconds = pathlib.Path(sys.argv[1]), float(sys.argv[2])
def save(number, frame):
    time.sleep(seconds)
    (folder / "saved").touch()
    sys.exit(75)
signal.signal(signal.SIGUSR2, save)
(folder / "ready").touch()
time.sleep(60)
'''
def saver(seconds, **options):
    words = [sys.executable, "-S", "-c", SAVES, str(folder), str(seconds)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, **options)
"""


def acted(folder: Path, program: str) -> dict[str, Any]:
    """What a program of a process of its own told."""
    done = subprocess.run(
        [sys.executable, "-c", HEAD + program, str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_who_saves_is_waited_for_and_the_rest_is_ended(tmp_path: Path) -> None:
    """A program with a handler saves; a sleep beside it costs no time."""
    told = acted(
        tmp_path,
        """
child = saver(1.0)
sleep = subprocess.Popen(["sleep", "60"])
wait("ready")
named = []
began = time.monotonic()
processes.let_save(signal.SIGUSR2, 30, waiting=named.extend)
tell(seconds=time.monotonic() - began, named=named, child=child.pid,
     left=processes.descendants(), sleep=sleep.wait(), status=child.wait())
""",
    )
    assert (tmp_path / "saved").exists()
    assert told["status"] == 75
    assert told["named"] == [told["child"]]
    assert told["left"] == []
    assert told["sleep"] < 0
    assert 1.0 <= told["seconds"] < 15


def test_nobody_is_waited_for_where_nobody_saves(tmp_path: Path) -> None:
    """Shells and programs without a handler have nothing to keep."""
    told = acted(
        tmp_path,
        """
tree = subprocess.Popen(["bash", "-c", "trap '' USR2; sleep 60 & sleep 60; true"])
while len(processes.descendants()) < 3:
    time.sleep(0.02)
began = time.monotonic()
processes.let_save(signal.SIGUSR2, 30)
tell(seconds=time.monotonic() - began, left=processes.descendants())
""",
    )
    assert told["left"] == []
    assert told["seconds"] < 10


def test_patience_has_an_end(tmp_path: Path) -> None:
    """A program that saves for ever is killed when the grace is over."""
    told = acted(
        tmp_path,
        """
child = saver(60)
wait("ready")
began = time.monotonic()
processes.let_save(signal.SIGUSR2, 0.5)
tell(seconds=time.monotonic() - began, status=child.wait())
""",
    )
    assert told["status"] == -signal.SIGKILL
    assert 0.5 <= told["seconds"] < 10
    assert not (tmp_path / "saved").exists()


def test_a_worker_in_a_session_of_its_own_is_waited_for(tmp_path: Path) -> None:
    """torchrun's workers lead sessions; when their agent dies they are adopted."""
    told = acted(
        tmp_path,
        """
processes.adopt_orphans()
agent = '''
import subprocess, sys, time
subprocess.Popen(sys.argv[1:], start_new_session=True)
time.sleep(60)
'''
words = [sys.executable, "-S", "-c", SAVES, str(folder), "1.0"]
process = subprocess.Popen([sys.executable, "-S", "-c", agent, *words])
wait("ready")
below = processes.descendants()
processes.let_save(signal.SIGUSR2, 30)
tell(below=len(below), left=processes.descendants(), agent=process.wait())
""",
    )
    assert (tmp_path / "saved").exists()
    assert told["below"] == 2
    assert told["left"] == []
    assert told["agent"] == -signal.SIGUSR2


def test_an_orphan_is_still_ours(tmp_path: Path) -> None:
    """What a daemon leaves behind is found and ended."""
    told = acted(
        tmp_path,
        """
processes.adopt_orphans()
subprocess.run(["bash", "-c", "setsid sleep 60 & exit 0"])
while len(processes.descendants()) != 1:
    time.sleep(0.02)
orphan, = processes.descendants()
processes.kill_all()
tell(orphan=orphan, left=processes.descendants())
""",
    )
    assert told["left"] == []
    assert gone(told["orphan"])


def test_who_would_report_a_failure_is_ended_first(tmp_path: Path) -> None:
    """The spared saves; its parent is gone before it can take that for a failure."""
    told = acted(
        tmp_path,
        """
processes.adopt_orphans()
parent = '''
import pathlib, subprocess, sys
subprocess.run(sys.argv[2:])
pathlib.Path(sys.argv[1], "cleaned").touch()
'''
words = [sys.executable, "-S", "-c", SAVES, str(folder), "0.5"]
above = subprocess.Popen([sys.executable, "-S", "-c", parent, str(folder), *words])
wait("ready")
processes.let_save(signal.SIGUSR2, 30, spare=lambda pid: pid != above.pid)
tell(above=above.wait())
""",
    )
    assert told["above"] == -signal.SIGKILL
    assert (tmp_path / "saved").exists()
    assert not (tmp_path / "cleaned").exists()


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    """Also when the parent is killed -9."""
    program = """
child = subprocess.Popen(["sleep", "60"], preexec_fn=processes.die_with_parent)
tell(child=child.pid)
time.sleep(60)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", HEAD + program, str(tmp_path)], stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    child = json.loads(parent.stdout.readline())["child"]
    assert not gone(child)
    parent.kill()
    parent.communicate()
    wait_for(lambda: gone(child), 10, "the end of the child")


@pytest.mark.parametrize(
    ("disposition", "expected"),
    [("lambda n, f: None", True), ("signal.SIG_IGN", False), ("signal.SIG_DFL", False)],
)
def test_a_handler_is_seen_from_outside(disposition: str, expected: bool) -> None:
    """Only a handler of its own makes a process one that saves."""
    program = f"""
import signal, sys
signal.signal(signal.SIGUSR2, {disposition})
print(flush=True)
sys.stdin.read()
"""
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    child.stdout.readline()
    assert processes.catches(child.pid, signal.SIGUSR2) is expected
    child.communicate()
    assert not processes.catches(child.pid, signal.SIGUSR2)


def test_any_name_of_a_process_is_understood(tmp_path: Path) -> None:
    """A name with blanks and parentheses shifts no field."""
    told = acted(
        tmp_path,
        """
program = folder / "a) b ( 1 2"
program.symlink_to("/bin/sleep")
child = subprocess.Popen([str(program), "60"])
tell(child=child.pid, below=processes.descendants(),
     words=processes.command_line(child.pid))
processes.kill_all()
""",
    )
    assert told["below"] == [told["child"]]
    assert told["words"] == [str(tmp_path / "a) b ( 1 2"), "60"]


def test_the_dead_do_not_count(tmp_path: Path) -> None:
    """A zombie is no process that anybody must wait for."""
    told = acted(
        tmp_path,
        """
child = subprocess.Popen(["true"])
while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
    time.sleep(0.02)
began = time.monotonic()
processes.kill_all()
tell(below=processes.descendants(), seconds=time.monotonic() - began,
     words=processes.command_line(child.pid))
""",
    )
    assert told["below"] == []
    assert told["seconds"] < 2


def test_signals_to_nobody_are_no_error() -> None:
    """A process may end between being seen and being signalled."""
    child = subprocess.Popen(["true"])
    child.wait()
    processes.send([child.pid], signal.SIGTERM)
    assert processes.command_line(child.pid) == []
