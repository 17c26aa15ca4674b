"""What a computation costs, before anybody knows on which device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Settings = Mapping[str, Any]
"""A resolved specification, as the stages get it."""

BYTES = {"fp32": 4, "bf16": 2}
"""Bytes of a number in a precision."""


@dataclass(frozen=True)
class Work:
    """A computation whose parts run one after the other.

    Attributes:
        flops: floating-point operations; a multiplication and an addition are two.
        traffic: bytes read and written in the device's memory.
        kernels: launches, which have a cost of their own.
        precision: "bf16", "fp32", or "tf32": convolutions in float32.
    """

    flops: float
    traffic: float = 0.0
    kernels: float = 0.0
    precision: str = "fp32"

    def __mul__(self, times: float) -> Work:
        """The same so many times."""
        scaled = (self.flops * times, self.traffic * times, self.kernels * times)
        return Work(*scaled, self.precision)
