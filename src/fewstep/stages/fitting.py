"""The batch that a device has room for; apart, for it decides no sample."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from fewstep import files
from fewstep.device import free_memory, pick_device
from fewstep.estimate import fitting_batch

logger = logging.getLogger(__name__)


def fit_batch(spec: dict[str, Any], plan: Path, batch: int) -> int:
    """The batch, or what the device is estimated to have room for.

    Asked before the model is there. What an estimate misses is halved later, when
    memory does run out.

    Args:
        spec: as for `stages.sample.run`.
        plan: `plan.json`.
        batch: samples that are wanted at once.
    """
    if "batch" in spec["sampling"]:
        return batch  # the samples depend on it
    free = free_memory(pick_device())
    if free is None:
        return batch
    settings = {**spec, "strategy": files.read_json(plan)["strategy"]}
    precision = spec["sampling"]["precision"]
    model, system = spec["model"], spec["system"]
    fits = fitting_batch(system, model, settings, batch, precision, free)
    if fits < batch:
        logger.info("batch %d: %d would not fit into memory", fits, batch)
    return fits
