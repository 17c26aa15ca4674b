"""The score of images that a notebook holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fewstep.api.arguments import as_bytes, sized, wrong
from fewstep.api.experiment import NotebookGraph, fetch_asset
from fewstep.classifier import ClassifierExtractor
from fewstep.config.base import is_path
from fewstep.config.data import ClassifierSpec
from fewstep.device import pick_device
from fewstep.errors import UserError
from fewstep.extractors import INCEPTION, Extractor, extract, load_extractor
from fewstep.fidelity import ScoreOptions, protocol_id, score
from fewstep.references import load_reference
from fewstep.stages.score import score_options
from fewstep.statistics import Reference, dataset_reference

_BATCH = 64
_KEPT = 10_000
_PER_SPLIT = 10  # images a part of the inception score, at the least


@dataclass(frozen=True)
class Score:
    """Scores of n images.

    Attributes:
        metric: "fid" where the features are Inception's, else "frechet".
        value: the Fréchet distance; smaller is better.
        n: images that were scored.
        protocol: what two scores must have in common to be compared.
        others: kid, isc, precision, recall, where they were made.
        notes: of a score: why it is not there, or what limits it.
    """

    metric: str
    value: float
    n: int
    protocol: str
    others: dict[str, float]
    notes: dict[str, str]

    def __repr__(self) -> str:
        more = "".join(f", {key} {value:.4g}" for key, value in self.others.items())
        return f"<{self.metric} {self.value:.4g}{more}; n = {self.n}, {self.protocol}>"


def score_images(
    graph: NotebookGraph,
    name: str,
    images: Tensor | NDArray[Any],
    reference: str | Path | Tensor | NDArray[Any] | None,
) -> Score:
    """Score images; see `Model.score`.

    Raises:
        UserError: for a reference or an extractor that is not there, and for images
            that do not fit.
    """
    drawn, own = as_bytes(images), graph.experiments[name]
    wanted = own.evaluation.reference if reference is None else reference
    _check_reference(graph, wanted)
    named = wanted if isinstance(wanted, str) else ""
    known = graph.config.references.get(named)
    extractor = _extractor(graph, named if known else own.evaluation.reference)
    _check_size(drawn, extractor, "images")
    levels: Literal["released", "exact"] = known.real_levels if known else "exact"
    real = _reference(graph, wanted, extractor)
    protocol, _ = protocol_id(
        extractor,
        real,
        rounding=own.evaluation.protocol.rounding,
        real_levels=levels,
        labels=getattr(own.sampling, "labels", "none"),
        resize=own.evaluation.protocol.resize,
    )
    options = _options(own.evaluation.resolved(), known is not None, len(drawn))
    found = score(extract(extractor, drawn, _BATCH), real, extractor, options)
    row = found.row()
    names = ("kid", "isc", "precision", "recall", "sfid")
    others = {key: float(row[key]) for key in names if row[key] is not None}
    assert found.frechet is not None
    notes = {key: text for key, text in found.notes.items() if "not asked" not in text}
    return Score(found.metric, found.frechet, found.n, protocol, others, notes)


def _options(wanted: dict[str, Any], known: bool, n: int) -> ScoreOptions:
    """As the experiment asks, but for scores that so few images cannot have."""
    if not known:
        return ScoreOptions(isc_splits=None)
    options = score_options(wanted)
    subset, splits = options.kid_subset_size or 0, options.isc_splits or 0
    return replace(
        options,
        kid_subset_size=options.kid_subset_size if n >= subset else None,
        isc_splits=options.isc_splits if n >= _PER_SPLIT * splits else None,
    )


def _extractor(graph: NotebookGraph, reference: str) -> Extractor:
    """The extractor of a reference in the configuration; else Inception."""
    device = pick_device()
    known = graph.config.references.get(reference)
    if known is None:
        return load_extractor(INCEPTION, device=device)
    spec, weights = graph.config.extractors[known.extractor], None
    if isinstance(spec, ClassifierSpec):
        weights = _made(graph, f"results/extractors/{spec.name}.safetensors")
    elif spec.weights is not None and is_path(spec.weights):
        weights = graph.root / spec.weights
    elif spec.weights is not None:
        weights = fetch_asset(graph, spec.weights)
    return load_extractor(spec.kind, weights=weights, name=spec.name, device=device)


def _reference(
    graph: NotebookGraph,
    wanted: str | Path | Tensor | NDArray[Any],
    extractor: Extractor,
) -> Reference:
    """Statistics of real images: read, or made of images."""
    if isinstance(wanted, Tensor | np.ndarray):
        real = as_bytes(wanted, "reference")
        _check_size(real, extractor, "reference")
        if len(real) < 2:
            raise wrong(wanted, "reference", "at least 2 real images")
        return dataset_reference(real, extractor, _BATCH, None, "none", _KEPT)
    if isinstance(wanted, str) and wanted in graph.config.references:
        path = _made(graph, f"results/references/{wanted}.npz")
        return load_reference(path, extractor.dim)
    return load_reference(wanted, extractor.dim)


def _check_reference(graph: NotebookGraph, wanted: Any) -> None:
    """Refuse what is no reference before an extractor is loaded."""
    if isinstance(wanted, Tensor | np.ndarray):
        return
    names = ", ".join(graph.config.references) or "none here"
    expected = f"a file, real images, or a name in the configuration ({names})"
    if not isinstance(wanted, str | Path):
        raise wrong(wanted, "reference", expected)
    if wanted not in graph.config.references and not Path(wanted).is_file():
        raise UserError(f"no reference {str(wanted)!r}", expected=expected)


def _check_size(images: NDArray[np.uint8], extractor: Extractor, where: str) -> None:
    """Refuse images of a size that the extractor does not know."""
    if isinstance(extractor, ClassifierExtractor):
        sized(images, extractor.manifest["size"], where)


def _made(graph: NotebookGraph, path: str) -> Path:
    """A file of the workflow.

    Raises:
        UserError: with the command that makes it.
    """
    found = graph.root / path
    if not found.is_file():
        raise UserError(
            "the workflow has not made it yet",
            where=str(found),
            do=f"run `snakemake --profile local {path}`",
        )
    return found
