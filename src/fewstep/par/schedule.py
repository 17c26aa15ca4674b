"""Which tokens a PAR model draws together, and in which order (no torch here).

A grid of g x g tokens is cut into s x s regions (n = s^2). Every region gives its first
token, then every region its second, and so on: tokens of one step lie far apart, so
that they hardly depend on each other. n = 1 is LlamaGen's raster order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Pass:
    """One call of the network: it reads positions [start, stop) of the sequence.

    The logits at position p are those of token p of the generation order, so the pass
    also draws tokens [start, stop).
    """

    start: int
    stop: int

    @property
    def size(self) -> int:
        """Tokens drawn together."""
        return self.stop - self.start


@dataclass(frozen=True)
class Schedule:
    """The order of a g x g grid in groups of n (PAR, arXiv 2412.15119, §3.2).

    Attributes:
        grid: g, tokens a side.
        group: n, tokens drawn together; a square number whose root divides g.
    """

    grid: int
    group: int = 1

    def __post_init__(self) -> None:
        fault = misfit(self.grid, self.group)
        if fault:
            raise ValueError(fault)

    @property
    def tokens(self) -> int:
        """N = g^2; also the length of the sequence that is ever fed."""
        return self.grid**2

    @property
    def regions(self) -> int:
        """s, regions a side."""
        return math.isqrt(self.group)

    @property
    def steps(self) -> int:
        """Calls of the network for one image: n + (N - n) / n."""
        return self.group + (self.tokens - self.group) // self.group

    def order(self) -> list[int]:
        """Raster index of every generation index p.

        Slot j = p div n lies at row i, column k of region q = p mod n.
        """
        s, r = self.regions, self.grid // self.regions
        found = []
        for p in range(self.tokens):
            (i, k), (a, b) = divmod(p // self.group, r), divmod(p % self.group, s)
            found.append((a * r + i) * self.grid + b * r + k)
        return found

    def inverse(self) -> list[int]:
        """Generation index of every raster index."""
        found = [0] * self.tokens
        for p, cell in enumerate(self.order()):
            found[cell] = p
        return found

    def passes(self) -> list[Pass]:
        """The first n tokens one by one, then the others in groups of n."""
        first = [Pass(p, p + 1) for p in range(self.group)]
        rest = range(self.group, self.tokens, self.group)
        return first + [Pass(p, p + self.group) for p in rest]

    def source(self, position: int) -> int | None:
        """Generation index of the token that a position of the sequence holds.

        None at position 0 (the class) and at n + 1 .. 2n - 1 (transition tokens).
        """
        if position == 0 or self.group < position < 2 * self.group:
            return None
        behind = position >= 2 * self.group
        return position - (self.group if behind else 1)


def misfit(grid: int, group: int) -> str | None:
    """Why groups of n cannot cut a g x g grid into regions; None where they can."""
    if group < 1 or math.isqrt(group) ** 2 != group:
        return f"groups of {group} tokens: n must be a square number"
    if grid % math.isqrt(group):
        s = math.isqrt(group)
        return f"a {grid}x{grid} grid cannot be cut into {s}x{s} regions"
    if group > 1 and group == grid**2:
        return f"groups of {group} tokens are the whole {grid}x{grid} grid"
    return None
