"""Which codes there are and how they are stored; nothing here needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import pyarrow as pa

METADATA_KEY = b"fewstep.codes"
"""Where a shard says in its schema's metadata what it holds."""
FORMAT = 1
"""Version of the layout of shards and manifest."""
LARGEST_CODEBOOK = 2**16


@dataclass(frozen=True)
class CodePlan:
    """Codes of `count` images, each seen in `views` ways, on a square grid.

    Attributes:
        count: images.
        shard: images a file.
        views: of an image.
        grid: codes a side; N = grid².
        codebook_size: K, at most 65,536; codes are 0..K-1.
        num_classes: labels are 0..num_classes-1.

    Raises:
        ValueError: for a value out of range.
    """

    count: int
    shard: int
    views: int
    grid: int
    codebook_size: int
    num_classes: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{field.name} {value!r}: expected 1 or more")
        if self.codebook_size > LARGEST_CODEBOOK:
            raise ValueError(
                f"codebook_size {self.codebook_size}: expected at most "
                f"{LARGEST_CODEBOOK}, which uint16 holds"
            )

    @property
    def tokens(self) -> int:
        """Codes of one view, N."""
        return self.grid**2

    @property
    def shards(self) -> int:
        """Number of files."""
        return -(-self.count // self.shard)

    def indices(self, number: int) -> range:
        """The images of a shard.

        Raises:
            ValueError: if there is no such shard.
        """
        if not 0 <= number < self.shards:
            raise ValueError(f"shard {number}: expected 0 to {self.shards - 1}")
        start = number * self.shard
        return range(start, min(start + self.shard, self.count))

    def identity(self) -> dict[str, int]:
        """What decides every code's place, as a JSON value: all but the count."""
        value = asdict(self)
        del value["count"]
        return value

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> CodePlan:
        """The plan among the entries of `value`.

        Raises:
            KeyError, ValueError: for missing or impossible values.
        """
        return cls(**{field.name: value[field.name] for field in fields(cls)})


def schema(plan: CodePlan) -> pa.Schema:
    """Columns of a shard: `codes` view by view in raster order, and `label`."""
    item = pa.field("item", pa.uint16())
    codes = pa.list_(item, plan.views * plan.tokens)
    return pa.schema({"codes": codes, "label": pa.int32()})
