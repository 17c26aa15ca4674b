"""What the smoke of a TarFlow does in its own way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep import standins
from fewstep.checkpoints import fitted
from fewstep.stages.prepare_tarflow import prepare as convert
from fewstep.standins import Scale
from fewstep.tarflow.model import TarFlow
from fewstep.tarflow.strategy import BlockPlan, Strategy

_SEGMENTS = 8


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
    """One iteration over all tokens in every block; the last block in segments.

    The block that is inverted first is cut as the published strategies cut theirs, so
    that the cache of keys and values is in use.
    """
    model = spec["model"]
    tokens = (model["img_size"] // model["patch_size"]) ** 2
    plans = [BlockPlan(1, 1)] * (model["num_blocks"] - 1) + [BlockPlan(_SEGMENTS, 1)]
    return Strategy(tuple(plans), tokens).to_dict()


def shortened(sampler: Any) -> Any:
    """The plan is short already."""
    return sampler


def shapes(spec: dict[str, Any], scale: Scale, count: int) -> Tensor:
    """The normalising direction on images without values: (count, tokens, width)."""
    with torch.device("meta"):
        model = TarFlow(**spec["model"])
        found = {
            entry.name: torch.empty(entry.shape)
            for entry in standins.entries(spec["checkpoint"], scale)
        }
        fitted(model, found, spec["checkpoint"])
        images = torch.empty(count, 3, model.img_size, model.img_size)
        return model.unpatchify(model(images).z)
