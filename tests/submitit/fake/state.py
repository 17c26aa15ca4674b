"""What the fake SLURM's programs and the tests share: a folder, `$FAKE_SLURM`.

`jobs.json` is what the controller knows, `config.json` how it behaves, `calls` has a
line a call. Only modules that start in milliseconds are imported.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STATE = Path(os.environ["FAKE_SLURM"])


class RefusedError(Exception):
    """What a program prints before it exits with 1."""


def settings() -> dict[str, Any]:
    """How the fake behaves at this moment."""
    found: dict[str, Any] = json.loads((STATE / "config.json").read_text())
    return found


@contextmanager
def jobs() -> Iterator[dict[str, dict[str, Any]]]:
    """All jobs by id; changes are kept. Programs and tests take turns."""
    with (STATE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = STATE / "jobs.json"
        before = path.read_text()
        known = json.loads(before)
        yield known
        after = json.dumps(known)
        if after != before:
            fresh = path.with_suffix(".new")
            fresh.write_text(after)
            fresh.replace(path)


def options_of(
    arguments: list[str], flags: str, long_flags: tuple[str, ...] = ()
) -> tuple[dict[str, str], list[str]]:
    """Options with values, and the words that are none.

    Args:
        arguments: of the command line.
        flags: letters of short options without a value.
        long_flags: names of long options without a value.
    """
    found: dict[str, str] = {}
    words: list[str] = []
    todo = list(arguments)
    while todo:
        word = todo.pop(0)
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            bare = name in long_flags or equals
            found[name] = value if bare else todo.pop(0)
        elif word.startswith("-") and len(word) > 1:
            letters = word[1:]
            while letters and letters[0] in flags:
                found[letters[0]] = ""
                letters = letters[1:]
            if letters:
                found[letters[0]] = letters[1:] or todo.pop(0)
        else:
            words.append(word)
    return found, words
