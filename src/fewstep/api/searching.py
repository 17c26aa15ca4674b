"""The strategy search of a TarFlow for a notebook."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fewstep import files
from fewstep.api.arguments import as_bytes, sized
from fewstep.api.experiment import (
    SEARCHED,
    NotebookGraph,
    Plan,
    add_sampler,
    check_numbers,
    with_search,
)
from fewstep.api.plans import RANK
from fewstep.config.tarflow import TarFlowExperiment
from fewstep.data import IMAGES, LABELS, MANIFEST
from fewstep.stages import rank as ranking
from fewstep.stages import search as searching


def run(
    graph: NotebookGraph,
    name: str,
    weights: Path,
    images: Tensor | NDArray[Any] | None,
    changes: dict[str, Any],
) -> Plan:
    """Rank the blocks where that was not done, then search; see `Model.search`.

    Args:
        graph, name: the experiment.
        weights: `model.safetensors`; None of `images`: `rank.json` lies beside it.
        images: uint8 (M, 3, H, W) that the blocks are ranked on.
        changes: keys of `search`; None leaves one as configured.

    Raises:
        UserError: for images or settings that do not fit the model.
    """
    own = graph.experiments[name]
    assert isinstance(own, TarFlowExperiment)
    own = with_search(own, **changes)
    batch = changes.get("batch") or own.search.batch
    label = "searched"
    with_one = add_sampler(own, label, {"strategy": SEARCHED, "batch": batch})
    graph = graph.with_experiment(name, with_one)
    check_numbers(graph, name, "search", where="search")
    real = None
    if images is not None:
        real = sized(as_bytes(images), own.model.img_size, "images")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        rank = weights.parent / RANK
        if real is not None:
            rank = folder / RANK
            _write_dataset(folder, real, own.model.num_classes)
            tables = folder / "blocks.parquet", folder / "profile.parquet"
            ranking.rank(graph.rank(name), weights, folder, rank, *tables)
        out = folder / "plan.json"
        tables = folder / "strategies.parquet", folder / "convergence.parquet"
        searching.run(graph.search(f"{name}/{label}"), weights, rank, out, *tables)
        content = files.read_json(out)
    found = content["search"]
    keys = ("error", "tolerance", "batch", "seconds", "speedup")
    measured = {key: found[key] for key in keys}
    return Plan(strategy=content["notation"], content=content, **measured)


def _write_dataset(folder: Path, images: NDArray[np.uint8], num_classes: int) -> None:
    """Images as the folder of a dataset; what class they are is not known."""
    count, channels, size, _ = images.shape
    np.save(folder / IMAGES, images)
    np.save(folder / LABELS, np.zeros(count, dtype=np.int64))
    files.write_json(
        folder / MANIFEST,
        {
            "name": "notebook",
            "size": size,
            "channels": channels,
            "count": count,
            "num_classes": max(1, num_classes),
            "classes": [],
            "sha256": files.sha256_file(folder / IMAGES),
            "labels_sha256": files.sha256_file(folder / LABELS),
        },
    )
