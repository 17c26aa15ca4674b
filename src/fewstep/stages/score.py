"""Stage: score the samples of every seed against the reference."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fewstep import files
from fewstep.device import pick_device
from fewstep.errors import UserError
from fewstep.extractors import Extractor, Features, extract, load_extractor
from fewstep.fidelity import ScoreOptions, protocol_id, score
from fewstep.progress import Progress
from fewstep.references import load_reference
from fewstep.samples import SampleManifest, read_images, read_manifest
from fewstep.sampling import SampleOptions, sample_labels
from fewstep.stages.sources import check
from fewstep.statistics import Reference


def run(
    spec: dict[str, Any],
    samples: list[Path],
    reference: Path,
    weights: Path | None,
    out: Path,
    record: Path | None = None,
) -> None:
    """Write `scores.json`: the scores and the protocol of each seed.

    Args:
        spec: resolved `evaluation`, `extractor`, `real_levels`. Without
            `evaluation.sfid` there is no sFID.
        samples: `samples.json` of each seed.
        reference: canonical `.npz`.
        weights: the extractor's weights; None = its own download.
        out: the scores.
        record: what is known of the weights, where they are an asset.

    Raises:
        UserError: for weights that are not the ones that were verified.
    """
    check(weights, record)
    options = score_options(spec["evaluation"])
    extractor = load_extractor(
        spec["extractor"]["kind"],
        weights=weights,
        name=spec["extractor"]["name"],
        device=pick_device(),
        spatial=options.spatial,
    )
    real = load_reference(reference, extractor.dim)
    found = [score_samples(spec, path, real, extractor, options) for path in samples]
    files.write_json(out, {"seeds": found})


def score_options(wanted: dict[str, Any]) -> ScoreOptions:
    """Which scores a resolved `EvaluationSpec` asks for."""
    return ScoreOptions(
        kid_subset_size=wanted["kid_subset_size"] if wanted["kid"] else None,
        kid_subsets=wanted["kid_subsets"],
        neighbours=3 if wanted["precision_recall"] else None,
        isc_splits=wanted["isc_splits"],
        spatial=wanted.get("sfid", False),
    )


def score_samples(
    spec: dict[str, Any],
    path: Path,
    real: Reference,
    extractor: Extractor,
    options: ScoreOptions,
) -> dict[str, Any]:
    """Scores, notes and protocol of one seed's samples."""
    wanted, manifest = spec["evaluation"], read_manifest(path)
    drawn = SampleOptions(**manifest.options)
    count = drawn.stop - drawn.start
    if count != wanted["n"]:
        raise UserError(f"{count} samples", where=str(path), expected=str(wanted["n"]))
    protocol, facts = protocol_id(
        extractor,
        real,
        rounding=drawn.rounding,
        real_levels=spec["real_levels"],
        labels=drawn.labels if drawn.num_classes else "none",
        resize=drawn.resize,
    )
    scores = score(
        _stream(path, extractor, wanted["batch"], count, manifest),
        real,
        extractor,
        options,
        sample_labels(drawn, list(range(drawn.start, drawn.stop))),
    )
    return {
        "seed": drawn.seed,
        "protocol": protocol,
        "protocol_facts": facts,
        "notes": scores.notes,
        "row": scores.row(),
    }


def _stream(
    path: Path, extractor: Extractor, batch: int, count: int, manifest: SampleManifest
) -> Iterator[Features]:
    """Features of all shards, in the order of the samples."""
    seed = manifest.options["seed"]
    progress = Progress(f"score {manifest.extra.get('sampler', '')} seed {seed}", count)
    for images in read_images(path):
        for features in extract(extractor, np.asarray(images), batch):
            yield features
            progress.advance(len(features.pool))
