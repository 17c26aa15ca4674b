"""Snakemake's lock on a folder, when the Snakemake that took it is dead.

Snakemake does not write down who holds its lock, so after kill -9 the same command is
refused until somebody says `--unlock`. Whether somebody holds it can be seen: no
process of this machine runs Snakemake in the folder.
"""

from __future__ import annotations

from pathlib import Path

import psutil

from fewstep.errors import UserError


def release_stale(folder: str | Path = ".") -> bool:
    """Remove the lock of a Snakemake that is no more.

    Only for folders in which all Snakemakes run on this machine.

    Args:
        folder: where Snakemake runs.

    Returns:
        whether there was one.

    Raises:
        UserError: when a Snakemake still runs there.
    """
    folder = Path(folder).resolve()
    locks = sorted((folder / ".snakemake" / "locks").glob("*.lock"))
    if not locks:
        return False
    alive = holders(folder)
    if alive:
        raise UserError(
            f"Snakemake is running here already (process {alive[0]})",
            where=str(folder),
            do="wait for it or end it, then run again",
        )
    for lock in locks:
        lock.unlink(missing_ok=True)
    return True


def holders(folder: Path) -> list[int]:
    """Processes of this machine that run Snakemake in the folder."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
        words = [Path(word).name for word in process.info["cmdline"] or ()]
        here = process.info["cwd"] == str(folder)
        if here and "snakemake" in words and "python" in words[0]:
            found.append(process.info["pid"])
    return sorted(found)
