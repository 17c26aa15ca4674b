"""One module as its syntax tree tells: what it imports, and what it does.

What it does is written in a form of our own, for `fewstep.codedigest` to hash.
`ast.dump` changes with the Python version (3.12 added `type_params`, 3.13 leaves out
empty fields), and so does `ast.unparse` (quotes inside f-strings). Here empty and
absent fields are the same, fields without meaning are left out and the pieces of an
f-string are joined, so that Python versions from 3.11 on agree.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fewstep.errors import UserError

# `ctx` follows from the place; `kind` is the u of u"…"; `type_comment` is a comment.
_WITHOUT_MEANING = frozenset({"ctx", "kind", "type_comment", "type_ignores"})
_TABLES = frozenset({"_HOMES", "__all__"})
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Syntax:
    """What the code digest needs to know of one module."""

    code: str
    """The normalised syntax tree."""
    imports: tuple[str, ...]
    """Dotted names it may load, sorted: modules, or names in them (`*`: all)."""
    homes: dict[str, str]
    """Of a package that loads names when they are used: name -> full name in the
    module that holds it."""
    parts: dict[str, str]
    """Hash of each function, method (`Class.method`), class without its methods and
    assigned name, and of all other statements together (""); no digest is made of it,
    it tells what has changed."""


def read_module(source: bytes, name: str, path: str) -> Syntax:
    """Parse the module `name`.

    Raises:
        UserError: where the source is not valid Python; names file and line.
    """
    try:
        tree = ast.parse(source, path)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise UserError(
            f"does not parse ({getattr(error, 'msg', error)})",
            where=f"{path}:{line}" if line else path,
            expected="valid Python",
        ) from error
    is_package = path.endswith("__init__.py")
    homes = _homes(tree, name) if is_package else {}
    reader = _Reader(name if is_package else name.rpartition(".")[0])
    reader.block(tree.body)
    out: list[str] = []
    if homes:
        tree = _without_tables(tree)
        # It stands around every module, and nothing of what it finds is theirs.
        tree = _without_finders(tree) if "." not in name else tree
    _write(tree, out)
    names = tuple(sorted(reader.names()))
    return Syntax("".join(out), names, homes, _parts(tree.body))


class _Reader:
    """Collects the imports of a module whose package is `package`."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.targets: set[str] = set()
        self.bound: dict[str, str] = {}  # local name -> dotted name of an import
        self.chains: set[str] = set()  # dotted uses of names: `tarflow.reverse`

    def names(self) -> set[str]:
        """Imports, and uses of what was imported: `fewstep.tarflow.reverse`."""
        used = set()
        for chain in self.chains:
            first, _, rest = chain.partition(".")
            if first in self.bound:
                used.add(f"{self.bound[first]}.{rest}")
        return self.targets | used

    def block(self, nodes: Iterable[ast.stmt]) -> None:
        """Read statements."""
        for node in nodes:
            self.visit(node)

    def visit(self, node: ast.AST) -> None:
        """Read a node and what is in it."""
        if isinstance(node, ast.If):
            body, orelse = _branches(node)
            self.visit(node.test)
            self.block([*body, *orelse])
            return
        if isinstance(node, ast.Import):
            self._import(node)
        elif isinstance(node, ast.ImportFrom):
            self._import_from(node)
        elif isinstance(node, ast.Call):
            self._import_module(node)
        elif isinstance(node, ast.Attribute):
            self._chain(node)
        for child in ast.iter_child_nodes(node):
            self.visit(child)

    def _import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.targets.add(alias.name)
            local = alias.asname or alias.name.partition(".")[0]
            self.bound[local] = alias.name if alias.asname else local

    def _import_from(self, node: ast.ImportFrom) -> None:
        base = _absolute("." * node.level + (node.module or ""), self.package)
        for alias in node.names:
            self.targets.add(f"{base}.{alias.name}")
            self.bound[alias.asname or alias.name] = f"{base}.{alias.name}"

    def _import_module(self, node: ast.Call) -> None:
        """`import_module("a.b")`; of `f"a.{x}"`, which is put together, only `a`."""
        called = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if called not in ("import_module", "__import__") or not node.args:
            return
        name = node.args[0]
        for part in ast.walk(name):
            text = part.value if isinstance(part, ast.Constant) else None
            if isinstance(text, str) and (part is name or text[:1] not in ("", ".")):
                self.targets.add(_absolute(text.rstrip("."), self.package))

    def _chain(self, node: ast.Attribute) -> None:
        names: list[str] = []
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            names.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            self.chains.add(".".join([inner.id, *reversed(names)]))


def _absolute(name: str, package: str) -> str:
    """`..a.b` inside a package, written in full."""
    inner = name.lstrip(".")
    level = len(name) - len(inner)
    if not level:
        return name
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - level + 1], *filter(None, [inner])])


def _branches(node: ast.If) -> tuple[list[ast.stmt], list[ast.stmt]]:
    """Body and else of an `if`, without the one that only type checkers read."""
    negated = isinstance(node.test, ast.UnaryOp) and isinstance(node.test.op, ast.Not)
    test = node.test.operand if isinstance(node.test, ast.UnaryOp) else node.test
    if getattr(test, "attr", getattr(test, "id", "")) != "TYPE_CHECKING":
        return node.body, node.orelse
    return (node.body, []) if negated else ([], node.orelse)


def _homes(tree: ast.Module, package: str) -> dict[str, str]:
    """The literal `_HOMES = {"Strategy": "strategy", ...}` of a lazy package."""
    return {
        key: f"{package}.{value}.{key}"
        for node in tree.body
        if isinstance(node, ast.Assign) and _assigned(node) == "_HOMES"
        for key, value in _texts(node.value)
    }


def _texts(node: ast.expr) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(value, ast.Constant):
                yield str(key.value), str(value.value)


def _assigned(node: ast.Assign) -> str:
    return str(getattr(node.targets[0], "id", ""))


def _without_tables(tree: ast.Module) -> ast.Module:
    """A lazy package does not change when it passes on one more name.

    Whoever uses a name depends on the module that holds it, not on the table.
    """
    body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.Assign) and _assigned(node) in _TABLES)
    ]
    return ast.Module(body=body, type_ignores=[])


def _without_finders(tree: ast.Module) -> ast.Module:
    """A package without what finds its names, and without what only types need."""
    body = [
        node
        for node in tree.body
        if not (
            _name(node) in ("__getattr__", "__dir__")
            or getattr(node, "module", "") in ("__future__", "typing")
            or (isinstance(node, ast.If) and not any(_branches(node)))
        )
    ]
    return ast.Module(body=body, type_ignores=[])


def _parts(body: list[ast.stmt], prefix: str = "") -> dict[str, str]:
    """Name -> hash of what bears the name; "" of what bears none."""
    texts: dict[str, list[str]] = {}
    inner: dict[str, str] = {}
    for node in body:
        if _no_effect(node):
            continue
        name, rest = _name(node), node
        if isinstance(node, ast.ClassDef) and not prefix:
            methods = [one for one in node.body if isinstance(one, _FUNCTIONS)]
            inner |= _parts(list(methods), f"{name}.")
            others = [one for one in node.body if not isinstance(one, _FUNCTIONS)]
            rest = _with_body(node, others)
        # A name may stand twice: an overload, a fallback.
        _write(rest, texts.setdefault(prefix + name if name else "", []))
    return inner | {
        name: hashlib.sha256("".join(text).encode()).hexdigest()[:16]
        for name, text in texts.items()
    }


def _name(node: ast.stmt) -> str:
    """The name that a statement defines; "": none, or several."""
    if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
        return node.name
    target = getattr(node, "target", None)
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
    return target.id if isinstance(target, ast.Name) else ""


def _with_body(node: ast.ClassDef, body: list[ast.stmt]) -> ast.ClassDef:
    """The class with another body."""
    fields = dict(ast.iter_fields(node))
    return ast.ClassDef(**{**fields, "body": body})


def _write(node: ast.AST, out: list[str]) -> None:
    """Append the tree as text, `Name(id='x')`, without what has no effect."""
    out += (type(node).__name__, "(")
    for field in node._fields:
        value = getattr(node, field, None)
        if value is None or value == [] or field in _WITHOUT_MEANING:
            continue
        if isinstance(value, ast.AST):
            out += (field, "=")
            _write(value, out)
        elif isinstance(value, list):
            items = _items(node, field, value)
            if not items:
                continue
            out += (field, "=[")
            for item in items:
                if isinstance(item, ast.AST):
                    _write(item, out)
                else:
                    out.append(ascii(item))
                out.append(",")
            out.append("]")
        else:
            # Not repr: what it escapes depends on Python's Unicode tables.
            out += (field, "=", ascii(value))
        out.append(",")
    out.append(")")


def _items(node: ast.AST, field: str, items: list[ast.AST]) -> list[ast.AST]:
    """The entries of a list that have an effect."""
    if isinstance(node, ast.If):
        items = list(_branches(node)[field == "orelse"])
    elif isinstance(node, ast.JoinedStr):
        return _joined(items)
    return [item for item in items if not _no_effect(item)]


def _no_effect(node: object) -> bool:
    """Docstrings and other constants that stand alone, and `pass`."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    return isinstance(node, ast.Pass)


def _joined(pieces: list[ast.AST]) -> list[ast.AST]:
    """Text in an f-string in one piece; Python 3.12 may add an empty one."""
    joined: list[ast.AST] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if not isinstance(piece, ast.Constant):
            joined.append(piece)
        elif isinstance(last, ast.Constant):
            joined[-1] = ast.Constant(str(last.value) + str(piece.value))
        elif piece.value:
            joined.append(piece)
    return joined
