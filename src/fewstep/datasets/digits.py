"""Digits: scikit-learn's 1,797 handwritten digits, 8 x 8, grey as RGB; for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fewstep.datasets import common
from fewstep.errors import UserError

SIZE = 8
FULL_INK = 16


def build(spec: common.DatasetSpec, folder: Path) -> None:
    """Write scikit-learn's digits, their 17 levels spread over 0..255.

    Raises:
        UserError: where scikit-learn is missing, or the size is not 8.
    """
    common.resolve_options(spec, {})
    if spec.size != SIZE:
        raise UserError(
            f"size {spec.size}", where=common.where(spec), expected=f"size {SIZE}"
        )
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise common.missing_package("scikit-learn", spec) from error
    found = load_digits()
    grey = np.rint(found.images * (255 / FULL_INK)).astype(np.uint8)
    common.write_dataset(
        spec,
        folder,
        common.Content(
            images=np.repeat(grey[:, None], 3, axis=1),
            labels=found.target.astype(np.int64),
            classes=[str(name) for name in found.target_names],
            licence="CC BY 4.0 (UCI)",
            attribution=(
                "Optical Recognition of Handwritten Digits, E. Alpaydin and "
                "C. Kaynak, UCI Machine Learning Repository, as in scikit-learn"
            ),
            origin={"scikit-learn": common.package_version("scikit-learn")},
        ),
    )
