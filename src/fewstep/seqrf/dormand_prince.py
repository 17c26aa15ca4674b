"""The formulas of the Dormand-Prince 5(4) pair, each a pure function.

G samples with a step size each have states (G, ...) and times (G,). A batch that
shares one step size is one sample: (1, B, ...).

Sources: Dormand and Prince 1980 (the pair), Hairer, Norsett, Wanner, "Solving
Ordinary Differential Equations I", II.4 to II.6 (step sizes, first step, quartic
interpolant). Constants of the step size control are those of SciPy's RK45.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Evaluate = Callable[[Tensor, Tensor], Tensor]
"""(t (G,), y (G, ...)) to dy/dt (G, ...)."""

CALLS_PER_STEP = 6
"""Field evaluations of a step: of seven slopes the first is the last step's last."""

_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_WEIGHTS = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (  # fifth-order weights minus fourth-order weights
    71 / 57600,
    0.0,
    -71 / 16695,
    71 / 1920,
    -17253 / 339200,
    22 / 525,
    -1 / 40,
)
_QUARTIC = (
    -12715105075 / 11282082432,
    0.0,
    87487479700 / 32700410799,
    -10690763975 / 1880347072,
    701980252875 / 199316789632,
    -1453857185 / 822651844,
    69997945 / 29380423,
)
_ORDER = 5  # of the step; the error estimate's exponent is minus its inverse
_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 10.0


def along(values: Tensor, y: Tensor) -> Tensor:
    """Values (G,) shaped to multiply states (G, ...), in the states' dtype."""
    return values.to(y.dtype).reshape(-1, *([1] * (y.dim() - 1)))


def _combine(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """Weighted sum, elementwise: a matrix product could run in TF32."""
    total = slopes[0] * weights[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        if weight:
            total.add_(slope, alpha=weight)
    return total


def rms(y: Tensor) -> Tensor:
    """Root mean square of each sample, (G,) float64."""
    flat = y.flatten(1)
    norm: Tensor = torch.linalg.vector_norm(flat, dim=1, dtype=torch.float64)
    return norm / math.sqrt(flat.shape[1])


def step(
    evaluate: Evaluate, t: Tensor, y: Tensor, slope: Tensor, h: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """One step: six evaluations.

    Args:
        evaluate: the field.
        t: times (G,).
        y: states (G, ...).
        slope: the field there.
        h: steps (G,), signed.

    Returns:
        The states after the step and the seven slopes; the last is the field there.
    """
    slopes, wide = [slope], along(h, y)
    stage = y
    for node, weights in zip(_NODES, _WEIGHTS, strict=True):
        stage = torch.addcmul(y, _combine(weights, slopes), wide)
        slopes.append(evaluate(t + node * h, stage))
    return stage, slopes


def error_ratio(
    slopes: Sequence[Tensor],
    y: Tensor,
    new: Tensor,
    h: Tensor,
    rtol: float,
    atol: float,
) -> Tensor:
    """Estimated error over tolerance (below 1 is good), RMS of each sample (G,).

    Args:
        slopes: the seven of the step.
        y, new: states before and after (G, ...).
        h: steps (G,).
        rtol, atol: tolerance is atol + rtol * max(|before|, |after|), per component.
    """
    scale = torch.maximum(y.abs(), new.abs()).mul_(rtol).add_(atol)
    return rms(_combine(_ERROR, slopes).mul_(along(h, y)).div_(scale))


def step_factor(ratio: Tensor, after_rejection: Tensor) -> Tensor:
    """What to multiply the step sizes by; a step that was not finite shrinks most.

    Args:
        ratio: error over tolerance (G,).
        after_rejection: whether the attempt before failed (G,): then no growth.
    """
    wanted = _SAFETY * torch.nan_to_num(ratio, nan=torch.inf) ** (-1 / _ORDER)
    grown = wanted.clamp(max=_GROW)
    grown = torch.where(after_rejection, grown.clamp(max=1.0), grown)
    return torch.where(ratio < 1, grown, wanted.clamp(min=_SHRINK))


def first_step(
    evaluate: Evaluate,
    t: Tensor,
    y: Tensor,
    slope: Tensor,
    span: Tensor,
    rtol: float,
    atol: float,
) -> Tensor:
    """First step sizes (G,) by one probing evaluation, as SciPy and Hairer do it.

    Args:
        evaluate, t, y, slope: as in `step`.
        span: signed length of the whole interval (G,).
        rtol, atol: as in `error_ratio`.
    """
    length = span.abs()
    scale = y.abs().mul(rtol).add_(atol)
    size, speed = rms(y / scale), rms(slope / scale)
    small = torch.full_like(length, 1e-6)
    probe = torch.where((size < 1e-5) | (speed < 1e-5), small, 0.01 * size / speed)
    probe = torch.minimum(probe, length)
    signed = probe * span.sign()
    moved = evaluate(t + signed, torch.addcmul(y, slope, along(signed, y)))
    bend = rms((moved - slope) / scale) / probe
    steep = torch.maximum(speed, bend)
    flat = torch.maximum(small, probe * 1e-3)
    guess = torch.where(steep <= 1e-15, flat, (0.01 / steep) ** (1 / _ORDER))
    return torch.minimum(torch.minimum(100 * probe, guess), length)


def interpolate(
    y: Tensor, new: Tensor, slopes: Sequence[Tensor], h: Tensor, theta: Tensor
) -> Tensor:
    """The pair's quartic interpolant inside a step (fourth order).

    Args:
        y, new: states before and after (G, ...).
        slopes: the seven of the step.
        h: steps (G,), signed.
        theta: place in the step (G,), 0 before it and 1 after it.

    Returns:
        States (G, ...).
    """
    wide, place = along(h, y), along(theta, y)
    rest = 1 - place
    chord = new - y
    bow = slopes[0] * wide - chord
    skew = chord - slopes[-1] * wide - bow
    quartic = _combine(_QUARTIC, slopes) * wide
    return y + place * (chord + rest * (bow + place * (skew + rest * quartic)))
