"""LlamaGen's sizes (arXiv 2406.06525), which PAR took over (no torch here)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SIZES: Mapping[str, dict[str, int]] = {
    "B": {"n_layer": 12, "n_head": 12, "dim": 768},
    "L": {"n_layer": 24, "n_head": 16, "dim": 1024},
    "XL": {"n_layer": 36, "n_head": 20, "dim": 1280},
    "XXL": {"n_layer": 48, "n_head": 24, "dim": 1536},
    "XXXL": {"n_layer": 48, "n_head": 40, "dim": 2560},
    "1B": {"n_layer": 22, "n_head": 32, "dim": 2048},
    "3B": {"n_layer": 24, "n_head": 32, "dim": 3200},
    "7B": {"n_layer": 32, "n_head": 32, "dim": 4096},
}
"""Arguments of `Transformer` by the name of the size."""


def swiglu_width(dim: int, multiple_of: int = 256) -> int:
    """Hidden width: two thirds of 4 dim, rounded up to a multiple."""
    return -(-(8 * dim // 3) // multiple_of) * multiple_of


def parameters(model: Mapping[str, Any]) -> int:
    """Parameters of a `Transformer` with these arguments."""
    dim = model["dim"]
    hidden = swiglu_width(dim, model["multiple_of"])
    block = 4 * dim * dim + 3 * dim * hidden + 2 * dim
    # Codes come in and go out; classes and none; transition tokens; the last norm.
    rows = 2 * model["vocab_size"] + model["num_classes"] + 1 + model["ar_token_num"]
    return int(model["n_layer"] * block + rows * dim)
