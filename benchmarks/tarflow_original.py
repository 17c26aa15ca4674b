"""The released GS-Jacobi program on the weights of a flow of ours.

Its checkout is https://github.com/encoreus/GS-Jacobi_for_TarFlow. What it does that an
exact inverse does not: every iterate of Jacobi and of a segment is clamped to ±3, and
an iteration stops where ||x_new - x_old||_F / (B C) over the whole batch is at most
1e-6 (`ebound`), else after its fixed number. List position 7 is never cut into segments
here: there the program solves the first segment wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType

import torch
from benchmarks.tarflow_models import Flow
from torch import Tensor

MODULE = "GS_Jacobi_sampling"
MARKER = f"{MODULE}.py"
EBOUND = 1e-6
ELSE = (4, 5, 6, 7, 8, 10, 13, 20)
SEGMENTS = (1, 2, 4, 8, 16)
JACOBI = (6, 8, 10, 13, 16, 20, 24, 28, 32)
_CLOSE = 1.02  # times the error that no strategy gets below: as accurate


@dataclass(frozen=True)
class Lists:
    """A strategy [Stack-GS-J-Else] of the program.

    Attributes:
        flow: of which the tough block is cut into segments.
        segments: GS of the tough block; 1 = Jacobi, 0 = For.
        jacobi: J, its most iterations a segment.
        other: Else, the most iterations of the other blocks; 0 = For on all blocks.
    """

    flow: Flow
    segments: int = 0
    jacobi: int = 1
    other: int = 0

    def __str__(self) -> str:
        if not self.other:
            return "For"
        segments = self.segments or self.flow.model.tokens
        return f"[{self.flow.tough}-{segments}-{self.jacobi}-{self.other}]"

    def lists(self) -> dict[str, list[int]]:
        """The arguments of the program; position 0 is the last block."""
        count = len(self.flow.model.flows)
        segments = [1 if self.other else 0] * count
        jacobi = [self.other or 1] * count
        at = count - 1 - self.flow.tough
        segments[at], jacobi[at] = self.segments, self.jacobi
        return {
            "num_GS_list": segments,
            "max_jacobi_list": jacobi,
            "guess_list": [0] * count,  # z
        }


class Released:
    """The program's model with a flow's weights."""

    def __init__(self, module: ModuleType, flow: Flow) -> None:
        self.flow = flow
        net = module.Model(**flow.config)
        lacking, unknown = net.load_state_dict(flow.model.state_dict(), strict=False)
        # The mask is a constant, which fewstep's models do not hold.
        assert not unknown, unknown
        assert all(name.endswith("attn_mask") for name in lacking), lacking
        self.net = net.to(flow.model.var.device).eval()
        guidance = flow.guidance
        self.guided = {
            "guidance": guidance.weight,
            "guide_what": guidance.what,
            "attn_temp": guidance.attn_temp,
            "annealed_guidance": guidance.annealed,
            "ebound": EBOUND,
        }

    def __call__(self, z: Tensor, y: Tensor, strategy: Lists) -> Tensor:
        """Images (B, Cimg, H, W) from noise (B, T, C)."""
        with torch.no_grad():
            images: Tensor = self.net.reverse(z, y, **self.guided, **strategy.lists())
        return images

    def tough(self, z: Tensor, y: Tensor, segments: int, jacobi: int) -> Tensor:
        """The tough block's input (B, T, C) from its output."""
        block = self.net.blocks[self.flow.tough]
        with torch.no_grad():
            x: Tensor = block.reverse(
                z, y, **self.guided, num_GS=segments, max_jacobi=jacobi
            )
        return x


Clocked = Callable[[Callable[[], Tensor]], tuple[float, Tensor]]
"""A call's seconds and its result."""


@dataclass(frozen=True)
class Tried:
    """A strategy, its seconds and its largest error."""

    strategy: Lists
    seconds: float
    error: float


def fastest(
    released: Released,
    z: Tensor,
    y: Tensor,
    exact: Tensor,
    clocked: Clocked,
    tolerance: float,
) -> Tried:
    """The program's fastest strategy within a tolerance.

    Where the clamp keeps even many iterations from it, the fastest that is about as
    accurate as those.

    For each GS the smallest J with which the tough block alone is within the tolerance;
    those that are at most a fifth slower there than the fastest go on. Then the
    smallest `Else` that will do end to end while the tough block is solved by For.
    What remains is run from noise to images; where J has become too small it grows.
    All is chosen on the very noise that it is timed on.

    Args:
        released: the program. The tough block must be the first that is inverted.
        z, y: noise (B, T, C), labels (B,).
        exact: images of the exact inverse.
        clocked: the clock.
        tolerance: largest error of any value.
    """
    flow = released.flow
    seconds, first = clocked(lambda: released.tough(z, y, 0, 1))
    rivals = [(seconds, Lists(flow, 0, 1))]
    for segments in SEGMENTS:
        taken: dict[int, float] = {}

        def tough(
            jacobi: int, segments: int = segments, taken: dict[int, float] = taken
        ) -> bool:
            taken[jacobi], x = clocked(lambda: released.tough(z, y, segments, jacobi))
            return float((x - first).abs().max()) <= tolerance

        jacobi = smallest(_counts(flow, segments), tough)
        if jacobi is not None:
            rivals.append((taken[jacobi], Lists(flow, segments, jacobi)))

    def run(strategy: Lists) -> Tried:
        seconds, images = clocked(lambda: released(z, y, strategy))
        return Tried(strategy, seconds, float((images - exact).abs().max()))

    tried = [run(Lists(flow, 0, 1, ELSE[-1]))]
    limit = max(tolerance, _CLOSE * tried[0].error)
    other = smallest(ELSE, lambda each: run(Lists(flow, 0, 1, each)).error <= limit)
    best = 1.2 * min(seconds for seconds, _ in rivals)
    for _, strategy in (each for each in rivals if each[0] <= best):
        whole = replace(strategy, other=other or ELSE[-1])
        more = [j for j in _counts(flow, whole.segments) if j > whole.jacobi]
        tried.append(run(whole))
        while tried[-1].error > limit and more:
            tried.append(run(replace(whole, jacobi=more.pop(0))))
    good = [each for each in tried if each.error <= limit]
    return min(good, key=lambda each: each.seconds)


def _counts(flow: Flow, segments: int) -> list[int]:
    """Numbers of iterations worth a try in segments; as many as tokens are exact."""
    if not segments:
        return []
    length = flow.model.tokens // segments
    return [j for j in JACOBI if j < length] + [length] * (length <= JACOBI[-1])


def smallest(counts: Sequence[int], enough: Callable[[int], bool]) -> int | None:
    """The smallest count that is enough, found by halving; None: not even the last."""
    low, high = 0, len(counts)
    while low < high:
        middle = (low + high) // 2
        if enough(counts[middle]):
            high = middle
        else:
            low = middle + 1
    return counts[low] if low < len(counts) else None
