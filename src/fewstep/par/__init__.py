"""PAR (arXiv 2412.15119): next-token image models that emit n tokens a step.

Names are loaded when they are used, so that the torch-free ones (`Schedule`) cost
nothing to whoever only reads a configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewstep._lazy import lazy

if TYPE_CHECKING:
    from fewstep.par.generation import generate
    from fewstep.par.model import Transformer
    from fewstep.par.schedule import Schedule
    from fewstep.par.tokenizer import VQModel

_HOMES = {
    "Schedule": "schedule",
    "Transformer": "model",
    "VQModel": "tokenizer",
    "generate": "generation",
}

__all__ = ["Schedule", "Transformer", "VQModel", "generate"]

__getattr__ = lazy(__name__, _HOMES)
