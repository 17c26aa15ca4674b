"""Dataset builders by the name of their source.

A builder is `build(spec, folder)`: it reads the source and writes the folder whole
(`common.write_dataset`). A new source is one module and one line here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fewstep.datasets import colour_mnist, digits, folder, twemoji
from fewstep.datasets.common import DatasetSpec

__all__ = ["BUILDERS", "Builder", "DatasetSpec"]

Builder = Callable[[DatasetSpec, Path], None]

BUILDERS: dict[str, Builder] = {
    "colour-mnist": colour_mnist.build,
    "twemoji": twemoji.build,
    "digits": digits.build,
    "folder": folder.build,
}
