"""The lock file: hashes of files that the asset table does not know, from first use on.

Nobody publishes the SHA-256 of some files. The first one that is used is then written
down, with the commit that it came from, and a later one that differs is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewstep import files, locks
from fewstep.errors import UserError
from fewstep.hub.homes import Offer

LEDGER = Path("data/assets.lock.json")


def entry(spec: dict[str, Any], book: Path) -> dict[str, Any] | None:
    """What is recorded of an asset.

    An entry of another repository or file is none: the table was changed since.

    Args:
        spec: resolved `AssetSpec`.
        book: the lock file, which need not exist.

    Raises:
        UserError: if it cannot be read.
    """
    found = _read(book).get(spec["name"])
    if found is None or any(found.get(key) != spec[key] for key in ("repo", "file")):
        return None
    return dict(found)


def enforce(
    spec: dict[str, Any], record: dict[str, Any], offer: Offer | None, book: Path
) -> dict[str, Any]:
    """Hold a file's hash against the recorded one, or record it.

    Args:
        spec: resolved `AssetSpec`; one with a hash needs no record.
        record: what `check_file` says.
        offer: where the file has just come from; None: it was there.
        book: the lock file.

    Returns:
        `record`, with the recorded commit as its revision and the recorded home.

    Raises:
        UserError: if another hash is recorded.
    """
    if spec["sha256"] is not None:
        return record
    known = entry(spec, book)
    if known is None:
        known = _note(spec, record, offer, book)
    if known["sha256"] != record["sha256"]:
        what = f"{record['path']} has sha256 {record['sha256'][:12]}…"
        raise UserError(
            what,
            where=f"asset {spec['name']}",
            expected=expectation(known, book),
            do=advice(spec, book),
        )
    revision = spec["revision"] or known["revision"]
    return {**record, "revision": revision, "from": known["from"]}


def expectation(known: dict[str, Any], book: Path) -> str:
    """The recorded hash and where it stands."""
    return f"{known['sha256'][:12]}…, as recorded in {book} at its first use"


def advice(spec: dict[str, Any], book: Path) -> str:
    """What to do about a file that is not the recorded one."""
    return (
        f"delete the file and run again, or delete the entry '{spec['name']}' of "
        f"{book} if the publisher replaced it or the recorded file was not whole"
    )


def where_revision_is_from(
    spec: dict[str, Any], known: dict[str, Any] | None, book: Path
) -> str:
    """What to do about a revision that the hub lacks; "": the table names it."""
    if spec["revision"] is not None or known is None or known["revision"] is None:
        return ""
    return (
        f"delete the entry '{spec['name']}' of {book}, which names this revision, "
        f"to take the one that is published now"
    )


def _note(
    spec: dict[str, Any], record: dict[str, Any], offer: Offer | None, book: Path
) -> dict[str, Any]:
    """Record a file, unless another process has just done so."""
    with locks.hold(book.with_name(f".{book.name}.lock")):
        known = entry(spec, book)
        if known is not None:
            return known
        known = {
            "sha256": record["sha256"],
            "bytes": record["bytes"],
            "repo": spec["repo"],
            "file": spec["file"],
            "revision": offer.commit if offer else None,
            "from": offer.label if offer else "a file that was there",
        }
        written = {**_read(book), spec["name"]: known}
        files.write_json(book, dict(sorted(written.items())))
    return known


def _read(book: Path) -> dict[str, Any]:
    found = files.read_json(book) if book.exists() else {}
    if not isinstance(found, dict) or not all(_is_entry(v) for v in found.values()):
        raise UserError(
            "is no lock file of assets",
            where=str(book),
            do="delete it: the next use of each file records its hash anew",
        )
    return found


def _is_entry(value: Any) -> bool:
    wanted = {"sha256", "bytes", "repo", "file", "revision", "from"}
    return isinstance(value, dict) and wanted <= value.keys()
