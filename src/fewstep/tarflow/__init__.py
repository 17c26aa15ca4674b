"""TarFlow (arXiv 2412.06329) and its inversion by GS-Jacobi (arXiv 2505.12849).

Names are loaded when they are used, so that the torch-free ones (`Strategy`) cost
nothing to whoever only reads a configuration.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewstep.tarflow.inverse import Inversion, invert, reverse
    from fewstep.tarflow.metrics import BlockMetrics, block_metrics
    from fewstep.tarflow.model import FlowOutput, TarFlow
    from fewstep.tarflow.sampler import self_denoise
    from fewstep.tarflow.strategy import BlockPlan, Strategy

_HOMES = {
    "BlockMetrics": "metrics",
    "BlockPlan": "strategy",
    "FlowOutput": "model",
    "Inversion": "inverse",
    "Strategy": "strategy",
    "TarFlow": "model",
    "block_metrics": "metrics",
    "invert": "inverse",
    "reverse": "inverse",
    "self_denoise": "sampler",
}

__all__ = [
    "BlockMetrics",
    "BlockPlan",
    "FlowOutput",
    "Inversion",
    "Strategy",
    "TarFlow",
    "block_metrics",
    "invert",
    "reverse",
    "self_denoise",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
