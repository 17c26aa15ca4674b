"""What the programs of this folder share: the clock, the rows, the table, the options.

A program is a table of parts; `main` reads the command line and keeps what they give:

    def for_(job: Job) -> list[Row]:
        model = job.original("GS_Jacobi_sampling").Model(...)
        clocks = job.race({"ours": lambda: ..., "original": lambda: ...})
        return [versus("tarflow_for_b16", clocks, "ours", "original", error=1e-6)]

    if __name__ == "__main__":
        main("tarflow", __doc__, {"for": for_}, marker="GS_Jacobi_sampling.py")

A ratio says how many times better the value is than its partner's: partner_value /
value, so 2 is twice as fast.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib
import shlex
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from benchmarks.clock import Clock, race
from benchmarks.rows import HERE, Row, machine, marks, row, table, versus, write

from fewstep.provenance import git_state, hardware

if TYPE_CHECKING:
    import torch

__all__ = [
    "HERE",
    "Clock",
    "Job",
    "Original",
    "Row",
    "machine",
    "main",
    "marks",
    "original",
    "race",
    "row",
    "table",
    "versus",
    "write",
]

REPEATS = 3


@dataclass(frozen=True)
class Original:
    """A checkout of an original program.

    Attributes:
        path: of the checkout.
        version: its commit, or a digest of its Python files where git knows none.
    """

    path: Path
    version: str

    def __call__(self, name: str) -> ModuleType:
        """A module of the checkout, whatever else on the path has its name.

        Raises:
            SystemExit: with a line, when it cannot be imported.
        """
        sys.path.insert(0, str(self.path))
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            sys.exit(f"{self.path}: cannot import {name}: {error}")
        finally:
            sys.path.remove(str(self.path))
            # For what its functions import when they are called.
            if str(self.path) not in sys.path:
                sys.path.append(str(self.path))
        home = Path(str(module.__file__)).resolve()
        if not home.is_relative_to(self.path):
            sys.exit(f"{self.path}: {name} was imported from {home} before")
        return module


def original(path: str | Path, marker: str) -> Original:
    """A checkout of an original program.

    Args:
        path: its folder.
        marker: a file that it must hold.

    Raises:
        SystemExit: with a line, when the file is not there.
    """
    folder = Path(path).resolve()
    if not (folder / marker).is_file():
        sys.exit(f"{path} is not a checkout of the original: it has no {marker}")
    state = git_state(folder)
    if state.commit:
        changed = " with changes" if state.dirty else ""
        return Original(folder, f"commit {state.commit[:7]}{changed}")
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(file.read_bytes())
    return Original(folder, f"files {digest.hexdigest()[:7]}")


@dataclass(frozen=True)
class Job:
    """What a part is told.

    Attributes:
        checkout: the original program, None where none was given.
        threads: of this run.
        repeats: timed calls of each rival.
        device: where the work is done.
    """

    checkout: Original | None
    threads: int
    repeats: int
    device: torch.device

    def original(self, name: str) -> ModuleType:
        """A module of the original program.

        Raises:
            SystemExit: with a line, when no checkout was given.
        """
        if self.checkout is None:
            sys.exit("this part times the original program: give --original PATH")
        return self.checkout(name)

    def race(
        self, calls: Mapping[str, Callable[[], object]], repeats: int | None = None
    ) -> dict[str, Clock]:
        """Time rivals in turn, on this job's threads and device."""
        return race(
            calls,
            repeats=repeats or self.repeats,
            threads=self.threads,
            device=self.device,
        )


Part = Callable[[Job], list[Row]]


def main(
    program: str,
    doc: str | None,
    parts: Mapping[str, Part],
    *,
    marker: str = "",
    default: Collection[str] | None = None,
    packages: Collection[str] = ("torch",),
    folder: Path = HERE,
) -> None:
    """Read the command line, run the parts, keep and print what they give.

    Args:
        program: its name: of the files that are written.
        doc: its docstring; the first line describes it.
        parts: what it can measure; each is called once for every number of threads.
        marker: a file of the original program; "" = the program takes no original.
        default: the parts that run when none is named (None: all).
        packages: whose versions stand in the rows.
        folder: where the rows are kept.
    """
    wanted = _arguments(program, doc, parts, bool(marker)).parse_args()
    import torch

    from fewstep.device import pick_device

    device = pick_device()
    job = Job(
        original(wanted.original, marker) if wanted.original else None,
        1,
        wanted.repeats,
        device,
    )
    before = torch.get_num_threads()
    for name in wanted.parts or list(parts if default is None else default):
        for threads in wanted.threads:
            torch.set_num_threads(threads)
            rows = parts[name](replace(job, threads=threads))
            torch.set_num_threads(before)
            for each in rows:
                each.setdefault("threads", threads)
                if job.checkout is not None:
                    each["original"] = job.checkout.version
                each["command"] = _command(program, wanted, name, threads)
                each.setdefault("machine", machine(packages, device))
                each["device"], each["simd"] = device.type, simd()
                each["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
            write(program, rows, folder)
            sys.stdout.write(table(rows) + "\n\n")
            sys.stdout.flush()


def simd() -> str:
    """The widest instructions that torch uses of this processor, such as AVX512.

    Ratios depend on them: AVX512 machines may multiply bfloat16, others do not.
    """
    import torch

    return torch.backends.cpu.get_cpu_capability()


def _arguments(
    program: str, doc: str | None, parts: Collection[str], takes_original: bool
) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python benchmarks/{program}.py", description=(doc or "").split("\n")[0]
    )
    parser.set_defaults(original=None)
    if takes_original:
        parser.add_argument(
            "--original", type=Path, help="a checkout of the original program"
        )
    parser.add_argument(
        "--threads",
        type=_threads,
        default=[1],
        metavar="1,all",
        help="numbers of CPU threads to measure with (default: 1)",
    )
    parser.add_argument(
        "--repeats", type=int, default=REPEATS, help="timed calls of each rival"
    )
    # argparse takes the empty list for a choice, too.
    choices: list[Any] = [[], *parts]
    parser.add_argument("parts", nargs="*", choices=choices, metavar="PART")
    parser.epilog = f"parts: {', '.join(parts)}"
    return parser


def _threads(text: str) -> list[int]:
    """`1,all` as numbers."""
    cores = hardware()["cores_allowed"] or 1
    found = [cores if word == "all" else int(word) for word in text.split(",")]
    if min(found) < 1:
        raise ValueError(text)
    return sorted(set(found))


def _command(program: str, wanted: argparse.Namespace, part: str, threads: int) -> str:
    """The command that measures a part again."""
    words = ["python", f"benchmarks/{program}.py"]
    if wanted.original:
        words += ["--original", str(wanted.original)]
    if threads != 1:
        words += ["--threads", str(threads)]
    if wanted.repeats != REPEATS:
        words += ["--repeats", str(wanted.repeats)]
    return shlex.join([*words, part])
