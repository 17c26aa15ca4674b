"""A dataset's spec, as the builders take it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


def dataset_spec(**changes: Any) -> SimpleNamespace:
    """The digits under the name `tried`, changed by the keywords."""
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
