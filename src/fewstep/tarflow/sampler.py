"""A TarFlow as a sampler of the spine, and self-denoising."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewstep import checkpoints, files, noise
from fewstep.device import autocast, check_shapes, pick_device
from fewstep.device.compiled import check_compiler
from fewstep.sampling import Draw
from fewstep.tarflow.corrected import Learned
from fewstep.tarflow.guidance import UNGUIDED, Guidance
from fewstep.tarflow.inverse import Inversion, Mode, invert, mean_steps
from fewstep.tarflow.learned import read_learned
from fewstep.tarflow.model import TarFlow
from fewstep.tarflow.strategy import Strategy


def self_denoise(
    model: TarFlow,
    x: Tensor,
    y: Tensor | None,
    noise_std: float,
    lr_multiplier: float,
) -> Tensor:
    """One step up the model's own density: x + m σ² ∇ log p(x).

    With m = 1 this is Tweedie's estimate of the image without its training noise
    (arXiv 2412.06329, §2.5). It does not depend on the batch size.

    Args:
        model: the flow.
        x: images (B, Cimg, H, W), not clipped.
        y: labels (B,) or None.
        noise_std: σ of the training noise.
        lr_multiplier: m.

    Returns:
        images (B, Cimg, H, W).
    """
    parts = [
        _nll_gradient(
            model, x[i : i + _CHUNK], None if y is None else y[i : i + _CHUNK]
        )
        for i in range(0, len(x), _CHUNK)
    ]
    scale = lr_multiplier * noise_std**2 * x[0].numel()
    return x.detach() - scale * torch.cat(parts)


_CHUNK = 8
"""Images of one backward pass: it keeps every layer's activations, about 2 GB an image
for the largest published model, and the result does not depend on it."""


def _nll_gradient(model: TarFlow, x: Tensor, y: Tensor | None) -> Tensor:
    """Gradient of each image's negative log-likelihood a dimension."""
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        out = model(x, y)
        nll = 0.5 * out.z.square().mean(dim=(1, 2)) - out.logdets
        (gradient,) = torch.autograd.grad(nll.sum(), x)
    return gradient


@dataclass
class TarFlowSampler:
    """Draws images from a TarFlow by one strategy; see `fewstep.sampling.Sampler`.

    Attributes:
        model: the flow, on its device, in evaluation mode.
        strategy: how each block is inverted.
        guidance: of the inverse.
        mode, tol: of the inverse.
        temperature: factor on the noise.
        noise_std: training noise, for self-denoising.
        denoise: multiplier of self-denoising, 0 = off.
        precision: "fp32", or "bf16" autocast.
        learned: of blocks, what a searched strategy needs.
    """

    model: TarFlow
    strategy: Strategy
    guidance: Guidance = UNGUIDED
    mode: Mode = "exact"
    tol: float | None = None
    temperature: float = 1.0
    noise_std: float = 0.0
    denoise: float = 0.0
    precision: str = "fp32"
    learned: Mapping[int, Learned] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.model.var.device

    @property
    def static_shapes(self) -> bool:
        """Whether every step sees the same shapes.

        Jacobi over the whole sequence does; elsewhere the cache grows.
        """
        return all(plan.mode == "jacobi" for plan in self.strategy.blocks)

    def inputs(
        self,
        seed: int,
        indices: list[int],
        labels: NDArray[np.int64] | None,
        attempt: int = 0,
        purpose: str = "noise",
    ) -> tuple[Tensor, Tensor | None]:
        """Noise (B, T, C) and labels (B,) of samples, on the device."""
        shape = (self.model.tokens, self.model.token_dim)
        drawn = noise.normal(seed, purpose, indices, shape, attempt)
        z = torch.from_numpy(drawn).to(self.device) * self.temperature
        labelled = labels is not None and self.model.num_classes > 0
        y = torch.from_numpy(labels).to(self.device) if labelled else None
        return z, y

    def invert(self, z: Tensor, y: Tensor | None) -> Inversion:
        """The inverse, with everything that a search or a trace wants to know."""
        with autocast(self.device, self.precision):
            return invert(
                self.model,
                z,
                y,
                strategy=self.strategy,
                guidance=self.guidance,
                mode=self.mode,
                tol=self.tol,
                learned=self.learned,
            )

    def draw(self, inputs: tuple[Tensor, Tensor | None]) -> Draw:
        """Sampling alone, as the clock sees it; see `Sampler.draw`."""
        inversion = self.invert(*inputs)
        return Draw(
            inversion.images,
            steps=sum(inversion.steps),
            iterations=mean_steps(inversion.evaluations, self.model.tokens),
        )

    def finish(self, images: Tensor, inputs: tuple[Tensor, Tensor | None]) -> Tensor:
        """Self-denoising, where the sampler has it."""
        if not self.denoise:
            return images
        with autocast(self.device, self.precision):
            return self_denoise(
                self.model, images, inputs[1], self.noise_std, self.denoise
            )


def load_model(
    config: dict[str, Any], checkpoint: str | Path, device: torch.device
) -> TarFlow:
    """A TarFlow in evaluation mode with the weights of a `.safetensors` file.

    Raises:
        UserError: when the weights do not fit the architecture.
    """
    with checkpoints.unfilled():
        model = TarFlow(**config)
    tensors = checkpoints.read_state_dict(checkpoint)
    checkpoints.assign_weights(model, tensors, str(checkpoint), device)
    return model.to(device).eval()


def compile_blocks(model: TarFlow) -> None:
    """Let the inverse use torch's compiler.

    Raises:
        UserError: where nothing can be compiled, see `check_compiler`.
    """
    check_compiler(model.var.device)
    for block in model.flows:
        block.compiles = True


def load_sampler(
    spec: dict[str, Any], checkpoint: str | Path, plan: str | Path | None
) -> TarFlowSampler:
    """The sampler of a resolved experiment; see `Sampler`.

    Args:
        spec: resolved `model`, `noise`, `sampling`, and `mode`, `tol` of the sampler.
        checkpoint: `model.safetensors`.
        plan: `plan.json`; None = For.
    """
    sampling = spec["sampling"]
    model = load_model(spec["model"], checkpoint, pick_device())
    if sampling["compile"]:
        compile_blocks(model)
    strategy = Strategy.sequential(len(model.blocks), model.tokens)
    learned: dict[int, Learned] = {}
    if plan is not None:
        planned = files.read_json(plan)
        strategy = Strategy.from_dict(planned["strategy"])
        learned = read_learned(planned, model)
    sampler = TarFlowSampler(
        model,
        strategy,
        Guidance(
            sampling["guidance"],
            sampling["guide_what"],
            sampling["attn_temp"],
            sampling["annealed"],
        ),
        mode=spec.get("mode", "exact"),
        tol=spec.get("tol"),
        temperature=sampling["temperature"],
        noise_std=spec["noise"]["std"],
        denoise=sampling["self_denoise"],
        precision=sampling["precision"],
        learned=learned,
    )
    check_shapes(sampler.device, sampler.static_shapes, f"strategy {strategy}")
    return sampler
