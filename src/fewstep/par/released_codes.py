"""Codes as LlamaGen's and PAR's programs write them: two small files an image.

`DIR/<name>_codes/{i}.npy`, int64 (1, V, N) in raster order, and
`DIR/<name>_labels/{i}.npy`, int64 (1,); i counts the images of the folder dataset from
0. A distributed extraction pads the set, so a few files may follow the last image.
"""

from __future__ import annotations

import os
import re
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep import files
from fewstep.errors import UserError

CODEBOOK_SIZE, NUM_CLASSES = 16384, 1000
"""Those of the released tokenizers and of ImageNet."""
NAMED_AT_MOST = 10
_SAMPLED = 64
"""Images whose files the fingerprint reads."""
_NUMBERED = re.compile(r"(0|[1-9]\d*)\.npy", re.ASCII)
_DAMAGED = (OSError, EOFError, ValueError, TypeError, SyntaxError, MemoryError)


class ReleasedCodes:
    """A released folder, read file by file when rows are asked for.

    Attributes:
        codes, labels: the two folders.
        largest: codebook_size - 1: every code is held against it when it is read.
        sha256: fingerprint of the count and of 64 images' files spread over the set;
            a hash of two million small files would take hours.
        others: as in `CodeData`.
    """

    def __init__(
        self, codes: Path, count: int, codebook_size: int, num_classes: int
    ) -> None:
        self.codes, self.labels = codes, _labels_of(codes)
        self._count, self.codebook_size = count, codebook_size
        self.classes, self.largest = num_classes, codebook_size - 1
        shape = _load(self.codes / "0.npy").shape
        side = isqrt(shape[-1]) if len(shape) == 3 else 0
        if len(shape) != 3 or shape[0] != 1 or not side or side**2 != shape[2]:
            raise _wrong(
                self.codes / "0.npy",
                f"codes of shape {shape}",
                "(1, views, N) with a square number N",
            )
        self.views, self.tokens, self.grid = shape[1], shape[2], side
        self.sha256 = self._fingerprint()
        self.manifest: dict[str, Any] = {
            "format": "released",
            "count": count,
            "views": self.views,
            "grid": self.grid,
            "tokens": self.tokens,
            "codebook_size": codebook_size,
            "num_classes": num_classes,
            "largest": self.largest,
            "sha256": self.sha256,
            "origin": {
                "tokenizer_sha256": None,
                "dataset": codes.name.removesuffix("_codes"),
                "dataset_sha256": self.sha256,
            },
        }

    def __len__(self) -> int:
        """Number of images."""
        return self._count

    def image(self, index: int) -> tuple[NDArray[np.int64], int]:
        """All views (V, N) and the label of one image.

        Raises:
            UserError: naming the file that is damaged, or whose code or label lies
                outside.
        """
        path = self.codes / f"{index}.npy"
        codes, shape = _load(path), (1, self.views, self.tokens)
        if codes.shape != shape:
            raise _wrong(path, f"codes of shape {codes.shape}", f"{shape}")
        self._check(path, "codes", codes, self.codebook_size)
        return codes[0].astype(np.int64), self.label(index)

    def label(self, index: int) -> int:
        """The label of one image; raises as `image`."""
        path = self.labels / f"{index}.npy"
        label = _load(path)
        if label.shape != (1,):
            raise _wrong(path, f"a label of shape {label.shape}", "(1,)")
        self._check(path, "label", label, self.classes)
        return int(label[0])

    def batch(
        self, images: ArrayLike, views: ArrayLike
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Codes (B, N) and labels (B,) of images' views, as in `CodeData`."""
        image = np.asarray(images, dtype=np.int64)
        seen = np.asarray(views, dtype=np.int64)
        codes = np.empty((len(image), self.tokens), dtype=np.int64)
        labels = np.empty(len(image), dtype=np.int64)
        rows = zip(image.tolist(), seen.tolist(), strict=True)
        for row, (index, one) in enumerate(rows):
            if not (0 <= index < len(self) and 0 <= one < self.views):
                raise IndexError(
                    f"image {index}, view {one} of {len(self)}, {self.views}"
                )
            every, labels[row] = self.image(index)
            codes[row] = every[one]
        return codes, labels

    @staticmethod
    def _check(path: Path, name: str, values: NDArray[Any], size: int) -> None:
        least, most = int(values.min()), int(values.max())
        if not 0 <= least <= most < size:
            what = "codebook" if name == "codes" else "classes"
            raise _wrong(
                path, f"{name} {least} to {most}", f"0 to {size - 1}, the {what}"
            )

    def _fingerprint(self) -> str:
        chosen = np.linspace(0, self._count - 1, min(self._count, _SAMPLED))
        hashes = [
            files.sha256_file(folder / f"{int(index)}.npy")
            for index in chosen
            for folder in (self.codes, self.labels)
        ]
        return files.sha256_json({"count": self._count, "files": hashes})


def open_released(
    folder: Path,
    count: int | None = None,
    codebook_size: int | None = None,
    num_classes: int | None = None,
) -> ReleasedCodes:
    """Open a released folder; only the names of its files are read.

    Args:
        folder: holds `<name>_codes` and `<name>_labels`.
        count: images 0..count-1 are used; None: all up to the largest number.
        codebook_size: codes lie below it; None: 16,384.
        num_classes: labels lie below it; None: 1,000.

    Raises:
        UserError: where there is not exactly one pair of folders, files of images are
            missing (how many, the first ten), or the first file is none of codes.
    """
    codes = _codes_folder(folder)
    labels = _labels_of(codes)
    held = {one: _numbers(one) for one in (codes, labels)}
    if count is None:
        count = 1 + max((max(found, default=-1) for found in held.values()), default=-1)
    missing = [
        f"{one.name}/{index}.npy"
        for one, found in held.items()
        for index in sorted(set(range(count)) - found)
    ]
    if missing or not count:
        shown = ", ".join(missing[:NAMED_AT_MOST])
        more = ", ..." if len(missing) > NAMED_AT_MOST else ""
        raise UserError(
            f"{len(missing)} files are missing: {shown}{more}"
            if missing
            else "no codes here",
            where=str(folder),
            expected=f"codes and labels of images 0 to {max(count, 1) - 1}",
            do="extract the codes of these images again",
        )
    return ReleasedCodes(
        codes, count, codebook_size or CODEBOOK_SIZE, num_classes or NUM_CLASSES
    )


def _codes_folder(folder: Path) -> Path:
    """The one `<name>_codes` that has its `<name>_labels` beside it."""
    found = [
        one
        for one in sorted(folder.glob("*_codes"))
        if one.is_dir() and _labels_of(one).is_dir()
    ]
    if len(found) == 1:
        return found[0]
    shown = ", ".join(one.name for one in found[:NAMED_AT_MOST])
    raise UserError(
        f"{len(found)} sets of codes ({shown})" if found else "no codes here",
        where=str(folder),
        expected="codes.json, or one <name>_codes beside its <name>_labels",
    )


def _labels_of(codes: Path) -> Path:
    return codes.with_name(f"{codes.name.removesuffix('_codes')}_labels")


def _numbers(folder: Path) -> set[int]:
    """The images that a folder has a file of."""
    found = (_NUMBERED.fullmatch(entry.name) for entry in os.scandir(folder))
    return {int(match[1]) for match in found if match}


def _load(path: Path) -> NDArray[Any]:
    """An array of integers.

    Raises:
        UserError: naming the file.
    """
    try:
        values: NDArray[Any] = np.load(path, allow_pickle=False)
    except _DAMAGED as error:
        raise _wrong(
            path, f"cannot be read ({type(error).__name__})", "a .npy file"
        ) from error
    if values.dtype.kind not in "iu" or not values.size:
        raise _wrong(path, f"{values.size} values of {values.dtype}", "integers")
    return values


def _wrong(path: Path, what: str, expected: str) -> UserError:
    return UserError(
        what,
        where=str(path),
        expected=expected,
        do="extract the codes of this image again",
    )
