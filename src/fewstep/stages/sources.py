"""What is known of a checkpoint that was not trained by this workflow's own job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewstep import checkpoints, files
from fewstep.errors import UserError


def source_facts(source: Path, record: Path | None) -> dict[str, Any]:
    """For the manifest: path, hash, asset record, and the file's own history.

    Raises:
        UserError: if the file is not the one that was verified.
    """
    asset = {} if record is None else files.read_json(record)
    source_sha256 = files.sha256_file(source)
    if asset and asset["sha256"] != source_sha256:
        raise UserError(
            f"the file has changed since it was checked: sha256 {source_sha256[:12]}…",
            where=str(source),
            expected=f"{asset['sha256'][:12]}…",
            do=f"delete {record} and run again",
        )
    return {
        "source": str(source),
        "source_sha256": source_sha256,
        "asset": asset,
        "origin": checkpoints.read_manifest(source) if is_ours(source) else {},
    }


def is_ours(path: Path) -> bool:
    """Whether a checkpoint is in our own format."""
    return path.suffix == ".safetensors"
