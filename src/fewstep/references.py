"""Reference statistics on disk: one canonical file of ours, every common kind read."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.adm import BROKEN, open_entry
from fewstep.checkpoints import read_state_dict
from fewstep.errors import UserError
from fewstep.extractors import (
    INCEPTION,
    inception_tensors,
    weights_sha256,
)
from fewstep.files import atomic_path, read_json, sha256_file, write_json
from fewstep.statistics import Reference, covariance

FORMAT = "fewstep-reference-1"
# Published files were written in float32 now and then: their last digit may differ.
_SYMMETRY_TOLERANCE = 1e-5


def save_reference(path: str | Path, reference: Reference) -> None:
    """Write `path` (.npz) and its manifest (the same name with .json), bytes fixed.

    The manifest comes last and holds the hash of the .npz, so a pair that was torn
    apart is noticed. An unknown n is written as 0.
    """
    path = _npz_path(path)
    arrays: dict[str, NDArray[Any]] = {
        "mu": np.asarray(reference.mu, dtype=np.float64),
        "sigma": np.asarray(reference.sigma, dtype=np.float64),
        "n": np.asarray(reference.n or 0, dtype=np.int64),
    }
    kept = 0
    spatial = {}
    if reference.mu_s is not None and reference.sigma_s is not None:
        arrays["mu_s"] = np.asarray(reference.mu_s, dtype=np.float64)
        arrays["sigma_s"] = np.asarray(reference.sigma_s, dtype=np.float64)
        spatial = {"spatial_sha256": reference.spatial_sha256}
    if reference.features is not None:
        arrays["features"] = np.asarray(reference.features, dtype=np.float32)
        kept = len(reference.features)
    with atomic_path(path) as part, zipfile.ZipFile(part, "w") as archive:
        for name, array in arrays.items():
            with open_entry(archive, name) as file:
                np.lib.format.write_array(file, np.asarray(array, order="C"))
    facts = {
        "format": FORMAT,
        "extractor": reference.extractor,
        "weights_sha256": reference.weights_sha256,
        "dim": len(reference.mu),
        "n": reference.n,
        "features": kept,
        "statistics_sha256": reference.sha256,
        **spatial,
        "sha256": sha256_file(path),
    }
    write_json(path.with_suffix(".json"), {**reference.manifest, **facts})


def load_reference(path: str | Path, expect_dim: int | None = None) -> Reference:
    """Read reference statistics.

    Understood: our .npz with its manifest; any other .npz with mu and sigma (of the
    pytorch-fid kind, and ADM's with mu_s and sigma_s, whose images are not read here:
    see `fewstep.adm`); the state of a torchmetrics FrechetInceptionDistance (.pth).

    Args:
        path: the file.
        expect_dim: D that the extractor makes; None: any.

    Raises:
        UserError: naming the file and what is wrong with it.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError("file not found", where=str(path))
    if path.suffix == ".npz":
        reference = _read_npz(path)
    elif path.suffix in (".pth", ".pt"):
        reference = _read_torchmetrics(path)
    else:
        raise UserError(
            f"unknown kind of statistics file {path.suffix!r}",
            where=str(path),
            expected=".npz (mu, sigma) or a torchmetrics state (.pth)",
        )
    _check(reference, str(path), expect_dim)
    return reference


def _npz_path(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"{path}: a reference is an .npz file")
    return path


def _read_npz(path: Path) -> Reference:
    try:
        # NumPy leaves a file that it opened itself open when it is no archive.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            if "mu" not in archive or "sigma" not in archive:
                raise UserError(
                    f"holds {', '.join(sorted(archive.files)[:6]) or 'nothing'}",
                    where=str(path),
                    expected="arrays mu and sigma",
                )
            mu, sigma = archive["mu"], archive["sigma"]
            n = int(archive["n"]) if "n" in archive else 0
            features = archive.get("features")
            spatial = archive.get("mu_s"), archive.get("sigma_s")
    except BROKEN as error:
        raise UserError(
            f"cannot be read ({type(error).__name__})",
            where=str(path),
            expected="an .npz file with mu and sigma",
            do="delete it and make or fetch it again",
        ) from error
    manifest = _read_manifest(path)
    mu_s, sigma_s = _spatial(*spatial, path)
    return Reference(
        mu=_float64(mu, "mu", path),
        sigma=_float64(sigma, "sigma", path),
        n=n or None,
        features=features,
        extractor=str(manifest.get("extractor", "")),
        weights_sha256=str(manifest.get("weights_sha256", "")),
        manifest=manifest or {"source": path.name, "sha256": sha256_file(path)},
        mu_s=mu_s,
        sigma_s=sigma_s,
    )


def _spatial(
    mu: NDArray[Any] | None, sigma: NDArray[Any] | None, path: Path
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | tuple[None, None]:
    """The spatial statistics in float64, or neither."""
    if mu is None and sigma is None:
        return None, None
    if mu is None or sigma is None:
        found, lacks = ("sigma_s", "mu_s") if mu is None else ("mu_s", "sigma_s")
        raise UserError(
            f"holds {found} without {lacks}", where=str(path), expected="both or none"
        )
    return _float64(mu, "mu_s", path), _float64(sigma, "sigma_s", path)


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest beside our .npz; {} beside anybody else's."""
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return {}
    manifest = read_json(beside)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        return {}
    if manifest.get("sha256") != sha256_file(path):
        raise UserError(
            "does not belong to its manifest",
            where=str(path),
            expected=f"the sha256 that {beside.name} names",
            do=f"delete both and make {path.name} again",
        )
    return manifest


def _read_torchmetrics(path: Path) -> Reference:
    """mu = sum / n; sigma = (cov_sum - n mu mu^T) / (n - 1), as torchmetrics has it."""
    tensors = read_state_dict(path)
    names = [f"real_features_{name}" for name in ("sum", "cov_sum", "num_samples")]
    missing = [name for name in names if name not in tensors]
    if missing:
        raise UserError(
            f"has no {', '.join(missing)}",
            where=str(path),
            expected="the state of a torchmetrics FrechetInceptionDistance",
        )
    total, outer, count = (tensors[name].numpy() for name in names)
    if count.size != 1 or int(count) < 2:
        raise UserError(
            f"real_features_num_samples is {count.tolist()}",
            where=str(path),
            expected="at least 2 real images",
        )
    n = int(count)
    total, outer = _float64(total, "sum", path), _float64(outer, "cov_sum", path)
    if total.ndim != 1 or outer.shape != 2 * total.shape:
        raise UserError(
            f"sums of shapes {total.shape} and {outer.shape}",
            where=str(path),
            expected="(D,) and (D, D)",
        )
    inception = inception_tensors(tensors)
    return Reference(
        mu=total / n,
        sigma=covariance(n, total / n, outer),
        n=n,
        extractor=INCEPTION if inception else "",
        weights_sha256=weights_sha256(inception) if inception else "",
        manifest={"source": path.name, "sha256": sha256_file(path)},
    )


def _float64(array: NDArray[Any], name: str, path: Path) -> NDArray[np.float64]:
    if not (np.issubdtype(array.dtype, np.floating)):
        raise UserError(
            f"{name} is of type {array.dtype}", where=str(path), expected="real numbers"
        )
    return array.astype(np.float64)


def _check(reference: Reference, where: str, expect_dim: int | None) -> None:
    """One line for the first thing that is wrong with statistics read from `where`."""
    for faults in (_wrong_shapes(reference, expect_dim), _wrong_values(reference)):
        for fault, expected in faults:
            raise UserError(fault, where=where, expected=expected)


def _moments(
    reference: Reference,
) -> Iterator[tuple[str, NDArray[np.float64], NDArray[np.float64]]]:
    """(suffix of the names, mean, covariance) of the kinds of features."""
    yield "", reference.mu, reference.sigma
    if reference.mu_s is not None and reference.sigma_s is not None:
        yield "_s", reference.mu_s, reference.sigma_s


def _wrong_shapes(
    reference: Reference, expect_dim: int | None
) -> Iterator[tuple[str, str]]:
    for end, mu, sigma in _moments(reference):
        if mu.ndim != 1 or not len(mu) or sigma.shape != 2 * mu.shape:
            fault = f"mu{end} of shape {mu.shape}, sigma{end} of {sigma.shape}"
            yield fault, "(D,) and (D, D)"
    dim, features = len(reference.mu), reference.features
    if expect_dim is not None and dim != expect_dim:
        yield f"{dim} features", f"{expect_dim}, as the extractor makes"
    if reference.n is not None and reference.n < 2:
        yield f"n is {reference.n}", "at least 2 images"
    if features is not None and (
        features.dtype != np.float32 or features.shape[1:] != (dim,)
    ):
        yield f"features of {features.dtype} {features.shape}", f"float32 (M, {dim})"


def _wrong_values(reference: Reference) -> Iterator[tuple[str, str]]:
    arrays = [array for _, *pair in _moments(reference) for array in pair]
    broken = sum(int((~np.isfinite(array)).sum()) for array in arrays)
    if reference.features is not None:
        broken += int((~np.isfinite(reference.features)).sum())
    if broken:
        yield f"{broken} values are NaN or infinite", "finite numbers"
    for end, _, sigma in _moments(reference):
        tolerance = _SYMMETRY_TOLERANCE * np.abs(sigma).max()
        gap, least = np.abs(sigma - sigma.T).max(), sigma.diagonal().min()
        if gap > tolerance:
            yield f"sigma{end} is not symmetric (by {gap:.3g})", "a covariance"
        if least < -tolerance:
            yield f"sigma{end} has a negative variance ({least:.3g})", "a covariance"
