"""Feature extractors: Inception from every source of weights, files read safely."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray

from fewstep import _torchvision, extractors
from fewstep._torchvision import import_torch_fidelity
from fewstep.checkpoints import read_state_dict
from fewstep.errors import UserError
from fewstep.extractors import (
    Features,
    check_images,
    extract,
    load_extractor,
    weights_sha256,
)
from fewstep.files import sha256_file
from fewstep.references import load_reference


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with random Inception weights, bare and as a torchmetrics state."""
    module = import_torch_fidelity("feature_extractor_inceptionv3")

    class Random(module.FeatureExtractorInceptionV3):  # type: ignore[misc, name-defined]
        """torch-fidelity's network, keeping the weights it was born with."""

        def load_state_dict(self, *args: Any, **kwargs: Any) -> None:
            """Load nothing."""

    folder = tmp_path_factory.mktemp("inception")
    torch.save({}, folder / "empty.pth")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Random(
            "random", ["2048"], feature_extractor_weights_path=folder / "empty.pth"
        )
        features = torch.rand(5, 2048, dtype=torch.float64)
    state = dict(network.state_dict())
    torch.save(state, folder / "weights.pth")
    torch.save(
        {
            **{f"inception.{name}": tensor for name, tensor in state.items()},
            "real_features_sum": features.sum(dim=0),
            "real_features_cov_sum": features.T @ features,
            "real_features_num_samples": torch.tensor(5),
        },
        folder / "stats.pth",
    )
    yield folder
    shutil.rmtree(folder)  # 250 MB


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without network."""

    def offline(*args: object, **kwargs: object) -> None:
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)


def test_both_sources_of_inception_weights_are_one_extractor(inception: Path) -> None:
    """Weights file and torchmetrics stats file: same identity, same features."""
    image = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    bare = load_extractor("inception-v3-compat", weights=inception / "weights.pth")
    stats = load_extractor("inception-v3-compat", weights=inception / "stats.pth")
    assert bare.weights_sha256 == stats.weights_sha256
    first, second = bare(image), stats(image)
    assert torch.equal(first.pool, second.pool)
    assert torch.equal(first.logits, second.logits)
    assert first.pool.shape == (1, bare.dim)
    assert first.logits.shape == (1, 1008)
    assert first.pool.dtype == first.logits.dtype == torch.float32
    assert bare.is_inception
    assert (bare.name, bare.resize) == ("inception-v3-compat", "tf1-bilinear-299")


def test_spatial_features_are_those_of_sfid(inception: Path) -> None:
    """7 channels of Mixed_6d.branch1x1 after its ReLU, by row, column, channel."""
    weights = inception / "weights.pth"
    kind = "inception-v3-compat"
    extractor = load_extractor(kind, weights=weights, spatial=True)
    plain = load_extractor(kind, weights=weights)
    image = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    network = extractor.network  # type: ignore[attr-defined]
    inputs: list[torch.Tensor] = []
    mixed = network.Mixed_6d
    hook = mixed.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    found, bare = extractor(image), plain(image)
    hook.remove()
    state = network.state_dict()
    conv, bn = "Mixed_6d.branch1x1.conv.weight", "Mixed_6d.branch1x1.bn."
    maps = functional.batch_norm(
        functional.conv2d(inputs[0], state[conv]),
        *(state[f"{bn}{name}"] for name in ("running_mean", "running_var")),
        *(state[f"{bn}{name}"] for name in ("weight", "bias")),
        eps=1e-3,
    ).relu()
    assert found.spatial is not None
    assert found.spatial.shape == (1, 2023)
    assert maps[:, :7].std() > 0
    for row, column, channel in ((0, 0, 0), (3, 11, 2), (16, 16, 6)):
        value = found.spatial[0, (row * 17 + column) * 7 + channel]
        torch.testing.assert_close(value, maps[0, channel, row, column])
    torch.testing.assert_close(
        found.spatial.view(17, 17, 7).permute(2, 0, 1), maps[0, :7]
    )
    assert bare.spatial is None
    assert torch.equal(bare.pool, found.pool)
    assert extractor.weights_sha256 == plain.weights_sha256
    assert not mixed.branch1x1._forward_hooks


def test_only_inception_has_spatial_features(tmp_path: Path) -> None:
    """sFID of a classifier is refused before its file is looked at."""
    with pytest.raises(UserError, match="mine: only Inception has spatial features"):
        load_extractor(
            "classifier", weights=tmp_path / "none", name="mine", spatial=True
        )


def test_stats_file_belongs_to_the_extractor_inside_it(inception: Path) -> None:
    """Reference and extractor from one published file carry the same weights hash."""
    reference = load_reference(inception / "stats.pth", expect_dim=2048)
    assert reference.n == 5
    assert reference.weights_sha256 == weights_sha256(
        read_state_dict(inception / "weights.pth")
    )


def test_placed_inception_file_is_used_without_network(
    inception: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_download: None,
) -> None:
    """weights=None takes the file in torch's cache, and checks its hash."""
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    placed = folder / "weights-inception-2015-12-05-6726825d.pth"
    placed.symlink_to(inception / "weights.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match="expected 6726825d"):
        load_extractor("inception-v3-compat")
    digest = sha256_file(inception / "weights.pth")
    found = load_extractor("inception-v3-compat", sha256=digest, name="inception")
    assert found.name == "inception"


def test_offline_without_weights_says_where_to_place_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_download: None
) -> None:
    """One line with the address, the place and the environment variable."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match="TORCH_HOME") as caught:
        load_extractor("inception-v3-compat")
    text = str(caught.value)
    assert text.startswith("https://github.com/toshas/torch-fidelity/releases/")
    place = tmp_path / "hub" / "checkpoints"
    assert (
        f"place the file at {place}/weights-inception-2015-12-05-6726825d.pth" in text
    )
    assert "\n" not in text


def test_altered_weights_are_refused(inception: Path) -> None:
    """A file whose SHA-256 is not the stated one is named with both."""
    with pytest.raises(UserError, match=r"weights\.pth: sha256 .* expected 0{64}"):
        load_extractor(
            "inception-v3-compat",
            weights=inception / "weights.pth",
            sha256="0" * 64,
        )


def test_weights_of_another_network_are_one_line(tmp_path: Path) -> None:
    """Tensors that do not fit Inception give one short line."""
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="not those of inception-v3-compat") as caught:
        load_extractor("inception-v3-compat", weights=tmp_path / "x.pth")
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        ("inception", "unknown feature extractor 'inception'; expected inception-v3"),
        ("classifier", "classifier: no weights given"),
    ],
)
def test_unknown_or_weightless_extractor_is_refused(kind: str, match: str) -> None:
    """No extractor is guessed."""
    with pytest.raises(UserError, match=match):
        load_extractor(kind)


class Payload:
    """A pickle that would run a command when opened carelessly."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def test_code_in_a_weights_file_does_not_run(tmp_path: Path) -> None:
    """Weights are data: a pickle that calls a function is refused, and not called."""
    torch.save({"fc.weight": Payload(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="cannot be read as tensors"):
        load_extractor("inception-v3-compat", weights=tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("value", [[torch.zeros(1)], {"a": 1}, {1: torch.zeros(1)}])
def test_only_state_dicts_are_read(tmp_path: Path, value: Any) -> None:
    """A list, other values than tensors, other keys than names: one line."""
    torch.save(value, tmp_path / "x.pth")
    with pytest.raises(UserError, match="not a state dict"):
        read_state_dict(tmp_path / "x.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_missing_or_broken_file_is_one_line(tmp_path: Path, suffix: str) -> None:
    """Either kind of file, absent or cut short, is named."""
    path = tmp_path / f"x{suffix}"
    with pytest.raises(UserError, match=f"x{suffix}: file not found"):
        read_state_dict(path)
    path.write_bytes(b"\x10\x00")
    with pytest.raises(UserError, match=f"x{suffix}: cannot be read as tensors"):
        read_state_dict(path)


def test_weights_hash_is_of_the_tensors() -> None:
    """Order and batch counters do not count; names, values, shapes and types do."""
    a, b = torch.arange(4.0), torch.ones(2)
    base = weights_sha256({"a": a, "b": b})
    counter = torch.tensor(7)
    assert base == weights_sha256({"b": b, "bn.num_batches_tracked": counter, "a": a})
    others = [
        {"a": a, "c": b},
        {"a": a + 1, "b": b},
        {"a": a.reshape(2, 2), "b": b},
        {"a": a.double(), "b": b},
        {"a": a},
    ]
    assert len({base, *map(weights_sha256, others)}) == 6


class Means:
    """An extractor of channel means."""

    name, weights_sha256, is_inception, dim, resize = "means", "m", False, 3, "none"

    def __call__(self, images: torch.Tensor) -> Features:
        check_images(images)
        means = images.float().mean((2, 3))
        return Features(means, means)


@pytest.fixture
def images(tmp_path: Path) -> NDArray[np.uint8]:
    """Ten images in a read-only memory map, as a dataset holds them."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.integers(0, 256, (10, 3, 4, 4), dtype=np.uint8))
    loaded: NDArray[np.uint8] = np.load(tmp_path / "x.npy", mmap_mode="r")
    return loaded


@pytest.mark.parametrize("batch", [1, 3, 10, 64])
def test_extraction_is_in_order_at_any_batch(
    images: NDArray[np.uint8], batch: int
) -> None:
    """Every image once, in order, from a read-only map, without a warning."""
    pool = torch.cat([f.pool for f in extract(Means(), images, batch)])
    expected = images.mean(axis=(2, 3), dtype=np.float64)
    np.testing.assert_allclose(pool.numpy(), expected, rtol=1e-6)


def test_extraction_replaces_grey_levels(images: NDArray[np.uint8]) -> None:
    """The lookup is applied to every byte."""
    levels = np.arange(255, -1, -1, dtype=np.uint8)
    pool = torch.cat([f.pool for f in extract(Means(), images, 4, levels)])
    expected = (255 - images).mean(axis=(2, 3), dtype=np.float64)
    np.testing.assert_allclose(pool.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(1, 3, 4, 4),
        torch.zeros(3, 4, 4, dtype=torch.uint8),
        torch.zeros(1, 1, 4, 4, dtype=torch.uint8),
    ],
)
def test_only_colour_bytes_are_images(images: torch.Tensor) -> None:
    """Floats, single images and grey images are refused, not converted."""
    with pytest.raises(ValueError, match=r"expected torch\.uint8"):
        check_images(images)


def test_importing_us_imports_neither_torchvision_nor_torch_fidelity() -> None:
    """The cure is applied where torch-fidelity is needed, never at import."""
    code = (
        "import sys, fewstep.fidelity, fewstep.references\n"
        "sys.exit(any(m.startswith(('torchvision', 'torch_fidelity')) "
        "for m in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_torchvision_imports_on_this_build_of_torch() -> None:
    """CPU build or CUDA build, torch-fidelity and its metrics are there."""
    assert import_torch_fidelity().__name__ == "torch_fidelity"
    assert callable(import_torch_fidelity("metric_kid").kid_features_to_metric)


@pytest.mark.parametrize(
    ("cuda", "message"),
    [("13.0", "operator torchvision::nms does not exist"), (None, "something else")],
)
def test_other_import_failures_are_passed_on(
    cuda: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With CUDA, or for another reason, nothing is patched and nothing hidden."""

    def fail(name: str) -> ModuleType:
        raise RuntimeError(message)

    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(_torchvision, "import_module", fail)
    declared = list(_torchvision._declared)
    with pytest.raises(RuntimeError, match=message):
        import_torch_fidelity()
    assert declared == _torchvision._declared


def test_kinds_are_named() -> None:
    """The two kinds that configurations may name."""
    assert extractors.KINDS == ("inception-v3-compat", "classifier")
