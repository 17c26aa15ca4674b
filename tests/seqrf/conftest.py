"""Reader of the packed golden numbers of SeqRF and RectifiedFlow."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(__file__).parents[1] / "golden" / "seqrf"
TINY_FLOW: dict[str, Any] = {
    "img_size": 8,
    "nf": 8,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [4],
    "init_scale": 1.0,
}
"""A network that moves from the first step on, as the configuration says it."""

CHECKPOINT = FOLDER / "rf_checkpoint_cifar_tiny_npscalar.pth"


def _name(tensor: Tensor) -> str:
    content = tensor.contiguous().numpy().tobytes() + str(tuple(tensor.shape)).encode()
    return hashlib.md5(content).hexdigest()[:10]


def _leaves(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [tensor for part in value for tensor in _leaves(part)]
    return []


@cache
def _tensors() -> dict[str, Tensor]:
    scalar = np._core.multiarray.scalar
    allowed = [(scalar, "numpy.core.multiarray.scalar"), np.dtype]
    with torch.serialization.safe_globals([*allowed, np.dtypes.Float64DType]):
        checkpoint = torch.load(CHECKPOINT, weights_only=True)
    shared = {_name(tensor): tensor for tensor in _leaves(checkpoint)}
    return {**shared, **load_file(FOLDER / "tensors.safetensors")}


@cache
def _cases() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / "cases.json").read_text())
    return content


def _filled(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"tensor"}:
            return _tensors()[value["tensor"]].clone()
        return {key: _filled(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_filled(part) for part in value]
    return value


def load_case(name: str) -> dict[str, Any]:
    """A golden case by name, such as `seqrf_euler_k3_N7`."""
    case: dict[str, Any] = _filled(_cases()[name])
    return case


@pytest.fixture(scope="session")
def golden_seqrf() -> Any:
    """Reader of golden cases by name."""
    return load_case


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Images, a teacher and its pairs on disk, which no test changes."""
    # Here: the world reads this file's constants.
    from tests.seqrf.world import World

    return World(tmp_path_factory.mktemp("world"))
