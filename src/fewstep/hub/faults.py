"""What can go wrong with a download, in one line each and without secrets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fewstep.errors import UserError
from fewstep.hub.surroundings import offline_variable

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

_BUSY = (408, 425, 429, 500, 502, 503, 504)
"""Answers after which the same request may succeed a little later."""
_LONGEST_WAIT = 60.0
"""Seconds; a server that asks for more is given up."""


class DownloadError(Exception):
    """Why a home does not give its file; another one may.

    Args:
        what: what happened, without a full stop.
        do: what may help.
        again: whether the same request may succeed a little later.
        wait: seconds that the server asks to wait.
        unreached: whether no server was found at all.
        absent: whether the server has no such file, or no such revision of it.
    """

    def __init__(
        self,
        what: str,
        do: str = "",
        *,
        again: bool = False,
        wait: float = 0.0,
        unreached: bool = False,
        absent: bool = False,
    ) -> None:
        self.what, self.do, self.again, self.wait = what, do, again, wait
        self.unreached, self.absent = unreached, absent
        super().__init__(what)


def refusal(spec: dict[str, Any], faults: Sequence[DownloadError]) -> UserError:
    """The one line about all homes of an asset that did not give it."""
    what = faults[0].what
    if len(faults) > 1:
        what = f"none of its {len(faults)} homes gives it: " + "; ".join(
            fault.what for fault in faults
        )
    by_hand = f"place the file at {spec['path']} by hand"
    advice = list(dict.fromkeys(fault.do for fault in faults if fault.do))
    return UserError(
        what,
        where=f"asset {spec['name']}",
        do=", or ".join([*advice, by_hand]),
    )


def without_secrets(url: str) -> str:
    """An address without user, password and the query that may hold a signature."""
    return re.sub(r"//[^/@]*@", "//", url.partition("?")[0])


def fault_of(error: Exception, home: str, *, with_token: bool) -> DownloadError:
    """A library's exception as a fault.

    Its own text is not shown: it may hold a signed address, or a header.

    Args:
        error: of huggingface_hub or httpx2.
        home: what was asked for, in words.
        with_token: whether a token was sent.
    """
    import httpx2
    from huggingface_hub import errors

    network = "check the network and HF_ENDPOINT"
    if isinstance(error, errors.OfflineModeIsEnabled):
        name = offline_variable() or "HF_HUB_OFFLINE"
        return DownloadError(
            f"{home} cannot be reached: {name} is set",
            f"unset {name} where there is a network",
        )
    if isinstance(error, errors.HfHubHTTPError):
        return _answered(error, home, with_token=with_token)
    if isinstance(error, httpx2.ConnectTimeout | httpx2.ConnectError):
        what = f"{home} cannot be reached{_reason(error)}"
        return DownloadError(what, network, again=True, unreached=True)
    if isinstance(error, httpx2.TimeoutException):
        return DownloadError(f"{home} does not answer in time", network, again=True)
    if isinstance(error, httpx2.UnsupportedProtocol | httpx2.InvalidURL):
        return DownloadError(f"{home} is no address", "expected http:// or https://")
    if isinstance(error, httpx2.TransportError):
        return DownloadError(f"the connection to {home} broke", network, again=True)
    return DownloadError(f"{home} failed ({type(error).__name__})")


def _reason(error: Exception) -> str:
    """Errno and its text, such as a refused connection or an unknown host."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return " (its certificate is not trusted here)"
    found = re.search(r"\[Errno -?\d+\] ([\w ,]+)", str(error))
    return f" ({found[1].strip()})" if found else ""


def _answered(error: HfHubHTTPError, home: str, *, with_token: bool) -> DownloadError:
    """A server's refusal."""
    from huggingface_hub import errors

    status = error.response.status_code
    set_token = "set HF_TOKEN to one that may read it"
    table = "check file and revision in the asset table"
    if isinstance(error, errors.GatedRepoError):
        do = f"accept its terms on the hub and {set_token}"
        return DownloadError(f"{home} is gated ({status})", do)
    if isinstance(error, errors.RevisionNotFoundError):
        what = f"{home}: this revision does not exist (404)"
        return DownloadError(what, table, absent=True)
    if isinstance(error, errors.EntryNotFoundError):
        return DownloadError(f"{home} does not exist (404)", table, absent=True)
    if isinstance(error, errors.RepositoryNotFoundError):
        lacks = "may not be read with this token" if with_token else "needs a token"
        return DownloadError(f"{home} does not exist or {lacks} ({status})", set_token)
    if status == 401:
        what = "refuses HF_TOKEN" if with_token else "needs a token"
        return DownloadError(f"{home} {what} (401)", set_token)
    if status == 403:
        return DownloadError(f"{home} may not be read (403)", set_token)
    if status == 404:
        return DownloadError(f"{home} does not exist (404)", "check the asset table")
    if status in _BUSY:
        wait = _retry_after(error.response.headers.get("Retry-After"))
        what = f"{home} is busy ({status})"
        return DownloadError(
            what, "run again later", again=wait <= _LONGEST_WAIT, wait=wait
        )
    return DownloadError(f"{home} answers with status {status}")


def _retry_after(text: str | None) -> float:
    """Seconds that a server asks to wait; dates, which are rare, count as none."""
    return float(text) if text and text.strip().isdigit() else 0.0
