"""The plan of reflow pairs: which there are, how they are made, how they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from fewstep.seqrf.segments import Segments

METADATA_KEY = b"fewstep.pairs"
"""Where origin, plan and place of a shard stand in its schema's metadata."""


@dataclass(frozen=True)
class PairPlan:
    """Which pairs there are and how they are made; pair i belongs to segment i mod k.

    Attributes:
        seed: decides image, mirroring and noise of every pair.
        count: pairs over all segments.
        edges: k + 1 times, descending from 1 to 0.
        tol: rtol and atol of the solver.
        error_norm: "sample", or "batch" (as released; a pair then depends on the others
            of its batch).
        dtype: "float32" or "float16", of the stored images.
        flip: mirror half of the images.
        shard: pairs a file.
        time_factor: length of the teacher's path, see `reflow_pairs`.

    Raises:
        ValueError: for a value out of range.
    """

    seed: int
    count: int
    edges: tuple[float, ...]
    tol: float = 1e-4
    error_norm: Literal["sample", "batch"] = "sample"
    dtype: Literal["float32", "float16"] = "float32"
    flip: bool = True
    shard: int = 2560
    time_factor: Literal["exact", "released"] = "released"

    def __post_init__(self) -> None:
        object.__setattr__(self, "edges", Segments(tuple(self.edges)).edges)
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} {getattr(self, name)!r}: expected {allowed}")
        for name in ("count", "shard", "tol"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} {getattr(self, name)}: expected more than 0")

    @property
    def segments(self) -> int:
        """Number of segments k."""
        return len(self.edges) - 1

    @property
    def shards(self) -> int:
        """Number of files."""
        return -(-self.count // self.shard)

    def indices(self, number: int) -> range:
        """The pairs of a shard.

        Raises:
            ValueError: if there is no such shard.
        """
        if not 0 <= number < self.shards:
            raise ValueError(f"shard {number}: expected 0 to {self.shards - 1}")
        start = number * self.shard
        return range(start, min(start + self.shard, self.count))

    def to_dict(self) -> dict[str, Any]:
        """A JSON value."""
        return {**asdict(self), "edges": list(self.edges)}

    def identity(self) -> dict[str, Any]:
        """What decides every pair and its place: all but how many there are."""
        value = self.to_dict()
        del value["count"]
        return value

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> PairPlan:
        """Inverse of `to_dict`.

        Raises:
            ValueError: for unknown, missing or impossible values.
        """
        if set(value) != {field.name for field in fields(cls)}:
            raise ValueError(f"not a plan of pairs: {sorted(value)}")
        return cls(**value)


_CHOICES = {
    "error_norm": ("sample", "batch"),
    "dtype": ("float32", "float16"),
    "time_factor": ("exact", "released"),
}


def schema(plan: PairPlan, shape: Sequence[int]) -> pa.Schema:
    """Columns of a shard of images of shape (C, H, W), without metadata."""
    value = pa.float16() if plan.dtype == "float16" else pa.float32()
    image = pa.list_(pa.field("item", value), int(np.prod(shape)))
    return pa.schema(
        {
            "x0": image,
            "x1": image,
            "t0": pa.float32(),
            "t1": pa.float32(),
            "segment": pa.int16(),
            "pair": pa.int64(),
            "nfe": pa.int32(),
        }
    )
