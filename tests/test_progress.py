"""Progress lines: what a log shows of a long loop, and what is read from it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewstep.progress import WIDTH, Progress, Reading, bar, clock, parse


class Clock:
    """A clock that a test sets forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def test_lines_have_a_bar_a_rate_and_the_remaining_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Resumed work counts as done, but not for the rate."""
    hands, lines = Clock(monkeypatch), list[str]()
    progress = Progress("work", 10, done=4, every=5, write=lines.append)
    for _ in range(6):
        hands.now += 2
        progress.advance(note="loss 0.5" if progress.done == 9 else "")
    assert lines == [
        "  work  ━━━━━━━━━━──────────   50 %  5/10  0.5/s, 0:10 left",
        "  work  ━━━━━━━━━━━━━━━━────   80 %  8/10  0.5/s, 0:04 left",
        "  work  ━━━━━━━━━━━━━━━━━━━━  100 %  10/10  0.5/s, done  loss 0.5",
    ]


def test_the_first_line_comes_early_and_the_others_rarely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After two seconds something is seen; from there on a line every ten."""
    hands, at = Clock(monkeypatch), list[float]()
    progress = Progress("work", 1000, write=lambda line: at.append(hands.now))
    for _ in range(400):
        hands.now += 0.1
        progress.advance()
    assert [round(second) for second in at] == [2, 12, 22, 32]


def test_a_short_loop_says_that_it_is_done_and_no_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What takes a second is one line on standard error."""
    hands = Clock(monkeypatch)
    progress = Progress("work", 4)
    for _ in range(4):
        hands.now += 0.2
        progress.advance()
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.rstrip().endswith("5/s, done")
    assert "\r" not in said.err


@given(
    total=st.integers(1, 10**9),
    share=st.floats(0, 1),
    label=st.sampled_from(["score cfg seed 2", "model, MB", "codes demo 1"]),
    note=st.sampled_from(["", "loss 0.3", "50 %  3/4"]),
)
def test_what_is_written_is_read_again(
    total: int, share: float, label: str, note: str
) -> None:
    """`parse` gives back label, units and state of every line."""
    lines: list[str] = []
    done = max(1, int(share * total))
    progress = Progress(label, total, every=0.0, write=lines.append)
    progress.due = 0.0
    progress.advance(done, note)
    reading = parse(lines[0])
    assert isinstance(reading, Reading)
    assert (reading.label, reading.done, reading.total) == (label, done, total)
    assert reading.share == done / total
    assert reading.state.endswith("done" if done == total else "left")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "fewstep: a.json: not valid JSON; delete it and run again",
        "  out of memory: batch halved to 8 samples",
        "  work  7/10 (70 %)  0.5/s, 0:06 left",
        "[3/7] 0:12; running: sample demo 50 % (0:03 left)",
    ],
)
def test_other_lines_are_no_progress(line: str) -> None:
    """Only the one form is taken for progress."""
    assert parse(line) is None


def test_a_bar_is_full_only_when_all_is_done() -> None:
    """Neither rounding nor a share out of range fills it early or overflows."""
    assert bar(0.999).count("━") == WIDTH - 1
    assert bar(1.0).count("━") == WIDTH
    assert [len(bar(share)) for share in (-1.0, 0.0, 0.5, 1.0, 7.0)] == [WIDTH] * 5


def test_durations_read_like_a_clock() -> None:
    """Minutes and seconds, hours where there are any, a question mark for never."""
    assert clock(3725) == "1:02:05"
    assert clock(59.6) == "1:00"
    assert clock(float("inf")) == "?"
