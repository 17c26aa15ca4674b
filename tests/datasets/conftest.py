"""A dataset spec as the configuration resolves it, to be changed field by field."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

MakeSpec = Callable[..., SimpleNamespace]


@pytest.fixture
def make_spec() -> MakeSpec:
    """Return a function that makes a spec; keywords replace the defaults."""

    def make(**changes: Any) -> SimpleNamespace:
        defaults: dict[str, Any] = {
            "name": "tried",
            "source": "digits",
            "size": 8,
            "path": None,
            "count": None,
            "num_classes": 10,
            "sha256": None,
            "seed": 0,
            "options": {},
            "licence": "",
            "attribution": "",
            "notes": "",
        }
        return SimpleNamespace(**{**defaults, **changes})

    return make
