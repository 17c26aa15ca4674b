"""How each block is inverted, and the paper's notation for it, both ways.

The notation `[Stack-GS-J-Else]` of GS-Jacobi (arXiv 2505.12849, README of the released
code): `Stack` are the block numbers that are cut into `GS` equal segments, each
iterated at most `J` times; every other block is one segment (plain Jacobi) of at most
`Else` iterations. Several stacked blocks may have a `GS` and a `J` each, separated by
slashes in the order of `Stack`: `[0/7-256/8-1/13-6]`. A block cut into as many segments
as it has tokens is solved token by token: `For`.

Three things are fewstep's own. `wN` in place of a number of segments is a window of N
tokens that slides over the sequence as fast as its tokens settle (its J says nothing).
`a+b` in place of a number of iterations solves the block in bfloat16 first and then
takes b Jacobi iterations over the whole sequence in full precision: `[7-w32-1+2-3+2]`.
A `c` behind it says that iterations are corrected by weights that a search has learned,
an `s` that every other one of them spares the unconditional rows, too. `fN` in place of
a number of segments says that they follow N tokens that are solved one by one. Such a
strategy comes from a plan, not from its notation alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

FOR = 0
"""`BlockPlan.segments` of the sequential solver."""

_GUESSES = ("z", "zeros", "means")


@dataclass(frozen=True)
class BlockPlan:
    """How one block is inverted.

    Attributes:
        segments: 0 = For (one token a step), 1 = Jacobi over the whole sequence,
            g > 1 = g segments one after the other with Jacobi inside (GS-Jacobi).
        max_jacobi: most iterations in each segment (For: always 1).
        guess: where the iteration starts: 0 = the block's input z, 1 = zeros with
            the first token kept, 2 = z exp(E[s]) + E[u] with the means of a calibration
            batch (what a search finds; exact mode only).
        tol: tokens whose entries moved no more than this are settled (None: the
            caller's tolerance).
        window: tokens of a window that slides over the sequence, in place of segments;
            it goes on until all tokens are settled. 0 = none.
        refine: b > 0 = what is above is a draft in bfloat16, and b Jacobi iterations
            over the whole sequence follow in full precision. 0 = no draft.
        corrected: every iteration is corrected by learned weights; see
            `fewstep.tarflow.corrected`.
        spare: every other corrected iteration spares the unconditional rows.
        front: tokens that are solved one by one; corrected iterations go over those
            behind them. 0 = over the whole sequence.
    """

    segments: int = FOR
    max_jacobi: int = 1
    guess: int = 0
    tol: float | None = None
    window: int = 0
    refine: int = 0
    corrected: bool = False
    spare: bool = False
    front: int = 0

    def __post_init__(self) -> None:
        if self.segments < 0:
            raise ValueError(f"segments must be 0 or more, not {self.segments}")
        if self.guess not in (0, 1, 2):
            raise ValueError(
                f"guess must be 0 (z), 1 (zeros) or 2 (means), not {self.guess}"
            )
        if self.max_jacobi < 1:
            raise ValueError(f"max_jacobi must be 1 or more, not {self.max_jacobi}")
        if self.window < 0 or self.refine < 0:
            raise ValueError(
                "window and refine must be 0 or more, "
                f"not {self.window} and {self.refine}"
            )
        if self.window and self.segments:
            raise ValueError("a window slides over the whole sequence: no segments")
        if self.corrected and self.segments != 1:
            raise ValueError("only iterations over the whole sequence are corrected")
        if self.spare and not self.corrected:
            raise ValueError("only corrected iterations spare unconditional rows")
        if self.front < 0:
            raise ValueError(f"front must be 0 or more, not {self.front}")
        if self.front and (self.refine or not self.corrected):
            raise ValueError("only corrected iterations without a draft have a front")

    @property
    def is_for(self) -> bool:
        """Whether the block is solved token by token."""
        return self.segments == FOR and not self.window

    @property
    def iterations(self) -> str:
        """Iterations in the notation: `a`, `a+b` after a draft, `c` or `s`."""
        refined = f"+{self.refine}" if self.refine else ""
        mark = "s" if self.spare else "c" if self.corrected else ""
        return str(self.max_jacobi) + refined + mark

    @property
    def mode(self) -> str:
        """`for`, `window`, `front`, `jacobi` or `gs-jacobi`."""
        if self.window or self.front:
            return "window" if self.window else "front"
        return ("for", "jacobi")[self.segments] if self.segments < 2 else "gs-jacobi"


@dataclass(frozen=True)
class Strategy:
    """One plan a block.

    Attributes:
        blocks: plan of block 0, 1, … n-1 (the order of the forward pass; the lists
            of the released program run the other way).
        tokens: sequence length T, where known; it turns g = T segments into For.
    """

    blocks: tuple[BlockPlan, ...]
    tokens: int | None = None

    def __post_init__(self) -> None:
        plans = tuple(_normalised(plan, self.tokens) for plan in self.blocks)
        object.__setattr__(self, "blocks", plans)

    @classmethod
    def sequential(cls, num_blocks: int, tokens: int | None = None) -> Strategy:
        """For on every block: the exact inverse."""
        return cls((BlockPlan(),) * num_blocks, tokens)

    @classmethod
    def from_lists(
        cls,
        num_gs: Sequence[int],
        max_jacobi: Sequence[int],
        guess: Sequence[int] | None = None,
        tokens: int | None = None,
    ) -> Strategy:
        """The released program's three lists; position i is block n-1-i.

        Raises:
            ValueError: when the lists differ in length or hold an impossible number.
        """
        guess = [0] * len(num_gs) if guess is None else guess
        if not len(num_gs) == len(max_jacobi) == len(guess):
            raise ValueError(
                "num_gs, max_jacobi and guess must have one number a block, but have "
                f"{len(num_gs)}, {len(max_jacobi)} and {len(guess)}"
            )
        if not set(guess) <= {0, 1}:
            raise ValueError(f"guess must be 0 (z) or 1 (zeros) here, not {guess}")
        rows = zip(num_gs, max_jacobi, guess, strict=True)
        plans = [
            BlockPlan(g, j, s) if g > 0 and g != tokens else BlockPlan()
            for g, j, s in rows
        ]
        return cls(tuple(reversed(plans)), tokens)

    def to_lists(self) -> tuple[list[int], list[int], list[int]]:
        """`num_GS_list`, `max_jacobi_list`, `guess_list` of the released program."""
        plans = self.blocks[::-1]
        return (
            [plan.segments for plan in plans],
            [plan.max_jacobi for plan in plans],
            [plan.guess for plan in plans],
        )

    @classmethod
    def parse(
        cls,
        text: str,
        *,
        num_blocks: int,
        tokens: int,
        guess: Sequence[int] | None = None,
    ) -> Strategy:
        """Read `[Stack-GS-J-Else]`, or `For`.

        Args:
            text: the notation; GS may be `T` for the number of tokens, or a window.
            num_blocks: number of blocks of the model.
            tokens: sequence length T; every GS must divide it.
            guess: one of 0 / 1 a block in the released order (last block first); the
                notation does not say it. Default: 0 everywhere.

        Raises:
            ValueError: with a sentence that says what is wrong.
        """
        if text.strip().lower() == "for":
            return cls.sequential(num_blocks, tokens)
        stack, ways, jacobi, other = _read_notation(text, tokens)
        _check_notation(text, stack, ways, other, num_blocks, tokens)
        guesses = [0] * num_blocks if guess is None else list(guess)[::-1]
        if len(guesses) != num_blocks:
            raise ValueError(
                f"guess has {len(guesses)} entries for {num_blocks} blocks"
            )
        plans = [BlockPlan(1, max(other[0], 1), g, refine=other[1]) for g in guesses]
        for block, (segments, window), (j, refine) in zip(
            stack, ways, jacobi, strict=True
        ):
            plans[block] = BlockPlan(
                segments, j, guesses[block], window=window, refine=refine
            )
        return cls(tuple(plans), tokens)

    def __str__(self) -> str:
        """The notation; `For` when every block is sequential."""
        if all(plan == BlockPlan() for plan in self.blocks):
            return "For"
        counts = Counter(_key(p) for p in self.blocks if p.mode == "jacobi")
        # The most frequent count, the larger one on a tie, so the text is unique.
        other = max(counts, key=lambda j: (counts[j], j)) if counts else None
        stack = [
            (number, plan)
            for number, plan in enumerate(self.blocks)
            if plan.mode != "jacobi" or _key(plan) != other
        ]
        rest = "0"
        if other is not None:
            count, refine, corrected, spare = other
            rest = BlockPlan(
                1, count, refine=refine, corrected=corrected, spare=spare
            ).iterations
        if not stack:  # plain Jacobi everywhere: name one block so that it parses
            stack = [(0, self.blocks[0])]
        full = "T" if self.tokens is None else str(self.tokens)
        numbers = "/".join(str(number) for number, _ in stack)
        ways = [full if plan.is_for else _written(plan) for _, plan in stack]
        jacobi = [plan.iterations for _, plan in stack]
        return f"[{numbers}-{_folded(ways)}-{_folded(jacobi)}-{rest}]"

    def to_dict(self) -> dict[str, Any]:
        """A JSON value that `from_dict` reads back, with the notation for people."""
        return {
            "notation": str(self),
            "tokens": self.tokens,
            "blocks": [
                {
                    "block": number,
                    "mode": plan.mode,
                    "segments": plan.segments,
                    "max_jacobi": plan.max_jacobi,
                    "guess": _GUESSES[plan.guess],
                    "tol": plan.tol,
                    "window": plan.window,
                    "refine": plan.refine,
                    "corrected": plan.corrected,
                    "spare": plan.spare,
                    "front": plan.front,
                }
                for number, plan in enumerate(self.blocks)
            ],
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Strategy:
        """Read what `to_dict` wrote."""
        plans = tuple(
            BlockPlan(
                row["segments"],
                row["max_jacobi"],
                _GUESSES.index(row["guess"]),
                row["tol"],
                row["window"],
                row["refine"],
                row["corrected"],
                row["spare"],
                row["front"],
            )
            for row in value["blocks"]
        )
        return cls(plans, value["tokens"])

    def with_block(self, block: int, plan: BlockPlan) -> Strategy:
        """The same strategy with another plan for one block."""
        plans = (*self.blocks[:block], plan, *self.blocks[block + 1 :])
        return replace(self, blocks=plans)


def _key(plan: BlockPlan) -> tuple[int, int, bool, bool]:
    """What the notation says of the iterations."""
    return plan.max_jacobi, plan.refine, plan.corrected, plan.spare


def _written(plan: BlockPlan) -> str:
    """What stands in place of a number of segments."""
    if plan.mode in ("window", "front"):
        return f"{plan.mode[0]}{plan.window or plan.front}"
    return str(plan.segments)


def _normalised(plan: BlockPlan, tokens: int | None) -> BlockPlan:
    """One writing for one way: a window of 1 is For, one of all tokens is Jacobi.

    For has no segments, one iteration, and a guess without meaning.
    """
    if tokens is not None and plan.window >= tokens - 1 > 0:
        return replace(plan, segments=1, max_jacobi=tokens, window=0)
    if plan.window > 1:
        return replace(plan, max_jacobi=1)
    full = tokens is not None and max(plan.segments, plan.front + 1) >= tokens
    if plan.is_for or plan.window or full:
        return BlockPlan(tol=plan.tol if plan.refine else None, refine=plan.refine)
    return plan


def _folded(values: Sequence[str]) -> str:
    """`8/8` is written `8`."""
    return values[0] if len(set(values)) == 1 else "/".join(values)


def _read_notation(
    text: str, tokens: int
) -> tuple[list[int], list[tuple[int, int]], list[tuple[int, int]], tuple[int, int]]:
    """Blocks, (segments, window) and (J, refining J) of each, J of the others."""
    number, count = r"\d+(?:/\d+)*", r"\d+(?:\+\d+)?"
    way = r"(?:w?\d+|T)(?:/(?:w?\d+|T))*"
    match = re.fullmatch(
        rf"\[({number})-({way})-({count}(?:/{count})*)-({count})\]",
        text.strip().replace(" ", ""),
    )
    if not match and re.search(r"\d+[cs]\b", text):
        raise ValueError(
            f"{text!r}: corrected iterations (c, s) have weights that a search has "
            "learned; use auto"
        )
    if not match:
        raise ValueError(
            f"{text!r} is not [Stack-GS-J-Else], such as [7-8-32-10] or "
            "[0/7-256/8-1/13-6], nor For"
        )
    stack = [int(part) for part in match[1].split("/")]
    fields = {"GS": match[2].split("/"), "J": match[3].split("/")}
    for name, values in fields.items():
        if len(values) not in (1, len(stack)):
            raise ValueError(
                f"{text!r}: {name} has {len(values)} numbers for {len(stack)} blocks"
            )
    ways = [_way(part, tokens) for part in fields["GS"]]
    counts = [_count(part) for part in fields["J"]]
    # One number stands for every stacked block.
    return (
        stack,
        ways * (len(stack) // len(ways)),
        counts * (len(stack) // len(counts)),
        _count(match[4]),
    )


def _way(part: str, tokens: int) -> tuple[int, int]:
    """`8`, `T` or `w32` as segments and window."""
    if part.startswith("w"):
        return FOR, int(part[1:])
    return tokens if part == "T" else int(part), 0


def _count(part: str) -> tuple[int, int]:
    """`6` or `3+2` as iterations and refining iterations."""
    first, _, second = part.partition("+")
    return int(first), int(second or 0)


def _check_notation(
    text: str,
    stack: list[int],
    ways: list[tuple[int, int]],
    other: tuple[int, int],
    num_blocks: int,
    tokens: int,
) -> None:
    if len(set(stack)) != len(stack):
        raise ValueError(f"{text!r}: a block is stacked twice")
    for block in stack:
        if block >= num_blocks:
            raise ValueError(
                f"{text!r}: block {block} does not exist (blocks 0 to {num_blocks - 1})"
            )
    for segments, window in ways:
        if not window and (segments < 1 or tokens % segments):
            raise ValueError(
                f"{text!r}: {segments} segments do not divide {tokens} tokens"
            )
    if other[0] < 1 and len(stack) < num_blocks:
        raise ValueError(f"{text!r}: Else must be 1 or more iterations")
