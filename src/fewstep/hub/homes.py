"""Homes of an asset: a repository on the hub, and plain addresses."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any, Protocol

from fewstep.errors import UserError
from fewstep.hub.faults import DownloadError, without_secrets
from fewstep.hub.patience import patiently, timeout

_AGENT = {"user-agent": "fewstep"}
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Offer:
    """A file that a home offers, before its bytes are asked for."""

    home: str
    """What a part of the file is filed under."""
    label: str
    """The home in words."""
    url: str
    headers: dict[str, str] = field(repr=False)
    """Of the request, with the token where there is one."""
    version: str | None = None
    """Names the content; None: the answer to the request for it says so."""
    size: int | None = None
    """Bytes."""
    sha256: str | None = None
    """Of the content, as the home has it."""
    commit: str | None = None
    """Of the repository."""

    @property
    def with_token(self) -> bool:
        """Whether a token is sent."""
        return "authorization" in self.headers


class Home(Protocol):
    """A place to download an asset from."""

    def offer(self, revision: str | None) -> Offer:
        """The file as it is there now.

        Args:
            revision: the recorded commit, where there is one.

        Raises:
            DownloadError: if the home lacks it, refuses or is not reached.
        """


def homes_of(spec: dict[str, Any]) -> list[Home]:
    """The homes of an asset in the order in which they are tried."""
    plain: list[Home] = [PlainHome(url) for url in spec.get("mirrors") or ()]
    if spec["repo"] is None:
        return plain
    return [HubHome(spec["repo"], spec["file"], spec["revision"]), *plain]


def token() -> str | None:
    """The token of the environment; one on disk is not looked for.

    Raises:
        UserError: for one that cannot stand in a header, which is not shown.
    """
    found = os.environ.get("HF_TOKEN", "").strip()
    if not re.fullmatch(r"[!-~]*", found):
        raise UserError(
            "holds characters that no token has", where="HF_TOKEN", do="copy it anew"
        )
    return found or None


@dataclass(frozen=True)
class HubHome:
    """A file of a repository on the hub, or on the mirror that HF_ENDPOINT names."""

    repo: str
    file: str
    revision: str | None

    def offer(self, revision: str | None) -> Offer:
        """As `Home.offer`: one HEAD, which resolves a branch to its commit."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        secret, wanted = token(), self.revision or revision
        endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
        label = f"{self.repo}/{self.file} at revision {wanted or 'main'}"
        url = hf_hub_url(self.repo, self.file, revision=wanted, endpoint=endpoint)
        found = patiently(
            lambda: get_hf_file_metadata(
                url, token=secret or False, timeout=timeout(), endpoint=endpoint
            ),
            label,
            with_token=secret is not None,
        )
        commit, etag = found.commit_hash, found.etag or ""
        if commit is None:
            do = "check HF_ENDPOINT and the proxy"
            raise DownloadError(f"the answer about {label} is not that of a hub", do)
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        return Offer(
            home=f"{self.repo}/{self.file}",
            label=f"{self.repo}/{self.file} at revision {commit}",
            # Of the commit: the branch may move while the file is under way.
            url=hf_hub_url(self.repo, self.file, revision=commit, endpoint=endpoint),
            headers={**_AGENT, **headers},
            version=etag or commit,
            size=found.size,
            sha256=etag if _SHA256.fullmatch(etag) else None,
            commit=commit,
        )


@dataclass(frozen=True)
class PlainHome:
    """A file at a plain address; no token is ever sent there."""

    url: str

    def offer(self, revision: str | None) -> Offer:  # noqa: ARG002
        """As `Home.offer`; nothing is asked before the file itself."""
        label = without_secrets(self.url)
        return Offer(label, label, self.url, dict(_AGENT))
