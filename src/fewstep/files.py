"""Files that appear whole: written beside, synced, renamed."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fewstep.errors import UserError


def _file_mode() -> int:
    """The mode that this process's umask gives to a new file."""
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


_MODE = _file_mode()
_SYSTEM = (Path("/dev"), Path("/proc"))
"""Folders whose links, such as /dev/stdout, are the system's."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path`; on success it is synced and renamed to `path`.

    The name ends in `.tmp` so that no reader's glob for the real ending finds it. On
    an exception nothing appears under `path` and the part is removed. A full disk is
    reported as a `UserError` that names the file.

    A device or a pipe cannot be replaced: there `path` itself is yielded, and written
    as it is.
    """
    path = Path(path)
    with _full_disk(path):
        if _is_stream(path):
            yield path
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            yield part
            with open(part, "rb") as file:
                os.fsync(file.fileno())
            os.chmod(part, _MODE)  # some writers make files that only their owner reads
            os.replace(part, path)
            _sync_folder(path.parent)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def _full_disk(path: Path) -> Iterator[None]:
    """Name the file when there is no space for it."""
    try:
        yield
    except OSError as error:
        if error.errno == 28:  # ENOSPC
            raise UserError(
                "the disk is full", where=str(path), do="free space and run again"
            ) from error
        raise


def _is_stream(path: Path) -> bool:
    """Whether a path is a device or a pipe, or leads to one: no file to replace.

    A link of the system's, such as /dev/stdout, is none either, even where it leads to
    a file: the rename would put a file in the link's place, for every process.
    """
    if path.is_symlink() and any(path.absolute().is_relative_to(s) for s in _SYSTEM):
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _sync_folder(folder: Path) -> None:
    """Make a rename itself durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with atomic_path(path) as part:
        part.write_bytes(data)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON; NaN and infinity are refused."""
    text = json.dumps(value, indent=2, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def read_json(path: str | Path) -> Any:
    """Read a JSON file; a missing or broken one is a `UserError` that names it."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise UserError("file not found", where=str(path)) from error
    except ValueError as error:
        raise UserError(
            f"not valid JSON ({error})", where=str(path), do="delete it and run again"
        ) from error


def sha256_file(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes.

    Raises:
        UserError: if there is no such file.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise UserError("file not found", where=str(path)) from error


def sha256_json(value: Any) -> str:
    """Hex SHA-256 of a JSON value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
