"""The programs of the fake SLURM: `python -E -S commands.py squeue …`."""

from __future__ import annotations

import json
import re
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any

from node import below, run, send, srun, start_runner
from state import STATE, RefusedError, jobs, options_of, settings

LIVE = {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED"}
# The controller's words when it cannot be reached, as SLURM 22.05 prints them.
AWAY = {
    "sbatch": "sbatch: error: Batch job submission failed: ",
    "squeue": "slurm_load_jobs error: ",
    "sacct": "sacct: error: slurm_persist_conn_open_without_init: ",
    "scancel": "scancel: error: slurm_kill_job: ",
    "scontrol": "slurm_load_jobs error: ",
    "sinfo": "slurm_load_partitions: ",
}


# -- sbatch ----------------------------------------------------------------------


def sbatch(arguments: list[str], config: dict[str, Any]) -> None:
    """Queue a script; run it where the test wants that."""
    if config["refuse"]:
        raise RefusedError(
            f"sbatch: error: Batch job submission failed: {config['refuse']}"
        )
    _, (script, *_) = options_of(arguments, "HWQ", ("parsable", "hold", "wait"))
    text = Path(script).read_text()
    options = {
        (pair := line.removeprefix("#SBATCH --").partition("="))[0]: "".join(
            shlex.split(pair[2])
        )
        for line in text.splitlines()
        if line.startswith("#SBATCH --")
    }
    with jobs() as known:
        number = 1 + max((int(i.split("_")[0]) for i in known), default=16)
        (STATE / f"{number}.sh").write_text(text)
        fresh = [str(number)]
        if "array" in options:
            first, last = options["array"].partition("%")[0].split("-")
            fresh = [f"{number}_{k}" for k in range(int(first), int(last) + 1)]
        for name in fresh:
            known[name] = {
                "state": "PENDING",
                "reason": "Priority",
                "node": "",
                "options": options,
                "restarts": 0,
                "folder": str(Path.cwd()),
                "forgotten": False,
                "requeue": False,
                "pid": 0,
            }
    if config["run"]:
        for name in fresh:
            start_runner(name)
    sys.stdout.write(f"Submitted batch job {number}\n")


# -- what squeue and sacct show --------------------------------------------------


def squeue(arguments: list[str], config: dict[str, Any]) -> None:
    """Jobs that the controller remembers, in the format that is asked for."""
    long_flags = ("me", "array", "noheader", "array-unique", "all")
    options, _ = options_of(arguments, "hra", long_flags)
    wanted = options.get("states") or options.get("t") or ""
    states = None if wanted.lower() == "all" else set(wanted.upper().split(",")) - {""}
    ids = set((options.get("jobs") or options.get("j") or "").split(",")) - {""}
    with jobs() as known:
        rows = {
            name: job
            for name, job in known.items()
            if not job["forgotten"]
            and (states is None or job["state"] in (states or LIVE))
            and (not ids or {name, name.split("_")[0]} & ids)
        }
    if len(ids) == 1 and not rows:
        raise RefusedError("slurm_load_jobs error: Invalid job id specified")
    if not {"r", "array", "array-unique"} & set(options):
        rows = collapsed(rows)
    layout = options.get("o") or options.get("format") or "%i %P %j %u %t %M %D %R"
    if not {"h", "noheader"} & set(options):
        sys.stdout.write("HEADER\n")
    sys.stdout.writelines(
        shown(layout, fields_of(n, j)) + "\n" for n, j in rows.items()
    )


def collapsed(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Pending tasks of an array on one line, `12_[3-5,7]`."""
    found: dict[str, dict[str, Any]] = {}
    waiting: dict[str, list[int]] = {}
    for name, job in rows.items():
        number, _, task = name.partition("_")
        if task and job["state"] == "PENDING":
            waiting.setdefault(number, []).append(int(task))
        else:
            found[name] = job
    for number, tasks in waiting.items():
        spans: list[list[int]] = []
        for task in sorted(tasks):
            if spans and spans[-1][-1] == task - 1:
                spans[-1][1:] = [task]
            else:
                spans.append([task])
        text = ",".join("-".join(map(str, span)) for span in spans)
        found[f"{number}_[{text}%100]"] = rows[f"{number}_{tasks[0]}"]
    return found


def fields_of(name: str, job: dict[str, Any]) -> dict[str, str]:
    """Values by the letters of `squeue --format`."""
    options = job["options"]
    number, _, task = name.partition("_")
    reason = job["reason"] or "None"
    return {
        "i": name,
        "A": number,
        "F": number,
        "K": task or "N/A",
        "T": job["state"],
        "t": job["state"][:2],
        "r": reason,
        "N": job["node"],
        "R": job["node"] or f"({reason})",
        "B": job["node"],
        "j": options.get("job-name", "x"),
        "k": options.get("comment", "(null)"),
        "P": options.get("partition", "low"),
        "a": options.get("account", "(null)"),
        "u": "root",
        "U": "0",
        "D": "1",
        "C": "1",
        "M": "0:00",
        "l": "1:00",
        "Z": job["folder"],
        "V": "2026-01-01T00:00:00",
        "S": "N/A",
    }


def shown(layout: str, values: dict[str, str]) -> str:
    """`%i|%.10T` with values put in."""

    def value(match: re.Match[str]) -> str:
        right, width, letter = match.groups()
        text = values[letter]
        if width:
            text = text[: int(width)]
            text = text.rjust(int(width)) if right else text.ljust(int(width))
        return text

    return re.sub(r"%(\.?)(\d*)([A-Za-z])", value, layout)


def sacct(arguments: list[str], config: dict[str, Any]) -> None:
    """Jobs as the accounting has them, also those that the controller forgot."""
    if not config["accounting"]:
        raise RefusedError("Slurm accounting storage is disabled")
    long_flags = ("noheader", "allocations", "parsable2", "parsable", "duplicates")
    options, _ = options_of(arguments, "nXPpLaD", long_flags)
    ids = set((options.get("jobs") or options.get("j") or "").split(",")) - {""}
    names = (options.get("format") or options.get("o") or "JobID,State").split(",")
    with jobs() as known:
        rows = {
            name: job
            for name, job in known.items()
            if not job.get("unaccounted")
            and (not ids or {name, name.split("_")[0]} & ids)
        }
    if not {"n", "noheader"} & set(options):
        sys.stdout.write("|".join(names) + "\n")
    for name, job in rows.items():
        state = job.get("accounted") or job["state"]
        values = {
            "jobid": name,
            "state": state,
            "nodelist": job["node"] or "None assigned",
            "exitcode": "0:0",
            "reason": job["reason"],
            "comment": "",
            "jobname": job["options"].get("job-name", "x"),
            "jobidraw": name,
            "restarts": str(job["restarts"]),
            "derivedexitcode": "0:0",
        }
        sys.stdout.write("|".join(values[n.lower()] for n in names) + "\n")


# -- scancel, scontrol, sinfo ----------------------------------------------------


def scancel(arguments: list[str], config: dict[str, Any]) -> None:
    """Signal or end jobs; an id of an array means all its tasks."""
    flags = ("batch", "full", "quiet", "me", "verbose")
    options, words = options_of(arguments, "bfQv", flags)
    number = options.get("signal") or options.get("s")
    unknown = []
    for word in ",".join(words).split(","):
        with jobs() as known:
            hit = [n for n in known if word in {n, n.split("_")[0]}]
            for name in hit:
                job = known[name]
                if number and job["pid"]:
                    signalled = getattr(signal, "SIG" + number.removeprefix("SIG"))
                    # SLURM spares the batch script, the first below the runner.
                    send(below(job["pid"])[1:], signalled)
                elif not number and job["state"] in LIVE:
                    job.update(state="CANCELLED", reason="None")
        unknown += [word] if not hit else []
    if unknown:
        raise RefusedError(
            f"scancel: error: Kill job error on job id {unknown[0]}: "
            "Invalid job id specified"
        )


def scontrol(arguments: list[str], config: dict[str, Any]) -> None:
    """Requeue, release, ping, and what of `show` the plugin might ask for."""
    _, words = options_of(arguments, "oa", ("oneliner", "all"))
    if words[0] == "requeue":
        for name in words[1].split(","):
            requeue(name)
    elif words[0] in {"update", "release"}:
        pairs = dict(w.lower().split("=", 1) for w in words[1:] if "=" in w)
        name = pairs.get("jobid") or words[1]
        start_runner(name)
    elif words[0] == "ping":
        sys.stdout.write("Slurmctld(primary) at test is UP\n")
    elif words[:2] == ["show", "job"]:
        show_job(words[2])
    elif words[:2] == ["show", "config"]:
        kind = "slurmdbd" if config["accounting"] else "none"
        sys.stdout.write(f"AccountingStorageType   = accounting_storage/{kind}\n")
        sys.stdout.write("MinJobAge               = 300 sec\n")
    else:
        raise RefusedError(f"invalid entity: {' '.join(words)}")


def requeue(name: str) -> None:
    """Put a running job back into the queue, or one that has ended."""
    with jobs() as known:
        if name not in known:
            raise RefusedError(f"Invalid job id specified for job {name}")
        job = known[name]
        if job["pid"]:
            job.update(requeue=True, state="COMPLETING")
            return
        job.update(state="PENDING", reason="BeginTime", node="")
        job["restarts"] += 1


def show_job(name: str) -> None:
    """Some of a job's fields as `scontrol show job` prints them."""
    with jobs() as known:
        if name not in known or known[name]["forgotten"]:
            raise RefusedError("slurm_load_jobs error: Invalid job id specified")
        job = known[name]
    sys.stdout.write(
        f"JobId={name} JobName=x JobState={job['state']} Reason={job['reason']} "
        f"Requeue=1 Restarts={job['restarts']} NodeList={job['node']}\n"
    )


def sinfo(arguments: list[str], config: dict[str, Any]) -> None:
    """The partitions: name, time limit, which is the default."""
    options, _ = options_of(arguments, "hsNa", ("noheader", "summarize", "Node", "all"))
    layout = options.get("o") or options.get("format") or "%P %l"
    if not {"h", "noheader"} & set(options):
        sys.stdout.write("HEADER\n")
    for place, (name, limit) in enumerate(config["partitions"].items()):
        star = "" if place else "*"
        values = {"P": name + star, "R": name, "l": limit, "a": "up", "D": "2"}
        values |= {"t": "idle", "c": "2", "m": "8000", "G": "gpu:2", "N": "n[1-2]"}
        sys.stdout.write(shown(layout, values) + "\n")


PROGRAMS = {
    "sbatch": sbatch,
    "srun": srun,
    "squeue": squeue,
    "sacct": sacct,
    "scancel": scancel,
    "scontrol": scontrol,
    "sinfo": sinfo,
}


def main(name: str, arguments: list[str]) -> int:
    """One program's call."""
    if name == "_run":
        run(arguments[0])
        return 0
    with (STATE / "calls").open("a") as calls:
        calls.write(json.dumps([name, *arguments]) + "\n")
    config = settings()
    time.sleep(config["slow"].get(name, 0))
    try:
        if name in config["away"]:
            raise RefusedError(AWAY[name] + config["away"][name])
        PROGRAMS[name](arguments, config)
        time.sleep(config["late"].get(name, 0))
        if name in config["lost"]:
            raise RefusedError(AWAY[name] + "Socket timed out on send/recv operation")
    except RefusedError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
