"""Where the spine meets a limb: a system's name leads to its sampler."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any


def load_sampler(spec: dict[str, Any], checkpoint: Path, plan: Path | None) -> Any:
    """`fewstep.{system}.sampler.load_sampler`; see `fewstep.sampling.Sampler`."""
    module = import_module(f"fewstep.{spec['system']}.sampler")
    return module.load_sampler(spec, checkpoint, plan)
