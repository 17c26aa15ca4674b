"""A SLURM for tests that is a folder: `sbatch`, `squeue` and the rest are on PATH.

Jobs stay pending, or really run in the background. A test sets what state they are in,
and whether the controller answers; every call is counted.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAMS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo", "srun")
COMMANDS = Path(__file__).parent / "fake" / "commands.py"
UNREACHABLE = "Unable to contact slurm controller (connect failure)"
DEFAULTS: dict[str, Any] = {
    "run": False,  # whether sbatch runs its script
    "hold": False,  # whether a requeued job waits for the test
    "accounting": False,
    "away": {},  # program to what it says instead of working
    "slow": {},  # program to seconds before it works
    "late": {},  # program to seconds between its work and its answer
    "lost": [],  # programs that work, and whose answer does not come
    "refuse": "",  # why sbatch refuses
    "kill_wait": 5.0,
    "partitions": {"low": "infinite", "high": "1-00:00:00", "short": "30:00"},
}


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """The condition's value as soon as it is true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds} s for {what}")
        time.sleep(0.02)
    return value


@dataclass(frozen=True)
class FakeSlurm:
    """A fake scheduler in a folder; see `create`."""

    folder: Path

    @staticmethod
    def create(folder: Path, **config: Any) -> FakeSlurm:
        """A scheduler without jobs, with programs in `folder/bin`."""
        programs = folder / "bin"
        programs.mkdir(parents=True)
        for name in PROGRAMS:
            path = programs / name
            path.write_text(
                f"#!/bin/sh\nexport FAKE_SLURM='{folder}'\n"
                f"exec '{sys.executable}' -E -S '{COMMANDS}' {name} \"$@\"\n"
            )
            path.chmod(0o755)
        (folder / "jobs.json").write_text("{}")
        (folder / "calls").touch()
        slurm = FakeSlurm(folder)
        slurm._write(DEFAULTS | config)
        return slurm

    @property
    def path(self) -> str:
        """PATH with the fake programs first."""
        return f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def _write(self, config: dict[str, Any]) -> None:
        fresh = self.folder / "config.new"
        fresh.write_text(json.dumps(config))
        fresh.replace(self.folder / "config.json")

    def configure(self, **config: Any) -> None:
        """Change how it behaves; the keys are those of `DEFAULTS`."""
        assert not set(config) - set(DEFAULTS)
        self._write(json.loads((self.folder / "config.json").read_text()) | config)

    def go_away(self, *programs: str, message: str = UNREACHABLE) -> None:
        """These programs (all but sacct) no longer reach the controller."""
        gone = programs or [p for p in PROGRAMS if p not in {"sacct", "srun"}]
        self.configure(away=dict.fromkeys(gone, message))

    def come_back(self) -> None:
        """All programs work again, at once."""
        self.configure(away={}, slow={}, late={}, lost=[])

    @contextmanager
    def jobs(self) -> Iterator[dict[str, dict[str, Any]]]:
        """All jobs by id; changes are kept."""
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            path = self.folder / "jobs.json"
            known = json.loads(path.read_text())
            yield known
            fresh = path.with_suffix(".new")
            fresh.write_text(json.dumps(known))
            fresh.replace(path)

    def job(self, name: str) -> dict[str, Any]:
        """One job: state, reason, node, options, restarts."""
        with self.jobs() as known:
            return known[name]

    def names(self) -> list[str]:
        """The ids of all jobs."""
        with self.jobs() as known:
            return list(known)

    def add(self, *names: str, state: str = "PENDING", **values: Any) -> None:
        """Jobs that nobody submitted here."""
        fresh: dict[str, Any] = {"state": state, "reason": "None", "node": ""}
        fresh |= {"options": {}, "restarts": 0, "folder": "/"}
        fresh |= {"forgotten": False, "requeue": False}
        with self.jobs() as known:
            known.update({name: {**fresh, "pid": 0, **values} for name in names})

    def set_state(self, name: str, state: str, **values: Any) -> None:
        """What SLURM says of a job from now on; also `reason`, `node`."""
        with self.jobs() as known:
            known[name].update(state=state, **values)

    def forget(self, name: str) -> None:
        """The controller no longer knows a job; the accounting still does."""
        with self.jobs() as known:
            known[name]["forgotten"] = True

    def vanish(self, name: str) -> None:
        """Nobody knows a job any more."""
        with self.jobs() as known:
            known[name].update(forgotten=True, unaccounted=True)

    def calls(self) -> list[list[str]]:
        """Every call of a program so far: its name and arguments."""
        lines = (self.folder / "calls").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def count(self) -> Counter[str]:
        """Calls by program, without srun, which is part of a job."""
        return Counter(call[0] for call in self.calls() if call[0] != "srun")

    def close(self) -> None:
        """End what runs, by its process id."""
        with self.jobs() as known:
            runners = [job["pid"] for job in known.values() if job["pid"]]
            for job in known.values():
                job.update(state="CANCELLED", requeue=False)
        self.configure(kill_wait=1.0)
        end = time.monotonic() + 10
        while any(map(_alive, runners)) and time.monotonic() < end:
            time.sleep(0.02)
        for pid in filter(_alive, runners):
            os.killpg(pid, signal.SIGKILL)


def _alive(pid: int) -> bool:
    """Whether a process is there; a zombie that nobody reaps is not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"
