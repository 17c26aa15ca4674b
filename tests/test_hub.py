"""Assets: verified, downloaded from a real HTTP server on loopback."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fewstep import hub
from fewstep.errors import UserError

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "0" * 40


class Hub(BaseHTTPRequestHandler):
    """The few answers of a Hugging Face hub that one file needs."""

    def answer(self, *, body: bool) -> None:
        code, error = {
            "/o/n/resolve/main/good.bin": (200, ""),
            "/o/n/resolve/main/bad.bin": (200, ""),
            "/o/gated/resolve/main/good.bin": (403, "GatedRepo"),
            "/o/gone/resolve/main/good.bin": (401, "RepoNotFound"),
        }.get(self.path, (404, "EntryNotFound"))
        content = CONTENT if "good" in self.path else CONTENT[::-1]
        self.send_response(code)
        if error:
            self.send_header("X-Error-Code", error)
            content = b""
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def log_message(self, *_: Any) -> None:
        """Stay silent."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a hub that runs for one test."""
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{httpd.server_address[1]}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    yield address
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def spec(folder: Path, **changes: Any) -> dict[str, Any]:
    """A resolved asset."""
    return {
        "name": "model",
        "path": str(folder / "model.bin"),
        "repo": "o/n",
        "file": "good.bin",
        "revision": None,
        "sha256": SHA256,
        "bytes": len(CONTENT),
        "licence": "MIT",
        "note": "",
        **changes,
    }


def test_a_download_is_verified_and_recorded(server: str, tmp_path: Path) -> None:
    """The file appears under its name with the record of its hash."""
    record = hub.fetch(spec(tmp_path))
    assert (tmp_path / "model.bin").read_bytes() == CONTENT
    assert record["sha256"] == SHA256
    assert record["path"] == str(tmp_path / "model.bin")
    assert record["bytes"] == len(CONTENT)


def test_an_unknown_hash_is_recorded(server: str, tmp_path: Path) -> None:
    """Without an expected hash the first download's is what the record holds."""
    record = hub.fetch(spec(tmp_path, sha256=None, bytes=None))
    assert record["sha256"] == SHA256


def test_a_wrong_file_never_gets_the_name(server: str, tmp_path: Path) -> None:
    """Another content of the right length is deleted, and the line names it."""
    with pytest.raises(UserError, match="not the file that was published"):
        hub.fetch(spec(tmp_path, file="bad.bin"))
    assert [path.name for path in tmp_path.iterdir() if path.name != "hf"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file": "none.bin"}, "none.bin at revision main does not exist"),
        ({"repo": "o/gated"}, "is gated; accept its terms"),
        ({"repo": "o/gone"}, "does not exist or needs a token"),
    ],
)
def test_refusals_are_one_line(
    server: str, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """Not found, gated and unknown repositories each say what to do."""
    with pytest.raises(UserError, match=message) as caught:
        hub.fetch(spec(tmp_path, **changes))
    assert "by hand" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_network_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In offline mode a missing file names what to check."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with pytest.raises(UserError, match="cannot be reached"):
        hub.fetch(spec(tmp_path))


def test_a_file_placed_by_hand_is_verified(tmp_path: Path) -> None:
    """A file that lies there is checked, not downloaded; a wrong one is refused."""
    path = tmp_path / "model.bin"
    path.write_bytes(CONTENT)
    assert hub.fetch(spec(tmp_path))["sha256"] == SHA256
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=r"has 6999 bytes; expected 7000"):
        hub.fetch(spec(tmp_path))
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(UserError, match="sha256"):
        hub.fetch(spec(tmp_path))


def test_a_missing_file_without_a_home_says_where_to_place_it(tmp_path: Path) -> None:
    """What cannot be downloaded names its place."""
    with pytest.raises(UserError, match=r"model\.bin is missing; place it there"):
        hub.fetch(spec(tmp_path, repo=None))
