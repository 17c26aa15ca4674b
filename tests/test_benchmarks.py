"""The harness of benchmarks/: rivals in turn, rows by name, errors in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import common, rows

README = "# Numbers\n\n<!-- sums -->\nold\n<!-- end of sums -->\n\nAfter.\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose README has a place for the table of `sums`."""
    (tmp_path / "README.md").write_text(README)
    return tmp_path


def kept(folder: Path) -> list[common.Row]:
    """The rows of `sums`."""
    found: list[common.Row] = json.loads((folder / "sums.json").read_text())
    return found


def a_row(name: str, value: float = 1.0, **more: object) -> common.Row:
    """A row with all that a table needs."""
    made = common.row(name, value, "s", "the other", 2.0, **more)
    return {**made, "machine": "a machine", "date": "2026-01-01"}


def test_rivals_are_called_in_turn() -> None:
    """Each is called once before the clock, then all of a round before the next."""
    calls: list[str] = []
    clocks = common.race(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")},
        repeats=3,
        threads=1,
    )
    assert "".join(calls) == "ab" + "ababab"
    assert {name: len(clock.seconds) for name, clock in clocks.items()} == {
        "a": 3,
        "b": 3,
    }


def test_threads_are_put_back() -> None:
    """A race changes torch's threads while it runs, also where a rival fails."""
    import torch

    seen: list[int] = []
    common.race(
        {"a": lambda: seen.append(torch.get_num_threads())}, repeats=1, threads=2
    )
    assert seen == [2, 2]
    with pytest.raises(ZeroDivisionError):
        common.race({"a": lambda: 1 / 0}, repeats=1, threads=2)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(("threads", "unit"), [(1, "CPU s"), (2, "s")])
def test_one_thread_is_timed_by_the_processor(threads: int, unit: str) -> None:
    """A call that sleeps costs nothing on one thread, and its seconds on more."""
    import time

    (clock,) = common.race(
        {"sleep": lambda: time.sleep(0.05)}, repeats=1, threads=threads
    ).values()
    assert clock.unit == unit
    assert clock.wall >= 0.05
    assert clock.median == (clock.cpu if threads == 1 else clock.wall)


def test_memory_of_a_call() -> None:
    """What a call holds at its peak counts, what stood before does not."""
    stood = bytearray(64_000_000)
    clocks = common.race(
        {"nothing": lambda: None, "block": lambda: bytes(bytearray(48_000_000))},
        repeats=1,
        threads=1,
    )
    assert len(stood) == 64_000_000
    assert clocks["block"].memory_mb > 40
    assert clocks["nothing"].memory_mb < 20


def test_ratio_says_how_many_times_better() -> None:
    """Half of the partner's seconds are a ratio of two."""
    assert common.row("a", 1.5, "s", "the other", 3.0)["ratio"] == 2.0


def test_row_of_a_race() -> None:
    """Medians, the partner's in words, and the ratios of the rounds as its spread."""
    clocks = {
        "ours": common.Clock((1.0, 2.0, 4.0), "s", 1.0, 2.0, 7.0),
        "theirs": common.Clock((4.0, 4.0, 4.0), "s", 1.0, 4.0, 9.0),
    }
    row = common.versus("a", clocks, "ours", "theirs", error=0.12345)
    assert (row["value"], row["partner"], row["partner_value"]) == (2.0, "theirs", 4.0)
    assert (row["ratio"], row["spread"]) == (2.0, [1.0, 4.0])
    assert (row["memory_mb"], row["partner_memory_mb"]) == (7.0, 9.0)
    assert row["error"] == 0.1235  # four digits
    assert clocks["ours"].iqr == 1.5


def test_rows_are_merged_by_name_threads_and_device(folder: Path) -> None:
    """A new row replaces its older self alone, in its place."""
    common.write("sums", [a_row("a", threads=1), a_row("b", threads=1)], folder)
    new = [
        a_row("a", 4.0, threads=1),
        a_row("a", 5.0, threads=2),
        a_row("b", 6.0, threads=1, device="cuda"),
    ]
    common.write("sums", new, folder)
    assert [(row["name"], row["value"]) for row in kept(folder)] == [
        ("a", 4.0),
        ("b", 1.0),
        ("a", 5.0),
        ("b", 6.0),
    ]


def test_the_table_stands_between_its_marks(folder: Path) -> None:
    """The README keeps what is around; columns that no row fills are not drawn."""
    common.write("sums", [a_row("a", spread=[1.9, 2.1]), a_row("b")], folder)
    text = (folder / "README.md").read_text()
    assert text.startswith("# Numbers\n\n<!-- sums -->\n| name |")
    assert text.endswith("<!-- end of sums -->\n\nAfter.\n")
    assert "| a | 1 s | the other: 2 | 2× | 1.9–2.1 | 2026-01-01 |" in text
    assert "| b | 1 s | the other: 2 | 2× | – | 2026-01-01 |" in text
    assert "Machine: a machine." in text
    assert "old" not in text
    assert "error" not in text


def test_a_readme_without_marks_is_one_line(folder: Path) -> None:
    """Without a place for the table nothing is written, and a line says why."""
    with pytest.raises(SystemExit, match="there is no <!-- others -->") as caught:
        common.write("others", [a_row("a")], folder)
    assert "\n" not in str(caught.value)
    assert not (folder / "others.json").exists()


@pytest.mark.parametrize(
    "path", sorted(common.HERE.glob("*.json")), ids=lambda p: p.stem
)
def test_the_numbers_and_their_table_agree(path: Path) -> None:
    """The README's table of each program is the one that its numbers make."""
    start, end = common.marks(path.stem)
    text = (common.HERE / "README.md").read_text()
    shown = text.partition(start)[2].partition(end)[0].strip()
    assert shown == common.table(json.loads(path.read_text()))


def checkout(folder: Path, name: str = "shown_first", text: str = "X = 1\n") -> Path:
    """A folder with one module."""
    folder.mkdir()
    (folder / f"{name}.py").write_text(text)
    return folder


def test_an_unknown_checkout_is_one_line(tmp_path: Path) -> None:
    """A folder that lacks the program's file is told in one line."""
    with pytest.raises(SystemExit, match="has no model") as caught:
        common.original(tmp_path, "model.py")
    assert "\n" not in str(caught.value)


def test_a_checkout_without_git_has_a_digest(tmp_path: Path) -> None:
    """Where git knows no commit, the files' content says which version it is."""
    one = common.original(checkout(tmp_path / "one"), "shown_first.py")
    same = common.original(checkout(tmp_path / "same"), "shown_first.py")
    text = "X = 2\n"
    other = common.original(checkout(tmp_path / "two", text=text), "shown_first.py")
    assert one.version.startswith("files ")
    assert one.version == same.version != other.version


def test_a_module_comes_from_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its modules win over others of their names; afterwards it stands last."""
    monkeypatch.setattr(sys, "path", [str(checkout(tmp_path / "other")), *sys.path])
    folder = checkout(tmp_path / "mine", text="X = 'mine'\n")
    module = common.original(folder, "shown_first.py")("shown_first")
    monkeypatch.delitem(sys.modules, "shown_first")
    assert module.X == "mine"
    assert sys.path[-1] == str(folder)
    assert sys.path[0] == str(tmp_path / "other")


def test_a_module_of_another_place_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that was imported from elsewhere before is not the original's."""
    found = common.original(checkout(tmp_path / "mine", "json"), "json.py")
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit, match="json was imported from"):
        found("json")
    with pytest.raises(SystemExit, match="cannot import nothing_here"):
        found("nothing_here")


def test_a_part_that_needs_the_original_says_so() -> None:
    """Without --original the parts that time it end with one line."""
    import torch

    job = common.Job(None, 1, 3, torch.device("cpu"))
    with pytest.raises(SystemExit, match="give --original PATH"):
        job.original("anything")


def test_a_program_measures_its_parts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A part runs once for each number of threads; its rows say how to repeat them."""
    monkeypatch.setattr(sys, "argv", ["sums", "--threads", "2,1", "one"])
    monkeypatch.setenv("FEWSTEP_DEVICE", "cpu")

    def one(job: common.Job) -> list[common.Row]:
        return [common.row("a", job.threads, "s", "the other", job.repeats)]

    parts = {"one": one, "two": lambda _: [a_row("never")]}
    common.main("sums", "Sums.", parts, folder=folder)
    first, second = kept(folder)
    assert (first["threads"], second["threads"]) == (1, 2)
    assert (second["value"], second["partner_value"]) == (2, 3)
    assert first["command"] == "python benchmarks/sums.py one"
    assert second["command"] == "python benchmarks/sums.py --threads 2 one"
    assert {"machine", "date", "device", "simd"} <= set(first)
    assert "| a | 1 s | the other: 3 |" in capsys.readouterr().out


def test_all_threads_are_those_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """`all` is the number of cores that this process may use."""
    monkeypatch.setattr(common, "hardware", lambda: {"cores_allowed": 6})
    assert common._threads("1,all") == [1, 6]
    with pytest.raises(ValueError, match="0"):
        common._threads("0")


def test_the_machine_is_described() -> None:
    """Processor, load and the versions that were asked for."""
    import torch

    text = rows.machine(("torch",))
    assert f"torch {torch.__version__}" in text
    assert "load " in text


PROGRAMS = [p for p in common.HERE.glob("*.py") if "\n    main(" in p.read_text()]


@pytest.mark.slow
@pytest.mark.parametrize("program", sorted(PROGRAMS), ids=lambda p: p.stem)
def test_programs_start_as_scripts(program: Path) -> None:
    """Each program runs from its file and lists its parts."""
    done = subprocess.run(
        [sys.executable, str(program), "--help"],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    assert "parts: " in done.stdout
