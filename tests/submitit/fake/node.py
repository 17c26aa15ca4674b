"""A node of the fake SLURM: runs batch scripts, signals and ends their processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from state import STATE, jobs, settings


def start_runner(name: str) -> None:
    """A process of its own that runs a job to its end."""
    program = str(Path(__file__).with_name("commands.py"))
    subprocess.Popen(
        [sys.executable, "-E", "-S", program, "_run", name],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def run(name: str) -> None:
    """Run a job's script, as often as it is requeued."""
    while True:
        with jobs() as known:
            job = known[name]
            if job["state"] != "PENDING":
                return
            restarts = job["restarts"]
            job.update(state="RUNNING", reason="None", node="n1", pid=os.getpid())
            job["requeue"] = False
        status = run_once(name, job, restarts)
        with jobs() as known:
            job = known[name]
            job["pid"] = 0
            if job["requeue"]:
                job.update(restarts=restarts + 1, state="PENDING", reason="BeginTime")
                job["node"] = ""
                if settings()["hold"]:
                    return
            elif job["state"] == "RUNNING":
                job["state"] = "FAILED" if status else "COMPLETED"
                job["reason"] = "NonZeroExitCode" if status else "None"
                return
            else:
                return


def run_once(name: str, job: dict[str, Any], restarts: int) -> int:
    """The batch script, killed when it outlives what ended it."""
    number, _, task = name.partition("_")
    output = Path(job["options"]["output"].replace("%j", name))
    output = Path(str(output).replace("%A_%a", name))
    output.parent.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "SLURM_JOB_ID": number,
        "SLURM_JOBID": number,
        "SLURM_NTASKS": "1",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_NODEID": "0",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_JOB_NODELIST": "n1",
        "FAKE_SLURM_JOB": name,
    }
    if restarts:
        environment["SLURM_RESTART_COUNT"] = str(restarts)
    if task:
        environment |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": task}
    with output.open("ab") as log:
        batch = subprocess.Popen(
            ["/bin/bash", str(STATE / f"{number}.sh")],
            cwd=job["folder"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        while batch.poll() is None:
            time.sleep(0.05)
            with jobs() as known:
                ended = known[name]["state"] != "RUNNING"
            if ended:
                end_steps(batch)
    return batch.returncode


def end_steps(batch: subprocess.Popen[bytes]) -> None:
    """As SLURM: CONT and TERM, then KILL after KillWait."""
    for number in (signal.SIGCONT, signal.SIGTERM):
        send(below(batch.pid), number)
    try:
        batch.wait(settings()["kill_wait"])
    except subprocess.TimeoutExpired:
        send([*below(batch.pid), batch.pid], signal.SIGKILL)


def below(root: int) -> list[int]:
    """Processes that descend from one."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        try:
            number = int(folder.name)
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue
        parents.setdefault(int(fields[1]), []).append(number)
    found, todo = [], [root]
    while todo:
        todo += (children := parents.get(todo.pop(), []))
        found += children
    return found


def send(pids: list[int], number: int) -> None:
    """Signal those that are still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def srun(arguments: list[str], config: dict[str, Any]) -> None:
    """Become the command, with its output appended to the file that was named."""
    todo = list(arguments)
    names: dict[str, str] = {}
    while todo and todo[0].startswith("-"):
        name, equals, value = todo.pop(0).lstrip("-").partition("=")
        if name in {"output", "error"} and not equals:
            value = todo.pop(0)
        names[name] = value
    job = os.environ["FAKE_SLURM_JOB"]
    for name, descriptor in (("output", 1), ("error", 2)):
        path = names.get(name) or names.get("output")
        if path:
            path = path.replace("%A_%a", job).replace("%j", job).replace("%t", "0")
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(handle, descriptor)
    os.execvp(todo[0], todo)
