"""Stage: reference statistics, computed from a dataset or read from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.adm import IMAGES, array_names, open_images
from fewstep.data import open_dataset
from fewstep.device import pick_device
from fewstep.errors import UserError
from fewstep.extractors import Extractor, load_extractor
from fewstep.images import released_levels
from fewstep.references import load_reference, save_reference
from fewstep.stages.sources import check
from fewstep.statistics import Reference, dataset_reference, with_features

_BATCH = 64


def build(
    spec: dict[str, Any],
    extractor: dict[str, Any],
    out: Path,
    *,
    weights: Path | None = None,
    dataset: Path | None = None,
    file: Path | None = None,
    weights_record: Path | None = None,
    record: Path | None = None,
) -> None:
    """Write the canonical `.npz` and its manifest.

    A file of ADM's holds images (`arr_0`) beside the statistics: the pooled features of
    the first `keep_features` of them are then kept for KID, precision and recall. Of a
    file that holds nothing but images the statistics are computed, as of a dataset.

    Args:
        spec: resolved `ReferenceSpec`; `spatial` (missing: false) also makes the
            statistics of sFID. Those that a file holds are kept in any case.
        extractor: resolved extractor.
        out: `results/references/{name}.npz`.
        weights: the extractor's weights; None = its own download.
        dataset: folder of the dataset, or
        file: a published statistics file.
        weights_record: what is known of the weights, where they are an asset.
        record: what is known of the file, likewise.

    Raises:
        UserError: for a file that is broken, lacks what the spec asks for, or is not
            the one that was verified.
    """
    check(file, record)
    check(weights, weights_record)
    if file is not None:
        save_reference(out, _of_file(spec, extractor, weights, file))
        return
    assert dataset is not None
    loaded = _load(spec, extractor, weights)
    images = open_dataset(dataset).images
    save_reference(out, _computed(spec, loaded, images))


def _load(
    spec: dict[str, Any], extractor: dict[str, Any], weights: Path | None
) -> Extractor:
    return load_extractor(
        extractor["kind"],
        weights=weights,
        name=extractor["name"],
        device=pick_device(),
        spatial=spec.get("spatial", False),
    )


def _computed(
    spec: dict[str, Any],
    extractor: Extractor,
    images: NDArray[np.uint8],
    manifest: dict[str, Any] | None = None,
) -> Reference:
    """Statistics of images (N, 3, H, W)."""
    return dataset_reference(
        images,
        extractor,
        _BATCH,
        _levels(spec),
        spec["flips"],
        spec["keep_features"],
        manifest,
    )


def _of_file(
    spec: dict[str, Any], extractor: dict[str, Any], weights: Path | None, file: Path
) -> Reference:
    """What a published file holds, and what its images have to give."""
    names = array_names(file) if file.suffix == ".npz" and file.is_file() else ()
    if IMAGES in names and not {"mu", "sigma"} & set(names):
        return _of_images(spec, extractor, weights, file)
    keep = spec["keep_features"] if IMAGES in names else 0
    # The statistics are the file's: only pooled features are wanted here.
    plain = {**spec, "spatial": False}
    loaded = _load(plain, extractor, weights) if keep else None
    found = load_reference(file, loaded.dim if loaded else None)
    if spec.get("spatial", False) and found.mu_s is None:
        raise UserError(
            "holds no spatial statistics",
            where=str(file),
            expected="arrays mu_s and sigma_s, as ADM's files have them",
            do="set the reference's spatial to false, or compute it from images",
        )
    if loaded is None:
        return found
    images = open_images(file)[:keep]
    return with_features(found, images, loaded, _BATCH, _levels(spec))


def _of_images(
    spec: dict[str, Any], extractor: dict[str, Any], weights: Path | None, file: Path
) -> Reference:
    """Statistics of a file that holds images and nothing else."""
    images = open_images(file)
    if len(images) < 2:
        raise UserError(
            f"holds {len(images)} images", where=str(file), expected="at least 2"
        )
    if spec["flips"] == "random":
        raise UserError(
            "holds images and no statistics, which flips random would be said of",
            where=str(file),
            expected="flips none or both",
        )
    loaded = _load(spec, extractor, weights)
    return _computed(spec, loaded, images, {"source": file.name})


def _levels(spec: dict[str, Any]) -> NDArray[np.uint8] | None:
    return released_levels() if spec["real_levels"] == "released" else None
