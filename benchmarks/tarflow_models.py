"""Flows to time: one whose blocks converge as trained ones do, and the demo's.

How long an inverse takes by Jacobi or windows depends on the weights: of a freshly
initialised TarFlow every block is the identity. In trained ones a single block is
tough: the first that is inverted needs 20 to 30 iterations to 1e-3, and its tokens
settle from the front to the back; the others need 4 to 8, wherever a token stands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.tarflow import TarFlow
from fewstep.tarflow.guidance import Guidance
from fewstep.tarflow.model import FlowBlock
from fewstep.tarflow.sampler import load_model

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "workflow" / "assets" / "demo-tarflow.safetensors"

ITERATIONS = (5, 6, 6, 7, 8, 6, 5, 24)
"""Of blocks 0, 1, ...: Jacobi iterations to 1e-3; the last block is inverted first."""
SHIFTS = (0.14, 0.29, 0.275, 0.25, 0.37, 0.25, 0.16, 0.4)
"""Standard deviation of each block's u, from where it is tuned to those numbers."""
TOLERANCE = 1e-3
SIZE = 0.6
"""Largest standard deviation of what a block gives, as of images: far from ±3."""
_TRIES = 12
_MOST = 80  # iterations that are counted


@dataclass(frozen=True)
class Shape:
    """How a block's random weights are scaled.

    Attributes:
        reads: factor on the input projection's weights.
        prefix: factor on the attention's output: how much a token hears of the mean of
            the tokens before it, beside the one right before it.
        bend: factor on the output of the layers' MLPs: how little of it is linear.
        log_scale: mean of s. Its standard deviation is 0.1.
    """

    reads: float
    prefix: float
    bend: float
    log_scale: float


TOUGH = Shape(reads=2.2, prefix=2.0, bend=2.0, log_scale=-2.4)
EASY = Shape(reads=1.0, prefix=4.0, bend=1.0, log_scale=-0.25)
_CLASSES = 0.1  # standard deviation of class embeddings: guidance has something to do


@dataclass(frozen=True)
class Flow:
    """A flow to time, with its guidance.

    Attributes:
        name: in words, for the table.
        model: on its device, in evaluation mode.
        config: its architecture, as the original program's `Model` takes it, too.
        guidance: of the inverse.
        tough: its tough block.
        iterations: Jacobi iterations to 1e-3 of each block, as measured; () unknown.
    """

    name: str
    model: TarFlow
    config: dict[str, Any]
    guidance: Guidance
    tough: int
    iterations: tuple[int, ...] = ()

    def noise(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Noise (B, T, C) and labels (B,); a seed's samples do not depend on B.

        Noise ends at ±2.5: the original program clamps what it iterates on to ±3.
        """
        shape = (self.model.tokens, self.model.token_dim)
        one = torch.Generator()
        drawn = []
        for number in range(count):
            one.manual_seed(1_000_003 * seed + number)
            drawn.append(torch.randn(shape, generator=one).clamp(-2.5, 2.5))
        labels = torch.arange(count) % max(self.model.num_classes, 1)
        device = self.model.var.device
        return torch.stack(drawn).to(device), labels.to(device)


MIDDLE = {
    "in_channels": 3,
    "img_size": 32,
    "patch_size": 2,
    "channels": 256,
    "num_blocks": 8,
    "layers_per_block": 4,
    "num_classes": 10,
}
"""T = 256, C = 12."""
AFHQ = {
    **MIDDLE,
    "img_size": 256,
    "patch_size": 8,
    "channels": 768,
    "layers_per_block": 8,
    "num_classes": 3,
}
"""T = 1024, C = 192: the architecture published for AFHQ."""


def demo(device: torch.device) -> Flow:
    """The trained flow that the repository ships: T = 64, C = 12."""
    config = {
        **MIDDLE,
        "img_size": 16,
        "channels": 128,
        "num_blocks": 6,
        "layers_per_block": 2,
    }
    model = load_model(config, DEMO, device)
    return Flow("demo-tarflow, trained", model, config, Guidance(1.0), tough=5)


def shaped(
    config: dict[str, Any],
    device: torch.device,
    *,
    weight: float = 1.5,
    iterations: Sequence[int] = ITERATIONS,
    seed: int = 0,
) -> Flow:
    """A flow of random weights, scaled until its blocks converge as wanted.

    Block by block in the order of the inverse: the shift's output weights are scaled
    until Jacobi from z needs the wanted number of iterations to 1e-3 on guided samples.
    The tough block sees four, and two iterations more or fewer will do; the others
    see two of them.

    Args:
        config: architecture.
        device: where.
        weight: of the guidance (s and u, not annealed).
        iterations: wanted of each block, the largest last.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    model = TarFlow(**config)
    generator = torch.Generator().manual_seed(seed + 1)
    last = len(model.flows) - 1
    for number, block in enumerate(model.flows):
        kind = TOUGH if number == last else EASY
        _shape(block, kind, SHIFTS[number - last - 1], generator)
    model = model.to(device).eval().requires_grad_(requires_grad=False)
    flow = Flow("random", model, config, Guidance(weight), tough=last)
    x, y = flow.noise(4, seed)
    counts = {}
    for number in reversed(range(last + 1)):
        wanted, slack = iterations[number - last - 1], 2 if number == last else 0
        block = model.flows[number]
        x, counts[number] = _tune(block, x, y, weight, wanted, slack)
        x, y = x[:2], y[:2]  # samples differ where a block is tough
    found = tuple(counts[number] for number in range(last + 1))
    name = f"T {model.tokens}, random, Jacobi in {'/'.join(map(str, found))}"
    return Flow(name, model, config, Guidance(weight), last, found)


@torch.no_grad()
def _shape(
    block: FlowBlock, shape: Shape, shift: float, generator: torch.Generator
) -> None:
    """Scale a block so that s and u have the wanted moments on normal tokens."""
    block.proj_in.weight *= shape.reads
    for name, parameter in block.named_parameters():
        if name.endswith("attention.proj.weight"):
            parameter.mul_(shape.prefix)
        if name.endswith("mlp.main.2.weight"):
            parameter.mul_(shape.bend)
    if block.class_embed is not None:
        block.class_embed.normal_(generator=generator).mul_(_CLASSES)
    weight, bias = block.proj_out.weight, block.proj_out.bias
    weight.normal_(generator=generator)
    bias.zero_()
    half = len(weight) // 2
    x = SIZE * torch.randn(2, block.tokens, half, generator=generator)
    s, u = _network(block, x, None)
    bias[:half] = shape.log_scale - 0.1 * s.mean(dim=(0, 1)) / s.std()
    bias[half:] = -shift * u.mean(dim=(0, 1)) / u.std()
    weight[:half] *= 0.1 / s.std()
    weight[half:] *= shift / u.std()


@torch.no_grad()
def _tune(
    block: FlowBlock, z: Tensor, y: Tensor, weight: float, wanted: int, slack: int
) -> tuple[Tensor, int]:
    """Scale it until Jacobi needs as many iterations; its solution and their number."""
    half = len(block.proj_out.weight) // 2
    x, found = z, 0
    for _ in range(_TRIES):
        x, found = jacobi(block, z, y, weight)
        size = float(x.std()) / SIZE
        if abs(found - wanted) <= slack and size < 1.1:
            break
        # First the same block for smaller tokens, then more or less of their shift.
        size, shift = max(size, 1.0), (wanted / found) ** 0.5
        block.proj_in.weight *= size
        block.proj_out.bias[:half] -= math.log(size)
        block.proj_out.weight[half:] *= shift / size
        block.proj_out.bias[half:] *= shift / size
    return x, found


@torch.no_grad()
def jacobi(block: FlowBlock, z: Tensor, y: Tensor, weight: float) -> tuple[Tensor, int]:
    """Plain Jacobi from z, without any solver of fewstep.

    Args:
        block: the block.
        z: its output (B, T, C) in raster order.
        y: labels (B,).
        weight: of the guidance of s and u.

    Returns:
        its input (B, T, C) in raster order; iterations after which no entry differs
        by more than 1e-3 from it.
    """
    z = block.ordered(z)
    steps = [z]
    for _ in range(min(_MOST, block.tokens)):
        x = steps[-1]
        (s, u), (s0, u0) = _network(block, x, y), _network(block, x, None)
        s, u = s + weight * (s - s0), u + weight * (u - u0)
        new = z.clone()
        new[:, 1:] = z[:, 1:] * torch.exp(s[:, :-1]) + u[:, :-1]
        steps.append(new)
        if float((new - x).abs().max()) < TOLERANCE / 100:
            break
    off = [float((x - steps[-1]).abs().max()) for x in steps]
    needed = max(k for k, error in enumerate(off) if not error <= TOLERANCE) + 1
    return block.ordered(steps[-1]), needed


def _network(block: FlowBlock, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
    """s and u that the tokens of x give to the one after each (B, T, C)."""
    return block.network(x, block.positions(), block.embedding(y, len(x)))
