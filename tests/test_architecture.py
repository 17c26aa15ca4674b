"""Arrows between the rooms point one way: cli, api -> stages -> systems -> the rest."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import fewstep
from fewstep._syntax import read_module
from fewstep.codedigest import closure

PACKAGE = Path(fewstep.__file__).parent
PLUGIN = PACKAGE.parent / "snakemake_executor_plugin_submitit"
LOGGER = PACKAGE.parent / "snakemake_logger_plugin_fewstep"
SYSTEMS = {"tarflow", "seqrf", "par"}
HEAVY = {"torch", "torchvision", "torch_fidelity", "numpy", "pandas", "pyarrow", "PIL"}
AT_PARSE = {"errors", "files", "codedigest", "graph", "yamlpos", "config", "estimate"}
AT_PARSE |= {"progress", "forkserver"}
"""What the Snakefile imports."""
EXCEPTIONS = {
    ("fewstep.config.checks_tarflow", "fewstep.tarflow.strategy"),
    ("fewstep.config.checks_par", "fewstep.par.schedule"),
    ("fewstep.config.par", "fewstep.par.schedule"),
    ("fewstep.config.par", "fewstep.par.sizes"),
    ("fewstep.estimate.par", "fewstep.par.schedule"),
    ("fewstep.estimate.par", "fewstep.par.sizes"),
    ("fewstep.estimate.strategies", "fewstep.tarflow.strategy"),
}
"""What the configuration and the estimates ask of a system (no torch): whether the
paper's notation can be read, whether an order fits a grid, how large a named size is,
how many passes an image takes."""


def modules() -> dict[str, frozenset[str]]:
    """Every module of fewstep with the dotted names that it imports itself."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        found[name] = frozenset(read_module(path.read_bytes(), name, str(path)).imports)
    return found


MODULES = modules()


def room(name: str) -> str:
    """`tarflow` of `fewstep.tarflow.model`; "" for what is not of fewstep."""
    package, *inner = name.split(".")
    return inner[0] if package == "fewstep" and inner else ""


def arrows(name: str) -> set[tuple[str, str]]:
    """(room, imported name) of everything of fewstep that a module imports."""
    targets = {target for target in MODULES[name] if room(target)}
    allowed = {target for module, target in EXCEPTIONS if module == name}
    return {
        (room(target), target)
        for target in targets
        if not any(f"{target}.".startswith(f"{one}.") for one in allowed)
    }


@pytest.mark.parametrize("name", sorted(MODULES))
def test_arrows(name: str) -> None:
    """Shared parts import no system; systems no other one; stages neither top layer."""
    here = room(name)
    forbidden = {"api", "cli", "stages"} | SYSTEMS
    if here in SYSTEMS:
        forbidden -= {here}
    elif here in ("stages", "api"):
        forbidden -= SYSTEMS | {"stages", here}
    elif here in ("cli", "__main__"):
        forbidden = {"api"}
    assert {target for there, target in arrows(name) if there in forbidden} == set()


def test_exceptions_are_needed() -> None:
    """An exception that nobody uses any more is taken off the list."""
    for module, target in EXCEPTIONS:
        assert any(f"{name}.".startswith(f"{target}.") for name in MODULES[module])


@pytest.mark.parametrize("part", sorted(AT_PARSE & set(map(room, MODULES))))
def test_nothing_heavy_at_parse(part: str) -> None:
    """What the Snakefile imports, and all that this imports, is light."""
    for name in closure(*(name for name in MODULES if room(name) == part)):
        tops = {target.partition(".")[0] for target in MODULES[name]}
        assert tops & HEAVY == set(), name


def test_package_itself_imports_nothing() -> None:
    """`import fewstep.x` must not load the rest through the package's __init__."""
    assert closure("fewstep") == ["fewstep"]


def _functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_functions_fit_on_a_screen_and_files_in_a_head() -> None:
    """No function of the library has more than 60 lines, no file more than 400."""
    for path in [
        p for folder in (PACKAGE, PLUGIN, LOGGER) for p in folder.rglob("*.py")
    ]:
        assert len(path.read_text().splitlines()) <= 400, path
        for node in _functions(path):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 60, f"{path}:{node.lineno} {node.name}: {length} lines"


def test_every_test_says_what_it_pins() -> None:
    """Each test function has a docstring."""
    for path in Path(__file__).parent.rglob("test_*.py"):
        for node in _functions(path):
            if node.name.startswith("test_"):
                assert ast.get_docstring(node), f"{path}:{node.lineno} {node.name}"
