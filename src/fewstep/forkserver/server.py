"""A process with torch imported, which forks for each job that a client asks for.

It computes nothing itself: no thread is started and no GPU touched before a fork. It
ends when nobody has needed it for a while, when its Snakemake has ended, and when the
code has changed that it has imported.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import sys
import sysconfig
import threading
import time
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PRELOADED = ("torch", "fewstep.cli", "fewstep.stages.sample")
IDLE = 30.0
"""Seconds without a job after which it ends."""
_SLOWEST = 5.0
"""Seconds that a client may take to say what it wants."""
_PR_SET_PDEATHSIG = 1
_PACKAGE = Path(__file__).parents[1]


@dataclass
class Job:
    """A child, its client, and what tells when it has ended."""

    pid: int
    client: socket.socket
    ended: int


class Server:
    """Forks for clients of the same user, one at a time.

    Args:
        listener: bound to `path`, and listening.
        owner: process id of Snakemake; with it the server ends.
        code: `fingerprint` from before the imports.
    """

    def __init__(
        self, listener: socket.socket, path: str, owner: int, code: str
    ) -> None:
        self.listener, self.path, self.code = listener, path, code
        self.jobs: list[Job] = []
        self.selector = selectors.DefaultSelector()
        self.selector.register(listener, selectors.EVENT_READ, self._accept)
        self.owned = True
        try:
            self.owner = os.pidfd_open(owner)
            self.selector.register(self.owner, selectors.EVENT_READ, self._abandoned)
        except ProcessLookupError:
            self.owned = False

    def serve(self) -> dict[str, Any] | None:
        """Answer until nobody needs it; in a child, the request that it is for."""
        until = time.monotonic() + IDLE
        while self.jobs or (self.owned and time.monotonic() < until):
            wait = None if self.jobs else max(0.0, until - time.monotonic())
            for key, _ in self.selector.select(wait):
                call, *args = key.data if isinstance(key.data, tuple) else (key.data,)
                request: dict[str, Any] | None = call(*args)
                if request is not None:
                    return request
                until = time.monotonic() + IDLE
        self._close()
        return None

    def _close(self) -> None:
        """Take no more jobs. The name goes first: it may be another server's next."""
        if self.path:
            Path(self.path).unlink(missing_ok=True)
            self.selector.unregister(self.listener)
            self.listener.close()
            self.path = ""

    def _abandoned(self) -> None:
        self.selector.unregister(self.owner)
        self.owned = False

    def _accept(self) -> dict[str, Any] | None:
        client, _ = self.listener.accept()
        files: list[int] = []
        try:
            client.settimeout(_SLOWEST)
            if not self._refused(client):
                client.sendall(b"ready\n")
                request, files = receive(client)
                client.settimeout(None)
                return None if self._fork(client, files) else request
        except (OSError, ValueError):
            pass
        finally:
            for file in files:
                os.close(file)
        # The client sees the connection closed, and runs the job itself.
        client.close()
        return None

    def _refused(self, client: socket.socket) -> bool:
        """Whether it must not fork for this client, or for nobody any more."""
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        if struct.unpack("3i", credentials)[1] != os.geteuid():
            return True
        if fingerprint() != self.code:
            self._close()
            self.owned = False
            return True
        cuda = sys.modules["torch"].cuda
        return len(os.listdir("/proc/self/task")) > 1 or cuda.is_initialized()

    def _fork(self, client: socket.socket, files: list[int]) -> int:
        """As `os.fork`; the child has its files, and its client knows."""
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                self._settle(parent, client, files)
            except BaseException:  # noqa: BLE001 - it must not serve
                os._exit(1)
            return 0
        with contextlib.suppress(OSError):  # the child does it too: whoever is first
            os.setpgid(pid, pid)
        job = Job(pid, client, os.pidfd_open(pid))
        self.jobs.append(job)
        self.selector.register(client, selectors.EVENT_READ, (self._obey, job))
        self.selector.register(job.ended, selectors.EVENT_READ, (self._report, job))
        return pid

    def _settle(self, parent: int, client: socket.socket, files: list[int]) -> None:
        """In the child: keep nothing of the server, and tell the client."""
        # A server that is killed takes its jobs along: nobody would learn of their end.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        os.setpgid(0, 0)
        self.selector.close()
        self.listener.close()
        for job in self.jobs:
            job.client.close()
            os.close(job.ended)
        for target, file in enumerate(files):
            os.dup2(file, target)
        client.sendall(b"started\n")
        # Open until the child ends: its client sees no end of a job that goes on.
        client.detach()

    def _obey(self, job: Job) -> None:
        """Pass on the signals that the client got; its own death is one too."""
        if job not in self.jobs:
            return
        numbers = b""
        with contextlib.suppress(ConnectionError):
            numbers = job.client.recv(16)
        with contextlib.suppress(OSError):  # it has just ended
            for number in numbers:
                os.kill(job.pid, number)
            if not numbers:
                self.selector.unregister(job.client)
                os.killpg(job.pid, signal.SIGKILL)

    def _report(self, job: Job) -> None:
        """Tell the client how the job ended."""
        _, status = os.waitpid(job.pid, 0)
        self.jobs.remove(job)
        self.selector.unregister(job.ended)
        os.close(job.ended)
        if job.client.fileno() in self.selector.get_map():
            self.selector.unregister(job.client)
        code = os.waitstatus_to_exitcode(status)
        kind = "exit" if code >= 0 else "signal"
        with contextlib.suppress(OSError):  # the client was killed
            job.client.sendall(f"{kind} {abs(code)}\n".encode())
        job.client.close()


def receive(client: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """What a client asks for: arguments and environment, and its three files.

    Raises:
        OSError, ValueError: for anything else.
    """
    head, files, _, _ = socket.recv_fds(client, 4, 3)
    try:
        with client.makefile("rb") as rest:
            if len(head) < 4 or len(files) != 3:
                raise ValueError("no request")
            request = json.loads(rest.read(struct.unpack("!I", head)[0]))
    except BaseException:
        for file in files:
            os.close(file)
        raise
    return dict(request), list(files)


def fingerprint() -> str:
    """Changes with the package's files, and when something is installed."""
    libraries = sysconfig.get_path("purelib")
    found = [_stamp(libraries)]
    for folder, _, names in os.walk(_PACKAGE):
        paths = (os.path.join(folder, name) for name in names if name.endswith(".py"))
        found += [_stamp(path) for path in paths]
    return "\n".join(sorted(found))


def _stamp(path: str) -> str:
    found = os.stat(path)
    return f"{path} {found.st_mtime_ns} {found.st_size}"


def resident() -> list[int]:
    """Addresses of the pages of files that are mapped now, above all of torch.

    A child finds them unmapped, until it touches them. Without that its memory, which
    samples and times are filed with, would be less than a plain job's.
    """
    found: list[int] = []
    page = os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError), open("/proc/self/pagemap", "rb") as pagemap:
        for line in Path("/proc/self/maps").read_text().splitlines():
            where, mode, _, _, inode, *_ = line.split()
            if inode != "0" and mode[0] == "r":
                start, end = (int(number, 16) for number in where.split("-"))
                pagemap.seek(start // page * 8)
                bits = array("Q", pagemap.read((end - start) // page * 8))
                found += [start + i * page for i, bit in enumerate(bits) if bit >> 63]
    return found


def become(request: dict[str, Any]) -> None:
    """Run `python -m fewstep` with a request's arguments and environment, and end."""
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = ["fewstep", *request["argv"]]
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty())  # type: ignore[union-attr]
    if numbers := sys.modules.get("numpy.random"):
        numbers.seed()  # or every job would draw the same
    try:
        runpy.run_module("fewstep", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise
        _leave(end.code or 0)
    _leave(0)


def _leave(status: int) -> None:
    """End without taking all of torch apart, which takes 0.2 s: the rest is done."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status & 0xFF)


def main() -> None:
    """Serve; a child comes back from it, and ends as any program does."""
    number, path, owner = sys.argv[1:]
    listener = socket.socket(fileno=int(number))
    os.closerange(3, listener.fileno())
    os.closerange(listener.fileno() + 1, 4096)
    code = fingerprint()
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()
    mapped = resident()
    request = Server(listener, path, int(owner), code).serve()
    if request is not None:
        for address in mapped:
            ctypes.string_at(address, 1)
        become(request)


if __name__ == "__main__":
    main()
