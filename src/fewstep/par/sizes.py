"""LlamaGen's sizes (arXiv 2406.06525), which PAR took over (no torch here)."""

from __future__ import annotations

from collections.abc import Mapping

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
