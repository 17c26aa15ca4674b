"""Reference statistics on disk: our file, other people's files, broken files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewstep.errors import UserError
from fewstep.extractors import weights_sha256
from fewstep.references import load_reference, save_reference
from fewstep.statistics import Reference


@pytest.fixture
def reference() -> Reference:
    """A reference of four features of six images, with kept features."""
    features = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    return Reference(
        mu=features.mean(axis=0, dtype=np.float64),
        sigma=np.cov(features.astype(np.float64), rowvar=False),
        n=6,
        features=features,
        extractor="classifier",
        weights_sha256="ab" * 32,
        manifest={"dataset": "digits"},
    )


def _one_line(path: Path, match: str, expect_dim: int | None = None) -> None:
    with pytest.raises(UserError, match=match) as caught:
        load_reference(path, expect_dim)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_round_trip(tmp_path: Path, reference: Reference) -> None:
    """What is saved is what is loaded, to the bit, with the manifest's facts."""
    path = tmp_path / "digits.npz"
    save_reference(path, reference)
    back = load_reference(path, expect_dim=4)
    assert np.array_equal(back.mu, reference.mu)
    assert np.array_equal(back.sigma, reference.sigma)
    assert back.features is not None
    assert reference.features is not None
    assert np.array_equal(back.features, reference.features)
    assert (back.n, back.extractor) == (6, "classifier")
    assert back.weights_sha256 == "ab" * 32
    assert back.sha256 == reference.sha256
    assert back.manifest["dataset"] == "digits"
    assert back.manifest["features"] == 6
    assert {entry.name for entry in tmp_path.iterdir()} == {"digits.npz", "digits.json"}


def test_bytes_do_not_depend_on_the_time(
    tmp_path: Path, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two saves give the same bytes although a zip file records a date."""
    save_reference(tmp_path / "a.npz", reference)
    monkeypatch.setattr("time.time", lambda: 2e9)
    save_reference(tmp_path / "b.npz", reference)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_saving_again_what_was_loaded_changes_nothing(
    tmp_path: Path, reference: Reference
) -> None:
    """Our own manifest survives a second round."""
    save_reference(tmp_path / "a.npz", reference)
    save_reference(tmp_path / "b.npz", load_reference(tmp_path / "a.npz"))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_numpy_reads_our_file(tmp_path: Path, reference: Reference) -> None:
    """The canonical file is an ordinary .npz for everybody else."""
    save_reference(tmp_path / "a.npz", reference)
    with np.load(tmp_path / "a.npz") as archive:
        assert set(archive.files) == {"mu", "sigma", "n", "features"}
        assert archive["n"].dtype == np.int64


def test_spatial_statistics_make_the_round_trip(
    tmp_path: Path, reference: Reference
) -> None:
    """mu_s and sigma_s come back to the bit; without them nothing is different."""
    spatial = replace(reference, mu_s=np.arange(5.0), sigma_s=2 * np.eye(5))
    save_reference(tmp_path / "a.npz", spatial)
    back = load_reference(tmp_path / "a.npz", expect_dim=4)
    assert back.mu_s is not None
    assert back.sigma_s is not None
    assert np.array_equal(back.mu_s, np.arange(5))
    assert np.array_equal(back.sigma_s, 2 * np.eye(5))
    assert back.sha256 == reference.sha256
    assert back.manifest["spatial_sha256"] == spatial.spatial_sha256
    save_reference(tmp_path / "b.npz", reference)
    plain = load_reference(tmp_path / "b.npz")
    assert (plain.mu_s, plain.sigma_s) == (None, None)
    assert "spatial_sha256" not in plain.manifest


def test_unknown_n_stays_unknown(tmp_path: Path) -> None:
    """Where a file does not say how many images, neither do we."""
    save_reference(tmp_path / "a.npz", Reference(np.zeros(2), np.eye(2), None))
    assert load_reference(tmp_path / "a.npz").n is None


def test_file_torn_from_its_manifest_is_noticed(
    tmp_path: Path, reference: Reference
) -> None:
    """A .npz of one run beside the manifest of another is refused."""
    save_reference(tmp_path / "a.npz", reference)
    manifest = (tmp_path / "a.json").read_text()
    save_reference(tmp_path / "a.npz", Reference(np.zeros(4), np.eye(4), 9))
    (tmp_path / "a.json").write_text(manifest)
    _one_line(tmp_path / "a.npz", "does not belong to its manifest")


def test_somebody_elses_json_is_left_alone(tmp_path: Path) -> None:
    """A .json beside a foreign .npz that is not our manifest says nothing."""
    np.savez(tmp_path / "a.npz", mu=np.zeros(2), sigma=np.eye(2))
    (tmp_path / "a.json").write_text(json.dumps({"extractor": "x"}))
    assert load_reference(tmp_path / "a.npz").extractor == ""


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_adm_file_is_read(tmp_path: Path, dtype: Any) -> None:
    """ADM's .npz: both pairs of statistics are taken, the images stay unread."""
    mu, sigma = np.arange(3, dtype=dtype), np.eye(3, dtype=dtype)
    np.savez(
        tmp_path / "adm.npz",
        arr_0=np.zeros((2, 4, 4, 3), dtype=np.uint8),
        mu=mu,
        sigma=sigma,
        mu_s=np.arange(5, dtype=dtype),
        sigma_s=np.zeros((5, 5), dtype=dtype),
    )
    found = load_reference(tmp_path / "adm.npz", expect_dim=3)
    assert np.array_equal(found.mu, mu)
    assert found.mu.dtype == found.sigma.dtype == np.float64
    assert found.mu_s is not None
    assert found.sigma_s is not None
    assert found.mu_s.dtype == found.sigma_s.dtype == np.float64
    assert np.array_equal(found.mu_s, np.arange(5))
    assert (found.n, found.features, found.extractor) == (None, None, "")
    assert found.manifest["source"] == "adm.npz"


def _torchmetrics_state(features: np.ndarray[Any, Any]) -> dict[str, torch.Tensor]:
    x = torch.from_numpy(features.astype(np.float64))
    zero = torch.zeros_like(x[0])
    return {
        "real_features_sum": x.sum(dim=0),
        "real_features_cov_sum": x.T @ x,
        "real_features_num_samples": torch.tensor(len(x)),
        "fake_features_sum": zero,
        "fake_features_cov_sum": torch.outer(zero, zero),
        "fake_features_num_samples": torch.tensor(0),
        "inception.fc.weight": torch.ones(2, 3),
    }


def test_torchmetrics_state_is_read(tmp_path: Path, reference: Reference) -> None:
    """The sums of a torchmetrics FID state give numpy's mean and covariance."""
    assert reference.features is not None
    state = _torchmetrics_state(reference.features)
    torch.save(state, tmp_path / "stats.pth")
    found = load_reference(tmp_path / "stats.pth", expect_dim=4)
    np.testing.assert_allclose(found.mu, reference.mu)
    np.testing.assert_allclose(found.sigma, reference.sigma, atol=1e-12)
    assert (found.n, found.extractor) == (6, "inception-v3-compat")
    assert found.weights_sha256 == weights_sha256({"fc.weight": torch.ones(2, 3)})


def test_conversion_keeps_the_identity_of_the_statistics(
    tmp_path: Path, reference: Reference
) -> None:
    """A published .pth and the canonical .npz made of it are the same reference."""
    assert reference.features is not None
    torch.save(_torchmetrics_state(reference.features), tmp_path / "stats.pth")
    published = load_reference(tmp_path / "stats.pth")
    save_reference(tmp_path / "stats.npz", published)
    ours = load_reference(tmp_path / "stats.npz")
    assert ours.sha256 == published.sha256
    assert ours.weights_sha256 == published.weights_sha256


def test_torchmetrics_state_without_weights_names_no_extractor(
    tmp_path: Path, reference: Reference
) -> None:
    """Sums alone do not say which network made them."""
    assert reference.features is not None
    state = _torchmetrics_state(reference.features)
    del state["inception.fc.weight"]
    torch.save(state, tmp_path / "stats.pth")
    found = load_reference(tmp_path / "stats.pth")
    assert (found.extractor, found.weights_sha256) == ("", "")


def _change(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda arrays: arrays.__setitem__(name, value)


def _spatial(mu: Any, sigma: Any) -> Callable[[dict[str, Any]], None]:
    return lambda arrays: arrays.update(mu_s=mu, sigma_s=sigma)


_SKEW = np.array([[1.0, 0.5], [0.0, 1.0]])
_NAN = np.array([0.0, np.nan])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda arrays: arrays.pop("mu"), "holds sigma; expected arrays mu and sigma"),
        (_change("mu", np.zeros(3)), r"mu of shape \(3,\)"),
        (_change("mu", np.zeros((2, 1))), r"mu of shape \(2, 1\)"),
        (_change("mu", np.zeros(2, dtype=np.int64)), "mu is of type int64"),
        (_change("mu", _NAN), "1 values are NaN"),
        (_change("sigma", np.full((2, 2), np.inf)), "4 values are NaN or infinite"),
        (_change("sigma", _SKEW), r"not symmetric \(by 0.5\)"),
        (_change("sigma", -np.eye(2)), r"negative variance \(-1\)"),
        (_change("n", np.int64(1)), "n is 1; expected at least 2"),
        (_change("n", np.int64(-5)), "n is -5"),
        (_change("n", np.zeros(3)), "cannot be read"),
        (_change("features", np.zeros((5, 2))), "features of float64"),
        (_change("features", np.zeros((5, 3), np.float32)), r"float32 \(M, 2\)"),
        (_change("features", _NAN[None].astype(np.float32)), "1 values are NaN"),
        (_change("mu", np.array([{}], dtype=object)), "cannot be read"),
        (_change("mu_s", np.zeros(5)), "holds mu_s without sigma_s"),
        (_change("sigma_s", np.eye(5)), "holds sigma_s without mu_s"),
        (_spatial(np.zeros(5), np.eye(4)), r"mu_s of shape \(5,\), sigma_s of \(4"),
        (_spatial(_NAN, np.eye(2)), "1 values are NaN"),
        (_spatial(np.zeros(2), _SKEW), r"sigma_s is not symmetric \(by 0.5\)"),
        (_spatial(np.zeros(2), -np.eye(2)), "sigma_s has a negative variance"),
    ],
)
def test_wrong_npz_is_one_line(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], match: str
) -> None:
    """Shapes, types, NaN, asymmetry, impossible n: one line naming file and fault."""
    arrays: dict[str, Any] = {"mu": np.zeros(2), "sigma": np.eye(2)}
    change(arrays)
    np.savez(tmp_path / "x.npz", **arrays)
    _one_line(tmp_path / "x.npz", match)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut short"])
@pytest.mark.parametrize("suffix", [".npz", ".pth"])
def test_garbage_is_one_line(tmp_path: Path, suffix: str, content: bytes) -> None:
    """A file that is no archive at all is named, with no traceback."""
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    _one_line(path, "cannot be read")


def test_truncated_file_is_one_line(tmp_path: Path, reference: Reference) -> None:
    """An .npz that was cut off, or has a flipped byte in an array, is refused."""
    save_reference(tmp_path / "x.npz", reference)
    (tmp_path / "x.json").unlink()
    data = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(data[: len(data) // 2])
    _one_line(tmp_path / "x.npz", "cannot be read")
    middle = data.index(reference.sigma.tobytes()) + 5
    flipped = data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]
    (tmp_path / "x.npz").write_bytes(flipped)
    _one_line(tmp_path / "x.npz", "cannot be read")


def test_missing_unknown_or_unlike_file_is_one_line(
    tmp_path: Path, reference: Reference
) -> None:
    """No file, an unknown ending, statistics of another network's dimension."""
    _one_line(tmp_path / "none.npz", "file not found")
    (tmp_path / "x.pkl").write_bytes(b"x")
    _one_line(tmp_path / "x.pkl", "unknown kind of statistics file '.pkl'")
    save_reference(tmp_path / "x.npz", reference)
    _one_line(tmp_path / "x.npz", "4 features; expected 2048", expect_dim=2048)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.pop("real_features_sum"), "has no real_features_sum"),
        (_change("real_features_num_samples", torch.tensor(0)), "num_samples is 0"),
        (_change("real_features_sum", torch.zeros(3)), r"sums of shapes \(3,\)"),
        (_change("real_features_sum", torch.full((4,), torch.nan)), "NaN"),
    ],
)
def test_wrong_torchmetrics_state_is_one_line(
    tmp_path: Path,
    reference: Reference,
    change: Callable[[dict[str, Any]], None],
    match: str,
) -> None:
    """Missing sums, no images, unlike shapes, NaN: one line."""
    assert reference.features is not None
    state = _torchmetrics_state(reference.features)
    change(state)
    torch.save(state, tmp_path / "x.pth")
    _one_line(tmp_path / "x.pth", match)


def test_full_disk_leaves_no_file(
    tmp_path: Path, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk is full the user is told and no half file stays."""

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="disk is full"):
        save_reference(tmp_path / "x.npz", reference)
    assert list(tmp_path.iterdir()) == []


def test_only_npz_is_written(tmp_path: Path, reference: Reference) -> None:
    """The canonical file is an .npz; another ending is a programming error."""
    with pytest.raises(ValueError, match="npz"):
        save_reference(tmp_path / "x.pth", reference)
