"""Stage: build a dataset."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fewstep.datasets import build_dataset


def build(spec: dict[str, Any], folder: Path) -> None:
    """Build `results/data/{dataset}/` from a resolved `DatasetSpec`."""
    build_dataset(SimpleNamespace(**spec), folder)
