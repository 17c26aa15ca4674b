"""Whole Snakemakes on the fake SLURM: what is submitted, said, refused, taken over."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.submitit.fake_slurm import FakeSlurm, wait_for

pytestmark = pytest.mark.slow
PATIENCE = 120.0
Words = Sequence[str]
WORKFLOW = """
rule all:
    input: expand("out/{i}", i=range(int(config.get("count", 3))))

rule one:
    output: "out/{i}"
    params: text=config.get("text", "a")
    resources: **{"slurm_partition": "low"} | dict(config.get("ask", {}))
    shell: "echo {params.text} >> ran.{wildcards.i}; {config[line]}; touch {output}"
"""


class Folder:
    """A working folder with a workflow, and the Snakemakes in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "Snakefile").write_text(WORKFLOW)
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(
        self, *options: str, line: str = "true", config: Sequence[str] = ()
    ) -> None:
        """Start Snakemake in a process group of its own."""
        command = [
            *(sys.executable, "-m", "snakemake", "--executor", "submitit", "--nocolor"),
            *("--jobs", "100", "--seconds-between-status-checks", "1"),
            *("--latency-wait", "2", "--default-resources", "runtime=5"),
            *options,
            *("--config", f"line={line}", *config),
        ]
        with self.log.open("wb") as log:
            self.processes.append(
                subprocess.Popen(
                    command,
                    cwd=self.path,
                    env={**os.environ, "PYTHONWARNINGS": "ignore"},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    @property
    def log(self) -> Path:
        """Where the newest Snakemake prints."""
        return self.path / "snakemake.log"

    @property
    def text(self) -> str:
        """What it has printed."""
        return self.log.read_text()

    def says(self, pattern: str) -> re.Match[str]:
        """Wait for a text of it."""

        def said() -> re.Match[str] | None:
            found = re.search(pattern, self.text)
            assert found or self.processes[-1].poll() is None, self.text
            return found

        try:
            found = wait_for(said, PATIENCE, pattern)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.text}") from None
        assert isinstance(found, re.Match)
        return found

    def ends(self) -> int:
        """Its exit status."""
        try:
            return self.processes[-1].wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end\n{self.text}") from None

    def succeeds(
        self, *options: str, line: str = "true", config: Sequence[str] = ()
    ) -> str:
        """Run it to a good end; what it printed."""
        self.start(*options, line=line, config=config)
        assert self.ends() == 0, self.text
        return self.text

    def fails(
        self, *options: str, line: str = "true", config: Sequence[str] = ()
    ) -> str:
        """Run it to a bad end; what it printed."""
        self.start(*options, line=line, config=config)
        assert self.ends() != 0, self.text
        return self.text

    def kill(self) -> None:
        """kill -9, and then what a user types."""
        os.killpg(self.processes[-1].pid, signal.SIGKILL)
        self.processes[-1].wait()
        command = [sys.executable, "-m", "snakemake", "--unlock", "--cores", "1"]
        subprocess.run(
            [*command, "--config", "line=true"],
            cwd=self.path,
            check=True,
            capture_output=True,
        )

    def ran(self, number: int) -> str:
        """What a job has left of each of its runs."""
        path = self.path / f"ran.{number}"
        return path.read_text() if path.exists() else ""

    def notes(self) -> list[Path]:
        """Notes of jobs that have not ended."""
        return list((self.path / ".snakemake/submitit").glob("*.json"))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    """A working folder; what was started in it is ended."""
    place = Folder(tmp_path)
    yield place
    for process in place.processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_equal_jobs_are_one_submission(slurm: FakeSlurm, folder: Folder) -> None:
    """Two jobs, one sbatch; each message has its log, and the end the true costs."""
    slurm.configure(run=True)
    text = folder.succeeds(config=["count=2"])
    assert folder.ran(0) == folder.ran(1) == "a\n"
    found = re.findall(
        r"submitit: job \d+ \(one\) is slurm job (17_\d), log (\S+)", text
    )
    assert sorted(job for job, _ in found) == ["17_0", "17_1"]
    assert all((folder.path / log).is_file() for _, log in found)
    assert len({Path(log).parent for _, log in found}) == 2
    counted = slurm.count()
    assert counted["sbatch"] == 1
    closing = re.search(r"submitit: 2 jobs in 1 submissions; (.*)", text)
    assert closing
    for name in ("sbatch", "squeue", "sacct", "scancel", "sinfo"):
        assert f"{name} {counted[name]}" in closing[1]
    assert folder.notes() == []
    assert slurm.job("17_0")["options"]["partition"] == "low"


def test_arrays_have_a_greatest_size(slurm: FakeSlurm, folder: Folder) -> None:
    """`--submitit-array 2` makes three submissions of five jobs, 1 makes five."""
    slurm.configure(run=False)
    folder.start("--submitit-array", "2", config=["count=5"])
    wait_for(lambda: len(slurm.names()) == 5, PATIENCE, "five jobs")
    assert sorted(slurm.names()) == ["17_0", "17_1", "18_0", "18_1", "19"]
    assert slurm.count()["sbatch"] == 3


def test_a_failed_job_shows_its_status_log_and_last_lines(
    slurm: FakeSlurm, folder: Folder
) -> None:
    """The user need not look for anything."""
    slurm.configure(run=True)
    text = folder.fails(line="echo deep trouble; exit 3", config=["count=1"])
    assert re.search(r"slurm job 17 failed: exit status \d+", text)
    log = re.search(r"the end of (\S+\.log):", text)
    assert log
    assert (folder.path / log[1]).is_file()
    assert "    deep trouble" in text
    assert folder.notes() == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--set-resources", "one:gpu=1", "one:gres=gpu:1"],
            "rule one: resources.gpu: there are two ways",
        ),
        (
            ["--set-resources", "one:slurm_partition=hgih"],
            "rule one: partition hgih is not known to SLURM",
        ),
        (["--submitit-site", "cluster.yaml"], "cluster.yaml is missing"),
    ],
)
def test_nonsense_is_refused_before_anything_is_submitted(
    slurm: FakeSlurm, folder: Folder, options: list[str], words: str
) -> None:
    """One line for any number of jobs, and nothing in the queue."""
    text = folder.fails(*options, config=["count=3"])
    assert text.count(words) == 1, text
    assert "Traceback" not in text
    assert slurm.count()["sbatch"] == 0
    assert slurm.names() == []
    # The folder is free for the next try.
    assert not list((folder.path / ".snakemake/locks").glob("*"))


def test_a_refusal_of_sbatch_fails_the_job_with_its_words(
    slurm: FakeSlurm, folder: Folder
) -> None:
    """What only SLURM knows, such as an account, is told by SLURM."""
    slurm.configure(refuse="Invalid account or account/partition combination specified")
    text = folder.fails(config=["count=1"])
    assert "slurm did not take the job: " in text
    assert "Invalid account" in text
    assert "Traceback" not in text
    assert folder.notes() == []


def test_a_vanished_job_is_failed_and_the_others_go_on(
    slurm: FakeSlurm, folder: Folder
) -> None:
    """With `lost-after`, the reason, and --keep-going."""
    folder.start("--submitit-lost-after", "2", "--keep-going", config=["count=2"])
    wait_for(lambda: len(slurm.names()) == 2, PATIENCE, "two jobs")
    slurm.vanish("17_0")
    folder.says(r"slurm job 17_0 failed: SLURM no longer knows it")
    assert "slurm job 17_1 failed" not in folder.text
    slurm.set_state("17_1", "PENDING", reason="BadConstraints")
    folder.says(r"slurm job 17_1 failed: .*BadConstraints")
    assert folder.ends() != 0
    assert slurm.job("17_1")["state"] == "CANCELLED"


def test_ctrl_c_cancels_its_own_jobs_only(slurm: FakeSlurm, folder: Folder) -> None:
    """What another Snakemake has in the queue stays there."""
    slurm.add("16", state="PENDING", options={"comment": "submitit-0123456789ab"})
    folder.start(config=["count=3"])
    folder.says("is slurm job 17_2")
    os.killpg(folder.processes[-1].pid, signal.SIGINT)
    assert folder.ends() != 0
    with slurm.jobs() as known:
        states = {name: job["state"] for name, job in known.items()}
    assert states.pop("16") == "PENDING"
    assert set(states.values()) == {"CANCELLED"}
    assert len(states) == 3
    assert slurm.count()["scancel"] == 1
    # A job may save for a while after scancel: what is started again waits for it.
    notes = [json.loads(path.read_text()) for path in folder.notes()]
    assert [note["cancelled"] for note in notes] == [True] * 3


def test_jobs_of_a_killed_run_are_taken_over(slurm: FakeSlurm, folder: Folder) -> None:
    """A running one goes on, and is run once."""
    slurm.configure(run=True)
    wait = "while [ ! -e go ]; do sleep 0.1; done"
    folder.start(line=wait, config=["count=2"])
    wait_for(lambda: folder.ran(0) and folder.ran(1), PATIENCE, "two running jobs")
    folder.kill()
    assert len(folder.notes()) == 2
    folder.start("--rerun-incomplete", line=wait, config=["count=2"])
    for job in ("17_0", "17_1"):
        folder.says(
            rf"job \d+ \(one\) goes on as slurm job {job}, which an earlier run"
        )
    (folder.path / "go").touch()
    assert folder.ends() == 0, folder.text
    assert folder.ran(0) == folder.ran(1) == "a\n"
    assert slurm.count()["sbatch"] == 1
    assert folder.notes() == []


@pytest.mark.parametrize(
    ("options", "config", "words"),
    [
        ([], ["text=b"], "runs an older form of one: cancelled"),
        (["--submitit-on-restart", "cancel"], [], "belongs to an earlier run of one"),
    ],
)
def test_what_is_not_taken_over_is_cancelled(
    slurm: FakeSlurm,
    folder: Folder,
    options: list[str],
    config: list[str],
    words: str,
) -> None:
    """Changed params are other work; a setting cancels in any case."""
    folder.start(config=["count=1"])
    folder.says("is slurm job 17,")
    folder.kill()
    folder.start("--rerun-incomplete", *options, config=["count=1", *config])
    folder.says("is slurm job 18,")
    assert words in folder.text
    assert slurm.job("17")["state"] == "CANCELLED"
    # The old one might still be at its end: the new one waits for that.
    assert slurm.job("18")["options"]["dependency"] == "afterany:17"


def test_killed_while_sbatch_answers(slurm: FakeSlurm, folder: Folder) -> None:
    """The jobs are in the queue, and no note has their ids: they are run once."""
    slurm.configure(late={"sbatch": 600})
    folder.start(config=["count=2"])
    wait_for(lambda: len(slurm.names()) == 2, PATIENCE, "two jobs")
    folder.kill()
    slurm.configure(late={})
    folder.start("--rerun-incomplete", config=["count=2"])
    folder.says("is slurm job 18_1,")
    with slurm.jobs() as known:
        states = {name: job["state"] for name, job in known.items()}
    assert states["17_0"] == states["17_1"] == "CANCELLED"
    assert states["18_0"] == states["18_1"] == "PENDING"


def test_what_could_not_be_cancelled_is_found_again(
    slurm: FakeSlurm, folder: Folder
) -> None:
    """Ctrl-C while the controller is away: told, and taken over by the next run."""
    folder.start(config=["count=1"])
    folder.says("is slurm job 17,")
    slurm.go_away()
    os.killpg(folder.processes[-1].pid, signal.SIGINT)
    assert folder.ends() != 0
    assert "later: scancel 17" in folder.text
    slurm.come_back()
    folder.start("--rerun-incomplete", config=["count=1"])
    folder.says("goes on as slurm job 17,")
    assert slurm.names() == ["17"]
