"""Dataset builders by the name of their source.

A builder is `build(spec, folder)`: it reads the source and writes the folder whole
(`common.write_dataset`). A new source is one module and one line here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

from fewstep.datasets import colour_mnist, digits, folder, twemoji
from fewstep.datasets.common import DatasetSpec
from fewstep.errors import UserError

__all__ = ["BUILDERS", "Builder", "DatasetSpec", "build_dataset"]

Builder = Callable[[DatasetSpec, Path], None]

BUILDERS: dict[str, Builder] = {
    "colour-mnist": colour_mnist.build,
    "twemoji": twemoji.build,
    "digits": digits.build,
    "folder": folder.build,
}


def build_dataset(spec: DatasetSpec, folder: str | Path) -> None:
    """Build the dataset that `spec` describes; an unfinished one is built anew.

    Equal specs give equal bytes.

    Raises:
        UserError: for an unknown source or option, a missing package, unreadable
            images, a count, number of classes or checksum other than the spec's.
    """
    if spec.source not in BUILDERS:
        near = difflib.get_close_matches(spec.source, BUILDERS, n=1)
        raise UserError(
            f"unknown source {spec.source!r}",
            where=f"dataset {spec.name!r}",
            expected=f"{near[0]!r}" if near else ", ".join(BUILDERS),
        )
    BUILDERS[spec.source](spec, Path(folder))
