"""Scores of a stream of features, their names, and the protocol they belong to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from fewstep.errors import UserError
from fewstep.extractors import Features
from fewstep.fidelity import (
    ScoreOptions,
    Scores,
    check_comparable,
    metric_name,
    protocol_id,
    score,
)
from fewstep.metrics import frechet_distance, inception_score, kid, precision_recall
from fewstep.statistics import Reference

EVERYTHING = ScoreOptions(
    kid_subset_size=20, kid_subsets=5, neighbours=3, isc_splits=4, spatial=True
)


@dataclass(frozen=True)
class Fake:
    """An extractor that is only a name."""

    name: str = "fake"
    weights_sha256: str = "fa" * 32
    is_inception: bool = False
    dim: int = 4
    resize: str = "none"

    def __call__(self, images: torch.Tensor) -> Features:
        raise NotImplementedError


@pytest.fixture
def samples() -> Features:
    """Sixty samples of four features, three logits and five spatial features."""
    rng = np.random.default_rng(0)
    pool, logits, spatial = (
        torch.from_numpy(rng.normal(size=(60, dim)).astype(np.float32))
        for dim in (4, 3, 5)
    )
    return Features(pool, logits, spatial)


@pytest.fixture
def reference() -> Reference:
    """Eighty real images by the same extractor."""
    real = np.random.default_rng(1).normal(size=(80, 4)).astype(np.float32)
    exact = real.astype(np.float64)
    sigma = np.cov(exact, rowvar=False)
    return Reference(
        exact.mean(axis=0),
        sigma,
        80,
        real,
        "fake",
        "fa" * 32,
        mu_s=np.full(5, 0.5),
        sigma_s=2 * np.eye(5),
    )


def _stream(samples: Features, batch: int = 7) -> Iterator[Features]:
    for start in range(0, len(samples.pool), batch):
        part = slice(start, start + batch)
        spatial = None if samples.spatial is None else samples.spatial[part]
        yield Features(samples.pool[part], samples.logits[part], spatial)


def test_only_inception_is_called_fid(samples: Features, reference: Reference) -> None:
    """Name, row and columns: `fid` for Inception, `frechet` for everything else."""
    for is_inception, name in ((False, "frechet"), (True, "fid")):
        extractor = Fake(is_inception=is_inception)
        scores = score(_stream(samples), reference, extractor)
        row = scores.row()
        other = {"fid": "frechet", "frechet": "fid"}[name]
        assert metric_name(extractor) == scores.metric == row["metric"] == name
        assert row[name] == scores.frechet
        assert row[other] is None


def test_scores_are_the_metrics_of_the_whole(
    samples: Features, reference: Reference
) -> None:
    """A stream scores as its features in one piece do."""
    labels = samples.logits.argmax(dim=1)
    labels[:15] = (labels[:15] + 1) % 3
    found = score(_stream(samples), reference, Fake(), EVERYTHING, labels)
    pool = samples.pool.numpy().astype(np.float64)
    assert found.frechet == pytest.approx(
        frechet_distance(
            pool.mean(axis=0), np.cov(pool, rowvar=False), reference.mu, reference.sigma
        )
    )
    assert reference.features is not None
    assert (found.kid, found.kid_std) == kid(samples.pool, reference.features, 5, 20)
    assert (found.isc, found.isc_std) == inception_score(samples.logits, 4)
    assert (found.precision, found.recall) == precision_recall(
        samples.pool, reference.features
    )
    assert found.class_agreement == 0.75
    assert (found.n, found.extractor, found.weights_sha256) == (60, "fake", "fa" * 32)
    assert samples.spatial is not None
    spatial = samples.spatial.numpy().astype(np.float64)
    assert found.sfid == found.row()["sfid"]
    assert found.sfid == pytest.approx(
        frechet_distance(
            spatial.mean(axis=0),
            np.cov(spatial, rowvar=False),
            np.full(5, 0.5),
            2 * np.eye(5),
        )
    )
    used = "of 60 samples, 80 real images"
    assert found.notes == {"precision": used, "recall": used}
    json.dumps(found.row(), allow_nan=False)


@pytest.mark.parametrize("batch", [1, 13, 60])
def test_batches_do_not_matter(
    samples: Features, reference: Reference, batch: int
) -> None:
    """Any batch size gives the same scores but for the rounding of sums."""
    whole = score([samples], reference, Fake(), EVERYTHING)
    parts = score(_stream(samples, batch), reference, Fake(), EVERYTHING)
    assert parts.frechet == pytest.approx(whole.frechet, rel=1e-12)
    assert parts.sfid == pytest.approx(whole.sfid, rel=1e-12)
    none = {"frechet": 0.0, "sfid": 0.0}
    assert replace(parts, **none) == replace(whole, **none)


def test_what_cannot_be_computed_is_none_with_a_reason(
    samples: Features, reference: Reference
) -> None:
    """Missing inputs leave a field empty and say why; the rest is computed."""
    bare = replace(reference, features=None)
    options = replace(EVERYTHING, isc_splits=100)
    found = score(
        _stream(samples), bare, Fake(is_inception=True), options, torch.zeros(60)
    )
    assert found.frechet is not None
    empty = ("kid", "kid_std", "isc", "isc_std", "precision", "recall")
    assert all(getattr(found, name) is None for name in (*empty, "class_agreement"))
    assert found.notes["kid"] == "the reference holds no features"
    assert found.notes["recall"] == "the reference holds no features"
    assert "60 samples in 100 parts" in found.notes["isc"]
    assert "not those of the data" in found.notes["class_agreement"]


def test_sfid_says_why_it_is_not_there(samples: Features, reference: Reference) -> None:
    """Not asked for, not made by the extractor, absent or unlike in the reference."""

    def note(features: Features, real: Reference, asked: bool = True) -> str:
        options = replace(EVERYTHING, spatial=asked)
        found = score(_stream(features), real, Fake(), options)
        assert found.sfid is None
        return found.notes["sfid"]

    bare = replace(reference, mu_s=None, sigma_s=None)
    other = replace(reference, mu_s=np.zeros(2), sigma_s=np.eye(2))
    plain = Features(samples.pool, samples.logits)
    assert note(samples, reference, asked=False) == "not asked for"
    assert note(plain, reference) == "the extractor gave no spatial features"
    assert "no spatial statistics" in note(samples, bare)
    assert note(samples, other) == (
        "the reference holds 2 spatial features; expected 5"
    )


def test_what_was_not_asked_for_is_none(
    samples: Features, reference: Reference
) -> None:
    """Without options: Fréchet and inception score, nothing kept for the others."""
    found = score(_stream(samples), reference, Fake())
    assert (found.kid, found.precision, found.class_agreement) == (None, None, None)
    assert found.isc is not None
    assert found.notes["kid_std"] == found.notes["precision"] == "not asked for"
    off = score(_stream(samples), reference, Fake(), ScoreOptions(isc_splits=None))
    assert (off.isc, off.notes["isc"]) == (None, "not asked for")


def test_too_few_samples_for_kid_is_a_note(
    samples: Features, reference: Reference
) -> None:
    """A subset size above n leaves KID empty with both numbers in its note."""
    options = ScoreOptions(kid_subset_size=1000)
    found = score(_stream(samples), reference, Fake(), options)
    assert found.kid is None
    assert "subsets of 1000 out of 60 samples" in found.notes["kid"]


def test_kept_features_are_capped_and_said_so(
    samples: Features, reference: Reference
) -> None:
    """KID and precision use the first samples only; the distance uses all."""
    options = replace(EVERYTHING, keep_features=25)
    found = score(_stream(samples), reference, Fake(), options)
    assert reference.features is not None
    first = samples.pool[:25]
    assert (found.kid, found.kid_std) == kid(first, reference.features, 5, 20)
    assert found.precision == precision_recall(first, reference.features)[0]
    assert found.notes["kid"] == "of the first 25 of 60 samples"
    assert found.notes["recall"] == "of the first 25 of 60 samples, 80 real images"
    assert found.n == 60
    none = score(_stream(samples), reference, Fake(), replace(options, keep_features=0))
    assert none.kid is None
    assert none.notes["kid"] == "no features of samples were kept"


def test_fewer_samples_than_features_is_noted(reference: Reference) -> None:
    """A singular covariance biases the distance: the note says so."""
    few = Features(torch.rand(4, 4), torch.rand(4, 3), torch.rand(4, 5))
    options = ScoreOptions(isc_splits=1, spatial=True)
    found = score([few], reference, Fake(), options)
    assert "4 samples for 4 features" in found.notes["frechet"]
    assert (
        "4 samples for 5 features: their covariance is singular"
        in (found.notes["sfid"])
    )
    assert found.frechet is not None
    assert found.sfid is not None


def test_reference_of_other_weights_is_refused(
    samples: Features, reference: Reference
) -> None:
    """Features of two networks are never compared; an unknown origin passes."""
    other = Fake(weights_sha256="0b" * 32)
    with pytest.raises(
        UserError, match=r"weights fafafafa.*fake with weights 0b0b0b0b"
    ):
        score(_stream(samples), reference, other)
    check_comparable(replace(reference, weights_sha256=""), other)
    with pytest.raises(UserError, match="holds 4 features; expected 5"):
        check_comparable(reference, Fake(dim=5))


@pytest.mark.parametrize("count", [0, 1])
def test_no_samples_is_one_line(
    samples: Features, reference: Reference, count: int
) -> None:
    """An empty stream is a mistake, not a score."""
    stream = [Features(samples.pool[:count], samples.logits[:count])]
    with pytest.raises(UserError, match=f"{count} samples to score"):
        score(stream[:count], reference, Fake())


def test_broken_features_stop_the_score(
    samples: Features, reference: Reference
) -> None:
    """NaN in the features is never averaged away."""
    samples.pool[3, 1] = float("nan")
    with pytest.raises(ValueError, match="1 of 7 feature vectors hold NaN"):
        score(_stream(samples), reference, Fake())


def test_protocol_names_all_that_must_agree(reference: Reference) -> None:
    """Each part of the protocol changes the line and the dictionary."""
    extractor = Fake()
    line, facts = protocol_id(
        extractor, reference, rounding="truncate", real_levels="exact", labels="iid"
    )
    sha = reference.sha256
    assert line == f"fake:fafafafa/none/truncate/exact/ref:{sha[:8]}/iid"
    assert facts == {
        "extractor": "fake",
        "weights_sha256": "fa" * 32,
        "resize": "none",
        "rounding": "truncate",
        "real_levels": "exact",
        "reference_sha256": sha,
        "labels": "iid",
    }
    others = [
        protocol_id(e, r, rounding=rounding, real_levels=levels, labels=labels)[0]  # type: ignore[arg-type]
        for e, r, rounding, levels, labels in (
            (extractor, replace(reference, n=81), "truncate", "exact", "iid"),
            (replace(extractor, resize="x"), reference, "truncate", "exact", "iid"),
            (extractor, reference, "round", "exact", "iid"),
            (extractor, reference, "truncate", "released", "iid"),
            (extractor, reference, "truncate", "exact", "balanced"),
            (Fake(weights_sha256="0" * 64), reference, "truncate", "exact", "iid"),
        )
    ]
    assert len({line, *others}) == 7


def test_a_resize_of_the_samples_is_part_of_the_protocol(
    reference: Reference,
) -> None:
    """It stands in line and facts where there is one, and nowhere else."""
    named = {"rounding": "half_up", "real_levels": "exact", "labels": "iid"}
    line, facts = protocol_id(Fake(), reference, **named)  # type: ignore[arg-type]
    none = protocol_id(Fake(), reference, resize=None, **named)  # type: ignore[arg-type]
    resized, more = protocol_id(Fake(), reference, resize=256, **named)  # type: ignore[arg-type]
    assert (line, facts) == none
    assert resized == line.replace("/half_up/", "/bicubic-256/half_up/")
    assert more == {**facts, "samples": "bicubic-256"}


def test_scores_default_to_nothing() -> None:
    """An empty row has its columns, all of them None."""
    row = Scores(metric="frechet", n=2, extractor="x", weights_sha256="y").row()
    scores = (*("fid", "frechet", "sfid", "kid", "isc"), "precision", "recall")
    assert row["class_agreement"] is None
    assert all(row[name] is None for name in scores)
