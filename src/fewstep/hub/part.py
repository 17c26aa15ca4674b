"""The part of a file that has arrived, and what it is a part of."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fewstep import files
from fewstep.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT)


class Part:
    """A file that grows beside its place until it is whole.

    Beside it stands what it is the beginning of, written before its first byte: a
    process that is killed at any moment leaves a part that the next one can continue,
    and never one of another version.

    Args:
        target: the place of the whole file.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f".{target.name}.part")
        self.about = target.with_name(f".{target.name}.part.json")

    @property
    def size(self) -> int:
        """Bytes that have arrived."""
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def facts(self) -> dict[str, Any]:
        """home, version and total of what it is a part of; {} when that is unknown."""
        if not (self.path.exists() and self.about.exists()):
            return {}
        try:
            found = files.read_json(self.about)
        except UserError:
            return {}
        return found if isinstance(found, dict) else {}

    def begin(self, home: str, version: str | None, total: int | None) -> None:
        """Start anew, as the beginning of a file of `total` bytes.

        Raises:
            UserError: if the disk has no room for it.
        """
        self.remove()
        if version is not None:
            facts = {"home": home, "version": version, "total": total}
            files.write_json(self.about, facts)
        self.path.touch()

    def need_room(self, total: int | None) -> None:
        """Refuse to go on when the rest does not fit on the disk.

        Raises:
            UserError: with both numbers.
        """
        left = (total or 0) - self.size
        free = shutil.disk_usage(self.path.parent).free
        if left > free:
            raise UserError(
                f"{left / 1e6:,.0f} MB are to come and {free / 1e6:,.0f} MB are free",
                where=str(self.target.parent),
                do=f"free space and run again{self._kept()}",
            )

    @contextmanager
    def writing(self) -> Iterator[Callable[[bytes], None]]:
        """Write to the end, unbuffered: after a crash the size is the truth.

        Raises:
            UserError: for a full disk; what has arrived is kept.
        """
        try:
            with open(self.path, "ab", buffering=0) as file:

                def append(data: bytes) -> None:
                    left = memoryview(data)
                    while left:
                        left = left[file.write(left) :]

                yield append
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise UserError(
                "the disk is full",
                where=str(self.target.parent),
                do=f"free space and run again{self._kept()}",
            ) from error

    def _kept(self) -> str:
        if not self.size:
            return ""
        return f" ({self.size / 1e6:,.0f} MB that have arrived are kept in {self.path})"

    def finish(self) -> None:
        """Give the whole file its name."""
        with open(self.path, "rb") as file:
            os.fsync(file.fileno())
        os.replace(self.path, self.target)
        self.remove()

    def remove(self) -> None:
        """Forget what has arrived."""
        for path in (self.about, self.path):
            path.unlink(missing_ok=True)
