"""What the environment says about downloads."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.errors import UserError

if TYPE_CHECKING:
    from httpx2 import Client

_TRUE = {"1", "on", "yes", "true"}
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_SECONDS = ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def offline_variable(environ: Mapping[str, str] = os.environ) -> str | None:
    """The variable that forbids downloads, read as huggingface_hub does; None: none."""
    for name in _OFFLINE:
        value = environ.get(name, "")
        if value:  # the first one that says anything decides
            return name if value.lower() in _TRUE else None
    return None


def inception_file(environ: Mapping[str, str] = os.environ) -> Path:
    """Where torch-fidelity keeps the weights of its Inception network."""
    cache = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    home = Path(environ.get("TORCH_HOME") or f"{cache}/torch")
    return home / "hub/checkpoints/weights-inception-2015-12-05-6726825d.pth"


def session() -> Client:
    """The client of all requests.

    Raises:
        UserError: for a variable that it cannot be made with, by name. Its value is
            not shown where it may hold a password.
    """
    for name in _SECONDS:
        _check_seconds(name)
    from huggingface_hub import get_session

    try:
        return get_session()
    except OSError as error:
        names = _set(_CERTIFICATES)
        if not names:
            raise
        raise UserError(
            "holds no certificates that can be read",
            where=names[0],  # the other one is not read then
            do="correct it, or unset it",
        ) from error
    except Exception as error:
        # Of several types: an unknown scheme, no address, a package for SOCKS.
        names = _set((*_PROXIES, *(name.upper() for name in _PROXIES)))
        if not names:
            raise
        raise UserError(
            "cannot be used as a proxy",
            where=" or ".join(names),
            expected="an address with http:// or https://",
            do="correct it, or unset it",
        ) from error


def _check_seconds(name: str) -> None:
    """Refuse what huggingface_hub would fail on when it is imported."""
    value = os.environ.get(name, "0")
    if not re.fullmatch(r"\s*\d+\s*", value):
        expected = "a whole number of seconds"
        raise UserError(f"is '{value}'", where=name, expected=expected)


def _set(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if os.environ.get(name)]
