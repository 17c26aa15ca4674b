"""Bytes over HTTP into a part, across broken connections and killed processes."""

from __future__ import annotations

import logging
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewstep.hub.faults import DownloadError, fault_of
from fewstep.hub.homes import Offer
from fewstep.hub.part import Part
from fewstep.hub.patience import Patience, request_errors, timeout
from fewstep.hub.surroundings import session
from fewstep.progress import Progress

if TYPE_CHECKING:
    from httpx2 import Client, Response


def say(line: str) -> None:
    """A line on standard error, where progress goes."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def download(offer: Offer, part: Part, name: str) -> None:
    """Bring a part to its full length, from where it is.

    Args:
        offer: what to download.
        part: the file; left as it is when this fails, for the next try.
        name: the asset's, for the progress.

    Raises:
        DownloadError: if the home does not give the file.
        UserError: if it does not fit on the disk.
    """
    patience, report = Patience(), _Report(name)
    while not _is_whole(part, offer):
        try:
            if _stream(offer, part, report):
                break
            fault = DownloadError(
                f"{offer.label} ends too early", "run again", again=True
            )
        except DownloadError as own:
            fault = own
        except request_errors() as error:
            fault = fault_of(error, offer.label, with_token=offer.with_token)
        patience.after(fault, part.size)


def _is_of(part: Part, offer: Offer) -> bool:
    """Whether a part is the beginning of what a home offers."""
    facts = part.facts
    return facts.get("home") == offer.home and offer.version in (
        None,
        facts.get("version"),
    )


def _is_whole(part: Part, offer: Offer) -> bool:
    """Whether nothing is left to ask for: killed between the last byte and the name."""
    total = part.facts.get("total")
    return _is_of(part, offer) and total is not None and part.size == total


def _stream(offer: Offer, part: Part, report: _Report) -> bool:
    """One request, written to the part as it comes; whether the file is whole."""
    start, headers = part.size if _is_of(part, offer) else 0, dict(offer.headers)
    headers["accept-encoding"] = "identity"  # else a range would count other bytes
    if start:
        headers["range"] = f"bytes={start}-"
    with _client().stream(
        "GET", offer.url, headers=headers, timeout=timeout(), follow_redirects=True
    ) as answer:
        _check(answer, offer, part)
        got = _understand(answer, offer, part)
        if got.start == 0:
            part.begin(offer.home, got.version, got.total)
        part.need_room(got.total)
        report.open(part.size, got.total)
        with part.writing() as append:
            for chunk in answer.iter_bytes():
                append(chunk)
                report.advance(len(chunk))
    if got.total is not None and part.size > got.total:
        part.remove()
        raise DownloadError(f"{offer.label} sends more than it announces", "run again")
    return got.total is None or part.size == got.total


@dataclass(frozen=True)
class _Answer:
    """What the headers of an answer say: where it begins, and of what."""

    start: int
    total: int | None
    version: str | None


def _check(answer: Response, offer: Offer, part: Part) -> None:
    """Refuse an answer that is not the file.

    Raises:
        DownloadError: for a web page, or a part that is longer than the file.
        HfHubHTTPError: for a refusal.
    """
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        hf_raise_for_status,  # of its reference, though it is loaded lazily
    )

    if answer.status_code == 416:
        part.remove()
        raise DownloadError(f"{offer.label} is shorter than before", again=True)
    hf_raise_for_status(answer)
    if answer.status_code not in (200, 206):
        raise DownloadError(f"{offer.label} answers with status {answer.status_code}")
    if answer.headers.get("content-type", "").startswith("text/html"):
        raise DownloadError(f"{offer.label} sends a web page", "check the network")


def _understand(answer: Response, offer: Offer, part: Part) -> _Answer:
    """Read the headers of a good answer.

    Raises:
        DownloadError: if they do not continue the part, which is then dropped.
    """
    plain = answer.headers.get("content-encoding", "identity") == "identity"
    length = answer.headers.get("content-length") if plain else None
    start, total = 0, int(length) if length else None
    version = offer.version or (_version(answer) if plain else None)
    if answer.status_code == 206:
        found = re.fullmatch(
            r"bytes (\d+)-\d+/(\d+)", answer.headers.get("content-range", "")
        )
        same = version is not None and version == part.facts.get("version")
        if found is None or int(found[1]) != part.size or not same:
            part.remove()
            raise DownloadError(f"{offer.label} has changed on the way", again=True)
        start, total = int(found[1]), int(found[2])
    if None not in (offer.size, total) and total != offer.size:
        part.remove()
        what = f"{offer.label} has {total} bytes, and {offer.size} were announced"
        raise DownloadError(what, "run again")
    return _Answer(start, total if total is not None else offer.size, version)


def _version(answer: Response) -> str | None:
    """What names the content at a plain address; None: it cannot be continued."""
    for name in ("etag", "last-modified"):
        if answer.headers.get(name):
            return f"{name} {answer.headers[name]}"
    return None


def _client() -> Client:
    # At INFO it reports every request, and an address may hold a signature.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    return session()


class _Report:
    """Progress in whole megabytes."""

    def __init__(self, name: str) -> None:
        self.name, self.bytes = name, 0
        self.progress: Progress | None = None

    def open(self, done: int, total: int | None) -> None:
        """A request brings bytes from `done` on."""
        self.bytes, self.progress = done, None
        if total is not None:
            label, megabytes = f"{self.name}, MB", total // 10**6
            self.progress = Progress(label, megabytes, done=done // 10**6)

    def advance(self, count: int) -> None:
        """`count` bytes have come."""
        before, self.bytes = self.bytes // 10**6, self.bytes + count
        if self.progress is not None and self.bytes // 10**6 > before:
            self.progress.advance(self.bytes // 10**6 - before)
