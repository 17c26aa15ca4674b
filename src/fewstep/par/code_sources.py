"""Where the images come from that codes are taken of: a built dataset, or a folder.

A folder of large photographs is read by an index of its files, so that every job sees
the same images in the same order without listing a million files.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewstep import files
from fewstep.data import Dataset, open_dataset
from fewstep.errors import UserError
from fewstep.par.views import make_views, mirrored, views_of

INDEX_KEYS = frozenset({"root", "count", "classes", "files", "labels", "sha256"})

T = TypeVar("T")


class Source(Protocol):
    """Images by number, each as its views."""

    @property
    def views(self) -> int:
        """Views of an image."""

    @property
    def size(self) -> int:
        """Height and width of a view in pixels."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""

    @property
    def sha256(self) -> str:
        """Hash of what the images are."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class of each image; its length is the number of images."""

    def read(self, index: int) -> NDArray[np.uint8]:
        """All views of one image: uint8 (views, 3, size, size)."""


@dataclass(frozen=True)
class BuiltSource:
    """The images of a built dataset as they are: `kind` is "plain" or "flip"."""

    data: Dataset
    kind: str

    @property
    def views(self) -> int:
        """Views of an image."""
        return views_of(self.kind)

    @property
    def size(self) -> int:
        """Height and width of a view in pixels."""
        return self.data.size

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.data.num_classes

    @property
    def sha256(self) -> str:
        """SHA-256 of `images.npy`."""
        return self.data.sha256

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class of each image."""
        return self.data.labels

    def read(self, index: int) -> NDArray[np.uint8]:
        """All views of one image: uint8 (views, 3, size, size)."""
        return mirrored(self.data.images[index], self.kind)


@dataclass(frozen=True)
class FolderSource:
    """Image files of an index, cropped as `kind` says.

    Attributes:
        index: content of `index.json`.
        kind, size, crop_ranges: as in `make_views`.
    """

    index: dict[str, Any]
    kind: str
    size: int
    crop_ranges: Sequence[float] = ()

    @property
    def views(self) -> int:
        """Views of an image."""
        return views_of(self.kind, self.crop_ranges)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.index["classes"])

    @property
    def sha256(self) -> str:
        """Hash of the files' names and sizes in bytes."""
        return str(self.index["sha256"])

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class of each image."""
        return np.asarray(self.index["labels"], dtype=np.int64)

    def read(self, index: int) -> NDArray[np.uint8]:
        """All views of one image: uint8 (views, 3, size, size).

        Raises:
            UserError: naming a file that is not there or cannot be read.
        """
        path = Path(self.index["root"], self.index["files"][index])
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except FileNotFoundError as error:
            raise UserError(
                "image not found",
                where=str(path),
                do="put it back, or make the index of the folder anew",
            ) from error
        # Pillow's decoders raise whatever a broken file leads them to.
        except Exception as error:
            raise UserError(
                f"the image cannot be read ({error or type(error).__name__})",
                where=str(path),
                do="fetch this file again",
            ) from error
        return make_views(image, self.kind, self.size, self.crop_ranges)


def open_source(
    path: Path, kind: str, size: int, crop_ranges: Sequence[float] = ()
) -> Source:
    """Open a built dataset (its folder) or a folder's index (`index.json`).

    Raises:
        UserError: for a built dataset of another size or asked for ten crops, and for
            a file that is no index.
    """
    if path.is_dir():
        return _built(path, kind, size)
    index = files.read_json(path)
    if not isinstance(index, dict) or not set(index) >= INDEX_KEYS:
        raise UserError(
            "not an index of images", where=str(path), do="delete it and run again"
        )
    return FolderSource(index, kind, size, tuple(crop_ranges))


def _built(path: Path, kind: str, size: int) -> BuiltSource:
    data = open_dataset(path)
    if kind not in ("plain", "flip"):
        raise UserError(
            f"views {kind!r} of a built dataset",
            where=str(path),
            expected="plain or flip: its images are cropped already",
            do="name a dataset of source 'folder' to crop its files",
        )
    if data.size != size:
        raise UserError(
            f"images of {data.size} pixels",
            where=str(path),
            expected=f"{size} pixels, grid times downsampling of the tokenizer",
        )
    return BuiltSource(data, kind)


def read_ahead(
    read: Callable[[int], T], indices: Sequence[int], ahead: int
) -> Generator[T, None, None]:
    """Yield `read(index)` in order, while threads read the next `ahead` of them.

    Raises:
        Exception: what `read` raises, when it is that index's turn.
    """
    waiting: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(cores())
    try:
        for index in indices:
            waiting.append(pool.submit(read, index))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def cores() -> int:
    """Cores that this process may use, which SLURM limits."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
