"""What is known of a checkpoint that was not trained by this workflow's own job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewstep import checkpoints, files
from fewstep.errors import UserError


def check(path: Path | None, record: Path | None) -> str:
    """Hold a file against the record that its asset was verified with.

    Args:
        path: the file.
        record: `results/assets/{name}.json`; None: the file is no asset.

    Returns:
        its SHA-256; "" where there is no record, which checks nothing.

    Raises:
        UserError: if the file is gone, or not the one that was verified.
    """
    if path is None or record is None:
        return ""
    expected, do = files.read_json(record)["sha256"], f"delete {record} and run again"
    if not path.is_file():
        raise UserError(
            "the file is gone since it was checked",
            where=str(path),
            do=f"{do} to fetch it anew, or put it back",
        )
    found = files.sha256_file(path)
    if found != expected:
        raise UserError(
            f"the file has changed since it was checked: sha256 {found[:12]}…",
            where=str(path),
            expected=f"{expected[:12]}…",
            do=do,
        )
    return found


def source_facts(source: Path, record: Path | None) -> dict[str, Any]:
    """For the manifest: path, hash, asset record, and the file's own history.

    Raises:
        UserError: as `check`, or if there is no such file.
    """
    source_sha256 = check(source, record) or files.sha256_file(source)
    return {
        "source": str(source),
        "source_sha256": source_sha256,
        "asset": {} if record is None else files.read_json(record),
        "origin": checkpoints.read_manifest(source) if is_ours(source) else {},
    }


def is_ours(path: Path) -> bool:
    """Whether a checkpoint is in our own format."""
    return path.suffix == ".safetensors"
