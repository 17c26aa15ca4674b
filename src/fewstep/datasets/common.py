"""What every dataset builder shares: the spec, its options, and the writing."""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fewstep import files
from fewstep.data import IMAGES, LABELS, MANIFEST
from fewstep.errors import UserError

# How many classes or files an error names before it only counts.
NAMED_AT_MOST = 10


class DatasetSpec(Protocol):
    """One dataset of the configuration, resolved."""

    @property
    def name(self) -> str:
        """Its key in the configuration."""

    @property
    def source(self) -> str:
        """Which builder makes it, a key of `fewstep.datasets.BUILDERS`."""

    @property
    def size(self) -> int:
        """Height and width in pixels."""

    @property
    def path(self) -> str | None:
        """Where a source that reads files finds them."""

    @property
    def count(self) -> int | None:
        """How many images there have to be; None: not checked."""

    @property
    def num_classes(self) -> int:
        """How many classes there have to be."""

    @property
    def sha256(self) -> str | None:
        """Of `images.npy`, hexadecimal; None: not checked."""

    @property
    def seed(self) -> int:
        """Of whatever the builder draws."""

    @property
    def options(self) -> dict[str, Any]:
        """The source's own options."""

    @property
    def licence(self) -> str:
        """Replaces what the builder states, unless empty."""

    @property
    def attribution(self) -> str:
        """Replaces what the builder states, unless empty."""

    @property
    def notes(self) -> str:
        """Shown when count or classes differ, e.g. known other versions."""


@dataclass(frozen=True)
class Content:
    """What a builder found, handed to `write_dataset`.

    Attributes:
        images: uint8 (3, size, size) each, in order; consumed once.
        labels: (N,) class of each image; its length is the number of images.
        classes: the classes' names; label k is `classes[k]`.
        licence, attribution: of the source, where the spec leaves them empty.
        origin: further facts for the manifest (package versions, options as used).
    """

    images: Iterable[NDArray[np.uint8]]
    labels: NDArray[np.int64]
    classes: Sequence[str]
    licence: str = ""
    attribution: str = ""
    origin: Mapping[str, Any] = field(default_factory=dict)


def where(spec: DatasetSpec) -> str:
    """How an error names this dataset."""
    return f"dataset {spec.name!r}"


def resolve_options(spec: DatasetSpec, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The spec's options over the source's defaults.

    Raises:
        UserError: for an option that the source does not know, or of another type.
    """
    for key, value in spec.options.items():
        if key not in defaults:
            near = difflib.get_close_matches(key, defaults, n=1)
            known = ", ".join(defaults) or "no options"
            raise UserError(
                f"source {spec.source!r} has no option {key!r}",
                where=where(spec),
                expected=f"{near[0]!r}" if near else known,
            )
        if type(value) is not type(defaults[key]):
            raise UserError(
                f"option {key!r} is {value!r}",
                where=where(spec),
                expected=f"a {type(defaults[key]).__name__}, e.g. {defaults[key]!r}",
            )
    return {**defaults, **spec.options}


def package_folder(module: str, distribution: str, spec: DatasetSpec) -> Path:
    """Folder of an installed top-level package, found without importing it.

    Raises:
        UserError: where the package is not installed; names the pip command.
    """
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise missing_package(distribution, spec)
    return Path(found.origin).parent


def missing_package(distribution: str, spec: DatasetSpec) -> UserError:
    """The error for a package that the dataset is read from but is not installed."""
    return UserError(
        f"source {spec.source!r} reads the package {distribution}, "
        "which is not installed",
        where=where(spec),
        do=f"pip install {distribution}",
    )


def package_version(distribution: str) -> str:
    """Version of an installed distribution, "unknown" without metadata."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def write_dataset(spec: DatasetSpec, folder: Path, content: Content) -> None:
    """Write a dataset's three files, the manifest last.

    An earlier or half-written dataset in `folder` is removed first; one process at a
    time may build a folder (the workflow sees to that).

    Raises:
        UserError: for a count, a number of classes or a checksum other than the
            spec's, for a full disk, and whatever `content.images` raises. Then no file
            is left under its final name.
    """
    check_found(spec, len(content.labels), content.classes)
    clear(folder)
    with files.atomic_path(folder / IMAGES) as part:
        _fill_images(part, spec, content)
        digest = files.sha256_file(part)
        if spec.sha256 is not None and digest != spec.sha256:
            raise UserError(
                f"{IMAGES} has sha256 {digest}",
                where=where(spec),
                expected=f"sha256 {spec.sha256}",
                do="check the source's version, or set sha256 to the new value",
            )
    with files.atomic_path(folder / LABELS) as part, open(part, "wb") as file:
        np.save(file, content.labels.astype(np.int64))
    files.write_json(folder / MANIFEST, _manifest(spec, folder, content, digest))


def check_found(spec: DatasetSpec, count: int, classes: Sequence[str]) -> None:
    """Compare what was found with what the spec promises.

    Raises:
        UserError: says found and expected, and the spec's notes, where they differ.
    """
    hint = f"note: {spec.notes}" if spec.notes else ""
    if len(classes) != spec.num_classes:
        shown = ", ".join(classes[:NAMED_AT_MOST])
        shown += ", ..." if len(classes) > NAMED_AT_MOST else ""
        raise UserError(
            f"found {len(classes)} classes ({shown})",
            where=spec.path or where(spec),
            expected=f"{spec.num_classes} classes in {where(spec)}",
            do=hint,
        )
    if spec.count is not None and count != spec.count:
        raise UserError(
            f"found {count} images",
            where=spec.path or where(spec),
            expected=f"{spec.count} images in {where(spec)}",
            do=hint,
        )


def clear(folder: Path) -> None:
    """Remove a dataset and what killed builds left; the manifest goes first."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (MANIFEST, LABELS, IMAGES):
        (folder / name).unlink(missing_ok=True)
        for part in folder.glob(f".{name}.*.tmp"):
            part.unlink(missing_ok=True)


def _fill_images(part: Path, spec: DatasetSpec, content: Content) -> None:
    """Stream the images into a .npy file that never lies in memory as a whole."""
    shape = (len(content.labels), 3, spec.size, spec.size)
    out = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
    # A page of a sparse file that finds the disk full kills the process (SIGBUS);
    # reserved beforehand, a full disk is an ordinary error.
    if hasattr(os, "posix_fallocate"):
        with open(part, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, part.stat().st_size)
    for row, image in zip(out, content.images, strict=True):
        row[...] = image
    out.flush()


def _manifest(
    spec: DatasetSpec, folder: Path, content: Content, digest: str
) -> dict[str, Any]:
    return {
        "name": spec.name,
        "source": spec.source,
        "size": spec.size,
        "channels": 3,
        "count": len(content.labels),
        "num_classes": len(content.classes),
        "classes": list(content.classes),
        "sha256": digest,
        "labels_sha256": files.sha256_file(folder / LABELS),
        "seed": spec.seed,
        "options": dict(spec.options),
        "path": spec.path,
        "licence": spec.licence or content.licence,
        "attribution": spec.attribution or content.attribution,
        "notes": spec.notes,
        "origin": dict(content.origin),
    }
