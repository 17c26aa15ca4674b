"""From config.yaml to a checked `Config`, or one line that says what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fewstep.config.base import Name
from fewstep.config.checks import check_assets, check_config
from fewstep.config.data import AssetSpec
from fewstep.config.problems import Problem, from_pydantic, show
from fewstep.config.tree import Config
from fewstep.errors import UserError
from fewstep.yamlpos import Document, KeyPath, dotted, merged, read

ASSET_TABLE: TypeAdapter[dict[str, AssetSpec]] = TypeAdapter(dict[Name, AssetSpec])


def load_config(
    path: str | Path = "config.yaml",
    assets: str | Path | None = "workflow/assets.yaml",
    overrides: Mapping[str, Any] | None = None,
    root: str | Path = ".",
) -> Config:
    """Read, complete and check a configuration.

    Args:
        path: the configuration.
        assets: the asset table; None: no assets.
        overrides: nested keys laid over the file before it is checked, such as
            `{"experiments": {"afhq": {"sampling": {"guidance": 3.0}}}}`.
        root: folder that the paths in the configuration start from.

    Raises:
        UserError: for the first problem in the order of the file (syntax before types,
            types before numbers that do not fit together), with file, line and key
            path, and the number of further problems.
    """
    document = read(path)
    table = _read_assets(assets)
    overrides = overrides or {}
    _need_mapping(document, document.value)
    value = merged(document.value, overrides)
    try:
        config = Config.model_validate(value)
    except ValidationError as error:
        found = from_pydantic(error, value, Config.model_json_schema())
        raise _first(found, document, overrides) from error
    config = config.with_assets(table)
    problems = list(check_config(config, Path(root)))
    if problems:
        raise _first(problems, document, overrides)
    return config


def _read_assets(path: str | Path | None) -> dict[str, AssetSpec]:
    if path is None:
        return {}
    document = read(path)
    value = {} if document.value is None else document.value
    _need_mapping(document, value)
    try:
        table = ASSET_TABLE.validate_python(value)
    except ValidationError as error:
        found = from_pydantic(error, value, ASSET_TABLE.json_schema())
        raise _first(found, document, {}) from error
    problems = list(check_assets(table))
    if problems:
        raise _first(problems, document, {})
    return table


def _need_mapping(document: Document, value: Any) -> None:
    if not isinstance(value, Mapping):
        what = "the file is empty" if value is None else f"found {show(value)}"
        raise UserError(what, where=document.path, expected="a mapping (key: value)")


def _first(
    problems: Sequence[Problem], document: Document, overrides: Mapping[str, Any]
) -> UserError:
    """The problem that stands first, as an error that counts the others."""
    order = sorted(problems, key=lambda problem: document.position(problem.path))
    first = order[0]
    # One place may be told several times: by each branch of a union, or by each
    # experiment that takes it over with `<<`.
    others = {(document.position(p.path), p.what) for p in order}
    rest = f"(and {len(others) - 1} more)" if len(others) > 1 else ""
    alike = [p.expected for p in order if (p.path, p.what) == (first.path, first.what)]
    expected, do = " or ".join(dict.fromkeys(filter(None, alike))), first.do
    if do or not expected:
        do = f"{do} {rest}".strip()
    else:
        expected = f"{expected} {rest}".strip()
    return UserError(
        first.what,
        where=_where(first.path, document, overrides),
        expected=expected,
        do=do,
    )


def _where(path: KeyPath, document: Document, overrides: Mapping[str, Any]) -> str:
    """File and line, unless the value came from the overrides."""
    inner: Any = overrides
    for step in path:
        if not isinstance(inner, Mapping):
            break  # a scalar or list replaces all that lies below it
        if step not in inner:
            return document.where(path)
        inner = inner[step]
    if isinstance(inner, Mapping) and document.holds(path):
        return document.where(path)
    return f"override {dotted(path)}"
