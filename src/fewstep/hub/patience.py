"""Requests that are tried again where that may help."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from fewstep.hub.faults import DownloadError, fault_of

T = TypeVar("T")

WAITS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds between tries that bring nothing; after the last the home is given up."""
_UNREACHED = 2
"""Waits for a host that refuses or is not found: there a mirror helps sooner."""


class Patience:
    """Counts tries that brought nothing, and waits between them."""

    def __init__(self) -> None:
        self.failures, self.best = 0, 0

    def after(self, fault: DownloadError, done: int = 0) -> None:
        """Wait before the next try, or raise the fault when there is none.

        Args:
            fault: why a try failed.
            done: bytes that have arrived; more than ever before makes patience new.
        """
        if done > self.best:
            self.failures, self.best = 0, done
        waits = WAITS[:_UNREACHED] if fault.unreached else WAITS
        if not fault.again or self.failures >= len(waits):
            raise fault
        time.sleep(max(waits[self.failures], fault.wait))
        self.failures += 1


def patiently(ask: Callable[[], T], home: str, *, with_token: bool) -> T:
    """A small request, tried again where that may help.

    Args:
        ask: makes the request.
        home: what is asked for, in words.
        with_token: whether a token is sent.

    Raises:
        DownloadError: when it does not.
    """
    patience = Patience()
    while True:
        try:
            return ask()
        except request_errors() as error:
            patience.after(fault_of(error, home, with_token=with_token))


def timeout() -> float:
    """Seconds without a byte after which a connection is given up."""
    from huggingface_hub import constants

    return float(constants.HF_HUB_DOWNLOAD_TIMEOUT)


def request_errors() -> tuple[type[Exception], ...]:
    """What a request may raise."""
    import httpx2
    from huggingface_hub.errors import OfflineModeIsEnabled

    return (
        *(httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError),
        OfflineModeIsEnabled,
    )
