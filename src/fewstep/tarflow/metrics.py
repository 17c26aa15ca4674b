"""Which blocks are tough and where to start: IGM, CRM and the empirical profile.

The formulas are those of the released GS-Jacobi program. IGM, the initial guess
metric, is the norm of the batch mean of the error after one Jacobi step from a guess.
CRM, the convergence ranking metric, is ||mean exp(-s) x|| ||W_s|| + ||W_u|| with the
halves W_s, W_u of the output projection. Two further measures stand beside them: `crm`
with z exp(s) = x - u in place of exp(-s) x, which is what the derivative of a Jacobi
step contains; and the empirical profile, the error by iteration on exact pairs (x, z).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from fewstep.tarflow.corrected import Learned
from fewstep.tarflow.guidance import UNGUIDED, BlockEvaluator, Guidance
from fewstep.tarflow.inverse import invert_block
from fewstep.tarflow.model import FlowBlock, TarFlow
from fewstep.tarflow.solve import initial_guess, jacobi_step, segment_bounds
from fewstep.tarflow.strategy import BlockPlan

Norm = Literal[1, 2, "fro"]
GUESSES = ("z", "zeros", "means")

_RARE = 2.5
"""Standard deviations above the mean: one in 160, were they normal."""


@dataclass(frozen=True)
class BlockMetrics:
    """Metrics of every block, block 0 first; float64, not rounded.

    Attributes:
        igm: (blocks, 2) error norm after one step from z and from zeros.
        crm: (blocks, 4): ||mean exp(-s) x||, ||W_s||, ||W_u||, first two's product
            plus the third.
        crm_derived: (blocks, 4): the same with x - u in place of exp(-s) x.
    """

    igm: Tensor
    crm: Tensor
    crm_derived: Tensor

    @property
    def crm_percent(self) -> Tensor:
        """Share of each block (blocks,), from two decimals as the program prints."""
        rounded = torch.round(self.crm[:, 3], decimals=2)
        return 100 * rounded / rounded.sum()

    @property
    def share(self) -> Tensor:
        """Share of each block (blocks,) in percent, from the unrounded CRM."""
        return 100 * self.crm[:, 3] / self.crm[:, 3].sum()

    @property
    def best_guess(self) -> list[int]:
        """The guess of smaller IGM for each block: 0 = z, 1 = zeros."""
        return [int(i) for i in self.igm.argmin(dim=1)]


def block_metrics(
    model: TarFlow,
    x: Tensor,
    y: Tensor | None = None,
    norm: Norm = 2,
    *,
    batch: int = 256,
) -> BlockMetrics:
    """IGM and CRM of every block on images.

    Args:
        model: the flow.
        x: images (N, Cimg, H, W) in [-1, 1].
        y: labels of the forward pass (N,) or None. The step from the guess always
            uses the class mean, as the released program does.
        norm: matrix norm of the (T, C) means: 1, 2 (spectral) or "fro".
        batch: images at a time; it does not change the result.

    Raises:
        ValueError: for another norm.
    """
    if norm not in (1, 2, "fro"):
        raise ValueError(f"norm must be 1, 2 or 'fro', not {norm!r}")
    count = len(model.flows)
    shape = (count, model.tokens, model.token_dim)
    # Sums of: error from z, error from zeros, exp(-s) x, x - u.
    sums = [torch.zeros(shape, dtype=torch.float64, device=x.device) for _ in range(4)]
    with torch.inference_mode():
        for part, labels in _chunks(x, y, batch):
            tokens = model.patchify(part)
            for number, block in enumerate(model.flows):
                terms, tokens = _block_terms(block, tokens, labels)
                for total, term in zip(sums, terms, strict=True):
                    total[number] += term.sum(dim=0, dtype=torch.float64)
    means = [total / len(x) for total in sums]
    igm = torch.stack([_norms(means[0], norm), _norms(means[1], norm)], dim=1)
    weights = [b.proj_out.weight.detach().double().chunk(2) for b in model.flows]
    w_s = _norms(torch.stack([w[0] for w in weights]), norm)
    w_u = _norms(torch.stack([w[1] for w in weights]), norm)
    crm, derived = (
        torch.stack([a, w_s, w_u, a * w_s + w_u], dim=1).cpu()
        for a in (_norms(means[2], norm), _norms(means[3], norm))
    )
    return BlockMetrics(igm.cpu(), crm, derived)


def _block_terms(
    block: FlowBlock, x: Tensor, y: Tensor | None
) -> tuple[list[Tensor], Tensor]:
    """Per image: both one-step errors, exp(-s) x, x - u; and z in raster order."""
    x = block.ordered(x)
    s, u = block.network(x, block.positions(), block.embedding(y, len(x)))
    pad = (0, 0, 1, 0)
    s = torch.nn.functional.pad(s[:, :-1], pad)
    u = torch.nn.functional.pad(u[:, :-1], pad)
    z = (x - u) * torch.exp(-s)
    evaluate = BlockEvaluator(block, None, len(x), UNGUIDED)
    errors = []
    for guess in (0, 1):
        start = initial_guess(z, guess)
        s1, u1 = evaluate(start[:, :-1], 0)
        error = torch.zeros_like(x)  # token 0 passes unchanged
        error[:, 1:] = jacobi_step(z[:, 1:], s1, u1) - x[:, 1:]
        errors.append(error)
    return [*errors, torch.exp(-s) * x, x - u], block.ordered(z)


def _norms(matrices: Tensor, norm: Norm) -> Tensor:
    """Matrix norm of each (…, T, C)."""
    norms: Tensor = torch.linalg.matrix_norm(matrices, ord=norm)
    return norms


def _chunks(
    x: Tensor, y: Tensor | None, batch: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    for start in range(0, len(x), batch):
        stop = start + batch
        yield x[start:stop], None if y is None else y[start:stop]


@dataclass(frozen=True)
class Convergence:
    """Error by iteration of one block, segment by segment.

    Attributes:
        largest: largest absolute error over samples and entries (iterations,).
        rms: root mean square error (iterations,).
        median: median over samples of the largest absolute error (iterations,).
        errors: largest absolute error of each sample, (B,) an iteration.
        moves: largest move of each sample in the iteration, (B,) an iteration; that of
            the first is not known.
    """

    largest: list[float] = field(default_factory=list)
    rms: list[float] = field(default_factory=list)
    median: list[float] = field(default_factory=list)
    errors: list[Tensor] = field(default_factory=list)
    moves: list[Tensor] = field(default_factory=list)

    @property
    def rare(self) -> list[float]:
        """What few samples exceed, see `rare_error` (iterations,)."""
        return [rare_error(each) for each in self.errors]


def rare_error(errors: Tensor) -> float:
    """An error that one sample in a hundred or two exceeds, from those of a few (N,).

    As far above their mean as 2.5 standard deviations, of their logarithms: a sample in
    fifty may be ten times as far off as the median one, so the largest of those that
    were seen says little of the next. No less than the largest, NaN if one is.
    """
    logs = errors.clamp(min=1e-12).log()
    far = (logs.mean() + _RARE * logs.std(correction=0)).exp()
    return float(torch.maximum(far, errors.max()))


def convergence(
    block: FlowBlock,
    x: Tensor,
    z: Tensor,
    y: Tensor | None,
    *,
    guess: int,
    segments: int = 1,
    iterations: int | None = None,
    tol: float = 0.0,
    guidance: Guidance = UNGUIDED,
    learned: Learned | None = None,
) -> list[Convergence]:
    """Error after every iteration on exact pairs: one run gives them all.

    Args:
        block: the block.
        x, z: its exact input and output (B, T, C) in raster order.
        y: labels the pair was made with, or None.
        guess: 0 = z, 1 = zeros, 2 = from means.
        segments: 1 = Jacobi. With more, each segment starts from solved ones.
        iterations: most iterations a segment (default: to the end).
        tol: a sample is done once it moved no more than this (see `solve_exact`).
        guidance: the pair's guidance.
        learned: where guess 2 begins.

    Returns:
        one `Convergence` a segment.
    """
    record = Recorder(block.ordered(x), segments)
    most = iterations or x.shape[1]
    plan = BlockPlan(segments, most, guess)
    with torch.inference_mode():
        invert_block(
            block,
            z,
            y,
            plan,
            guidance=guidance,
            tol=tol,
            learned=learned,
            on_iteration=record,
        )
    return record.found


class Recorder:
    """Notes errors and moves of every iteration; exact: x (B, T, C)."""

    def __init__(self, exact: Tensor, segments: int) -> None:
        self.exact, self.found = exact, list[Convergence]()
        self._bounds = segment_bounds(exact.shape[1], segments)
        self._before: Tensor | None = None

    def __call__(
        self, segment: int, _: int, now: Tensor, moved: Tensor | None = None
    ) -> None:
        """Note x (B, T, C) after an iteration; its move (B,) if not from before."""
        if len(self.found) == segment:
            self.found.append(Convergence())
        start, stop = self._bounds[segment]
        window, curve = slice(start + 1, stop + 1), self.found[segment]
        error = (now[:, window] - self.exact[:, window]).abs()
        worst = error.amax(dim=(1, 2))
        curve.largest.append(float(worst.max()))
        curve.median.append(float(worst.median()))
        curve.rms.append(float(error.square().mean().sqrt()))
        curve.errors.append(worst)
        if moved is None:
            moved = torch.full_like(worst, torch.inf)
            if self._before is not None:
                change = (now[:, window] - self._before[:, window]).abs()
                moved = change.amax(dim=(1, 2))
        curve.moves.append(moved)
        self._before = now.clone()


def iterations_to(error: list[float], tolerance: float) -> int | None:
    """First iteration (from 1) from which on the error stays within `tolerance`."""
    last_bad = max((i for i, e in enumerate(error) if not e <= tolerance), default=-1)
    return last_bad + 2 if last_bad + 1 < len(error) else None
