"""torch-fidelity imported on every build of torch, CPU-only ones included.

torch-fidelity imports torchvision, whose only wheels on PyPI are linked to CUDA. With a
CPU build of torch their compiled part cannot be loaded, and the import stops where
Python code refers to an operator of that part (pytorch/vision issue 9085). fewstep uses
none of those operators, so declaring the two names is enough.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import torch

_SYMPTOM = "operator torchvision::nms does not exist"
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

# A Library takes its declarations back when it is garbage-collected.
_declared: list[Any] = []


def import_torch_fidelity(module: str = "") -> Any:
    """Import torch-fidelity, or one of its modules such as "metric_kid".

    Only where torch has no CUDA *and* torchvision fails as described above are the
    missing operators declared; every other failure is passed on.
    """
    _import_torchvision()
    return import_module(f"torch_fidelity.{module}" if module else "torch_fidelity")


def _import_torchvision() -> None:
    try:
        import_module("torchvision")
    except RuntimeError as error:
        if torch.version.cuda is not None or _SYMPTOM not in str(error):
            raise
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        make_library: Any = torch.library.Library  # torch leaves it untyped
        library = make_library("torchvision", "FRAGMENT")
        for schema in _SCHEMAS:
            library.define(schema)
        _declared.append(library)
        import_module("torchvision")
