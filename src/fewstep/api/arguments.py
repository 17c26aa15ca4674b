"""What a notebook hands over, checked before anything is loaded or drawn."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fewstep.config.problems import show
from fewstep.errors import UserError

MOST = 2**63 - 1
"""Largest number of a sample."""
_LONGEST = 60


def wrong(value: object, where: str, expected: str) -> UserError:
    """The line about a value of another kind, in the words of the configuration.

    Args:
        value: what was given.
        where: name of the argument.
        expected: what would have been right.
    """
    if isinstance(value, Tensor | np.ndarray):
        shape = tuple(value.shape)
        return UserError(
            f"found an array of shape {shape}", where=where, expected=expected
        )
    text = " ".join(show(value).split())
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 1] + "…"
    return UserError(f"found {text}", where=where, expected=expected)


def whole(value: Any, where: str, least: int, most: int = MOST) -> int:
    """A whole number, of Python, NumPy or torch.

    Raises:
        UserError: for anything else, and for one out of range.
    """
    expected = f"a whole number, at least {least}"
    try:
        found = operator.index(value)
    except TypeError:
        raise wrong(value, where, expected) from None
    if isinstance(value, bool) or found < least:
        raise wrong(value, where, expected)
    if found > most:
        raise wrong(value, where, f"a whole number, at most {most}")
    return found


def several(values: object, where: str) -> list[Any]:
    """One or more samplers: a name, settings or a plan alone is one.

    Raises:
        UserError: for none, and for what holds none.
    """
    if isinstance(values, str | Mapping) or _is_plan(values):
        return [values]
    expected = "a list of samplers, or one"
    if not isinstance(values, Iterable):
        raise wrong(values, where, expected)
    found = list(values)
    if not found:
        raise UserError("no sampler to time", where=where, expected=expected)
    return found


def _is_plan(value: object) -> bool:
    return hasattr(value, "strategy")


def path_of(value: object, where: str) -> Path:
    """A path.

    Raises:
        UserError: for what is none.
    """
    if not isinstance(value, str | os.PathLike):
        raise wrong(value, where, "a path")
    return Path(value)


def as_bytes(images: Any, where: str = "images") -> NDArray[np.uint8]:
    """Images as a uint8 array (N, 3, H, W), N, H and W at least 1.

    Raises:
        UserError: for another type or shape, or for no image.
    """
    expected = "uint8 (N, 3, H, W), as Model.sample gives them"
    if isinstance(images, Tensor):
        # NumPy has no bfloat16.
        kind, shape = str(images.dtype).removeprefix("torch."), tuple(images.shape)
        array = images.detach().cpu().numpy() if kind == "uint8" else None
    else:
        try:
            array = np.asarray(images)
        except ValueError:  # lists of different lengths
            raise wrong(images, where, expected) from None
        kind, shape = str(array.dtype), array.shape
    if array is None or len(shape) != 4 or shape[1] != 3 or kind != "uint8":
        raise UserError(
            f"images of type {kind} and shape {shape}", where=where, expected=expected
        )
    if not array.size:
        raise UserError("no image", where=where, expected=expected)
    return array


def sized(images: NDArray[np.uint8], side: int, where: str) -> NDArray[np.uint8]:
    """The images, if they have `side` pixels a side.

    Raises:
        UserError: if they have another size.
    """
    height, width = images.shape[2:]
    if (height, width) != (side, side):
        raise UserError(
            f"images of {height} x {width} pixels",
            where=where,
            expected=f"{side} x {side}",
        )
    return images
