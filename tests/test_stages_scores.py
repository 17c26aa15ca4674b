"""Stages of the spine: references from files, scores with sFID, speed columns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewstep import files
from fewstep.errors import UserError
from fewstep.extractors import Features, check_images
from fewstep.references import load_reference
from fewstep.samples import draw_samples
from fewstep.stages import evaluate, score
from fewstep.stages import reference as reference_stage
from tests.test_sampling import OPTIONS, Painter

REFERENCE = {"real_levels": "exact", "flips": "none", "keep_features": 4}
NETWORK = {"kind": "inception-v3-compat", "name": "fake"}


@dataclass(frozen=True)
class Fake:
    """Means of channels; spatial features: the rows of the red channel."""

    spatial: bool = False
    name: str = "fake"
    weights_sha256: str = "fa" * 32
    is_inception: bool = True
    dim: int = 3
    resize: str = "none"

    def __call__(self, images: torch.Tensor) -> Features:
        check_images(images)
        means = images.float().mean((2, 3))
        rows = images[:, 0].float().mean(2) if self.spatial else None
        return Features(means, means, rows)


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Inception here."""

    def load(kind: str, *, spatial: bool = False, **_: Any) -> Fake:
        return Fake(spatial)

    for stage in (reference_stage, score):
        monkeypatch.setattr(stage, "load_extractor", load)


def adm_file(folder: Path, **arrays: Any) -> Path:
    """A file as ADM publishes it, of six images."""
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    held = {
        "arr_0": images,
        "mu": np.zeros(3),
        "sigma": np.eye(3),
        "mu_s": np.zeros(4),
        "sigma_s": np.eye(4),
        **arrays,
    }
    np.savez(folder / "adm.npz", **{k: v for k, v in held.items() if v is not None})
    return folder / "adm.npz"


def built(folder: Path, file: Path, **spec: Any) -> Any:
    """The reference that the stage makes of a file."""
    out = folder / "out" / "reference.npz"
    reference_stage.build({**REFERENCE, **spec}, NETWORK, out, file=file)
    return load_reference(out, 3)


def test_adms_statistics_are_kept_and_features_made_of_its_images(
    tmp_path: Path,
) -> None:
    """mu to sigma_s are the file's; features are those of the first images."""
    path = adm_file(tmp_path)
    found = built(tmp_path, path, spatial=True)
    with np.load(path) as held:
        means = held["arr_0"][:4].mean(axis=(1, 2), dtype=np.float64)
    np.testing.assert_allclose(found.features, means, rtol=1e-6)
    assert np.array_equal(found.mu, np.zeros(3))
    assert np.array_equal(found.sigma_s, np.eye(4))
    assert (found.n, found.weights_sha256) == (None, "fa" * 32)


def test_without_features_nothing_but_statistics_is_read(tmp_path: Path) -> None:
    """keep_features 0: the file's numbers as they are, made by nobody we know."""
    found = built(tmp_path, adm_file(tmp_path), keep_features=0)
    assert (found.features, found.extractor) == (None, "")
    assert np.array_equal(found.mu_s, np.zeros(4))


@pytest.mark.parametrize("spatial", [True, False])
def test_a_file_of_images_alone_is_scored_like_a_dataset(
    tmp_path: Path, spatial: bool
) -> None:
    """Without mu and sigma the statistics are computed, mirrored as asked."""
    path = adm_file(tmp_path, **dict.fromkeys(("mu", "sigma", "mu_s", "sigma_s")))
    found = built(tmp_path, path, spatial=spatial, flips="both")
    with np.load(path) as held:
        images = held["arr_0"].astype(np.float64)
    np.testing.assert_allclose(found.mu, images.mean(axis=(0, 1, 2)), rtol=1e-6)
    assert found.n == 12
    assert (found.mu_s is not None) == spatial


@pytest.mark.parametrize(
    ("arrays", "spec", "message"),
    [
        ({"mu_s": None, "sigma_s": None}, {"spatial": True}, "no spatial statistics"),
        ({"mu": None}, {}, "expected arrays mu and sigma"),
        ({"mu": np.zeros(2), "sigma": np.eye(2)}, {}, "2 features; expected 3"),
        ({"mu": None, "sigma": None}, {"flips": "random"}, "flips none or both"),
        (
            {"mu": None, "sigma": None, "arr_0": np.zeros((1, 2, 2, 3), np.uint8)},
            {},
            "holds 1 images; expected at least 2",
        ),
    ],
)
def test_a_file_that_lacks_what_is_asked_is_one_line(
    tmp_path: Path, arrays: dict[str, Any], spec: dict[str, Any], message: str
) -> None:
    """The file is named with what is missing, and no reference is written."""
    path = adm_file(tmp_path, **arrays)
    with pytest.raises(UserError, match=message) as caught:
        built(tmp_path, path, **spec)
    assert "adm.npz" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("sfid", [True, False, None])
def test_scores_with_and_without_sfid(tmp_path: Path, sfid: bool | None) -> None:
    """sFID is there where it is asked for; a resize stands in the protocol."""
    samples = tmp_path / "samples.json"
    options = replace(OPTIONS, resize=None if sfid is None else 4, rounding="half_up")
    draw_samples(Painter(), options, samples, key="k" * 64)
    built(tmp_path, adm_file(tmp_path), spatial=True)
    evaluation = {
        **dict.fromkeys(("kid_subset_size", "kid_subsets", "isc_splits"), 2),
        "n": 10,
        "batch": 3,
        "kid": False,
        "precision_recall": True,
        **({} if sfid is None else {"sfid": sfid}),
    }
    spec = {"evaluation": evaluation, "extractor": NETWORK, "real_levels": "exact"}
    reference = tmp_path / "out" / "reference.npz"
    score.run(spec, [samples], reference, None, tmp_path / "scores.json")
    (found,) = files.read_json(tmp_path / "scores.json")["seeds"]
    assert (found["row"]["sfid"] is not None) == bool(sfid)
    assert found["notes"].get("sfid") == (None if sfid else "not asked for")
    assert found["notes"]["recall"] == "of 10 samples, 4 real images"
    assert ("/bicubic-4/half_up/" in found["protocol"]) == (sfid is not None)


def entry(batch: int, seconds: float) -> dict[str, Any]:
    """A timed batch."""
    return {
        "batch": batch,
        "seconds_per_image": seconds / batch,
        "images_per_second": batch / seconds,
        "seconds_end_to_end": seconds + 1,
        "baseline": None,
        "ratio": None,
        "error_to_exact": None,
    }


def test_speed_at_batch_1_and_at_the_best_batch() -> None:
    """The largest rate need not be at the largest batch, nor batch 1 be timed."""
    clock = {"batches": [entry(1, 0.5), entry(8, 1.0), entry(16, 4.0)]}
    found = evaluate._speed(clock, 16)
    assert (found["timing_batch"], found["images_per_second"]) == (16, 4.0)
    assert found["seconds_batch1"] == 0.5
    assert (found["best_batch"], found["images_per_second_best"]) == (8, 8.0)
    later = evaluate._speed({"batches": clock["batches"][1:]}, 8)
    assert later["seconds_batch1"] is None
