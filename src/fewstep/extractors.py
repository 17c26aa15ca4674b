"""Feature extractors: uint8 images in, the features and logits of a network out.

A score is only as comparable as the network behind it, so an extractor says what it is:
its name, the hash of its weights, how it resizes. `inception-v3-compat` is the network
of the published FID values (torch-fidelity's port of the TensorFlow graph of
2015-12-05); `classifier` is the small one that the workflow trains on its own data.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.error import URLError

import numpy as np
import torch
from numpy.typing import NDArray

from fewstep._torchvision import import_torch_fidelity
from fewstep.checkpoints import read_state_dict
from fewstep.errors import UserError
from fewstep.files import sha256_file

INCEPTION = "inception-v3-compat"
CLASSIFIER = "classifier"
KINDS = (INCEPTION, CLASSIFIER)

# torch-fidelity names the file after the first eight digits of its SHA-256.
_INCEPTION_FILE_SHA256 = "6726825d"
SPATIAL_DIM = 2023
"""Values of sFID's spatial features: 7 channels of 17 x 17 (Nash et al. 2021)."""
_SPATIAL_CHANNELS = 7
# Buffers that no forward pass in evaluation mode reads; some files leave them out.
_IDLE_SUFFIX = "num_batches_tracked"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Features:
    """What an extractor makes of B images: pool (B, D) and logits (B, K), float32.

    `spatial` (B, 2023): sFID's features, where they were asked for.
    """

    pool: torch.Tensor
    logits: torch.Tensor
    spatial: torch.Tensor | None = None


class Extractor(Protocol):
    """Anything that turns images (B, 3, H, W), uint8, into `Features`."""

    @property
    def name(self) -> str:
        """What tables call it."""

    @property
    def weights_sha256(self) -> str:
        """`weights_sha256` of its weights: the identity of the extractor."""

    @property
    def is_inception(self) -> bool:
        """Whether a Fréchet distance on its features may be called FID."""

    @property
    def dim(self) -> int:
        """D, the number of pooled features."""

    @property
    def resize(self) -> str:
        """How it resizes images, as the protocol names it ("none": not at all)."""

    def __call__(self, images: torch.Tensor) -> Features:
        """Features of images (B, 3, H, W), uint8."""


@dataclass(frozen=True)
class InceptionExtractor:
    """torch-fidelity's InceptionV3: 2,048 pooled features and 1,008 unbiased logits.

    Images of any size are resized to 299 x 299 as TensorFlow 1 did and scaled by
    (x - 128) / 128. torch's own settings (TF32 on a GPU) apply.

    With `spatial` it also gives sFID's features (arXiv 2103.03841, as ADM's evaluator
    takes them): the first 7 channels of Mixed_6d.branch1x1 after its ReLU, TensorFlow's
    `mixed_6/conv`, flattened by row, column and channel (NHWC), so that they go with
    the mu_s and sigma_s of ADM's files.
    """

    network: torch.nn.Module
    weights_sha256: str
    name: str = INCEPTION
    device: torch.device = CPU
    is_inception: bool = True
    dim: int = 2048
    resize: str = "tf1-bilinear-299"
    spatial: bool = False

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> Features:
        """Features of images (B, 3, H, W), uint8."""
        check_images(images)
        images = images.to(self.device)
        if not self.spatial:
            return Features(*self.network(images))
        seen: list[torch.Tensor] = []
        branch = self.network.get_submodule("Mixed_6d.branch1x1")
        hook = branch.register_forward_hook(lambda *call: seen.append(call[-1]))
        try:
            pool, logits = self.network(images)
        finally:
            hook.remove()
        maps = seen[0][:, :_SPATIAL_CHANNELS]
        return Features(pool, logits, maps.permute(0, 2, 3, 1).flatten(1).float())


def load_extractor(
    kind: str,
    *,
    weights: str | Path | None = None,
    sha256: str = "",
    name: str = "",
    device: torch.device = CPU,
    spatial: bool = False,
) -> Extractor:
    """Load a feature extractor.

    Args:
        kind: "inception-v3-compat" or "classifier".
        weights: a file of weights. For Inception: a state dict (.pth, .safetensors) or
            a torchmetrics stats file, which holds the same tensors as `inception.*`;
            None: torch-fidelity's own download. For the classifier: what
            `save_classifier` wrote.
        sha256: what the file's SHA-256 must be or start with; "" checks nothing.
        name: what tables call the extractor; "": its kind.
        device: where it runs.
        spatial: whether sFID's features are made too (Inception only).

    Raises:
        UserError: for an unknown kind, a file that is missing, altered or unfit, or
            spatial features of a classifier.
    """
    if kind == INCEPTION:
        return _load_inception(weights, sha256, name or INCEPTION, device, spatial)
    if kind == CLASSIFIER:
        if spatial:
            raise UserError(
                "only Inception has spatial features",
                where=name or kind,
                expected=f"an extractor of kind {INCEPTION} for sFID",
            )
        if weights is None:
            raise UserError(
                "no weights given", where=name or kind, expected="a trained classifier"
            )
        # Here, not above: the classifier is itself built upon this module.
        from fewstep.classifier import load_classifier

        _verify(Path(weights), sha256)
        return load_classifier(weights, name=name or CLASSIFIER, device=device)
    raise UserError(f"unknown feature extractor {kind!r}", expected=" or ".join(KINDS))


def extract(
    extractor: Extractor,
    images: NDArray[np.uint8],
    batch: int,
    levels: NDArray[np.uint8] | None = None,
) -> Iterator[Features]:
    """Features of images (N, 3, H, W) in order, `batch` at a time.

    Args:
        extractor: the network.
        images: uint8, any array-like with slices (a memory map is read by and by).
        batch: images at a time, at least 1; without influence but on rounding.
        levels: (256,) what each grey level is replaced by first, e.g.
            `images.released_levels()`; None: nothing.
    """
    for start in range(0, len(images), batch):
        block = np.ascontiguousarray(images[start : start + batch])
        if levels is not None:
            block = levels[block]
        elif not block.flags.writeable:
            block = block.copy()  # torch warns about read-only memory
        yield extractor(torch.from_numpy(block))


def check_images(images: torch.Tensor) -> None:
    """Refuse anything but (B, 3, H, W) uint8 with a ValueError."""
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(
            f"images of {images.dtype} and shape {tuple(images.shape)}: "
            "expected torch.uint8 and (B, 3, H, W)"
        )


def weights_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of weights, sorted by name.

    Of the tensors, not of a file: the same weights have the same hash whichever kind of
    file they came in. Batch counters, which no evaluation reads, are left out.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        if name.endswith(_IDLE_SUFFIX):
            continue
        array = tensors[name].detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def inception_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The `inception.*` tensors of a torchmetrics state, bare; {} where it has none."""
    prefix = "inception."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _load_inception(
    weights: str | Path | None,
    sha256: str,
    name: str,
    device: torch.device,
    spatial: bool,
) -> InceptionExtractor:
    if weights is None:
        path, sha256 = _download_inception(), sha256 or _INCEPTION_FILE_SHA256
    else:
        path = Path(weights)
    _verify(path, sha256)
    tensors = read_state_dict(path)
    tensors = inception_tensors(tensors) or tensors
    # torch-fidelity unpickles whatever its path holds. What it gets is a stream that we
    # have just written ourselves, of tensors that were read without running code.
    stream = io.BytesIO()
    torch.save(tensors, stream)
    stream.seek(0)
    module = import_torch_fidelity("feature_extractor_inceptionv3")
    try:
        network = module.FeatureExtractorInceptionV3(
            name, ["2048", "logits_unbiased"], feature_extractor_weights_path=stream
        )
    except RuntimeError as error:
        misfit = " ".join(" ".join(str(error).splitlines()[1:2]).split())
        raise UserError(
            f"the tensors are not those of {INCEPTION} ({misfit[:120]})",
            where=str(path),
            expected="torch-fidelity's InceptionV3 or a torchmetrics FID state",
        ) from error
    sha = weights_sha256(network.state_dict())
    return InceptionExtractor(network.to(device), sha, name, device, spatial=spatial)


def _download_inception() -> Path:
    """Torch-fidelity's own weights in torch's cache, fetched where they are missing."""
    module = import_torch_fidelity("feature_extractor_inceptionv3")
    url = str(module.URL_INCEPTION_V3)
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / url.rsplit("/", 1)[1]
    if path.is_file():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            url, str(path), hash_prefix=_INCEPTION_FILE_SHA256, progress=False
        )
    except (URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"the Inception weights cannot be downloaded ({error})",
            where=url,
            do=f"place the file at {path}, or set TORCH_HOME to a folder that holds "
            f"hub/checkpoints/{path.name}, or name a weights file in the config",
        ) from error
    return path


def _verify(path: Path, sha256: str) -> None:
    """Compare a file's SHA-256 with what it must be or start with ("": anything)."""
    if not sha256 or not path.is_file():
        return
    found = sha256_file(path)
    if not found.startswith(sha256.lower()):
        raise UserError(
            f"sha256 {found[: max(16, len(sha256))]}",
            where=str(path),
            expected=sha256.lower(),
            do="fetch the file again",
        )
