"""Samples of chosen classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewstep.errors import UserError
from fewstep.sampling import Draw, Sampler


class Classified:
    """A sampler whose samples start, start+1, … have given classes.

    Args:
        sampler: the sampler.
        classes: a class for each sample.
        start: number of the first one.
    """

    def __init__(self, sampler: Sampler, classes: NDArray[np.int64], start: int):
        self._sampler, self._classes, self._start = sampler, classes, start

    @property
    def device(self) -> torch.device:
        return self._sampler.device

    @property
    def static_shapes(self) -> bool:
        return self._sampler.static_shapes

    def inputs(
        self,
        seed: int,
        indices: list[int],
        labels: NDArray[np.int64] | None,
        attempt: int = 0,
        purpose: str = "noise",
    ) -> Any:
        """As the sampler's, of the given classes."""
        del labels
        own = self._classes[np.array(indices) - self._start]
        return self._sampler.inputs(seed, indices, own, attempt, purpose)

    def draw(self, inputs: Any) -> Draw:
        return self._sampler.draw(inputs)

    def finish(self, images: Tensor, inputs: Any) -> Tensor:
        return self._sampler.finish(images, inputs)


def checked(
    classes: int | Sequence[int] | NDArray[Any] | Tensor, n: int, known: int
) -> NDArray[np.int64]:
    """One class for each of n samples, int64 (n,).

    Args:
        classes: one for all, or n of them.
        n: number of samples.
        known: number of the model's classes.

    Raises:
        UserError: for a model without classes, another number, or a class it lacks.
    """
    if not known:
        raise UserError(
            "this model knows no classes", where="classes", do="leave it out"
        )
    try:
        plain = classes.detach().cpu() if isinstance(classes, Tensor) else classes
        found = np.asarray(plain)
    except (TypeError, ValueError):  # bfloat16, lists of different lengths
        found = np.empty(0)
    if found.dtype.kind not in "iu":
        raise UserError("not whole numbers", where="classes", expected="class numbers")
    found = np.full(n, found) if found.ndim == 0 else found
    if found.shape != (n,):
        raise UserError(
            f"{found.size} classes for {n} samples",
            where="classes",
            expected="one for all, or a list of one each",
        )
    if n and not (found.min() >= 0 and found.max() < known):
        raise UserError(
            f"class {found.max() if found.max() >= known else found.min()}",
            where="classes",
            expected=f"0 to {known - 1}",
        )
    return found.astype(np.int64)
