"""`python -m fewstep …` by a fork server; where that fails, plainly.

Run as `python -S -E client.py -m fewstep …`, which starts quickly: only modules of the
standard library are imported, and nothing of fewstep.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import socket
import stat
import struct
import sys
from types import FrameType
from typing import NoReturn

PATIENCE = 60.0
"""Seconds until the job runs plainly, when a server does not answer."""
NOISE = {"_", "OLDPWD", "PWD", "SHLVL"}
"""Variables that differ from job to job, and that no library reads."""
FORWARDED = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP, signal.SIGCONT),
)


def main() -> NoReturn:
    """Run the command that the arguments are, one way or the other."""
    arguments = sys.argv[1:]
    connection = None
    if arguments[:2] == ["-m", "fewstep"] and suitable():
        try:
            connection = start(arguments[2:])
        except (OSError, ValueError):
            connection = None
    if connection is None:
        os.execv(sys.executable, [sys.executable, *arguments])
    sys.exit(follow(connection))


def suitable() -> bool:
    """Whether a fork of a server may run this job.

    Of several threads a job's libraries start some when they are imported, and no fork
    has those; such a job takes longer than an import.
    """
    asked = os.environ.get("FEWSTEP_FORKSERVER", "0") != "0"
    alone = os.environ.get("OMP_NUM_THREADS") == "1"
    linux = hasattr(os, "pidfd_open") and hasattr(socket, "SO_PEERCRED")
    return asked and alone and linux and "SLURM_JOB_ID" not in os.environ


def start(arguments: list[str]) -> socket.socket | None:
    """The connection to the job's process; None: there is none, and will be none.

    Raises:
        OSError: as well.
    """
    path = os.path.join(private_folder(), key())
    connection = connect(path) or launch(path)
    if line(connection) != "ready":
        return None
    # Only now: files on their way to a server that hangs would stay open there. And the
    # job may be about to listen for a signal that would still kill this process.
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    started = False
    try:
        started = request(connection, arguments)
    finally:
        if not started:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    return connection if started else None


def request(connection: socket.socket, arguments: list[str]) -> bool:
    """Ask for the job; whether it has started."""
    wanted = json.dumps({"argv": arguments, "env": dict(os.environ)}).encode()
    socket.send_fds(connection, [struct.pack("!I", len(wanted))], [0, 1, 2])
    connection.sendall(wanted)
    try:
        answer = line(connection)
    except TimeoutError:
        # From here on nobody can start it; what was said before can still be read.
        connection.shutdown(socket.SHUT_RD)
        answer = line(connection)
    connection.settimeout(None)
    return answer == "started"


def private_folder() -> str:
    """The folder of this user's sockets, which nobody else may enter.

    Raises:
        PermissionError: it is not.
    """
    base = os.environ.get("XDG_RUNTIME_DIR") or "/tmp"
    folder = os.path.join(base, f"fewstep-{os.geteuid()}")
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    found = os.lstat(folder)
    private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
    if not private or found.st_uid != os.geteuid():
        raise PermissionError(folder)
    return folder


def key() -> str:
    """Digits that two jobs share if their processes would start in the same way."""
    mask = os.umask(0o077)
    os.umask(mask)
    every = signal.valid_signals()
    ignored = [int(s) for s in every if signal.getsignal(s) == signal.SIG_IGN]
    kept = {name: v for name, v in os.environ.items() if name not in NOISE}
    cores = sorted(os.sched_getaffinity(0))
    all_of_it = [sys.executable, os.getcwd(), mask, sorted(ignored), cores, kept]
    text = json.dumps(all_of_it, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def connect(path: str) -> socket.socket | None:
    """A connection to this user's server; None: it does not run."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(PATIENCE)
    try:
        connection.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    if peer(connection) != os.geteuid():
        raise PermissionError(path)
    return connection


def peer(connection: socket.socket) -> int:
    """The user at the other end."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int(struct.unpack("3i", found)[1])


def launch(path: str) -> socket.socket:
    """Start a server, unless another job does so at this moment.

    It gets a socket that listens already: whoever connects meanwhile waits in line, and
    learns at once if the server ends before it answers.
    """
    lock = os.open(os.path.join(os.path.dirname(path), "lock"), os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    connection = connect(path)
    if connection is not None:
        os.close(lock)
        return connection
    if os.path.lexists(path):
        os.unlink(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(128)
        listener.set_inheritable(True)
        owner = os.environ["FEWSTEP_FORKSERVER"].partition(" ")[0]
        command = [sys.executable, "-m", "fewstep.forkserver.server"]
        command += [str(listener.fileno()), path, owner]
        nowhere = [
            (os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in range(3)
        ]
        # What Python ignores by itself is no part of how the job was started.
        own = [signal.SIGPIPE, signal.SIGXFSZ]
        os.posix_spawn(
            command[0],
            command,
            os.environ,
            file_actions=nowhere,
            setsid=True,
            setsigdef=own,
        )
    os.close(lock)
    connection = connect(path)
    if connection is None:
        raise ConnectionRefusedError(path)
    return connection


def line(connection: socket.socket) -> str:
    """The next line; "" when the other end is closed."""
    found = b""
    while not found.endswith(b"\n"):
        piece = connection.recv(1)
        if not piece:
            return ""
        found += piece
    return found.decode().strip()


def follow(connection: socket.socket) -> int:
    """Pass signals on until the job ends; end as it did."""

    def forward(number: int, _: FrameType | None) -> None:
        stopped = number == signal.SIGTSTP
        connection.send(bytes([signal.SIGSTOP if stopped else number]))
        if stopped:
            os.kill(os.getpid(), signal.SIGSTOP)

    for number in FORWARDED:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    kind, _, value = line(connection).partition(" ")
    if kind == "exit":
        return int(value)
    if not kind:
        sys.stderr.write("fewstep: the fork server was killed, and this job with it\n")
    return die_of(int(value or signal.SIGKILL))


def die_of(number: int) -> int:
    """Die of a signal, leaving no core dump; a status where it cannot be died of."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number


if __name__ == "__main__":
    main()
