"""Scores of generated images: Fréchet distance, sFID, KID, IS, precision and recall.

The metrics are torch-fidelity's. Samples pass once, in batches: the Fréchet distance
needs only running sums; features are kept where KID or precision and recall are asked
for, up to a stated number. A Fréchet distance is called FID only where the features are
Inception's, and every score goes with the protocol it was made under.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from fewstep.classifier import class_agreement
from fewstep.errors import UserError
from fewstep.extractors import Extractor, Features
from fewstep.images import Rounding
from fewstep.metrics import (
    Array,
    frechet_distance,
    inception_score,
    kid,
    precision_recall,
)
from fewstep.statistics import FeatureStats, Reference


@dataclass(frozen=True)
class ScoreOptions:
    """Which scores beside the Fréchet distance, and how.

    Attributes:
        kid_subset_size: samples in each of KID's subsets (1,000 in publications);
            None: no KID.
        kid_subsets: number of those subsets.
        kid_seed: decides the subsets (2020: torch-fidelity's own).
        neighbours: k of precision and recall (3 in publications); None: neither.
        isc_splits: parts that the inception score is averaged over; None: no score.
        keep_features: how many samples' features are held for KID and precision and
            recall, the first ones: 2,048 float32 numbers each for Inception. ADM's
            precision and recall take all samples (50,000 in publications) against the
            10,000 real images that its reference files hold.
        spatial: whether sFID is made, for which the extractor has to give spatial
            features.
    """

    kid_subset_size: int | None = None
    kid_subsets: int = 100
    kid_seed: int = 2020
    neighbours: int | None = None
    isc_splits: int | None = 10
    keep_features: int = 50_000
    spatial: bool = False


@dataclass(frozen=True)
class Scores:
    """Scores of n samples; a field that is None has its reason in `notes`.

    Attributes:
        metric: what the Fréchet distance is called: "fid" or "frechet".
        frechet: the Fréchet distance, under either name.
        sfid: the Fréchet distance of Inception's spatial features.
        kid, kid_std: mean and standard deviation of KID over its subsets.
        isc, isc_std: mean and standard deviation of the inception score over its parts.
        precision, recall: shares in [0, 1].
        class_agreement: share of samples that the extractor takes for the class asked.
        n: number of samples.
        extractor: its name.
        weights_sha256: identity of its weights.
        notes: field -> why it is None, or what limits it.
    """

    metric: Literal["fid", "frechet"]
    n: int
    extractor: str
    weights_sha256: str
    frechet: float | None = None
    sfid: float | None = None
    kid: float | None = None
    kid_std: float | None = None
    isc: float | None = None
    isc_std: float | None = None
    precision: float | None = None
    recall: float | None = None
    class_agreement: float | None = None
    notes: dict[str, str] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Columns of an evaluation row; exactly one of `fid`, `frechet` is filled."""
        fid = self.metric == "fid"
        return {
            "metric": self.metric,
            "fid": self.frechet if fid else None,
            "frechet": None if fid else self.frechet,
            "sfid": self.sfid,
            "kid": self.kid,
            "kid_std": self.kid_std,
            "isc": self.isc,
            "isc_std": self.isc_std,
            "precision": self.precision,
            "recall": self.recall,
            "class_agreement": self.class_agreement,
            "n": self.n,
            "extractor": self.extractor,
            "extractor_sha256": self.weights_sha256,
        }


def metric_name(extractor: Extractor) -> Literal["fid", "frechet"]:
    """What a Fréchet distance on these features is called: FID only for Inception."""
    return "fid" if extractor.is_inception else "frechet"


def score(
    stream: Iterable[Features],
    reference: Reference,
    extractor: Extractor,
    options: ScoreOptions | None = None,
    labels: Array | None = None,
) -> Scores:
    """Score generated images by their features.

    Args:
        stream: features of all samples, in the order of their indices, e.g. `extract`
            over the shards one after the other.
        reference: statistics of real images by the same extractor.
        extractor: what made the features.
        options: which scores; None: Fréchet distance and inception score.
        labels: (n,) the classes that were asked for, where the extractor's classes are
            the data's.

    Raises:
        UserError: where reference and features cannot be compared, or for fewer than 2
            samples.
        ValueError: for features that are NaN or infinite.
    """
    options = options or ScoreOptions()
    check_comparable(reference, extractor)
    samples = _collect(stream, extractor.dim, options, labels is not None)
    stats = samples.stats.pool
    if stats.n < 2:
        raise UserError(f"{stats.n} samples to score", expected="at least 2")
    notes: dict[str, str] = {}
    values: dict[str, float | None] = {
        "frechet": frechet_distance(
            stats.mu, stats.sigma, reference.mu, reference.sigma
        )
    }
    _note_singular("frechet", stats.n, extractor.dim, notes)
    attempts: dict[tuple[str, ...], Callable[[], tuple[float, ...]]] = {
        ("sfid",): lambda: _sfid(samples, reference, options),
        ("kid", "kid_std"): lambda: _kid(samples, reference, options),
        ("isc", "isc_std"): lambda: _isc(samples, options),
        ("precision", "recall"): lambda: _prc(samples, reference, options),
        ("class_agreement",): lambda: _agreement(samples, extractor, labels),
    }
    for names, compute in attempts.items():
        try:
            values.update(zip(names, compute(), strict=True))
        except UserError as error:
            notes.update(dict.fromkeys(names, str(error)))
    if samples.stats.spatial is not None and values.get("sfid") is not None:
        dim = len(samples.stats.spatial.total)
        _note_singular("sfid", stats.n, dim, notes)
    _note_kept(samples, reference, notes)
    return Scores(
        metric=metric_name(extractor),
        n=stats.n,
        extractor=extractor.name,
        weights_sha256=extractor.weights_sha256,
        notes=notes,
        **values,
    )


def check_comparable(reference: Reference, extractor: Extractor) -> None:
    """Refuse a reference that another extractor made (where the file tells).

    Raises:
        UserError: naming both.
    """
    if len(reference.mu) != extractor.dim:
        raise UserError(
            f"the reference holds {len(reference.mu)} features",
            expected=f"{extractor.dim}, as {extractor.name} makes",
        )
    known = reference.weights_sha256
    if known and known != extractor.weights_sha256:
        raise UserError(
            f"the reference was made by {reference.extractor} with weights {known[:8]}",
            expected=f"{extractor.name} with weights {extractor.weights_sha256[:8]}",
            do="make the reference again with this extractor",
        )


def protocol_id(
    extractor: Extractor,
    reference: Reference,
    *,
    rounding: Rounding,
    real_levels: Literal["released", "exact"],
    labels: str,
    resize: int | None = None,
) -> tuple[str, dict[str, str]]:
    """What two scores must have in common to be compared.

    Args:
        extractor: its name, weights and resizing count.
        reference: its statistics count.
        rounding: how samples became bytes.
        real_levels: whether real images passed the one-level shift of the released
            statistics.
        labels: label policy of the samples ("balanced", "iid", "none").
        resize: side that samples were resized to before they became bytes
            (`images.resize_bicubic`), which the line and the facts then say; None:
            they were not.

    Returns:
        A line such as "inception-v3-compat:1a2b3c4d/tf1-bilinear-299/truncate/
        released/ref:5e6f7a8b/iid", and the same as a dictionary with whole hashes.
    """
    facts = {
        "extractor": extractor.name,
        "weights_sha256": extractor.weights_sha256,
        "resize": extractor.resize,
        "rounding": rounding,
        "real_levels": real_levels,
        "reference_sha256": reference.sha256,
        "labels": labels,
    }
    resized = [] if resize is None else [f"bicubic-{resize}"]
    if resized:
        facts["samples"] = resized[0]
    parts = (
        f"{extractor.name}:{extractor.weights_sha256[:8]}",
        *(extractor.resize, *resized, rounding, real_levels),
        f"ref:{reference.sha256[:8]}",
        labels,
    )
    return "/".join(parts), facts


@dataclass
class _Samples:
    """What is kept of the samples' features."""

    stats: FeatureStats
    pool: list[torch.Tensor] = field(default_factory=list)
    logits: list[torch.Tensor] = field(default_factory=list)
    kept: int = 0


def _collect(
    stream: Iterable[Features], dim: int, options: ScoreOptions, labelled: bool
) -> _Samples:
    samples = _Samples(FeatureStats(dim))
    wanted = options.kid_subset_size is not None or options.neighbours is not None
    room = options.keep_features if wanted else 0
    for features in stream:
        samples.stats.add(features)
        if samples.kept < room:
            part = features.pool[: room - samples.kept].cpu()
            samples.pool.append(part)
            samples.kept += len(part)
        if options.isc_splits is not None or labelled:
            samples.logits.append(features.logits.cpu())
    return samples


def _note_singular(name: str, n: int, dim: int, notes: dict[str, str]) -> None:
    if n <= dim:
        notes[name] = (
            f"{n} samples for {dim} features: their covariance is singular and the "
            "distance biased upwards"
        )


def _note_kept(samples: _Samples, reference: Reference, notes: dict[str, str]) -> None:
    """Say what KID, and precision and recall, rest on where that is not everything."""
    count = samples.stats.pool.n
    part = f"of the first {samples.kept} of {count} samples"
    if 0 < samples.kept < count:
        notes.setdefault("kid", part)
    if reference.features is not None:
        what = part if samples.kept < count else f"of {count} samples"
        for name in ("precision", "recall"):
            notes.setdefault(name, f"{what}, {len(reference.features)} real images")


def _kept(samples: _Samples, reference: Reference) -> tuple[Array, Array]:
    if reference.features is None:
        raise UserError("the reference holds no features")
    if not samples.kept:
        raise UserError("no features of samples were kept")
    return torch.cat(samples.pool), reference.features


def _sfid(
    samples: _Samples, reference: Reference, options: ScoreOptions
) -> tuple[float]:
    if not options.spatial:
        raise UserError("not asked for")
    mine = samples.stats.spatial
    if mine is None:
        raise UserError("the extractor gave no spatial features")
    if reference.mu_s is None or reference.sigma_s is None:
        raise UserError("the reference holds no spatial statistics (mu_s, sigma_s)")
    if len(reference.mu_s) != len(mine.total):
        raise UserError(
            f"the reference holds {len(reference.mu_s)} spatial features",
            expected=str(len(mine.total)),
        )
    return (frechet_distance(mine.mu, mine.sigma, reference.mu_s, reference.sigma_s),)


def _kid(
    samples: _Samples, reference: Reference, options: ScoreOptions
) -> tuple[float, float]:
    if options.kid_subset_size is None:
        raise UserError("not asked for")
    mine, real = _kept(samples, reference)
    return kid(
        mine, real, options.kid_subsets, options.kid_subset_size, options.kid_seed
    )


def _isc(samples: _Samples, options: ScoreOptions) -> tuple[float, float]:
    if options.isc_splits is None:
        raise UserError("not asked for")
    return inception_score(torch.cat(samples.logits), options.isc_splits)


def _prc(
    samples: _Samples, reference: Reference, options: ScoreOptions
) -> tuple[float, float]:
    if options.neighbours is None:
        raise UserError("not asked for")
    return precision_recall(*_kept(samples, reference), options.neighbours)


def _agreement(
    samples: _Samples, extractor: Extractor, labels: Array | None
) -> tuple[float]:
    if labels is None:
        raise UserError("no classes were asked for")
    if extractor.is_inception:
        raise UserError("Inception's classes are not those of the data")
    return (class_agreement(torch.cat(samples.logits), labels),)
