"""Assets: shipped, placed by hand or downloaded, and verified before use.

A download goes into a part file beside its place and gets the name only when size and
SHA-256 are right. What the asset table does not know of a file is recorded at its first
use (`fewstep.hub.ledger`) and enforced from then on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewstep import files, locks
from fewstep.errors import UserError
from fewstep.hub import ledger
from fewstep.hub.faults import DownloadError, refusal
from fewstep.hub.homes import HubHome, Offer, homes_of
from fewstep.hub.ledger import LEDGER
from fewstep.hub.part import Part
from fewstep.hub.placed import check_whole
from fewstep.hub.surroundings import session
from fewstep.hub.transfer import download, say

__all__ = ["LEDGER", "check_file", "fetch"]

_KEPT = ("name", "path", "repo", "revision", "licence")
_AGAIN = "delete it and run again, or place the right one"


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
        raise _missing(spec)
    size = path.stat().st_size
    if spec["bytes"] is not None and size != spec["bytes"]:
        what = f"{path} has {size} bytes"
        raise UserError(what, where=where, expected=f"{spec['bytes']}", do=_AGAIN)
    digest = files.sha256_file(path)
    if spec["sha256"] is not None and digest != spec["sha256"]:
        raise UserError(
            f"{path} has sha256 {digest[:12]}…",
            where=where,
            expected=f"{spec['sha256'][:12]}…: it is not the file that was published",
            do=_AGAIN,
        )
    return _record(spec, digest, size)


def fetch(
    spec: dict[str, Any], book: Path = LEDGER, expected_mb: int = 0
) -> dict[str, Any]:
    """Make sure that an asset is where it belongs, downloading it where it has a home.

    Of two processes that fetch one asset, one downloads and the other waits.

    Args:
        spec: resolved `AssetSpec`.
        book: where hashes that the asset table does not know are recorded.
        expected_mb: about how large the file is, 10^6 bytes; 0: unknown. One placed by
            hand is not recorded when it is much smaller.

    Returns:
        as `check_file`; where its hash had to be recorded, `revision` is the commit
        that the download came from, and `from` its home.

    Raises:
        UserError: one line for each way in which it can fail.
    """
    try:
        return _fetched(spec, book, expected_mb)
    except (FileExistsError, NotADirectoryError) as error:
        place = Path(error.filename)
        found = next((one for one in (place, *place.parents) if one.is_file()), place)
        raise UserError(
            "is a file, and should be a folder",
            where=str(found),
            do=f"move it away, or change the path of asset {spec['name']}",
        ) from error
    except PermissionError as error:
        raise UserError(
            "may not be read or written by you",
            where=str(error.filename),
            do=f"change its mode, or the path of asset {spec['name']}",
        ) from error


def _fetched(spec: dict[str, Any], book: Path, expected_mb: int) -> dict[str, Any]:
    """As `fetch`."""
    path, name = Path(spec["path"]), spec["name"]
    if not path.exists() and homes_of(spec):
        with locks.hold(
            path.with_name(f".{path.name}.lock"),
            lambda holder: say(f"  {name}: waiting for {holder}, which fetches it"),
        ):
            if not path.exists():  # else who held the lock has brought it
                return _download(spec, book)
    if path.is_file() and spec["sha256"] is None and ledger.entry(spec, book) is None:
        check_whole(spec, expected_mb)
    return ledger.enforce(spec, check_file(spec), None, book)


def _download(spec: dict[str, Any], book: Path) -> dict[str, Any]:
    """Try one home after the other; what the first good one gives gets the name."""
    session()  # what is wrong with the environment is no home's fault
    part, known = Part(Path(spec["path"])), ledger.entry(spec, book)
    homes, faults = homes_of(spec), list[DownloadError]()
    for home in homes:
        try:
            offer = home.offer(known["revision"] if known else None)
            download(offer, part, spec["name"])
            digest = _verified(spec, known, part, offer, book)
        except DownloadError as fault:
            if fault.absent and isinstance(home, HubHome):
                fault.do = ledger.where_revision_is_from(spec, known, book) or fault.do
            faults.append(fault)
            if len(faults) < len(homes):
                say(f"  {spec['name']}: {fault.what}; trying the next home")
            continue
        record = _record(spec, digest, part.size)
        record = ledger.enforce(spec, record, offer, book)
        part.finish()
        return record
    raise refusal(spec, faults)


def _verified(
    spec: dict[str, Any],
    known: dict[str, Any] | None,
    part: Part,
    offer: Offer,
    book: Path,
) -> str:
    """The SHA-256 of a whole part; a wrong one is deleted.

    Raises:
        DownloadError: naming what was sent and what was expected.
    """
    digest, size = files.sha256_file(part.path), part.size
    sent = f"{offer.label} sends"
    if spec["bytes"] not in (None, size):
        part.remove()
        what = f"{sent} {size} bytes, expected {spec['bytes']}: deleted"
        raise DownloadError(what, "check the asset table")
    wrong = f"{sent} sha256 {digest[:12]}…, expected"
    if spec["sha256"] not in (None, digest):
        part.remove()
        what = f"{wrong} {spec['sha256'][:12]}…: it is not the file that was published"
        raise DownloadError(f"{what}, and is deleted", "run again")
    if spec["sha256"] is None and known and known["sha256"] != digest:
        part.remove()
        what = f"{wrong} {ledger.expectation(known, book)}: deleted"
        raise DownloadError(what, ledger.advice(spec, book))
    if offer.sha256 not in (None, digest):
        part.remove()
        what = f"{wrong} {offer.sha256[:12]}…, as it announced: deleted"
        raise DownloadError(what, "run again")
    return digest


def _record(spec: dict[str, Any], digest: str, size: int) -> dict[str, Any]:
    kept = {key: spec[key] for key in _KEPT}
    return {**kept, "sha256": digest, "bytes": size}


def _missing(spec: dict[str, Any]) -> UserError:
    """The line about a file that has to be made or placed."""
    path, trained = spec["path"], spec.get("trained_by")
    note = spec["note"] or spec["licence"]
    do = f"place it there by hand ({note})"
    if trained:
        do = f"train it: snakemake --profile local {path}"
    what = f"{path} is missing" + (", for it was never published" if trained else "")
    return UserError(what, where=f"asset {spec['name']}", do=do)
