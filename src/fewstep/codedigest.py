"""A digest of the library code that a stage runs, for the params of its rule.

It covers the modules of fewstep that a stage's module imports, directly or not, as the
syntax tree tells. Comments, docstrings, layout and the time stamps of files do not
count, nor do modules that only speak to a person (`ASIDE`), so a `git checkout` reruns
nothing; an edited helper changes the digests of exactly the modules that depend on it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from fewstep._syntax import Syntax, read_module
from fewstep.errors import UserError
from fewstep.files import write_bytes

PACKAGE_ROOT = Path(__file__).parent

VERSIONED = {"torch": "torch", "torch_fidelity": "torch-fidelity"}
"""Imported name -> distribution whose version counts where the closure imports it."""


ASIDE = ("errors", "progress")
"""Modules of the package that decide what a person reads, and no result."""


def digest(*modules: str, package_root: Path = PACKAGE_ROOT) -> str:
    """16 hexadecimal digits that change when the code behind `modules` does.

    The files are read once a process (`forget` reads them again).

    Args:
        modules: dotted names, such as "fewstep.stages.sample".
        package_root: folder of the package that the names start with.

    Raises:
        UserError: for a module that does not exist or does not parse (file and line).
    """
    return _digest(_covered(modules, package_root))


def noted_digest(*modules: str, package_root: Path = PACKAGE_ROOT) -> str:
    """`digest`; what it covers is noted in the user's cache, for `parts_of`.

    Written once for a digest: later calls look whether the file is there.

    Raises:
        UserError: as `digest`.
    """
    covered = _covered(modules, package_root)
    name = _digest(covered)
    if not _note("digests", name).exists():
        package = _package(package_root)
        # Without a folder to write to, nobody can be told later what has changed.
        with contextlib.suppress(OSError, UserError):
            for module in covered.keys() & package.files.keys():
                note = _note("modules", covered[module][:16])
                if not note.exists():
                    write_bytes(note, _json(package.syntax(module).parts))
            short = {key: value[:16] for key, value in covered.items()}
            write_bytes(_note("digests", name), _json(short))
    return name


def parts_of(name: str) -> dict[str, dict[str, str]] | None:
    """What the digest `name` covers, from the notes of `noted_digest`.

    Returns:
        Module -> name in it -> hash (see `Syntax.parts`); a library outside the
        package has one part, "", with its version. None: no notes of this digest.
    """
    covered = _stored(_note("digests", name))
    found = {}
    for module, text in covered.items():
        parts = _stored(_note("modules", text))
        found[module] = parts or {"": str(text)}
    return found or None


def _digest(covered: dict[str, str]) -> str:
    lines = (f"{name} {value}" for name, value in covered.items())
    return _hash("\n".join(lines).encode())[:16]


def _covered(modules: tuple[str, ...], package_root: Path) -> dict[str, str]:
    """Module -> hash of its code, then library -> version."""
    package = _package(package_root)
    found: dict[str, str] = {}
    imports: set[str] = set()
    aside = {f"{package_root.name}.{name}" for name in ASIDE}
    for name in closure(*modules, package_root=package_root):
        if name in aside:
            continue
        syntax = package.syntax(name)
        found[name] = syntax.code
        imports |= {target.partition(".")[0] for target in syntax.imports}
    for name in sorted(VERSIONED.keys() & imports):
        found[name] = _version(VERSIONED[name])
    return found


def closure(*modules: str, package_root: Path = PACKAGE_ROOT) -> list[str]:
    """The modules of the package that run when `modules` do, sorted by name.

    Imports at any depth count, as do the packages around each module. Not followed:
    what stands under `if TYPE_CHECKING:`, and names that are put together at run time.

    Raises:
        UserError: as `digest`.
    """
    package = _package(package_root)
    found: set[str] = set()
    waiting: list[str] = []
    for name in modules:
        package.syntax(name)  # only here is a name that is no module an error
        waiting += package.modules_of(name)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            for target in package.syntax(name).imports:
                waiting += package.modules_of(target)
    package.remember()
    return sorted(found)


def forget() -> None:
    """Read the files anew at the next call."""
    _package.cache_clear()


class _Package:
    """The modules of one package; in `Syntax.code` stands the hash of the code.

    Parsing 20,000 lines takes half a second, which every process of a workflow would
    pay. So the result is kept in the user's cache folder, by the hash of the source:
    nothing in it can be out of date.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = dict(_modules(root))
        self.known: dict[str, Syntax] = {}
        self.store = _cache_file(root)
        self.stored = _stored(self.store)
        self.fresh: dict[str, Any] = {}

    def syntax(self, name: str) -> Syntax:
        """What is known of a module."""
        if name not in self.known:
            self.known[name] = self._read(name)
        return self.known[name]

    def _read(self, name: str) -> Syntax:
        if name not in self.files:
            raise UserError(
                f"module {name!r} not found",
                where=str(self.root),
                expected=f"a module of the package {self.root.name}",
            )
        path = self.files[name]
        source = path.read_bytes()
        key = f"{name} {_hash(source)}"
        # An entry of another shape is as good as none.
        with contextlib.suppress(KeyError, TypeError):
            entry = self.stored[key]
            code, imports = str(entry["code"]), tuple(entry["imports"])
            return Syntax(code, imports, dict(entry["homes"]), dict(entry["parts"]))
        syntax = read_module(source, name, str(path))
        syntax = replace(syntax, code=_hash(syntax.code.encode()))
        self.fresh[key] = asdict(syntax)
        return syntax

    def modules_of(self, target: str) -> Iterator[str]:
        """The modules that run when the dotted name `target` is imported or used."""
        parent = ""
        for step in target.split("."):
            name = f"{parent}.{step}".lstrip(".")
            if name not in self.files:
                if parent:
                    yield from self._homes_of(parent, step)
                return
            yield name
            parent = name

    def _homes_of(self, package: str, name: str) -> Iterator[str]:
        """The modules from which a lazy package takes `name` (`*`: any name)."""
        for key, home in self.syntax(package).homes.items():
            if name in (key, "*"):
                yield from self.modules_of(home)

    def remember(self) -> None:
        """Store what was parsed, in place of earlier versions of those modules."""
        if not self.fresh:
            return
        current = self.files.keys() - {key.partition(" ")[0] for key in self.fresh}
        kept = {k: v for k, v in self.stored.items() if k.partition(" ")[0] in current}
        self.stored = {**kept, **self.fresh}
        self.fresh = {}
        # Without a folder to write to, the next process parses again; no harm done.
        with contextlib.suppress(OSError, UserError):
            write_bytes(self.store, _json(self.stored))


@cache
def _package(root: Path) -> _Package:
    return _Package(Path(root))


def _modules(root: Path) -> Iterator[tuple[str, Path]]:
    """Dotted name and file of every module below `root`."""
    for path in root.rglob("*.py"):
        inner = path.relative_to(root).with_suffix("").parts
        parts = inner[:-1] if inner[-1] == "__init__" else inner
        yield ".".join((root.name, *parts)), path


def _cache_file(root: Path) -> Path:
    """In the user's cache folder; another for each checkout, reader and Python."""
    reader = Path(__file__).with_name("_syntax.py").read_bytes()
    key = f"{root.resolve()} {sys.implementation.cache_tag} {_hash(reader)}"
    return cache_folder() / f"codedigest-{_hash(key.encode())[:16]}.json"


def _note(kind: str, name: str) -> Path:
    """Notes go by what they are of, so any number of checkouts shares them."""
    return cache_folder() / "code" / kind / f"{name}.json"


def cache_folder() -> Path:
    """The user's cache: `$XDG_CACHE_HOME/fewstep`, or `~/.cache/fewstep`."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "fewstep"


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _stored(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


@cache
def _version(distribution: str) -> str:
    """Version without the local part: 2.13.0+cpu is the 2.13.0 of the GPU machine."""
    try:
        return importlib.metadata.version(distribution).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
