"""A flow and a solver as a sampler of the spine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewstep import files, noise
from fewstep.device import autocast, check_shapes, pick_device
from fewstep.sampling import Draw
from fewstep.seqrf.flow import Flow, compile_network, load_flow
from fewstep.seqrf.integration import Integration, Solver, integrate
from fewstep.seqrf.ode import ErrorNorm
from fewstep.seqrf.segments import TimeFactor


@dataclass
class FlowSampler:
    """Draws images from a flow by one solver; see `fewstep.sampling.Sampler`.

    Attributes:
        flow: network and segments.
        solver: of the ODE.
        steps: of a fixed-step solver, over all segments.
        tol: of rk45.
        error_norm: of rk45; with "batch" an image depends on the others that are
            drawn with it, and sample i is no longer decided by its seed and number.
        mode: length of the path, see `Flow.time_factor`.
        precision: "fp32", or "bf16" autocast.
    """

    flow: Flow
    solver: Solver
    steps: int | None = None
    tol: float | None = None
    error_norm: ErrorNorm = "sample"
    mode: TimeFactor = "exact"
    precision: str = "fp32"

    @property
    def device(self) -> torch.device:
        return self.flow.model.sigmas.device

    @property
    def static_shapes(self) -> bool:
        """Whether every step sees the same shapes; rk45 goes on with fewer samples."""
        return self.solver != "rk45"

    def inputs(
        self,
        seed: int,
        indices: list[int],
        labels: NDArray[np.int64] | None = None,  # noqa: ARG002 (a flow has none)
        attempt: int = 0,
        purpose: str = "noise",
    ) -> Tensor:
        """Noise (B, C, H, W) of samples, on the device."""
        model = self.flow.model
        shape = (model.channels, model.image_size, model.image_size)
        drawn = noise.normal(seed, purpose, indices, shape, attempt)
        return torch.from_numpy(drawn).to(self.device)

    def integrate(self, noise: Tensor, **options: Any) -> Integration:
        """The ODE's solution, with everything that a picture wants to know."""
        with autocast(self.device, self.precision):
            return integrate(
                self.flow.model,
                noise,
                solver=self.solver,
                steps=self.steps,
                tol=self.tol,
                segments=self.flow.segments.k,
                edges=self.flow.segments.edges,
                time_factor=self.mode,
                error_norm=self.error_norm,
                **options,
            )

    def draw(self, inputs: Tensor) -> Draw:
        """Sampling alone, as the clock sees it; see `Sampler.draw`."""
        found = self.integrate(inputs)
        numbers = {
            "nfe": found.nfe_per_sample.double(),
            "straightness": found.straightness_per_sample,
            "seq_straightness": found.seq_straightness_per_sample,
        }
        return Draw(found.samples, steps=found.calls, numbers=numbers)

    def finish(self, images: Tensor, inputs: Tensor) -> Tensor:  # noqa: ARG002
        """Model space to [-1, 1]."""
        return images if self.flow.model.centered else 2 * images - 1


def make_sampler(flow: Flow, spec: dict[str, Any], precision: str) -> FlowSampler:
    """A sampler of a loaded flow.

    Args:
        flow: network and segments.
        spec: `solver`, `steps`, `tol`, `error_norm`, and `mode` (None: as the weights
            were trained).
        precision: "fp32" or "bf16".
    """
    return FlowSampler(
        flow,
        spec["solver"],
        spec["steps"],
        spec["tol"],
        spec["error_norm"],
        spec["mode"] or flow.time_factor,
        precision,
    )


def load_sampler(
    spec: dict[str, Any], checkpoint: str | Path, plan: str | Path | None
) -> FlowSampler:
    """The sampler of a resolved experiment; see `Sampler`.

    Args:
        spec: resolved `model`, `segments`, `sampling`, and the solver's settings.
        checkpoint: `model.safetensors`.
        plan: `plan.json`; None = the settings in `spec`.
    """
    flow = load_flow(spec["model"], spec["segments"], checkpoint, pick_device())
    if spec["sampling"]["compile"]:
        compile_network(flow.model)
    settings = spec if plan is None else files.read_json(plan)["strategy"]
    sampler = make_sampler(flow, settings, spec["sampling"]["precision"])
    check_shapes(sampler.device, sampler.static_shapes, sampler.solver)
    return sampler
