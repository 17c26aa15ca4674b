"""What is read from the logs of jobs: the last progress, and the end."""

from __future__ import annotations

from pathlib import Path

from fewstep.progress import Reading, last_lines, parse

_BLOCK = 4096


def progress(path: str, since: float) -> tuple[bool, Reading | None]:
    """Whether a log was written since a time, and the last progress in it.

    Args:
        path: the log.
        since: seconds since the epoch; what is older belongs to an earlier run.
    """
    try:
        # Some file systems keep whole seconds, and a node's clock is another one.
        if Path(path).stat().st_mtime < since - 2:
            return False, None
        lines = last_lines(path, _BLOCK)
    except OSError:
        return False, None
    for line in reversed(lines):
        reading = parse(line)
        if reading is not None:
            return True, reading
    return True, None


def tail(path: str, lines: int) -> list[str]:
    """The last lines of a log that are not blank; [] where there is none."""
    try:
        found = last_lines(path)
    except OSError:
        return []
    kept = [line for line in found if line.strip()]
    is_progress = [parse(line) is not None for line in kept]
    # Of progress the last state is enough.
    followed = [*is_progress, False][1:]
    pairs = zip(kept, is_progress, followed, strict=True)
    return [line for line, one, next_ in pairs if not (one and next_)][-lines:]
