"""Locks: our own on a file, and Snakemake's on a folder when its holder is dead.

Snakemake does not write down who holds its lock, so after kill -9 the same command is
refused until somebody says `--unlock`. Whether somebody holds it can be seen: no
process of this machine runs Snakemake in the folder.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psutil

from fewstep.errors import UserError

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Of some network file systems."""
_LOOK_AGAIN = 0.05
"""Seconds between two tries to take a lock."""


@contextmanager
def hold(path: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold a lock file as the only process; the kernel drops it when that dies.

    Args:
        path: the lock file. It stays: removing it would let two processes hold locks
            on two files of one name.
        waiting: called once with the holder, in words, when there is one to wait for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        told = False
        while not take(file.fileno()):
            if waiting is not None and not told:
                waiting(path.read_text(encoding="utf-8") or "another process")
                told = True
            time.sleep(_LOOK_AGAIN)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def take(descriptor: int) -> bool:
    """Take a file's lock if nobody holds it; whether this process may go on.

    Where the file system has no locks, it goes on without one and says so.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        warn_once(error.strerror)
    return True


@cache
def warn_once(reason: str) -> None:
    """Say, once a process and reason, that work goes on without a lock."""
    logging.getLogger(__name__).warning(
        "this file system has no locks (%s): run one Snakemake at a time here", reason
    )


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
