"""Rows of the table convergence, for the stages that profile Jacobi's iterates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fewstep.results import CONVERGENCE
from fewstep.tarflow.metrics import GUESSES, Convergence


def convergence_rows(
    shared: dict[str, Any],
    source: str,
    curves: Iterable[tuple[int, int, Convergence]],
    samples: int,
) -> list[dict[str, Any]]:
    """Error of Jacobi by iteration.

    Args:
        shared: the experiment and where the numbers come from.
        source: of the exact pairs: "data" or "sampling".
        curves: (block, guess, curve).
        samples: pairs.
    """
    return [
        CONVERGENCE.new_row(
            **shared,
            block=block,
            source=source,
            start=GUESSES[guess],
            segments=1,
            iteration=k + 1,
            error_max=curve.largest[k],
            error_rms=curve.rms[k],
            error_median=curve.median[k],
            n=samples,
        )
        for block, guess, curve in curves
        for k in range(len(curve.largest))
    ]
