"""Image folders, one a class: `<path>/<class>/*.jpg` (AFHQ, ImageNet).

Pixels as torchvision's `ImageFolder`, `Resize` and `CenterCrop` make them of Pillow
images, which is how the papers' models saw them: EXIF orientation and transparency are
ignored.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from fewstep.datasets import common
from fewstep.errors import UserError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
CHUNK = 256


def build(spec: common.DatasetSpec, folder: Path) -> None:
    """Write an image folder; classes and files in the order of their names.

    Option: `filter` of the resize (bilinear, bicubic, lanczos, box; default bilinear).

    Raises:
        UserError: for a missing folder, a class without images, a count or number of
            classes other than the spec's, and unreadable images, all of them in one.
    """
    options = common.resolve_options(spec, {"filter": "bilinear"})
    if options["filter"] not in FILTERS:
        raise UserError(
            f"option 'filter' is {options['filter']!r}",
            where=common.where(spec),
            expected=" or ".join(FILTERS),
        )
    if spec.path is None:
        raise UserError(
            "source 'folder' needs a path",
            where=common.where(spec),
            expected="path: <folder>, holding <class>/*.jpg",
        )
    root = Path(spec.path)
    by_class, other = list_images(root)
    paths = [path for found in by_class.values() for path in found]
    sizes = [len(found) for found in by_class.values()]
    common.write_dataset(
        spec,
        folder,
        common.Content(
            images=read_images(root, paths, spec.size, FILTERS[options["filter"]]),
            labels=np.repeat(np.arange(len(sizes), dtype=np.int64), sizes),
            classes=list(by_class),
            origin={
                "resize": f"shorter side, {options['filter']}, centre crop",
                "pillow": PIL.__version__,
                "images_by_class": dict(zip(by_class, sizes, strict=True)),
                "other_files": other,
            },
        ),
    )


def list_images(root: Path) -> tuple[dict[str, list[Path]], int]:
    """Sorted image files by class, and how many other files lie beside them.

    Raises:
        UserError: where `root` is missing, has no class folders, or one is empty.
    """
    if not root.is_dir():
        raise UserError(
            "no such folder",
            where=str(root),
            expected=f"images as {root}/<class>/*.jpg",
            do="place the images there",
        )
    by_class: dict[str, list[Path]] = {}
    other = 0
    for name in sorted(entry.name for entry in os.scandir(root) if entry.is_dir()):
        entries = sorted(entry.name for entry in os.scandir(root / name))
        images = [
            root / name / e for e in entries if Path(e).suffix.lower() in SUFFIXES
        ]
        other += len(entries) - len(images)
        by_class[name] = images
    empty = [name for name, images in by_class.items() if not images]
    if empty or not by_class:
        shown = ", ".join(empty[: common.NAMED_AT_MOST])
        raise UserError(
            f"{len(empty)} class folders without images ({shown})"
            if empty
            else "no class folders",
            where=str(root),
            expected=f"images as {root}/<class>/* ({', '.join(sorted(SUFFIXES))})",
        )
    return by_class, other


def read_images(
    root: Path, paths: list[Path], size: int, resample: Image.Resampling
) -> Iterator[NDArray[np.uint8]]:
    """Yield uint8 (3, size, size) an image, in order; decodes on every core.

    Raises:
        UserError: after the last image, when any could not be read: how many, and the
            names of the first ten.
    """
    unreadable: list[str] = []
    # Yielded for a broken image, so that the rest is read too and all are named.
    blank = np.zeros((3, size, size), np.uint8)

    def read(path: Path) -> NDArray[np.uint8] | str:
        try:
            with Image.open(path) as file:
                return resize_crop(file.convert("RGB"), size, resample)
        # Pillow's decoders raise whatever a broken file leads them to.
        except Exception as error:  # noqa: BLE001
            return f"{path.relative_to(root)} ({error or type(error).__name__})"

    with ThreadPoolExecutor(_cores()) as pool:
        for start in range(0, len(paths), CHUNK):
            for read_or_not in pool.map(read, paths[start : start + CHUNK]):
                if isinstance(read_or_not, str):
                    unreadable.append(read_or_not)
                yield blank if isinstance(read_or_not, str) else read_or_not
    if unreadable:
        more = ", ..." if len(unreadable) > common.NAMED_AT_MOST else ""
        raise UserError(
            f"{len(unreadable)} of {len(paths)} images cannot be read: "
            f"{', '.join(unreadable[: common.NAMED_AT_MOST])}{more}",
            where=str(root),
            do="fetch these files again, or remove them and correct `count`",
        )


def _cores() -> int:
    """Cores that this process may use, which SLURM limits."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def resize_crop(
    image: Image.Image, size: int, resample: Image.Resampling
) -> NDArray[np.uint8]:
    """Scale the shorter side to `size` and cut the centre: uint8 (3, size, size).

    The roundings are torchvision's: the longer side downwards, the crop's offset to
    the nearest, a half to even.
    """
    width, height = image.size
    short = min(width, height)
    # As (size * long) / short and not size * (long / short): these differ by a pixel.
    width, height = int(size * width / short), int(size * height / short)
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = image.resize((width, height), resample)
    cropped = resized.crop((left, top, left + size, top + size))
    return np.asarray(cropped).transpose(2, 0, 1)
