"""Where lines go: a terminal with a live region below them, or a plain stream."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, TextIO

from fewstep.progress import WIDTH, bar, clock
from snakemake_logger_plugin_fewstep.board import Board, Job

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

_MINUTE = 60.0
_LOOK = 5.0
_NAMED = 3
_WIDE = 60
_ROOMY = 100
_STATE = 43
"""Columns of a running job's line besides its name and bar."""


class Display(Protocol):
    """What both forms can do.

    Attributes:
        shows_total: whether it shows all the time how many jobs are done.
    """

    shows_total: bool

    def begin(self) -> None:
        """Jobs run from now on; may be called again."""

    def say(self, text: str, style: str = "") -> None:
        """Lines that stay."""

    def close(self) -> None:
        """Nothing runs any more; the terminal is as it was."""


def open_display(stream: TextIO, board: Board, *, colour: bool) -> Display:
    """The live form on a terminal that can move its cursor, the plain one elsewhere."""
    if stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown"):
        return Terminal(stream, board, colour=colour)
    return Plain(stream, board)


def took(seconds: float) -> str:
    """A duration: seconds up to a minute, then m:ss."""
    return f"{seconds:.0f} s" if seconds < 59.5 else clock(seconds)


def total_of(board: Board) -> str:
    """Elapsed and remaining time, and how many failed."""
    left, failed = board.remaining(), len(board.failed())
    parts = [clock(board.elapsed())]
    parts += [f"about {clock(left)} left"] if left is not None else []
    parts += [f"{failed} failed"] if failed else []
    return ", ".join(parts)


class Plain:
    """Lines alone; after a silent minute one that names the running jobs.

    Args:
        stream: where to.
        board: the run.
        every: seconds of silence before a line on what runs.
    """

    shows_total = False

    def __init__(self, stream: TextIO, board: Board, every: float = _MINUTE) -> None:
        self._stream, self._board, self._every = stream, board, every
        self._said = time.monotonic()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._gone = False

    def begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._tell, daemon=True)
            self._thread.start()

    def say(self, text: str, style: str = "") -> None:
        del style
        self._said = time.monotonic()
        if self._gone:
            return
        try:
            self._stream.write(text + "\n")
            self._stream.flush()
        except BrokenPipeError:
            self._gone = True  # `| head` has seen enough; the jobs go on
            _mute(self._stream)

    def close(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _tell(self) -> None:
        while not self._over.wait(min(_LOOK, self._every)):
            line = self.now()  # also notes which of the waiting jobs have begun
            if line and time.monotonic() - self._said >= self._every:
                self.say(line)

    def now(self) -> str:
        """What runs, in one line; "" when nothing does."""
        jobs = self._board.running()
        active = [job for job in jobs if not job.waits]
        if not jobs:
            return ""
        named = [_brief(job) for job in active[:_NAMED]]
        more = len(active) - len(named)
        named += [f"{more} more"] if more else []
        waiting = len(jobs) - len(active)
        named += [f"{waiting} waiting"] if waiting else []
        board = self._board
        head = f"[{board.done}/{board.total}] {total_of(board)}; running: "
        return head + "; ".join(named)


def _mute(stream: TextIO) -> None:
    """Lead what goes to a broken pipe nowhere, also for processes that start later.

    A Snakemake that a `run:` job starts would wait for ever after its first word.
    """
    with suppress(OSError, ValueError):
        broken = os.fstat(stream.fileno())
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for number in {1, 2, stream.fileno()}:
            with suppress(OSError):
                if os.path.samestat(os.fstat(number), broken):
                    os.dup2(nowhere, number)
        os.close(nowhere)


def _brief(job: Job) -> str:
    """A running job in a few words."""
    reading = job.reading
    if reading is None:
        return f"{job.what} {clock(job.seconds)}"
    left = f" ({job.left})" if job.left else ""
    return f"{job.what} {100 * reading.share:.0f} %{left}"


class Terminal:
    """A live region of a total and the running jobs, with lines above it.

    Args:
        stream: the terminal.
        board: the run.
        colour: whether to use colours.
    """

    shows_total = True

    def __init__(self, stream: TextIO, board: Board, *, colour: bool) -> None:
        from rich.console import Console
        from rich.live import Live

        self._board = board
        self._console = Console(
            file=stream, no_color=not colour, highlight=False, markup=False, emoji=False
        )
        self._live = Live(
            console=self._console,
            get_renderable=self._region,
            refresh_per_second=2,
            transient=True,
        )

    def begin(self) -> None:
        if not self._live.is_started:
            self._live.start()

    def say(self, text: str, style: str = "") -> None:
        self._console.print(text, style=style or None, soft_wrap=True)

    def close(self) -> None:
        self._live.stop()

    def _region(self) -> Group:
        from rich.console import Group

        width, height = self._console.size
        jobs = self._board.running()
        # A line stays free: a full region would scroll at every refresh.
        room = max(1, height - 3)
        shown = jobs if len(jobs) <= room else jobs[: room - 1]
        lines = [_line(job, width) for job in shown]
        hidden = len(jobs) - len(shown)
        if hidden:
            lines.append(_cut(f"  … and {hidden} more", width, "dim"))
        return Group(*lines, self._total(width))

    def _total(self, width: int) -> Text:
        board = self._board
        share = board.done / max(board.total, 1)
        text = f"{bar(share)}  {board.done}/{board.total} jobs  {total_of(board)}"
        return _cut(text, width, "bold")


def _line(job: Job, width: int) -> Text:
    """A running job: message, elapsed time, its bar."""
    from rich.cells import set_cell_size

    reading, filled = job.reading, WIDTH if width >= _ROOMY else WIDTH // 2
    if job.waits:
        state = "waiting"
    elif reading is None:
        state = ""
    else:
        share = f"{bar(reading.share, filled)}  {100 * reading.share:3.0f} %"
        state = f"{share}  {', '.join(filter(None, (job.rate, job.left)))}"
    name = set_cell_size(job.what, max(12, min(_WIDE, width - filled - _STATE)))
    return _cut(f"  {name}  {clock(job.seconds):>7}  {state}", width)


def _cut(text: str, width: int, style: str = "") -> Text:
    """One line of a terminal, never two."""
    from rich.text import Text

    line = Text(text, style=style, no_wrap=True, overflow="ellipsis")
    line.truncate(max(1, width - 1), overflow="ellipsis")
    return line
