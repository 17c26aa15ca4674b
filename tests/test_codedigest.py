"""Code digests: what changes them, and what does not."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from fewstep import codedigest
from fewstep._syntax import read_module
from fewstep.codedigest import ASIDE, closure, digest
from fewstep.errors import UserError

MakePackage = Callable[[dict[str, str]], Path]
STAGE, HELPER, CONSTANT, ALONE = (f"lib.{n}" for n in ("stage", "helper", "c", "alone"))
FILES = {
    "__init__.py": '"""A library."""\n',
    "stage.py": '''
        """A stage."""
        from lib.helper import scaled
        # a comment
        def run(x):
            """Run it."""
            return scaled(x)
        ''',
    "helper.py": """
        from . import c
        def scaled(x):
            return x * c.FACTOR
        """,
    "c.py": "FACTOR = 2\n",
    "alone.py": "import math\nX = math.pi\n",
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads what another one, or the user, has cached."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    codedigest.forget()


@pytest.fixture
def make(tmp_path: Path) -> MakePackage:
    """Writes the files of the package `lib` and returns its folder."""

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / "lib" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        codedigest.forget()
        return tmp_path / "lib"

    return write


def digests(root: Path) -> dict[str, str]:
    """The digest of each module of FILES."""
    names = (STAGE, HELPER, CONSTANT, ALONE)
    return {name: digest(name, package_root=root) for name in names}


def changed(root: Path, before: dict[str, str]) -> set[str]:
    """The modules whose digest is another one now."""
    after = digests(root)
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize(
    "helper",
    [
        "from . import c\n# note\ndef scaled(x):\n    return x * c.FACTOR\n",
        '"""D."""\nfrom . import c\ndef scaled(x):\n    "D."\n    return x * c.FACTOR',
        "from . import (\n  c,\n)\n\ndef scaled( x ):\n\n  return (x*c.FACTOR)  # y\n",
        "from . import c\ndef scaled(x):\n    pass\n    'n'\n    return x * c.FACTOR",
    ],
)
def test_text_without_effect(make: MakePackage, helper: str) -> None:
    """Comments, docstrings, layout and bare constants leave every digest alone."""
    before = digests(make(FILES))
    assert changed(make({"helper.py": helper}), before) == set()


def test_touched_file(make: MakePackage) -> None:
    """A new time stamp, which a git checkout sets, changes nothing."""
    root = make(FILES)
    before = digests(root)
    os.utime(root / "c.py", (0, 0))
    codedigest.forget()
    assert changed(root, before) == set()


def test_constant_two_imports_away(make: MakePackage) -> None:
    """An edited helper changes its dependents, however far, and nothing else."""
    before = digests(make(FILES))
    root = make({"c.py": "FACTOR = 3\n"})
    assert changed(root, before) == {STAGE, HELPER, CONSTANT}
    root = make({"c.py": "FACTOR = 2\n"})
    assert changed(root, before) == set()


@pytest.mark.parametrize("name", ASIDE)
def test_what_only_speaks_to_a_person_does_not_count(
    make: MakePackage, name: str
) -> None:
    """How a message or a progress line looks changes no digest."""
    stage = f"from lib import {name}\n"
    root = make({"__init__.py": "", "stage.py": stage, f"{name}.py": "FORM = 1\n"})
    before = digest("lib.stage", package_root=root)
    make({f"{name}.py": "FORM = 2\n"})
    assert digest("lib.stage", package_root=root) == before


def test_same_text_in_another_module(make: MakePackage) -> None:
    """The same code under another name is another digest."""
    root = make({**FILES, "c2.py": FILES["c.py"]})
    one, two = (digest(name, package_root=root) for name in (CONSTANT, "lib.c2"))
    assert one != two


@pytest.mark.parametrize(
    ("one", "other"),
    [("1", "1.0"), ("1", "True"), ("'a'", "b'a'"), ("'1'", "1"), ("0.1", "0.2")],
)
def test_constants_keep_their_type(make: MakePackage, one: str, other: str) -> None:
    """Equal-looking constants of different types are different code."""
    first = digest(CONSTANT, package_root=make({**FILES, "c.py": f"X = {one}"}))
    second = digest(CONSTANT, package_root=make({"c.py": f"X = {other}"}))
    assert first != second


@pytest.mark.parametrize(
    "statement",
    [
        "from lib.c import FACTOR",
        "from lib import c",
        "import lib.c",
        "import lib.c as k",
        "from .c import *",
        "from . import c as k",
        "def f():\n    from lib import c",
        "class A:\n    def f(self):\n        import lib.c",
        "try:\n    import lib.c\nexcept ImportError:\n    pass",
        "from importlib import import_module\nimport_module('lib.c')",
        "import importlib\ndef f():\n    return importlib.import_module('.c', 'lib')",
        "from importlib import import_module\nimport_module(f'lib.c' if x else y)",
        "from typing import TYPE_CHECKING\nif not TYPE_CHECKING:\n    import lib.c",
        "import typing\nif typing.TYPE_CHECKING:\n    X = 1\nelse:\n    import lib.c",
    ],
)
def test_imports_are_found(make: MakePackage, statement: str) -> None:
    """Every way to import a module, at any depth, makes it part of the closure."""
    root = make({**FILES, "user.py": statement})
    assert closure("lib.user", package_root=root) == ["lib", CONSTANT, "lib.user"]


@pytest.mark.parametrize(
    "test", ["TYPE_CHECKING", "typing.TYPE_CHECKING", "t.TYPE_CHECKING"]
)
def test_imports_for_type_checkers(make: MakePackage, test: str) -> None:
    """What only a type checker reads is neither followed nor hashed."""
    text = f"import typing, typing as t\nfrom typing import TYPE_CHECKING\nif {test}:\n"
    root = make({**FILES, "user.py": text + "    from lib import c\n"})
    before = digest("lib.user", package_root=root)
    assert closure("lib.user", package_root=root) == ["lib", "lib.user"]
    root = make({"user.py": text + "    from lib import alone\n"})
    assert digest("lib.user", package_root=root) == before


def test_relative_imports_and_packages_around(make: MakePackage) -> None:
    """Relative imports are resolved, and the packages around a module belong to it."""
    root = make(
        {
            **FILES,
            "sub/__init__.py": "from .near import Y",
            "sub/near.py": "Y = 1",
            "sub/deep/__init__.py": "",
            "sub/deep/leaf.py": "from ...c import FACTOR\nfrom ..other import Z",
            "sub/other.py": "Z = 1",
        }
    )
    assert closure("lib.sub.deep.leaf", package_root=root) == [
        *("lib", "lib.c", "lib.sub", "lib.sub.deep", "lib.sub.deep.leaf"),
        *("lib.sub.near", "lib.sub.other"),
    ]


def test_import_cycle(make: MakePackage) -> None:
    """Modules that import one another depend on one another."""
    root = make({**FILES, "c.py": "import lib.stage\nFACTOR = 2"})
    assert closure(CONSTANT, package_root=root) == ["lib", CONSTANT, HELPER, STAGE]
    before = digests(root)
    assert changed(make({"stage.py": "X = 1"}), before) == {STAGE, HELPER, CONSTANT}


LAZY = """
    from typing import TYPE_CHECKING
    if TYPE_CHECKING:
        from lib.lazy.one import One
        from lib.lazy.two import Two
    _HOMES = {"One": "one", "Two": "two"}
    __all__ = ["One", "Two"]
    def __getattr__(name):
        return find(name, _HOMES)
    """


@pytest.mark.parametrize(
    "use",
    [
        "from lib.lazy import One",
        "import lib.lazy\ndef f():\n    return lib.lazy.One()",
        "from lib import lazy\nX = lazy.One.field",
        "import lib.lazy as z\nX = [z.One for _ in ()]",
    ],
)
def test_names_of_a_lazy_package(make: MakePackage, use: str) -> None:
    """A name that a package loads when asked leads to the module that holds it."""
    lazy = {
        "lazy/__init__.py": LAZY,
        "lazy/one.py": "One = 1",
        "lazy/two.py": "Two = 2",
    }
    root = make({**FILES, **lazy, "user.py": use})
    expected = ["lib", "lib.lazy", "lib.lazy.one", "lib.user"]
    assert closure("lib.user", package_root=root) == expected
    before = digest("lib.user", package_root=root)
    more = LAZY.replace('"one", ', '"one", "Three": "two", ').replace(
        '["', '["Three", "'
    )
    root = make({"lazy/__init__.py": more})
    assert digest("lib.user", package_root=root) == before
    root = make({"lazy/one.py": "One = 2"})
    assert digest("lib.user", package_root=root) != before


def test_all_names_of_a_lazy_package(make: MakePackage) -> None:
    """`import *` from a lazy package loads every name."""
    lazy = {
        "lazy/__init__.py": LAZY,
        "lazy/one.py": "One = 1",
        "lazy/two.py": "Two = 2",
    }
    root = make({**FILES, **lazy, "user.py": "from lib.lazy import *"})
    assert "lib.lazy.two" in closure("lib.user", package_root=root)


def test_several_modules(make: MakePackage) -> None:
    """A digest of several modules covers all of them, in whatever order."""
    root = make(FILES)
    both = digest(STAGE, ALONE, package_root=root)
    assert both == digest(ALONE, STAGE, package_root=root)
    assert both not in (digest(STAGE, package_root=root),)
    assert len(both) == 16
    assert int(both, 16) >= 0


def test_torch_version_counts_where_torch_is_imported(
    make: MakePackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another torch changes what imports it, even far away; its build does not."""
    root = make({**FILES, "c.py": "def f():\n    import torch.nn as nn\nFACTOR = 2"})
    version = {"torch": "2.13.0+cpu"}
    monkeypatch.setattr(codedigest.importlib.metadata, "version", version.get)
    codedigest._version.cache_clear()
    before = digests(root)
    for installed, expected in (("2.13.0+cu130", set()), ("2.14.0", {STAGE, HELPER})):
        version["torch"] = installed
        codedigest._version.cache_clear()
        assert changed(root, before) - {CONSTANT} == expected
    codedigest._version.cache_clear()


def test_torch_fidelity_version_counts(
    make: MakePackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scorer's version counts too, also where its module's name is put together."""
    text = (
        "import importlib as i\ndef f(x):\n    i.import_module(f'torch_fidelity.{x}')"
    )
    root = make({**FILES, "c.py": text})
    installed = {"torch-fidelity": "0.4.0"}
    monkeypatch.setattr(codedigest.importlib.metadata, "version", installed.get)
    codedigest._version.cache_clear()
    before = digests(root)
    codedigest._version.cache_clear()
    installed["torch-fidelity"] = "0.5.0"
    assert changed(root, before) == {STAGE, HELPER, CONSTANT}
    codedigest._version.cache_clear()


def test_syntax_error(make: MakePackage) -> None:
    """A module that does not parse is named with file and line."""
    root = make({**FILES, "c.py": "X = 1\ndef f(:\n"})
    with pytest.raises(UserError, match=r"lib/c\.py:2: does not parse \("):
        digest(STAGE, package_root=root)
    root = make({"c.py": "X = '\0'"})
    with pytest.raises(UserError, match=r"lib/c\.py.*does not parse"):
        digest(STAGE, package_root=root)


@pytest.mark.parametrize("name", ["lib.gone", "other.c", "", "lib.c.FACTOR"])
def test_unknown_module(make: MakePackage, name: str) -> None:
    """A misspelt module is an error, not an empty digest."""
    with pytest.raises(UserError, match="not found"):
        digest(name, package_root=make(FILES))


def test_result_is_remembered(
    make: MakePackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next process does not parse again what has not changed."""
    root = make(FILES)
    before = digests(root)
    parsed: list[str] = []

    def reader(source: bytes, name: str, path: str) -> object:
        parsed.append(name)
        return read_module(source, name, path)

    monkeypatch.setattr(codedigest, "read_module", reader)
    codedigest.forget()
    assert digests(root) == before
    assert parsed == []
    assert changed(make({"c.py": "FACTOR = 3"}), before) == {STAGE, HELPER, CONSTANT}
    assert parsed == [CONSTANT]


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"lib.c": 1}'])
def test_damaged_cache(make: MakePackage, tmp_path: Path, content: str) -> None:
    """A broken cache file is ignored and written anew."""
    root = make(FILES)
    before = digests(root)
    [store] = (tmp_path / "cache/fewstep").glob("codedigest-*.json")
    store.write_text(content)
    codedigest.forget()
    assert changed(root, before) == set()
    assert len(json.loads(store.read_text())) == len(FILES)


def test_damaged_cache_entries(make: MakePackage, tmp_path: Path) -> None:
    """An entry of another shape counts as none."""
    root = make(FILES)
    before = digests(root)
    [store] = (tmp_path / "cache/fewstep").glob("codedigest-*.json")
    for entry in (None, [], {}, {"code": 1, "imports": None}):
        broken = dict.fromkeys(json.loads(store.read_text()), entry)
        store.write_text(json.dumps(broken))
        codedigest.forget()
        assert changed(root, before) == set()


def test_no_place_for_the_cache(
    make: MakePackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing can be written, the digest is the same, only slower."""
    root = make(FILES)
    before = digests(root)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    codedigest.forget()
    assert changed(root, before) == set()


TRICKY = r"""
from __future__ import annotations
import a.b as c, d
def f(x: int, /, y=u"u", *, z=1.5, **k) -> str: ...
async def g(x):
    "Doc."
    async with x as y, z:
        yield f"{x!r:>{y}.2f} a{x=}" f'{"q"}' "b" "é\u2212\U0001f600" f"{x:{y}}"
    match x:
        case {"a": [1, *r]} | None: return -1, *r
    return lambda *p, q=...: (w := p[1:2, ::3])
class A(B, m=1):
    x: int = 0
    try: del x
    except* (E, F) as e: raise G from e
    else: pass
"""


def test_digest_does_not_depend_on_the_python_version(make: MakePackage) -> None:
    """One digest for all Pythons: this value was the same on 3.11, 3.12 and 3.13."""
    root = make({**FILES, "tricky.py": TRICKY})
    assert digest("lib.tricky", package_root=root) == "a556c8937e042176"


def test_fewstep_itself() -> None:
    """The real package: a helper belongs to what uses it, and torch to the flow."""
    assert "fewstep.noise" in closure("fewstep.data")
    assert "fewstep.config.load" not in closure("fewstep.config.spine")
    assert "fewstep.tarflow.model" not in closure("fewstep.tarflow.strategy")
    assert digest("fewstep.noise") == digest("fewstep.noise")


def test_the_top_package_s_front_door_does_not_count(make: MakePackage) -> None:
    """Names that the top package finds when they are used change no other module."""
    before = digests(make(FILES))
    door = """
        from __future__ import annotations
        from typing import TYPE_CHECKING, Any
        if TYPE_CHECKING:
            from lib.alone import X
        _HOMES = {"X": "alone"}
        __all__ = ["X"]
        def __getattr__(name: str) -> Any:
            from importlib import import_module
            return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        def __dir__() -> list[str]:
            return __all__
        """
    assert changed(make({"__init__.py": door}), before) == set()
    assert closure(STAGE, package_root=make({})) == ["lib", "lib.c", HELPER, STAGE]
    more = door.replace("def __dir__", "REAL = 1\n        def __dir__")
    assert changed(make({"__init__.py": more}), before) == set(before)


def test_parts_name_what_changed(make: MakePackage) -> None:
    """Functions, methods, classes and assigned names have a hash of their own."""
    text = """
        import math
        LIMIT = 3
        def one():
            return LIMIT
        class Two:
            size = 1
            def area(self):
                "Docstring."
                return math.pi
            def edge(self):
                return 1
        """
    stage = {**FILES, "stage.py": text}
    before = parts(make(stage))
    assert set(before) == {"", "LIMIT", "one", "Two", "Two.area", "Two.edge"}

    def differing(old: str, new: str) -> set[str]:
        after = parts(make({"stage.py": text.replace(old, new)}))
        return {
            k for k in before.keys() | after.keys() if before.get(k) != after.get(k)
        }

    assert differing("math.pi", "math.e") == {"Two.area"}
    assert differing("size = 1", "size = 2") == {"Two"}
    assert differing("LIMIT = 3", "LIMIT = 4") == {"LIMIT"}
    assert differing("def one", "def uno") == {"one", "uno"}
    assert differing("import math", "import math, sys") == {""}
    assert differing('"Docstring."', "# A comment.") == set()


def parts(root: Path) -> dict[str, str]:
    """The noted parts of the module `lib.stage`."""
    found = codedigest.parts_of(codedigest.noted_digest(STAGE, package_root=root))
    assert found is not None
    return found[STAGE]


def test_notes_are_of_the_digest(make: MakePackage) -> None:
    """A noted digest is the digest; the notes of an older one stay."""
    root = make(FILES)
    old = codedigest.noted_digest(STAGE, package_root=root)
    assert old == digest(STAGE, package_root=root)
    make({"c.py": "FACTOR = 3\n"})
    new = codedigest.noted_digest(STAGE, package_root=root)
    before, after = codedigest.parts_of(old), codedigest.parts_of(new)
    assert before is not None
    assert after is not None
    assert {name for name in after if after[name] != before[name]} == {CONSTANT}
    assert codedigest.parts_of("0" * 16) is None


def test_without_a_cache_nothing_is_noted(
    make: MakePackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that cannot be written to is no error, and the digest is the same."""
    root = make(FILES)
    expected = digest(STAGE, package_root=root)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    codedigest.forget()
    assert codedigest.noted_digest(STAGE, package_root=root) == expected
    assert codedigest.parts_of(expected) is None
