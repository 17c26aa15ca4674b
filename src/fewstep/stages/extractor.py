"""Stage: train the small classifier that scores the demo's images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewstep.classifier import save_classifier, train_classifier
from fewstep.data import open_dataset


def build(spec: dict[str, Any], dataset: Path, out: Path) -> None:
    """Train a resolved `ClassifierSpec` on a dataset folder."""
    data = open_dataset(dataset)
    state, manifest = train_classifier(
        data.images,
        data.labels,
        data.num_classes,
        data.size,
        seed=spec["seed"],
        epochs=spec["epochs"],
    )
    manifest["dataset"], manifest["dataset_sha256"] = data.name, data.sha256
    save_classifier(out, state, manifest)
