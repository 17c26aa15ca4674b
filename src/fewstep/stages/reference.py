"""Stage: reference statistics, computed from a dataset or read from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewstep.data import open_dataset
from fewstep.device import pick_device
from fewstep.extractors import load_extractor
from fewstep.images import released_levels
from fewstep.references import load_reference, save_reference
from fewstep.statistics import dataset_reference

_BATCH = 64


def build(
    spec: dict[str, Any],
    extractor: dict[str, Any],
    out: Path,
    *,
    weights: Path | None = None,
    dataset: Path | None = None,
    file: Path | None = None,
) -> None:
    """Write the canonical `.npz` and its manifest.

    Args:
        spec: resolved `ReferenceSpec`.
        extractor: resolved extractor.
        out: `results/references/{name}.npz`.
        weights: the extractor's weights; None = its own download.
        dataset: folder of the dataset, or
        file: a published statistics file.
    """
    if file is not None:
        save_reference(out, load_reference(file))
        return
    assert dataset is not None
    data = open_dataset(dataset)
    loaded = load_extractor(
        extractor["kind"],
        weights=weights,
        name=extractor["name"],
        device=pick_device(),
    )
    levels = released_levels() if spec["real_levels"] == "released" else None
    reference = dataset_reference(
        data.images,
        loaded,
        _BATCH,
        levels,
        spec["flips"],
        spec["keep_features"],
    )
    save_reference(out, reference)
