"""Solvers of ordinary differential equations by steps of a given length.

Like `fewstep.seqrf.ode` they know nothing of images, noise or segments.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

FixedField = Callable[[float, Tensor], Tensor]
"""(t, y (B, ...)) to dy/dt, for fixed steps."""


def euler_step(field: FixedField, t: float, end: float, y: Tensor) -> Tensor:
    """One Euler step from t to end; one evaluation, first order."""
    return y + (end - t) * field(t, y)


def heun_step(field: FixedField, t: float, end: float, y: Tensor) -> Tensor:
    """One Heun step: mean of the slopes at t and after a full step; second order."""
    first = field(t, y)
    second = field(end, y + (end - t) * first)
    return y + (end - t) / 2 * (first + second)


def heun_released_step(field: FixedField, t: float, end: float, y: Tensor) -> Tensor:
    """The released program's "Heun": second slope after HALF a step at the END time.

    Only first order; here so that released numbers can be had (SeqRF).
    """
    first = field(t, y)
    second = field(end, y + (end - t) / 2 * first)
    return y + (end - t) / 2 * (first + second)


FIXED_STEPS: dict[str, tuple[Callable[[FixedField, float, float, Tensor], Tensor], int]]
FIXED_STEPS = {
    "euler": (euler_step, 1),
    "heun": (heun_step, 2),
    "heun_released": (heun_released_step, 2),
}
"""Fixed-step methods and their evaluations a step."""
