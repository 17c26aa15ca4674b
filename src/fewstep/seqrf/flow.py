"""A network together with what its weights were trained for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep import checkpoints
from fewstep.device.compiled import check_compiler, compiled
from fewstep.errors import UserError
from fewstep.seqrf.checkpoint import check_fits
from fewstep.seqrf.model import Architecture, NCSNpp
from fewstep.seqrf.segments import Segments, TimeFactor


@dataclass(frozen=True)
class Flow:
    """A network with what its weights were trained for.

    Attributes:
        model: on its device, in evaluation mode.
        segments: the time segments of its heads.
        time_factor: length of the path in time: "exact" 1, "released" 0.999.
    """

    model: NCSNpp
    segments: Segments
    time_factor: TimeFactor


def build_model(config: dict[str, Any], heads: int) -> NCSNpp:
    """A network with random weights from a resolved `FlowModelSpec`."""
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in config.items()
    }
    values["image_size"] = values.pop("img_size")
    return NCSNpp(Architecture(**values), heads)


def compile_network(model: NCSNpp) -> None:
    """Compile the network once for all segments and batches.

    The compiler puts channels last by itself where convolutions are faster so.

    Raises:
        UserError: where nothing can be compiled, see `check_compiler`.
    """
    check_compiler(model.sigmas.device)
    step = compiled(model.forward)

    def forward(x: Tensor, label: Tensor, index: int | Tensor | None = None) -> Tensor:
        # Else each of the first segments would be compiled by itself.
        if model.segments == 1:
            index = None
        elif not isinstance(index, Tensor):
            index = torch.full((len(x),), index or 0, device=x.device)
        velocity: Tensor = step(x, label, index)
        return velocity

    model.forward = forward  # type: ignore[method-assign]


def load_flow(
    config: dict[str, Any], heads: int, weights: str | Path, device: torch.device
) -> Flow:
    """A flow in evaluation mode from a `.safetensors` file of ours.

    Raises:
        UserError: when the weights do not fit the architecture or its heads, or the
            file does not say which time they were trained for.
    """
    model = build_model(config, heads)
    check_fits(model, checkpoints.read_state_dict(weights), str(weights))
    manifest = checkpoints.read_manifest(weights)
    for key in ("edges", "time_factor"):
        if key not in manifest:
            raise UserError(
                f"the file does not say its {key}",
                where=str(weights),
                expected="weights that this workflow wrote",
                do="start from the published training checkpoint (.pth)",
            )
    segments = Segments.of(heads, manifest["edges"])
    factor: TimeFactor = manifest["time_factor"]
    return Flow(model.to(device).eval(), segments, factor)
