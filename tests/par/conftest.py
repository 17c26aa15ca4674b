"""Reader of the packed golden numbers of PAR and LlamaGen."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(__file__).parents[1] / "golden" / "par"


@cache
def _tensors() -> dict[str, Tensor]:
    return load_file(FOLDER / "tensors.safetensors")


@cache
def _cases() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / "cases.json").read_text())
    return content


def _filled(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"tensor", "dtype"}:
            return _tensors()[value["tensor"]].to(getattr(torch, value["dtype"]))
        return {key: _filled(part) for key, part in value.items()}
    return value


def load_case(name: str) -> dict[str, Any]:
    """A golden case by name, such as `generate_n4_grid8`."""
    case: dict[str, Any] = _filled(_cases()[name])
    return case


@pytest.fixture(scope="session")
def golden_par() -> Any:
    """Reader of golden cases by name."""
    return load_case
