"""What a results table is made of: typed, described columns and a strict row check.

pyarrow turns 1.5 into the integer 1, ignores unknown keys and fills missing ones with
null, all in silence; so rows are checked here before pyarrow sees them.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np

Kind = Literal["text", "integer", "number", "flag", "time"]
Row = Mapping[str, Any]

_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        name: the column's name.
        kind: "text", "integer" (64 bit), "number" (float64), "flag" or "time" (text
            such as `2026-11-21T22:42:05Z`: it sorts, and no reader needs a time zone
            package for it).
        description: what it holds, with its unit; docs/outputs.md prints it.
        required: whether null is refused.
        choices: the allowed texts, empty for any.
        minimum: the least allowed value.
        finite: whether NaN and infinity are refused.
    """

    name: str
    kind: Kind
    description: str
    required: bool = False
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    finite: bool = True

    def check(self, value: Any) -> str | int | float | bool | None:
        """`value` as a plain Python value of this column's kind.

        Raises:
            ValueError: naming the column, when the value does not belong in it.
        """
        if value is None:
            if self.required:
                raise ValueError(f"column {self.name!r} must not be null")
            return None
        plain = _CHECKS[self.kind](value)
        if plain is None:
            raise ValueError(f"column {self.name!r} takes {self.kind}, not {value!r}")
        if self.choices and plain not in self.choices:
            known = ", ".join(self.choices)
            raise ValueError(f"column {self.name!r} is one of {known}, not {value!r}")
        if isinstance(plain, float) and self.finite and not math.isfinite(plain):
            raise ValueError(f"column {self.name!r} must be finite, not {value!r}")
        low = -math.inf if self.minimum is None else self.minimum
        # NaN compares false: it passes here where `finite` allows it.
        if not isinstance(plain, str) and plain < low:
            raise ValueError(f"column {self.name!r} is >= {low:g}, not {value!r}")
        return plain


@dataclass(frozen=True)
class Table:
    """A results table: its columns, its key and the rule that rows obey.

    Args:
        name: the file's stem: `evaluations` for `evaluations.parquet`.
        description: one sentence for the docs.
        columns: in file order. A column that is added later must not be required, for
            older files get null there.
        key: the columns that name a row; rows are sorted by them.
        version: raise it with every change of the columns.
        retired: columns of earlier versions that are dropped on reading.
        rule: a check across columns, raising ValueError.
    """

    name: str
    description: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    version: int = 1
    retired: tuple[str, ...] = ()
    rule: Callable[[Row], None] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names, in file order."""
        return tuple(column.name for column in self.columns)

    def new_row(self, **values: Any) -> dict[str, Any]:
        """A checked row; columns that are not given and not required become null."""
        absent = {c.name: None for c in self.columns if not c.required}
        return self.check({**absent, **values})

    def check(self, row: Row) -> dict[str, Any]:
        """`row` in column order with plain Python values.

        Raises:
            ValueError: naming the column: unknown, missing, of the wrong type, NaN or
                out of range; or for a row that breaks the table's rule.
        """
        for key in row:
            if key not in self.names:
                raise ValueError(
                    f"{self.name}: unknown column {key!r}{_nearest(key, self.names)}"
                )
        for name in self.names:
            if name not in row:
                raise ValueError(f"{self.name}: column {name!r} is missing")
        try:
            checked = {c.name: c.check(row[c.name]) for c in self.columns}
            if self.rule is not None:
                self.rule(checked)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        return checked


def text(name: str, description: str, *choices: str, required: bool = False) -> Column:
    """A text column."""
    return Column(name, "text", description, required, choices)


def integer(
    name: str, description: str, *, required: bool = False, minimum: float | None = 0
) -> Column:
    """An integer column, not negative unless said otherwise."""
    return Column(name, "integer", description, required, minimum=minimum)


def number(
    name: str,
    description: str,
    *,
    required: bool = False,
    minimum: float | None = 0,
    finite: bool = True,
) -> Column:
    """A float64 column, finite and not negative unless said otherwise."""
    return Column(name, "number", description, required, (), minimum, finite)


def flag(name: str, description: str, *, required: bool = False) -> Column:
    """A true-or-false column."""
    return Column(name, "flag", description, required)


def time(name: str, description: str, *, required: bool = False) -> Column:
    """A column of UTC times."""
    return Column(name, "time", description, required)


def _nearest(name: str, known: tuple[str, ...]) -> str:
    """A hint that names the known name nearest to `name`, if one is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool | np.bool_)


def _as_text(value: Any) -> str | None:
    return str(value) if isinstance(value, str) else None


def _as_integer(value: Any) -> int | None:
    is_one = isinstance(value, Integral) and not _is_flag(value)
    return int(value) if is_one and -(2**63) <= value < 2**63 else None


def _as_number(value: Any) -> float | None:
    is_one = isinstance(value, Real) and not _is_flag(value)
    return float(value) if is_one else None


def _as_flag(value: Any) -> bool | None:
    return bool(value) if _is_flag(value) else None


def _as_time(value: Any) -> str | None:
    return value if isinstance(value, str) and _UTC.fullmatch(value) else None


_CHECKS: dict[Kind, Callable[[Any], str | int | float | bool | None]] = {
    "text": _as_text,
    "integer": _as_integer,
    "number": _as_number,
    "flag": _as_flag,
    "time": _as_time,
}
