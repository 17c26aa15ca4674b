"""Stand-ins: random weights in the exact format of the published files.

What cannot be downloaded where the tests run is made on the fly, and goes the way of
the real file: checked, converted, loaded. A stand-in draws noise, not pictures.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep import files
from fewstep.errors import UserError
from fewstep.standins import layouts
from fewstep.standins.layouts import Entry
from fewstep.standins.published import (
    FULL,
    PUBLISHED,
    Inception,
    Scale,
    Statistics,
    Weights,
    Wrapper,
)
from fewstep.standins.statistics import write_adm, write_inception, write_state

__all__ = ["FULL", "PUBLISHED", "Scale", "Weights", "entries", "write"]

_LAYOUTS = {
    "tarflow": layouts.tarflow,
    "seqrf": layouts.flow,
    "par": layouts.transformer,
    "vq": layouts.tokenizer,
}
_FROZEN = "all_modules.0.W"
"""RectifiedFlow's Fourier matrix: a parameter without gradient, so without average."""
_STEPS = 300_000
_LR = 2e-4


def write(kind: str, path: str | Path, *, scale: Scale = FULL, seed: int = 0) -> None:
    """Write the stand-in of a published file.

    Args:
        kind: name of the asset in workflow/assets.yaml.
        path: the file; its folder is made.
        scale: how many layers and images; full: as published, gigabytes.
        seed: of the values.

    Raises:
        UserError: for a name that is none of a published file.
    """
    path, own = Path(path), PUBLISHED.get(kind)
    if own is None:
        raise UserError(
            f"no published file {kind!r}", expected=" or ".join(sorted(PUBLISHED))
        )
    if isinstance(own, Weights):
        state = _state_dict(entries(kind, scale), seed)
        with files.atomic_path(path) as part:
            torch.save(_wrapped(state, own.wrapper), part)
    elif isinstance(own, Statistics):
        write_state(path, own, seed)
    elif isinstance(own, Inception):
        write_inception(path, seed)
    else:
        images = own.images if scale.images is None else scale.images
        write_adm(path, own, images, seed)


def entries(kind: str, scale: Scale = FULL) -> list[Entry]:
    """The weights in a checkpoint, without their wrapper.

    Raises:
        UserError: for a name that is none of a checkpoint's.
    """
    own = PUBLISHED.get(kind)
    if not isinstance(own, Weights):
        known = [name for name, one in PUBLISHED.items() if isinstance(one, Weights)]
        raise UserError(
            f"no published checkpoint {kind!r}", expected=" or ".join(known)
        )
    return list(_LAYOUTS[own.layout](scale.of(own)))


def _state_dict(found: list[Entry], seed: int) -> OrderedDict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return OrderedDict((entry.name, _tensor(entry, generator)) for entry in found)


def _tensor(entry: Entry, generator: torch.Generator) -> Tensor:
    if entry.kind == "tril":
        return torch.ones(entry.shape).tril_()
    if entry.kind == "sigmas":  # no network of ours reads the table's own values
        return torch.from_numpy(np.geomspace(50, 0.01, entry.shape[0]))
    if not entry.std:
        return torch.full(entry.shape, entry.mean)
    values = torch.empty(entry.shape)
    return values.normal_(entry.mean, entry.std, generator=generator)


def _wrapped(state: OrderedDict[str, Tensor], wrapper: Wrapper) -> Mapping[str, Any]:
    if wrapper == "bare":
        return state
    if wrapper == "rectified-flow":
        return _rectified_flow(state)
    about = {"steps": _STEPS, "args": argparse.Namespace(lr=1e-4, epochs=300)}
    if wrapper == "model":
        return {"model": state, **about}
    weight = torch.zeros(64, 3, 4, 4)
    return {
        "model": state,
        "optimizer": _adam([state["quant_conv.weight"]]),
        "discriminator": {"main.0.weight": weight},
        "optimizer_disc": _adam([weight]),
        **about,
    }


def _rectified_flow(state: OrderedDict[str, Tensor]) -> dict[str, Any]:
    """Raw weights under DataParallel's prefix, their average as a list, Adam's state.

    The learning rate is a number of numpy's, which the warm-up left there.
    """
    numbered = list(enumerate(name for name in state if name != "sigmas"))
    trained = {i: state[name] for i, name in numbered if name != _FROZEN}
    optimizer = _adam(list(trained.values()))
    group = optimizer["param_groups"][0]
    group["params"], group["lr"] = [i for i, _ in numbered], np.float64(_LR)
    optimizer["state"] = dict(zip(trained, optimizer["state"].values(), strict=True))
    return {
        "optimizer": optimizer,
        "model": OrderedDict((f"module.{name}", own) for name, own in state.items()),
        "ema": {
            "decay": 0.999999,
            "num_updates": _STEPS,
            # Near the raw weights, but not they: which ones are taken can be told.
            "shadow_params": [0.99 * value for value in trained.values()],
        },
        "step": _STEPS,
    }


def _adam(parameters: list[Tensor]) -> dict[str, Any]:
    """The state of torch's Adam over some parameters."""
    state = {
        number: {
            "step": _STEPS,
            "exp_avg": torch.zeros_like(value),
            "exp_avg_sq": torch.full_like(value, 1e-8),
        }
        for number, value in enumerate(parameters)
    }
    group = {"lr": _LR, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0}
    return {
        "state": state,
        "param_groups": [{**group, "params": list(range(len(parameters)))}],
    }
