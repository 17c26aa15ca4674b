"""Files and folders that nothing makes: are they there, and if not, where from?"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewstep import files
from fewstep.config.data import AssetSpec, DatasetSpec
from fewstep.hub.ledger import LEDGER, entry
from fewstep.hub.surroundings import inception_file

_INCEPTION_MB = 95.6
_IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


@dataclass
class Source:
    """A file or folder at the beginning of a chain.

    Attributes:
        name: of the asset, or the path.
        kind: "asset", "folder" or "file".
        path: where it lies, or belongs.
        state: "there", "to download", "place by hand", or "wrong size (…)", which
            says the bytes that are there and those that belong there.
        mb: size, 10^6 bytes; None: not known.
        origin: where it comes from, or what to put there.
        verified: whether its hash was checked; None: there is nothing to check.
        needed_by: targets that rest on it.
        blocks: targets that cannot start without it.
    """

    name: str
    kind: str
    path: str
    state: str
    mb: float | None = None
    origin: str = ""
    verified: bool | None = None
    needed_by: list[str] = field(default_factory=list)
    blocks: list[str] = field(default_factory=list)


def asset_source(spec: AssetSpec, resolved: Mapping[str, Any]) -> Source:
    """An asset of the table.

    Args:
        spec: its row.
        resolved: `Graph.asset`, with the path where it lies.
    """
    path = Path(resolved["path"])
    homes = [f"{spec.repo}/{spec.file}"] if spec.repo else []
    homes += [_bare(url) for url in spec.mirrors]
    origin = homes[0] if homes else " ".join(spec.note.split()) or spec.licence
    if path.is_file():
        size = path.stat().st_size
        state = _state(size, _recorded(resolved))
        verified = state == "there" and _verified(spec.name, path)
        return Source(
            spec.name, "asset", str(path), state, size / 1e6, origin, verified
        )
    state = "to download" if homes else "place by hand"
    planned = spec.size_mb if spec.bytes is None else spec.bytes / 1e6
    return Source(spec.name, "asset", spec.path, state, planned, origin)


def _bare(url: str) -> str:
    """An address without its query, in which a signature may stand."""
    return url.split("?", maxsplit=1)[0]


def fetched_source(name: str, assets: Iterable[AssetSpec]) -> Source:
    """Weights that torch-fidelity fetches into torch's cache.

    Args:
        name: of the extractor.
        assets: the table, where a file of the same name says how large it is.
    """
    path = inception_file()
    wanted = next((a.bytes for a in assets if Path(a.path).name == path.name), None)
    there = path.is_file()
    state = _state(path.stat().st_size, wanted) if there else "to download"
    size = _INCEPTION_MB if wanted is None else wanted / 1e6
    return Source(name, "asset", str(path), state, size, "torch-fidelity's release")


def _state(size: int, wanted: int | None) -> str:
    """Of a file that is there; None: nobody knows how large it should be."""
    if wanted in (None, size):
        return "there"
    return f"wrong size ({size} bytes, {wanted} expected)"


def _recorded(resolved: Mapping[str, Any]) -> int | None:
    """Bytes by the table, or by the lock file where the table has no hash."""
    if resolved["bytes"] is not None:
        return int(resolved["bytes"])
    known = entry(dict(resolved), LEDGER) if resolved["sha256"] is None else None
    return None if known is None else int(known["bytes"])


def _verified(name: str, path: Path) -> bool:
    """Whether the workflow has checked the file as it is now."""
    record = Path(f"results/assets/{name}.json")
    if not record.is_file() or record.stat().st_mtime < path.stat().st_mtime:
        return False
    return bool(files.read_json(record).get("bytes") == path.stat().st_size)


def folder_source(path: str, datasets: Sequence[DatasetSpec]) -> Source:
    """A folder of images, one folder a class; or of published codes.

    Args:
        path: of the folder.
        datasets: what is made of it; none: codes.
    """
    origin = "codes that LlamaGen's program wrote"
    if datasets:
        own = datasets[0]
        count = f"{own.count:,} images" if own.count else "images"
        origin = f"{count} as {path}<class>/*.jpg, {own.num_classes} classes"
        if own.attribution:
            origin += f" ({own.attribution})"
    there = _has_images(Path(path)) if datasets else _has_entries(Path(path))
    return Source(
        path, "folder", path, "there" if there else "place by hand", None, origin
    )


def _has_images(folder: Path) -> bool:
    """Whether a class folder holds an image; the first one found is enough."""
    if not folder.is_dir():
        return False
    for child in sorted(folder.iterdir()):
        if child.is_dir():
            with os.scandir(child) as entries:
                if any(Path(one.name).suffix.lower() in _IMAGES for one in entries):
                    return True
    return False


def _has_entries(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def file_source(path: str) -> Source:
    """A file that the configuration names by its path."""
    there = Path(path).is_file()
    size = Path(path).stat().st_size / 1e6 if there else None
    state = "there" if there else "place by hand"
    return Source(path, "file", path, state, size, "named in the configuration")
