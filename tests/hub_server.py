"""A hub on loopback: real HTTP over a folder, and every way in which it may misbehave.

    with HubServer(folder) as hub:
        os.environ["HF_ENDPOINT"] = hub.endpoint
        hub.treat("model.pth", cut=1000, times=1)
        ...
        hub.seen

`folder/{owner}/{name}/{file}` is the file of a repository; `hub.plain(path)` is the
address of any file of the folder without a hub's headers. By hand, until Ctrl-C:

    python -m tests.hub_server FOLDER
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_BLOCK = 1 << 20


@dataclass
class Treatment:
    """What happens to requests for a file, the first `times` of them."""

    times: int = 1_000_000
    method: str = ""
    """Only to requests of this method."""
    status: int = 0
    """Refuse with this status …"""
    error: str = ""
    """… and this X-Error-Code."""
    retry_after: str = ""
    cut: int | None = None
    """Close the connection after so many bytes of the body."""
    short: int = 0
    """Announce and send so many bytes fewer, as if that were all."""
    lie: bool = False
    """Send other bytes of the right number."""
    ignore_range: bool = False
    stall: int | None = None
    """Send so many bytes and then nothing, until `HubServer.go` is set."""
    redirect: str = ""
    """Send the client to this address."""
    headers: dict[str, str] = field(default_factory=dict)
    """More headers; an empty value takes one away."""

    def holds(self, method: str) -> bool:
        """Whether this request is treated so; counts it."""
        if self.times < 1 or self.method not in ("", method):
            return False
        self.times -= 1
        return True


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]


class HubServer:
    """A hub over a folder; a context manager.

    Args:
        folder: its files, read when they are asked for.
        token: what `Authorization` must hold for repositories; "": nothing.
    """

    def __init__(self, folder: Path, token: str = "") -> None:
        self.folder, self.token = Path(folder), token
        self.revisions = {"main": COMMIT, COMMIT: COMMIT}
        self.seen: list[Seen] = []
        self.treatments: list[tuple[str, Treatment]] = []
        self.go = threading.Event()
        self.known: dict[tuple[str, int, int], str] = {}
        handler = type("Bound", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    @property
    def endpoint(self) -> str:
        """For HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def plain(self, path: str) -> str:
        """The plain address of a file of the folder."""
        return f"{self.endpoint}/files/{path}"

    def treat(self, name: str, **how: Any) -> None:
        """From now on treat requests whose path ends in `name` like this."""
        self.treatments.insert(0, (name, Treatment(**how)))

    def behave(self) -> None:
        """Treat nothing any more."""
        self.treatments.clear()

    def etag(self, file: Path) -> str:
        """SHA-256 of a file, as the hub names large files; computed once."""
        facts = file.stat()
        key = (str(file), facts.st_mtime_ns, facts.st_size)
        if key not in self.known:
            with open(file, "rb") as content:
                self.known[key] = hashlib.file_digest(content, "sha256").hexdigest()
        return self.known[key]

    def asked(self, method: str = "GET") -> list[Seen]:
        """Requests of a method in their order."""
        return [one for one in self.seen if one.method == method]

    def __enter__(self) -> HubServer:
        self.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.go.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        """Stay silent."""

    def _answer(self) -> None:
        if self.path.startswith("/api/"):
            # huggingface_hub asks here who its user is; no test is about that.
            self._refuse(Treatment(), (404, ""))
            return
        headers = {key.lower(): value for key, value in self.headers.items()}
        self.hub.seen.append(Seen(self.command, self.path, headers))
        how = self._treatment()
        file, facts, error = self._file(headers)
        if how.status or error[0]:
            self._refuse(how, error)
            return
        size, etag = file.stat().st_size, self.hub.etag(file)
        if how.redirect:
            facts |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(size)}
            self._head(302, {"Location": how.redirect, "Content-Length": "0", **facts})
            return
        facts = {"ETag": f'"{etag}"', "Accept-Ranges": "bytes", **facts, **how.headers}
        self._send(file, size - how.short, facts, headers, how)

    def _treatment(self) -> Treatment:
        for name, how in self.hub.treatments:
            path = unquote(self.path.partition("?")[0])
            if path.endswith(name) and how.holds(self.command):
                return how
        return Treatment()

    def _file(
        self, headers: dict[str, str]
    ) -> tuple[Path, dict[str, str], tuple[int, str]]:
        """The file of a request, a hub's own headers, and a refusal if there is one."""
        path = unquote(self.path.partition("?")[0]).lstrip("/")
        parts = path.split("/")
        if parts[0] == "files":
            file = self.hub.folder.joinpath(*parts[1:])
            return file, {}, (0, "") if file.is_file() else (404, "")
        if len(parts) < 5 or parts[2] != "resolve":
            return self.hub.folder, {}, (404, "")
        owner, name, _, revision, *rest = parts
        file = self.hub.folder.joinpath(owner, name, *rest)
        commit = self.hub.revisions.get(revision)
        facts = {"X-Repo-Commit": commit or ""}
        given = headers.get("authorization", "")
        if not (self.hub.folder / owner / name).is_dir():
            return file, facts, (401, "RepoNotFound")
        if self.hub.token and given != f"Bearer {self.hub.token}":
            return file, facts, (401, "RepoNotFound")
        if commit is None:
            return file, facts, (404, "RevisionNotFound")
        if not file.is_file():
            return file, facts, (404, "EntryNotFound")
        return file, facts, (0, "")

    def _refuse(self, how: Treatment, error: tuple[int, str]) -> None:
        status, code = (how.status, how.error) if how.status else error
        headers = {"Content-Length": "0", "X-Error-Code": code}
        if how.retry_after:
            headers["Retry-After"] = how.retry_after
        self._head(status, headers)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            if value:
                self.send_header(key, value)
        self.end_headers()

    def _send(
        self,
        file: Path,
        size: int,
        facts: dict[str, str],
        headers: dict[str, str],
        how: Treatment,
    ) -> None:
        start, wanted = 0, headers.get("range", "")
        if wanted and not how.ignore_range:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            if start >= size:
                self._head(416, {"Content-Length": "0"})
                return
            facts["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        length = {"Content-Length": str(size - start)}
        self._head(206 if "Content-Range" in facts else 200, {**length, **facts})
        if self.command == "HEAD":
            return
        self.close_connection = how.cut is not None
        end = size if how.cut is None else min(size, start + how.cut)
        try:
            if how.stall is not None:
                self._pour(file, start, start + how.stall, how)
                self.hub.go.wait()
                start += how.stall
            self._pour(file, start, end, how)
        except OSError:
            self.close_connection = True  # the client was killed

    def _pour(self, file: Path, start: int, end: int, how: Treatment) -> None:
        """Bytes start to end of a file of any size."""
        with open(file, "rb") as content:
            content.seek(start)
            while start < end and (block := content.read(min(_BLOCK, end - start))):
                start += len(block)
                self.wfile.write(bytes(b ^ 1 for b in block) if how.lie else block)
        self.wfile.flush()


def wait_for(condition: Any, seconds: float = 20.0) -> None:
    """Wait until `condition()` is true.

    Raises:
        AssertionError: if it is not in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


CONTENT = bytes(range(256)) * 8000
"""A file of 2 MB."""
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def prepare(folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process use a hub from a fresh working directory, and never wait."""
    repository = hub.folder / "o" / "n"
    repository.mkdir(parents=True)
    (repository / "good.bin").write_bytes(CONTENT)
    work = folder / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_HOME", str(folder / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    for name in ("HF_TOKEN", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("fewstep.hub.patience.WAITS", (0.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr("fewstep.hub.placed.PAUSE", 0.0)


def asset(**changes: Any) -> dict[str, Any]:
    """A resolved asset of the file good.bin."""
    return {
        "name": "model",
        "path": "data/model.bin",
        "repo": "o/n",
        "file": "good.bin",
        "revision": None,
        "sha256": SHA256,
        "bytes": len(CONTENT),
        "licence": "MIT",
        "note": "",
        "mirrors": [],
        "trained_by": None,
        **changes,
    }


def unknown(**changes: Any) -> dict[str, Any]:
    """The same, of which the table knows neither size nor hash."""
    return asset(**{"sha256": None, "bytes": None, **changes})


def fetch_apart(spec: dict[str, Any]) -> subprocess.Popen[str]:
    """Fetch an asset in a process of its own, in this working directory."""
    program = (
        "import json, sys\n"
        "from fewstep import hub\n"
        "print(json.dumps(hub.fetch(json.loads(sys.argv[1]))))\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, json.dumps(spec)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


if __name__ == "__main__":
    with HubServer(Path(sys.argv[1])) as served:
        sys.stdout.write(f"export HF_ENDPOINT={served.endpoint}\n")
        sys.stdout.flush()
        try:
            served.thread.join()
        except KeyboardInterrupt:
            sys.exit(0)
