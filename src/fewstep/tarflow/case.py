"""What a strategy search is told, and what it knows of a block."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from torch import Tensor

from fewstep.tarflow.corrected import Learned
from fewstep.tarflow.learned import Lesson, mean_parameters
from fewstep.tarflow.metrics import Convergence
from fewstep.tarflow.solve import Means
from fewstep.tarflow.strategy import BlockPlan
from fewstep.timing import Timing


@dataclass(frozen=True)
class SearchOptions:
    """What is searched.

    Attributes:
        tolerance: largest allowed |image - exact image| of any value; images span
            [-1, 1], so one grey level is 2/255.
        batch: batch size of the clock: the first samples of the calibration noise.
        segments: numbers of segments tried on tough blocks (those that fit T).
        windows: widths of sliding windows that are tried, in tokens.
        max_iterations: most Jacobi iterations a segment that are tried.
        margin: iterations that a cap leaves above where the calibration noise stopped.
        fronts: parts of the sequence of a tough block that are solved one by one
            before corrected iterations: one in so many tokens.
        repeats: timed calls of each candidate; the median counts.
        min_gain: a plan replaces For only when it saves this share of its time.
    """

    tolerance: float = 1 / 255
    batch: int = 16
    segments: tuple[int, ...] = (2, 4, 8)
    windows: tuple[int, ...] = (8, 16, 32, 64)
    max_iterations: int = 64
    margin: int = 2
    fronts: tuple[int, ...] = (8, 4, 2)
    repeats: int = 3
    min_gain: float = 0.05


@dataclass
class Candidate:
    """One plan that was considered for one block; a row of the strategies table."""

    block: int
    plan: BlockPlan
    seconds: float | None
    predicted: float
    error: float | None
    tolerance: float
    chosen: bool
    reason: str
    round: int = 0


@dataclass(frozen=True)
class Tried:
    """A plan with its predicted seconds and its error on the calibration noise."""

    plan: BlockPlan
    predicted: float
    error: float | None
    reason: str = ""


class Way(NamedTuple):
    """A way of corrected iterations.

    Attributes:
        guess: where they start.
        draft: how many of them are in bfloat16.
        spare: whether every other one spares unconditional rows.
        front: tokens that are solved one by one before.
    """

    guess: int
    draft: int = 0
    spare: bool = False
    front: int = 0


@dataclass
class BlockCase:
    """What is known of one block during a search.

    Attributes:
        number: of the block.
        x, z: exact input and output (N, T, C) in raster order.
        y: labels (N,) or None.
        guesses: worth a try, the most promising first.
        tough: whether to cut it into segments.
        parameters: s and u at x, see `exact_parameters`.
        gain: largest change of an image for a change of 1 of x.
        profiles: Jacobi's error by iteration, by guess.
        drafts: corrected iterations in bfloat16, by guess and whether they spare.
        corrected: weights of corrected iterations and the error that those after the
            draft leave, by their way.
        relative: seconds of plans over those of For in the same race, by plan.
        clocks, errors, steps: what was measured, by plan: the clock at the wanted
            batch, the largest error of each sample (N,), the network's calls for a
            batch.
        hopeless: windows (width, 0) and segments (0, number) that were far too slow.
    """

    number: int
    x: Tensor
    z: Tensor
    y: Tensor | None
    guesses: list[int]
    tough: bool
    parameters: tuple[Tensor, Tensor]
    gain: float = 1.0
    profiles: dict[int, Convergence] = field(default_factory=dict)
    drafts: dict[tuple[int, bool], Lesson] = field(default_factory=dict)
    corrected: dict[Way, tuple[Tensor, Convergence]] = field(default_factory=dict)
    clocks: dict[BlockPlan, Timing] = field(default_factory=dict)
    relative: dict[BlockPlan, float] = field(default_factory=dict)
    errors: dict[BlockPlan, Tensor] = field(default_factory=dict)
    steps: dict[BlockPlan, int] = field(default_factory=dict)
    hopeless: set[tuple[int, int]] = field(default_factory=set)

    @cached_property
    def means(self) -> Means:
        """For the guess from means."""
        return mean_parameters(*self.parameters)

    def learned(self, plan: BlockPlan) -> Learned:
        """What the plan needs to know of the block."""
        means = self.means if plan.guess == 2 else None
        if not plan.corrected:
            return Learned(means)
        draft = plan.max_jacobi if plan.refine else 0
        weights, _ = self.corrected[Way(plan.guess, draft, plan.spare, plan.front)]
        return Learned(means, weights[: plan.max_jacobi + plan.refine])
