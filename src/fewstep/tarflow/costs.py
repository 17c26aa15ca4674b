"""What evaluating so many tokens costs at a batch size, by the clock."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from fewstep.device import autocast, replayable
from fewstep.tarflow.case import Way
from fewstep.tarflow.guidance import BlockEvaluator
from fewstep.tarflow.inverse import make_evaluator
from fewstep.tarflow.sampler import TarFlowSampler
from fewstep.timing import alternate


@dataclass(frozen=True)
class Costs:
    """Seconds of one evaluation of a block.

    Attributes:
        seconds: of n tokens in the middle of the sequence, by n, ascending.
        spare: of the whole sequence without unconditional rows; None: there are none.
        draft: of the whole sequence in bfloat16; None: not measured.
        draft_spare: the same without unconditional rows; None: there are none.
        behind: of all tokens behind a front of so many, in full precision, and without
            unconditional rows.
    """

    seconds: dict[int, float]
    spare: float | None = None
    draft: float | None = None
    draft_spare: float | None = None
    behind: Mapping[int, tuple[float, float | None]] = field(default_factory=dict)

    def of(self, n: int) -> float:
        """Seconds of n tokens: measured, or on the line between two that were."""
        widths = list(self.seconds)
        if n in self.seconds:
            return self.seconds[n]
        right = min(max(bisect_left(widths, n), 1), len(widths) - 1)
        low, high = widths[right - 1], widths[right]
        share = (n - low) / (high - low)
        return (1 - share) * self.seconds[low] + share * self.seconds[high]

    @property
    def whole(self) -> float:
        """Seconds of the whole sequence."""
        return self.seconds[max(self.seconds)]

    def corrected(self, way: Way, count: int) -> float:
        """Seconds of corrected iterations, `count` of them in full precision."""
        one, spared = self.whole, self.spare
        if way.front:
            one, spared = self.behind[way.front]
        total = way.front * self.of(1)
        total += _in_turn(count, one, spared if way.spare else None)
        if way.draft:
            assert self.draft is not None, "drafts have no clock"
            other = self.draft_spare if way.spare else None
            total += _in_turn(way.draft, self.draft, other)
        return total


def _in_turn(count: int, one: float, other: float | None) -> float:
    """Seconds of so many calls, of one kind and another in turn (None: of one)."""
    return (count + 1) // 2 * one + count // 2 * (one if other is None else other)


def measure_costs(
    sampler: TarFlowSampler,
    x: Tensor,
    y: Tensor | None,
    widths: Sequence[int],
    fronts: Sequence[int] = (),
    *,
    drafts: bool,
    repeats: int,
) -> Costs:
    """Take the time of evaluations of a few widths; all blocks have the same shape.

    Args:
        sampler: model, guidance and precision.
        x: inputs of block 0 (B, T, C) in raster order, as many as the batch.
        y: their labels or None.
        widths: numbers of tokens, beside 1 and the whole sequence.
        fronts: numbers of tokens that iterations may leave out at the front.
        drafts: whether to time bfloat16 too.
        repeats: timed calls of each.
    """
    block = sampler.model.flows[0]
    x = block.ordered(x)
    last = x.shape[1] - 1
    tried = sorted({1, last, *(n for n in widths if n < last)})
    with torch.inference_mode(), autocast(sampler.device, sampler.precision):
        make = partial(make_evaluator, block, y, x, sampler.guidance, cached=True)
        evaluate = make()
        evaluate(x[:, :last], 0)  # all keys and values are there
        calls: dict[str, Callable[[], object]] = {
            str(n): partial(_evaluate, evaluate, x, n, min(last // 2, last - n))
            for n in tried[:-1]
        }
        calls["1"] = replayable(calls["1"], sampler.device)  # as For takes its steps
        whole = {"whole": (make(cached=False), 0)}
        if drafts:
            whole["draft"] = make(cached=False, dtype=torch.bfloat16), 0
        whole |= {f"behind {front}": (make(), front) for front in fronts}
        for name, (one, front) in whole.items():
            one(x[:, front:last], front)  # there is something to spare
            calls[name] = partial(one, x[:, front:last], front)
            if one.guided:
                calls[name + " spare"] = partial(
                    one, x[:, front:last], front, spare=True
                )
        clocks = alternate(calls, repeats=repeats, device=sampler.device)
    # The least: what other work on the machine adds is none of the evaluation's.
    least = {name: min(clock.seconds) for name, clock in clocks.items()}
    return Costs(
        {n: least[str(n)] for n in tried[:-1]} | {last: least["whole"]},
        least.get("whole spare"),
        least.get("draft"),
        least.get("draft spare"),
        {
            front: (least[f"behind {front}"], least.get(f"behind {front} spare"))
            for front in fronts
        },
    )


def _evaluate(evaluate: BlockEvaluator, x: Tensor, n: int, start: int) -> None:
    at: int | Tensor = start
    if n > 1 and len(x) > 1:  # windows of several samples part ways
        at = torch.full((len(x),), start, device=x.device)
    evaluate(x[:, start : start + n], at)
