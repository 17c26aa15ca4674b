"""Assets: files that are shipped, placed by hand or downloaded, verified before use."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from fewstep import files
from fewstep.errors import UserError


def check_file(spec: dict[str, Any]) -> dict[str, Any]:
    """What is known of an asset's file, after its hash was verified.

    Args:
        spec: resolved `AssetSpec`.

    Returns:
        name, path, sha256, bytes, repo, revision, licence.

    Raises:
        UserError: when the file is missing, or has another size or hash.
    """
    path, where = Path(spec["path"]), f"asset {spec['name']}"
    if not path.is_file():
        raise UserError(
            f"{path} is missing",
            where=where,
            do=f"place it there by hand ({spec['note'] or spec['licence']})",
        )
    size = path.stat().st_size
    if spec["bytes"] is not None and size != spec["bytes"]:
        raise UserError(
            f"{path} has {size} bytes", where=where, expected=f"{spec['bytes']}"
        )
    digest = files.sha256_file(path)
    if spec["sha256"] is not None and digest != spec["sha256"]:
        raise UserError(
            f"{path} has sha256 {digest[:12]}…",
            where=where,
            expected=f"{spec['sha256'][:12]}…: it is not the file that was published",
            do="delete it and fetch it again",
        )
    kept = ("name", "path", "repo", "revision", "licence")
    return {**{key: spec[key] for key in kept}, "sha256": digest, "bytes": size}


def fetch(spec: dict[str, Any]) -> dict[str, Any]:
    """Make sure that an asset is where it belongs, downloading it where it has a home.

    The download goes beside the file, is verified there, and only then gets its name;
    a wrong one is deleted.

    Args:
        spec: resolved `AssetSpec`.

    Returns:
        as `check_file`.

    Raises:
        UserError: one line each for no network, not found, not allowed, a full disk,
            and a file of the wrong size or hash.
    """
    path = Path(spec["path"])
    if path.exists() or spec["repo"] is None:
        return check_file(spec)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        part = _download(spec, folder)
        record = check_file({**spec, "path": str(part)})
        os.replace(part, path)
        return {**record, "path": spec["path"]}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _download(spec: dict[str, Any], folder: Path) -> Path:
    """One file of a Hugging Face repository into `folder`."""
    from huggingface_hub import errors, hf_hub_download

    where = f"asset {spec['name']}"
    home = f"{spec['repo']}/{spec['file']}"
    by_hand = f"or place the file at {spec['path']} by hand"
    try:
        return Path(
            hf_hub_download(
                spec["repo"],
                spec["file"],
                revision=spec["revision"],
                local_dir=folder,
                endpoint=os.environ.get("HF_ENDPOINT"),
            )
        )
    except errors.GatedRepoError as error:
        raise UserError(
            f"{home} is gated",
            where=where,
            do=f"accept its terms on the hub and set HF_TOKEN, {by_hand}",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{spec['repo']} does not exist or needs a token",
            where=where,
            do=f"set HF_TOKEN, {by_hand}",
        ) from error
    except (errors.EntryNotFoundError, errors.RevisionNotFoundError) as error:
        # LocalEntryNotFoundError is the hub's word for "not reached".
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise UserError(
                f"{home} cannot be reached",
                where=where,
                do=f"check the network, HF_ENDPOINT and HF_HUB_OFFLINE, {by_hand}",
            ) from error
        raise UserError(
            f"{home} at revision {spec['revision'] or 'main'} does not exist",
            where=where,
            do=f"check file and revision in the asset table, {by_hand}",
        ) from error
    except OSError as error:
        what = "the disk is full" if error.errno == 28 else str(error).splitlines()[0]
        raise UserError(
            f"download of {home}: {what}", where=where, do=f"run again, {by_hand}"
        ) from error
