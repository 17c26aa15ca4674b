"""Specs of the smoke: every published architecture at full size, nothing scored."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from fewstep import estimate
from fewstep.config.base import is_path
from fewstep.config.par import ParExperiment
from fewstep.graph.base import code
from fewstep.graph.spine import SpineGraph

_ALLOCATED = 10 * 10**9
"""Bytes of weights in float32 from which on none are allocated: the smoke is to run in
20 GiB, and conversion and drawing hold them once each."""
_SHIPPED = PurePosixPath("workflow/assets")


class SmokeGraph(SpineGraph):
    """What rules/smoke.smk asks for."""

    def smoked(self) -> list[str]:
        """The first experiment of every published checkpoint that is not shipped."""
        first: dict[str, str] = {}
        for name, own in self.experiments.items():
            wanted = own.checkpoint
            if wanted is None or is_path(wanted):
                continue
            path = PurePosixPath(self.config.assets[wanted].path)
            if not path.is_relative_to(_SHIPPED):
                first.setdefault(wanted, name)
        return list(first.values())

    def smoke(self, experiment: str) -> dict[str, Any]:
        """What decides a smoke: the sampler in float32, and the size of its images."""
        own = self.experiments[experiment]
        cell = (experiment, next(iter(own.samplers)))
        spec = self.sampler(cell, **own.evaluation.protocol.resolved())
        spec["sampling"]["precision"] = "fp32"
        segments = spec.get("segments", 1)
        count = estimate.parameters(own.system, spec["model"], segments)
        return {
            **spec,
            **self._smoked_images(experiment, spec),
            "checkpoint": own.checkpoint,
            "meta": 4 * count > _ALLOCATED,
            "code": self._code(cell, f"stages.smoke_{own.system}"),
            "smoke_code": code("stages.smoke"),
        }

    def _smoked_images(self, experiment: str, spec: dict[str, Any]) -> dict[str, Any]:
        """Side of the images in pixels, and PAR's tokenizer with its checkpoint."""
        own = self.experiments[experiment]
        if not isinstance(own, ParExperiment):
            return {"side": spec["model"]["img_size"]}
        tokenizer = self.config.tokenizers[own.tokenizer]
        return {
            "side": own.model.grid * tokenizer.model.downsample,
            "tokenizer": {**spec["tokenizer"], "checkpoint": tokenizer.checkpoint},
        }
