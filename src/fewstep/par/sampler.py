"""A PAR transformer and its tokenizer as a sampler of the spine."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewstep import checkpoints, files
from fewstep.device import check_shapes, has_bf16, memory_errors, pick_device
from fewstep.device.compiled import check_compiler, compiled
from fewstep.device.packed import can_pack
from fewstep.errors import UserError
from fewstep.par.decoding import Guidance, by_inversion
from fewstep.par.generation import (
    Cache,
    DrawOptions,
    Tokens,
    generate_tokens,
    uniforms,
)
from fewstep.par.model import Transformer
from fewstep.par.order import to_raster
from fewstep.par.packed import pack
from fewstep.par.tokenizer import VQModel
from fewstep.sampling import Draw

_DECODED = 32
"""Images decoded at once: at 384 pixels the decoder needs about 0.5 GB for each."""


@dataclass
class ParSampler:
    """Draws tokens, n a step, and decodes them; see `fewstep.sampling.Sampler`.

    Attributes:
        gpt: the transformer, on its device, in evaluation mode.
        vq: the tokenizer, in float32.
        guidance, options: of the tokens' draws.
    """

    gpt: Transformer
    vq: VQModel
    guidance: Guidance = field(default_factory=Guidance)
    options: DrawOptions = field(default_factory=DrawOptions)
    _cache: Cache | None = None

    static_shapes: ClassVar[bool] = False
    """A pass sees the cache as far as it is filled."""

    @property
    def device(self) -> torch.device:
        return self.gpt.output.weight.device

    def inputs(
        self,
        seed: int,
        indices: list[int],
        labels: NDArray[np.int64] | None,
        attempt: int = 0,
        purpose: str = "noise",
    ) -> tuple[Tensor, Tensor]:
        """Uniforms (B, N) and labels (B,) of samples, on the device."""
        count = self.gpt.schedule.tokens
        drawn = uniforms(seed, indices, count, attempt, purpose)
        if labels is None:
            y = torch.full((len(indices),), self.gpt.num_classes)
        else:
            y = torch.from_numpy(labels)
        return drawn.to(self.device), y.to(self.device)

    def tokens(self, uniform: Tensor, labels: Tensor) -> Tokens:
        """Tokens (B, N) in generation order."""
        rows = 2 * len(labels) if self.guidance.scale > 1 else len(labels)
        if self._cache is None or self._cache.rows < rows:
            self.release()  # before the larger one is made
            self._cache = Cache(self.gpt, rows)
        return generate_tokens(
            self.gpt,
            labels,
            by_inversion(uniform),
            guidance=self.guidance,
            options=self.options,
            cache=self._cache,
        )

    @torch.inference_mode()
    def draw(self, inputs: tuple[Tensor, Tensor]) -> Draw:
        """Tokens and their images, as the clock sees it; see `Sampler.draw`.

        An image whose logits were not numbers comes out as NaN, which the spine counts
        and treats by its policy.
        """
        try:
            with memory_errors():
                drawn = self.tokens(*inputs)
                codes = to_raster(drawn.tokens, self.gpt.schedule)
                parts = torch.split(codes, _DECODED)
                images = torch.cat([self.vq.decode(part) for part in parts])
        except torch.OutOfMemoryError:
            self.release()  # the halved batch shall not pay for this one
            raise
        images[drawn.broken] = torch.nan
        return Draw(images, steps=self.gpt.schedule.steps)

    def release(self) -> None:
        """Give back the memory of keys and values; the next draw takes it again."""
        self._cache = None

    def finish(self, images: Tensor, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """Nothing comes after decoding."""
        del inputs
        return images


def load_transformer(
    config: dict[str, Any], checkpoint: str | Path, device: torch.device
) -> Transformer:
    """A transformer in evaluation mode with the weights of a `.safetensors` file.

    Raises:
        UserError: when the weights do not fit the architecture.
    """
    with checkpoints.unfilled():
        gpt = Transformer(**config)
    tensors = checkpoints.read_state_dict(checkpoint)
    checkpoints.assign_weights(gpt, tensors, str(checkpoint), device)
    return gpt.to(device).eval()


def load_tokenizer(
    config: dict[str, Any], checkpoint: str | Path, device: torch.device
) -> VQModel:
    """A tokenizer in evaluation mode with the weights of a `.safetensors` file."""
    with checkpoints.unfilled():
        vq = VQModel(**config)
    tensors = checkpoints.read_state_dict(checkpoint)
    checkpoints.assign_weights(vq, tensors, str(checkpoint), device)
    return vq.to(device).eval()


def halve(gpt: Transformer) -> Transformer:
    """The weights in bfloat16; the rotary table stays in float32."""
    for parameter in gpt.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    return gpt


def load_sampler(
    spec: dict[str, Any], checkpoint: str | Path, plan: str | Path | None
) -> ParSampler:
    """The sampler of a resolved experiment; see `Sampler`.

    Args:
        spec: resolved `model`, `draw` and `sampling` of the sampler, `tokenizer`
            (`model`, `path`).
        checkpoint: `model.safetensors`.
        plan: `plan.json`, which says whose codes the model was planned with; None: not
            checked.

    Raises:
        UserError: for a tokenizer other than the plan's.
    """
    device, sampling = pick_device(), spec["sampling"]
    gpt = load_transformer(spec["model"], checkpoint, device)
    if sampling["precision"] == "bf16" and has_bf16(device):
        halve(gpt)
    path = spec["tokenizer"]["path"]
    if plan is not None:
        _verify(path, files.read_json(plan)["strategy"]["tokenizer_sha256"])
    vq = load_tokenizer(spec["tokenizer"]["model"], path, device)
    if sampling["compile"]:
        compile_step(gpt)
    elif can_pack(gpt.output.weight):
        pack(gpt)
    draw = spec["draw"]
    guidance = Guidance(
        draw["cfg_scale"],
        draw["guidance_shape"],
        draw["guidance_power"],
        draw["guidance_first"],
        draw["guidance_last"],
        draw["cfg_interval"],
    )
    options = DrawOptions(draw["temperature"], draw["top_k"], draw["top_p"])
    check_shapes(device, ParSampler.static_shapes, "PAR")
    return ParSampler(gpt, vq, guidance, options)


def compile_step(gpt: Transformer) -> None:
    """Compile the step once for all passes and batches.

    Raises:
        UserError: where nothing can be compiled, see `check_compiler`.
    """
    check_compiler(gpt.output.weight.device)
    gpt.step = compiled(gpt.step)  # type: ignore[method-assign]


def _verify(path: str | Path, wanted: str) -> None:
    found = files.sha256_file(path)
    if found != wanted:
        raise UserError(
            f"the tokenizer has sha256 {found[:12]}…",
            where=str(path),
            expected=f"{wanted[:12]}…, which the plan was written for",
            do="run the same target again",
        )
