"""Snakemake with the executor, as a user would start it, on a cluster of the tests."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_submitit.processes import die_with_parent
from tests.slurm.cluster import Cluster, wait_for

HERE = Path(__file__).parent
PATIENCE = 120.0
"""Seconds that any of a scenario's events may take; a tenth is usual."""
OPTIONS = (
    *("--executor", "submitit", "--jobs", "200", "--cores", "4"),
    *("--seconds-between-status-checks", "1", "--latency-wait", "5"),
    *("--nocolor", "--default-resources", "runtime=30", "mem_mb=200"),
)


class Run:
    """A Snakemake that runs, in a process group of its own."""

    def __init__(self, work: Work, command: Sequence[str], log: Path) -> None:
        self.work, self.log = work, log
        self.calls_file = log.with_suffix(".calls")
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command,
                cwd=work.folder,
                env={**work.environment, "SLURM_CALLS": str(self.calls_file)},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Nobody is left behind when the tests are killed.
                preexec_fn=die_with_parent,  # noqa: PLW1509
            )

    @property
    def text(self) -> str:
        """What it has printed by now."""
        return self.log.read_text(errors="replace")

    @property
    def calls(self) -> Counter[str]:
        """How often SLURM's commands were called by it and by its jobs."""
        if not self.calls_file.exists():
            return Counter()
        lines = self.calls_file.read_text().splitlines()
        return Counter(line.split()[0] for line in lines)

    def report(self) -> str:
        """All that helps to see why a test has failed."""
        logs = sorted(self.work.folder.glob("logs/submitit/**/*.log"))
        jobs = "".join(f"\n== {p}\n{p.read_text(errors='replace')}" for p in logs)
        return f"{self.text}\n{self.work.cluster.report()}{jobs}"

    def wait(self, seconds: float = PATIENCE) -> int:
        """Its exit status, once it has ended."""

        def ended() -> bool:
            return self.process.poll() is not None

        wait_for(ended, seconds, lambda: f"the end of Snakemake\n{self.report()}")
        return self.process.returncode

    def succeeds(self, seconds: float = PATIENCE) -> str:
        """What it printed, when it ends well."""
        assert self.wait(seconds) == 0, self.report()
        return self.text

    def fails(self, seconds: float = PATIENCE) -> str:
        """What it printed, when it ends with an error."""
        assert self.wait(seconds) != 0, self.report()
        return self.text

    def says(self, pattern: str, seconds: float = PATIENCE) -> re.Match[str]:
        """Wait for a text (a regular expression) in its output."""

        def said() -> re.Match[str] | None:
            found = re.search(pattern, self.text)
            if found is None and self.process.poll() is not None:
                found = re.search(pattern, self.text)
                assert found, f"ended without {pattern!r}\n{self.report()}"
            return found

        return wait_for(said, seconds, lambda: f"{pattern!r}\n{self.report()}")

    def job_id(self, rule: str = "steps") -> str:
        """The id of the first job of a rule, once it is submitted."""
        return self.says(rf"submitit: job \d+ \({rule}\) is slurm job (\w+),")[1]

    def looks_at_states(self) -> None:
        """Wait until it has asked for the jobs' states from now on."""
        count = self.calls["squeue"] + 2  # one may be under way, the next one is not

        def asked() -> bool:
            return self.calls["squeue"] >= count

        wait_for(asked, PATIENCE, lambda: f"two questions\n{self.report()}")

    @contextmanager
    def preempted(self, number: str) -> Iterator[None]:
        """Take both nodes for a job of higher priority; the other one has left them."""
        cluster = self.work.cluster
        before = cluster.job(number).restarts
        whole = ("-p", "high", "-N2", "--exclusive")
        rival = cluster.submit(*whole, command="sleep 600")
        cluster.wait_state(rival, "RUNNING")
        job = cluster.job(number)
        assert job.state in {"PENDING", "COMPLETING"}, self.report()
        assert job.restarts == before + 1, self.report()
        assert self.process.poll() is None, self.report()
        yield
        cluster.order("scancel", rival)

    def interrupt(self) -> None:
        """Ctrl-C: a terminal sends it to the whole group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL to Snakemake and what it has started here."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass
class Work:
    """A working folder with the scenarios' workflow.

    Attributes:
        folder: made if it is not there.
        cluster: where its jobs go.
        variables: added to the environment.
    """

    folder: Path
    cluster: Cluster
    variables: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._runs: list[Run] = []

    @property
    def environment(self) -> dict[str, str]:
        """Of Snakemake; its jobs inherit it."""
        return {
            **self.cluster.environment,
            "PYTHONWARNINGS": "ignore",
            "OMP_NUM_THREADS": "1",
            **self.variables,
        }

    def start(
        self, *arguments: str, config: Sequence[str] = (), options: Sequence[str] = ()
    ) -> Run:
        """Start Snakemake on the scenarios' workflow.

        Args:
            arguments: targets.
            config: further values, as `--config` takes them.
            options: further options.
        """
        command = [*self._snakemake(), *arguments, *OPTIONS, *options]
        return self.launch([*command, *self._values(), *config])

    def _snakemake(self) -> list[str]:
        workflow = str(HERE / "workflow.smk")
        return [sys.executable, "-m", "snakemake", "--snakefile", workflow]

    def _values(self) -> list[str]:
        program = f"program={HERE / 'steps.py'}"
        return ["--config", program, f"python={sys.executable}"]

    def launch(self, command: Sequence[str]) -> Run:
        """Start any command here; it is ended with the test at the latest."""
        run = Run(self, command, self.folder / f"run{len(self._runs)}.log")
        self._runs.append(run)
        return run

    def unlock(self) -> None:
        """What a user types after a kill -9."""
        command = [*self._snakemake(), "--unlock", "--cores", "1"]
        self.launch([*command, *self._values()]).succeeds()

    def close(self) -> None:
        """End what still runs."""
        for run in self._runs:
            run.kill()

    # -- what the program of `rule steps` has left ------------------------------

    def starts(self, name: str) -> list[dict[str, Any]]:
        """One entry a start of the program."""
        return [json.loads(line) for line in self._lines(name, "starts")]

    def steps(self, name: str) -> list[int]:
        """The steps that it has done, in order."""
        return [int(line) for line in self._lines(name, "steps")]

    def signals(self, name: str) -> list[str]:
        """Signals that made it save."""
        return self._lines(name, "signals")

    def at_the_gate(self, run: Run, *names: str) -> None:
        """Wait until the program of one of some jobs waits for `let_go`."""

        def there() -> bool:
            assert run.process.poll() is None, run.report()
            return any(len(self.steps(name)) >= 5 for name in names)

        wait_for(there, PATIENCE, lambda: f"{names} at the gate\n{run.report()}")

    def let_go(self, name: str) -> None:
        """Open the program's gate."""
        self._touch(name, "go")

    def hold(self, name: str) -> None:
        """Close its gate for later starts too."""
        self._touch(name, "hold")

    def _touch(self, name: str, file: str) -> None:
        path = self.folder / "work" / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def _lines(self, name: str, file: str) -> list[str]:
        path = self.folder / "work" / name / file
        return path.read_text().splitlines() if path.exists() else []
