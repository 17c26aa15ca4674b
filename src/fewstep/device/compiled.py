"""torch's compiler, for the samplers that are asked to use it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from fewstep.device.backends import backend
from fewstep.errors import UserError

P = ParamSpec("P")
T = TypeVar("T")


def check_compiler(device: torch.device) -> None:
    """Refuse where nothing can be compiled.

    Raises:
        UserError: on a TPU, and on a CPU without a C++ compiler.
    """
    if backend(device).compiles_shapes:
        raise UserError(
            f"the {device.type} device compiles everything by itself",
            where="compile",
            expected="false",
        )
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise UserError(
            f"no C++ compiler {compiler!r}, which compiling for a CPU needs",
            where="compile",
            do="install one, name it in CXX, or set compile to false",
        )


def compiled(function: Callable[P, T]) -> Callable[P, T]:
    """The function, compiled once for all sizes, which are symbols."""
    from torch.fx.experimental import _config as symbolic

    # Else sizes that happen to be equal once are taken to be equal always, and every
    # coincidence is compiled anew until torch gives up and runs uncompiled.
    symbolic.use_duck_shape = False
    made: Callable[P, T] = torch.compile(function, dynamic=True)
    return made
