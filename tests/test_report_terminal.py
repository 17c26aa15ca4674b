"""The terminal's table of results."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from fewstep.errors import UserError
from fewstep.report import terminal_table
from tests import results_samples as samples


def printed(paths: list[Path], width: int = 80) -> str:
    """The terminal's table as text."""
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(terminal_table(paths))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_the_terminal_table_fits_80_columns(tmp_path: Path) -> None:
    """The demo's table stands in 80 columns, a line a sampler, nothing folded."""
    text = printed(samples.write_jsons(tmp_path, samples.evaluations()))
    assert "score: Fréchet distance (digits-classifier), lower is better" in text
    auto = next(line for line in text.splitlines() if " auto " in line)
    for words in ("demo", "12.50 ± 0.26", "18.1 ms", "1.48×", "5e-4", "[7-64-1-4]"):
        assert words in auto
    assert "speed: over “for” at batch 16" in text
    assert "in one job with its partner; times of two rows give no ratio" in text
    assert "published" not in text


def test_without_speeds_nothing_is_said_of_them(tmp_path: Path) -> None:
    """A table of cells that were timed alone has times and no word of ratios."""
    rows = [{**row, "baseline": None, "speedup": None} for row in samples.evaluations()]
    text = printed(samples.write_jsons(tmp_path, rows))
    assert "time: sampling one image" in text
    assert "speed" not in text


def test_the_terminal_table_shows_verdicts_and_failures(tmp_path: Path) -> None:
    """Published values come with their verdict; failed seeds are named below."""
    failed = samples.published(
        1, None, status="failed", error="4 NaN images", verdict=None
    )
    rows = [samples.published(0, 13.7), failed, *samples.evaluations()]
    text = printed(samples.write_jsons(tmp_path, rows), width=120)
    assert "13.73: matches" in text
    assert "afhq_gsj failed: seed 1: 4 NaN images" in text
    assert "FID and Fréchet distance (digits-classifier)" in text


def test_the_terminal_table_names_each_partner_when_they_differ(tmp_path: Path) -> None:
    """With two baselines each line names its own."""
    rows = samples.evaluations()
    rows[-1]["baseline"] = "other"
    for row in rows:
        if row["sampler"] == rows[-1]["sampler"]:
            row["baseline"] = "other"
    text = printed(samples.write_jsons(tmp_path, rows), width=120)
    assert "“for”" in text
    assert "“other”" in text
    with pytest.raises(UserError, match="file not found"):
        terminal_table([tmp_path / "none.json"])


def test_the_terminal_table_has_a_batch_column_when_they_differ(tmp_path: Path) -> None:
    """Times at different batch sizes each say theirs, in a column of its own."""
    rows = samples.evaluations()
    for row in rows:
        if row["sampler"] == rows[-1]["sampler"]:
            row["timing_batch"] = 4
    text = printed(samples.write_jsons(tmp_path, rows), width=120)
    assert " batch " in text
    assert "speed: over “for” at the same batch" in text
