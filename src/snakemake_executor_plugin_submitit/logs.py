"""Where jobs write, what of it is shown, and when it is cleaned away."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Collection
from pathlib import Path

_SHOWN = 20
_BLOCK = 64 * 1024
MARK = ".submitit"
"""An empty file in each folder that the executor made."""
_DAY = 24 * 3600
# What a nested Snakemake says of itself rather than of the program that it ran.
_NOISE = re.compile(
    r"Shutting down|Exiting because a job execution failed|Complete log\(s\)|"
    r"Removing output files of failed job|At least one job did not complete|"
    r"Storing output in storage|Building DAG|Using shell|Provided (cores|remote)|"
    r"Rules claiming more threads|Select jobs|Execute \d+ jobs|Provided resources|"
    r"Assuming unrestricted shared|Job stats|(Workflow|CalledProcess)Error\b|"
    r"RuleException:|SNAKEMAKE$|=+$|Elapsed time: |"
    r"\[\w{3} \w{3} .\d \d\d:\d\d:\d\d \d{4}\]$|(local)?rule \w+:$|"
    r"  (Date|Workflow ID|Platform|Host|User|Snakemake version|Python version|Command|"
    r"Snakefile|Base directory|Run directory|Working directory|Config .*): |"
    r"    (input|output|log|benchmark|jobid|reason|wildcards|threads|priority|"
    r"resources): "
)
# Here it repeats the rule, which the main Snakemake shows too.
_REPORT = re.compile(r"Error in (rule|group) .*:$")


def job_folder(root: Path, rule: str, words: Collection[str], key: str) -> Path:
    """Folder of one job: ROOT/RULE/WILDCARDS-KEY."""
    text = re.sub(r"[^\w.=+-]+", "_", "-".join(words))[:60].strip("-_.")
    return root / rule / "-".join(part for part in (text, key[:8]) if part)


def tail(path: Path, lines: int = _SHOWN) -> list[str]:
    """The last lines of a log that say something; [] where there is none."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _BLOCK))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    # A progress bar rewrites its line: the last state of it is enough.
    found = [line.rstrip().rpartition("\r")[2] for line in text.split("\n")]
    ends = [i for i, line in enumerate(found) if _REPORT.match(line)]
    kept = found[: ends[-1]] if ends else found
    return [line for line in kept if line and not _NOISE.match(line)][-lines:]


def make(folder: Path) -> Path:
    """The folder, marked as one that `clean` may remove."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()
    return folder


def clean(root: Path, days: int, kept: Collection[Path]) -> int:
    """Remove folders of jobs whose newest file is older than `days`; how many.

    Only those that `make` made: the root may hold anything else.

    Args:
        root: the folder of all logs.
        days: 0 removes nothing.
        kept: folders of jobs that may still run.
    """
    if not days or not root.is_dir():
        return 0
    oldest = time.time() - days * _DAY
    safe = {path.resolve() for path in kept}
    removed = 0
    for mark in root.glob(f"*/*/{MARK}"):
        folder = mark.parent
        if folder.resolve() in safe:
            continue
        if _newest(folder, oldest) < oldest:
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
    return removed


def _newest(folder: Path, enough: float) -> float:
    """When something in a folder last changed, or a time from `enough` on."""
    try:
        # The folder alone tells of most that they are young, without a look inside.
        own = folder.stat().st_mtime
        if own >= enough:
            return own
        return max(path.lstat().st_mtime for path in folder.rglob("*"))
    except OSError:
        return enough  # somebody else is at it
