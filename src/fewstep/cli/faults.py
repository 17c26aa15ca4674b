"""Exceptions that are no bugs of fewstep, each as one line and an exit status."""

from __future__ import annotations

import errno
import traceback
from pathlib import Path

from fewstep.errors import UserError

FAILED = 1
TRY_AGAIN = 75
"""Exit status of a job that was told to stop and saved its state (EX_TEMPFAIL)."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_ADVICE = {
    errno.EACCES: "change its mode, or work in a folder of your own",
    errno.EPERM: "change its mode, or work in a folder of your own",
    errno.EROFS: "work in a folder that may be written",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EIO: "check the disk",
    errno.ESTALE: "the file server has restarted: run again",
}
_DAMAGED = {
    *("ArrowInvalid", "ArrowSerializationError", "SafetensorError", "BadZipFile"),
    *("UnpicklingError", "UnidentifiedImageError", "UnicodeDecodeError", "EOFError"),
}
"""By name: the classes live in modules that this one should not import."""


def told(error: BaseException) -> tuple[str, int] | None:
    """The line and the exit status for an exception; None: it is a bug."""
    name = type(error).__name__
    if isinstance(error, UserError):
        return str(error), FAILED
    if name == "PreemptedError":
        return f"{error}; the same command goes on", TRY_AGAIN
    if name == "OutOfMemoryError" or isinstance(error, MemoryError):
        first = str(error).strip().splitlines()[:1]
        return f"{first[0] if first else 'out of memory'}; use a smaller batch", FAILED
    if isinstance(error, OSError) and error.errno is not None:
        return _refused(error), FAILED
    if name in _DAMAGED:
        what = " ".join(str(error).split()) or name
        return f"a file is damaged ({what}), read in {_place(error)}; {_AGAIN}", FAILED
    return None


_AGAIN = "delete the job's inputs that are damaged and run again"


def _refused(error: OSError) -> str:
    """What the operating system said no to."""
    where = f"{error.filename}: " if error.filename is not None else ""
    if error.errno in _FULL:
        return f"{where}the disk is full; free space and run again"
    advice = _ADVICE.get(error.errno or 0)
    end = f"; {advice}" if advice else f" (in {_place(error)})"
    return f"{where}{(error.strerror or 'refused').lower()}{end}"


def _place(error: BaseException) -> str:
    """Where in fewstep it came up, for a report of it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/fewstep/" in frame.filename]
    if not own:
        return "fewstep"
    last = own[-1]
    return f"{Path(last.filename).name}:{last.lineno}"
