"""What an adaptive solver tells of its steps, and those who listen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.seqrf import dormand_prince as pair


@dataclass(frozen=True)
class Step:
    """One attempt of an adaptive solver, for the samples still in work.

    Attributes:
        rows: which samples of the batch (n,) int64.
        accepted: (n,) bool; what was rejected has not happened.
        t, end: times before and after (n,) float64.
        y, new: states before and after (n, ...).
        slopes: the pair's seven slopes, each (n, ...).
    """

    rows: Tensor
    accepted: Tensor
    t: Tensor
    end: Tensor
    y: Tensor
    new: Tensor
    slopes: list[Tensor]

    def of_batch(self, everyone: Tensor) -> Step:
        """The step of a batch that counted as one sample, as a step of each sample."""
        n = len(everyone)
        return Step(
            everyone,
            self.accepted.expand(n),
            self.t.expand(n),
            self.end.expand(n),
            self.y[0],
            self.new[0],
            [slope[0] for slope in self.slopes],
        )


OnStep = Callable[[Step], None]


@dataclass
class Dense:
    """States at wanted times, filled in as steps pass over them."""

    times: Tensor  # (B, M)
    states: Tensor  # (B, M, ...)

    @classmethod
    def begin(cls, times: Tensor, y: Tensor, t0: Tensor, t1: Tensor) -> Dense:
        times = times.to(t0).expand(len(y), -1)
        low, high = torch.minimum(t0, t1)[:, None], torch.maximum(t0, t1)[:, None]
        if ((times < low) | (times > high)).any():
            raise ValueError("dense output asked for outside of the interval")
        return cls(times, torch.stack([y] * times.shape[1], 1))

    def add(self, step: Step) -> None:
        h = step.end - step.t
        theta = (self.times[step.rows] - step.t[:, None]) / h[:, None]
        inside = (theta > 0) & (theta <= 1) & step.accepted[:, None]
        # One time after the other: a long step passes many, each with seven slopes.
        for place in inside.any(0).nonzero().flatten().tolist():
            row = inside[:, place].nonzero().flatten()
            self.states[step.rows[row], place] = pair.interpolate(
                step.y[row],
                step.new[row],
                [slope[row] for slope in step.slopes],
                h[row],
                theta[row, place],
            )


@dataclass
class Record:
    """Where every sample stood, at the start and after each attempt that moved any."""

    times: list[Tensor]
    states: list[Tensor]

    def add(self, step: Step) -> None:
        moved = step.rows[step.accepted]
        if len(moved):
            time, state = self.times[-1].clone(), self.states[-1].clone()
            time[moved], state[moved] = step.end[step.accepted], step.new[step.accepted]
            self.times.append(time)
            self.states.append(state)
