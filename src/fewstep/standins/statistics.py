"""Stand-ins of the files of statistics: torchmetrics' state, and ADM's reference."""

from __future__ import annotations

import io
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewstep import files
from fewstep._torchvision import import_torch_fidelity
from fewstep.adm import IMAGES, open_entry
from fewstep.standins.published import AdmBatch, Statistics

_FEATURES, _SPATIAL = 2048, 2023
_BLOCK = 100  # images of ADM's file at a time


def write_state(path: Path, own: Statistics, seed: int) -> None:
    """The state of torchmetrics' FrechetInceptionDistance after `n` real images.

    572 tensors: three sums in double precision (or a count) of real and of fake
    images, and 566 of a random Inception network.
    """
    generator = np.random.default_rng(seed)
    mu, sigma = _moments(generator, _FEATURES)
    state: OrderedDict[str, Tensor] = OrderedDict()
    state["real_features_sum"] = torch.from_numpy(own.n * mu)
    outer = (own.n - 1) * sigma + own.n * np.outer(mu, mu)
    state["real_features_cov_sum"] = torch.from_numpy(outer)
    state["real_features_num_samples"] = torch.tensor(own.n)
    for name, value in list(state.items()):
        state[name.replace("real", "fake")] = torch.zeros_like(value)
    for name, value in _inception(seed).items():
        state[f"inception.{name}"] = value
    with files.atomic_path(path) as part:
        torch.save(state, part)


def write_inception(path: Path, seed: int) -> None:
    """The weights that torch-fidelity downloads."""
    with files.atomic_path(path) as part:
        torch.save(_inception(seed), part)


def _inception(seed: int) -> dict[str, Tensor]:
    """Tensors of torch-fidelity's network with the weights it is born with."""
    module = import_torch_fidelity("feature_extractor_inceptionv3")

    class Random(module.FeatureExtractorInceptionV3):  # type: ignore[misc, name-defined]
        """torch-fidelity's network; it loads its weights when it is made."""

        def load_state_dict(self, *args: Any, **kwargs: Any) -> None:
            """Load nothing."""

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Random("random", ["2048"], feature_extractor_weights_path=nothing)
    return dict(network.state_dict())


def write_adm(path: Path, own: AdmBatch, images: int, seed: int) -> None:
    """`mu`, `sigma`, `mu_s`, `sigma_s` in double precision, and images as `arr_0`.

    Images are written block by block: ten thousand of them are 2 GB.
    """
    generator = np.random.default_rng(seed)
    arrays: dict[str, NDArray[Any]] = {}
    arrays["mu"], arrays["sigma"] = _moments(generator, _FEATURES)
    arrays["mu_s"], arrays["sigma_s"] = _moments(generator, _SPATIAL)
    shape = (images, own.size, own.size, 3)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with files.atomic_path(path) as part, zipfile.ZipFile(part, "w") as archive:
        with open_entry(archive, IMAGES) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for block in _noise(generator, shape):
                file.write(block.data)
        for name, array in arrays.items():
            with open_entry(archive, name) as file:
                np.lib.format.write_array(file, array)


def _noise(
    generator: np.random.Generator, shape: tuple[int, int, int, int]
) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, shape[0], _BLOCK):
        count = min(_BLOCK, shape[0] - start)
        yield generator.integers(0, 256, (count, *shape[1:]), dtype=np.uint8)


def _moments(
    generator: np.random.Generator, dim: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A mean and a covariance (dim, dim) that has one."""
    factors = generator.normal(size=(dim, 16)) / 16
    sigma = factors @ factors.T + np.diag(generator.uniform(0.05, 0.2, dim))
    return generator.uniform(0, 1, dim), sigma
