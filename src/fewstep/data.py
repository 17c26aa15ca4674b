"""Datasets on disk: opened as memory maps, drawn from by counter.

A dataset is a folder of `images.npy` (uint8, (N, 3, H, W)), `labels.npy` (int64, (N,))
and `dataset.json`, the manifest, which is written last: without it there is no dataset.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep import files, noise
from fewstep.errors import UserError

__all__ = [
    "Dataset",
    "epoch_order",
    "holdout_split",
    "open_dataset",
    "subset",
]

# Here and not beside the builders: who opens a dataset depends on none of them.
IMAGES, LABELS, MANIFEST = "images.npy", "labels.npy", "dataset.json"


@dataclass(frozen=True)
class Dataset:
    """An opened dataset; images are read from the disk when they are asked for.

    Attributes:
        images: uint8 (N, 3, H, W), a read-only memory map.
        labels: int64 (N,), 0 <= label < num_classes.
        manifest: the content of `dataset.json`.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    manifest: dict[str, Any]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    @property
    def name(self) -> str:
        """Its key in the configuration."""
        return str(self.manifest["name"])

    @property
    def size(self) -> int:
        """Height and width in pixels."""
        return int(self.manifest["size"])

    @property
    def num_classes(self) -> int:
        """Number of classes; labels lie below it."""
        return int(self.manifest["num_classes"])

    @property
    def classes(self) -> list[str]:
        """The classes' names by label."""
        return [str(name) for name in self.manifest["classes"]]

    @property
    def sha256(self) -> str:
        """SHA-256 of `images.npy` as it was built."""
        return str(self.manifest["sha256"])

    def batch(self, indices: ArrayLike) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Images (B, 3, H, W) and labels (B,) at `indices`, copied into memory."""
        index = np.asarray(indices, dtype=np.int64)
        return np.array(self.images[index]), self.labels[index]


def open_dataset(folder: str | Path, verify: bool = False) -> Dataset:
    """Open a built dataset without reading its images.

    Args:
        folder: what `fewstep.datasets.build_dataset` wrote.
        verify: also compare both arrays with the manifest's checksums.

    Raises:
        UserError: for a file that is missing, truncated, corrupt or at odds with the
            manifest.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder / MANIFEST)
    count, size = manifest["count"], manifest["size"]
    shape = (count, manifest["channels"], size, size)
    images = _open_array(folder / IMAGES, np.dtype(np.uint8), shape, mmap=True)
    labels = _open_array(folder / LABELS, np.dtype(np.int64), (count,), mmap=False)
    if count and not 0 <= labels.min() <= labels.max() < manifest["num_classes"]:
        raise _broken(folder / LABELS, f"labels {labels.min()} to {labels.max()}")
    if verify:
        _verify(folder / IMAGES, manifest["sha256"])
        _verify(folder / LABELS, manifest["labels_sha256"])
    return Dataset(images, labels, manifest)


def epoch_order(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order (n,) in which training visits the images in one epoch.

    Depends on (n, seed, epoch) alone: neither on earlier epochs nor on the number of
    processes, each of which takes its part of every batch from this one order.
    """
    return noise.stream(seed, "epoch-order", epoch).permutation(n)


def holdout_split(
    n: int, seed: int, fraction: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split 0..n-1 at random into training and held-out indices, each ascending.

    Args:
        n: number of images.
        seed: decides the split.
        fraction: held-out share, 0 <= fraction < 1; round(n * fraction) are held out.

    Raises:
        ValueError: for a fraction out of range.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction {fraction}: expected 0 <= fraction < 1")
    order = noise.stream(seed, "holdout", 0).permutation(n)
    held = round(n * fraction)
    return np.sort(order[held:]), np.sort(order[:held])


def subset(n: int, k: int, seed: int) -> NDArray[np.int64]:
    """A seeded choice (k,) of 0..n-1 without repetition, in random order.

    A smaller k gives the beginning of a larger one's choice.

    Raises:
        ValueError: for k outside 0..n.
    """
    if not 0 <= k <= n:
        raise ValueError(f"cannot choose {k} of {n}")
    return noise.stream(seed, "subset", 0).permutation(n)[:k]


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise UserError(
            "no dataset here (or its building was cut short)",
            where=str(path.parent),
            expected=f"a file {path.name}",
            do="build it again",
        )
    manifest = files.read_json(path)
    needed = {"name", "size", "channels", "count", "num_classes", "classes"}
    needed |= {"sha256", "labels_sha256"}
    lacking = needed - set(manifest) if isinstance(manifest, dict) else needed
    if lacking:
        raise _broken(path, f"lacks {', '.join(sorted(lacking))}")
    for key in ("size", "channels", "count", "num_classes"):
        if not isinstance(manifest[key], int):
            raise _broken(path, f"{key} is {manifest[key]!r}", expected="an integer")
    return dict(manifest)


def _open_array(
    path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], mmap: bool
) -> NDArray[Any]:
    """Open a .npy file and hold it against the manifest."""
    try:
        array = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except FileNotFoundError as error:
        raise _broken(path, "file not found") from error
    except (ValueError, EOFError, OSError) as error:
        raise _broken(path, f"not a whole .npy file ({error})") from error
    if array.dtype != dtype or array.shape != shape:
        raise _broken(path, f"{array.dtype} {array.shape}", expected=f"{dtype} {shape}")
    return array  # type: ignore[no-any-return]


def _verify(path: Path, expected: str) -> None:
    found = files.sha256_file(path)
    if found != expected:
        raise _broken(path, f"sha256 is {found}", expected=f"sha256 {expected}")


def _broken(path: Path, what: str, expected: str = "") -> UserError:
    return UserError(
        what,
        where=str(path),
        expected=expected,
        do=f"delete {path.parent} and build the dataset again",
    )
