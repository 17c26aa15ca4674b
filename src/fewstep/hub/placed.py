"""Files placed by hand: whole, before their hash is recorded for good."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from fewstep.errors import UserError

_YOUNG = 10.0
"""Seconds since the last write within which a file may still be growing."""
PAUSE = 1.0
"""Seconds between two looks at such a file."""
_SHARE = 0.9
"""Of the planned size: a file that is smaller is taken for a part of it."""
_MB = 10**6


def check_whole(spec: dict[str, Any], expected_mb: int) -> None:
    """Refuse a file that looks like a part of one.

    Args:
        spec: resolved `AssetSpec` whose file is there.
        expected_mb: about how many 10^6 bytes it should have; 0: unknown.

    Raises:
        UserError: if it is much smaller, or grows.
    """
    path = Path(spec["path"])
    before = path.stat()
    if abs(time.time() - before.st_mtime) < _YOUNG:
        time.sleep(PAUSE)
        after = path.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise UserError(
                f"{path} is still being written",
                where=f"asset {spec['name']}",
                do="run again when it is whole",
            )
    if before.st_size < _SHARE * expected_mb * _MB:
        raise UserError(
            f"{path} has {before.st_size / _MB:,.0f} MB",
            where=f"asset {spec['name']}",
            expected=f"about {expected_mb:,} MB",
            do="copy it again; if it is whole, correct size_mb in the asset table",
        )
