"""What the smoke of a flow does in its own way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep import standins
from fewstep.seqrf.checkpoint import check_fits
from fewstep.seqrf.flow import build_model
from fewstep.stages.prepare_flow import prepare as convert
from fewstep.standins import Scale

_STEPS = 2


def prepare(spec: dict[str, Any], source: Path, out: Path) -> None:
    """The published file as safetensors."""
    convert(spec, source, None, out)


def companions(
    spec: dict[str, Any], scale: Scale, folder: Path, course: Any
) -> dict[str, Any]:
    """No other weights are needed."""
    del scale, folder, course
    return spec


def strategy(spec: dict[str, Any]) -> dict[str, Any]:
    """Two Euler steps."""
    return {
        "solver": "euler",
        "steps": _STEPS * spec["segments"],
        "tol": None,
        "error_norm": "sample",
        "mode": None,
        "segments": spec["segments"],
    }


def shortened(sampler: Any) -> Any:
    """The plan is short already."""
    return sampler


def shapes(spec: dict[str, Any], scale: Scale, count: int) -> Tensor:
    """One call of the network on images without values."""
    with torch.device("meta"):
        model = build_model(spec["model"], spec["segments"])
        found = {
            entry.name: torch.empty(entry.shape)
            for entry in standins.entries(spec["checkpoint"], scale)
        }
        check_fits(model, found, spec["checkpoint"])
        side = spec["model"]["img_size"]
        velocity: Tensor = model(torch.empty(count, 3, side, side), torch.empty(count))
    return velocity
