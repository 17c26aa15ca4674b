"""The fork server's jobs are as plain ones: what they get, and how they end.

`fewstep` and `torch` are stand-ins here, which take no time to import: the first runs
its argument as a program.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fewstep import forkserver

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="Linux alone has them"),
    pytest.mark.timeout(120),
]
ROOT = Path(__file__).parents[1]
STAND_IN = "import sys; exec(sys.argv[1])"
TORCH = "from types import SimpleNamespace\n"
TORCH += "cuda = SimpleNamespace(is_initialized=lambda: False)\n"
WHO = "import os; print(os.getppid(), os.getpid())"


@dataclass
class Run:
    """A folder with the stand-ins, and the environment that a rule's job has."""

    folder: Path
    owner: int = field(default_factory=os.getpid)

    def __post_init__(self) -> None:
        package = self.folder / "src" / "fewstep"
        (package / "stages").mkdir(parents=True)
        for name in ("__init__", "cli", "stages/__init__", "stages/sample"):
            (package / f"{name}.py").touch()
        (package / "__main__.py").write_text(STAND_IN)
        (package.parent / "torch.py").write_text(TORCH)
        shutil.copytree(Path(forkserver.__file__).parent, package / "forkserver")

    @property
    def client(self) -> Path:
        return self.folder / "src/fewstep/forkserver/client.py"

    @property
    def sockets(self) -> Path:
        return (self.folder / "run").resolve() / f"fewstep-{os.geteuid()}"

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
        return {
            **kept,
            "PYTHONPATH": str(self.folder / "src"),
            "XDG_RUNTIME_DIR": str((self.folder / "run").resolve()),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "FEWSTEP_FORKSERVER": f"{self.owner} {self.client}",
        }

    def command(self, program: str, plain: bool = False) -> list[str]:
        how = [] if plain else ["-S", "-E", str(self.client)]
        return [sys.executable, *how, "-m", "fewstep", program]

    def start(self, program: str, plain: bool = False, **more: object):  # type: ignore[no-untyped-def]
        """Start a program as a job; its output can be read."""
        more = {"env": self.environment, "cwd": self.folder, **more}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            self.command(program, plain), stdout=pipe, stderr=pipe, text=True, **more
        )

    def out(self, program: str, plain: bool = False, **more: object) -> str:
        """What a job prints that ends well."""
        job = self.start(program, plain, **more)
        out, err = job.communicate()
        assert job.returncode == 0, err
        return str(out)

    def servers(self) -> list[int]:
        """The running servers of this folder."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().decode().split("\0")
            except (OSError, UnicodeDecodeError):
                continue
            ours = any(word.startswith(str(self.sockets)) for word in words)
            if ours and "fewstep.forkserver.server" in words:
                found.append(int(path.parts[2]))
        # A child of a server has its command line; a server has no such parent.
        return [pid for pid in found if parent(pid) not in found]


def parent(pid: int) -> int:
    """The parent of a process; 0: it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def state(pid: int) -> str:
    """As ps has it: T stopped, Z ended; X: gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until something holds; pytest's limit ends the waiting."""
    while not condition():
        time.sleep(0.02)


@pytest.fixture
def run(tmp_path: Path, room: Path) -> Iterator[Run]:
    assert room.is_dir()
    made = Run(tmp_path)
    yield made
    for pid in made.servers():
        os.kill(pid, signal.SIGKILL)


def vacated(run: Run) -> Path:
    """Where the one server's socket was, after both are gone."""
    (server,) = run.servers()
    os.kill(server, signal.SIGKILL)
    (path,) = (one for one in run.sockets.iterdir() if one.is_socket())
    path.unlink()
    return path


def forked(run: Run, **more: object) -> bool:
    """Whether a job of this kind is a child of a server."""
    return int(run.out(WHO, **more).split()[0]) in run.servers()


def test_jobs_are_children_of_one_server(run: Run) -> None:
    """Jobs that start alike share a server, each in a process of its own."""
    found = [run.out(WHO).split() for _ in range(3)]
    assert {int(server) for server, _ in found} == set(run.servers())
    assert len({job for _, job in found}) == 3
    assert len(run.servers()) == 1


SEEN = """
import json, os, signal, sys
every = signal.valid_signals()
signals = {str(s): str(signal.getsignal(s)).split(' at ')[0] for s in every}
main = sys.modules['__main__']
mask = os.umask(0)
noise = {'_', 'OLDPWD', 'PWD', 'SHLVL'}
print(json.dumps([
    {k: v for k, v in os.environ.items() if k not in noise},
    os.getcwd(), sys.argv, sys.path, sys.flags, sys.executable, signals, mask,
    sorted(os.listdir('/proc/self/fd'))[:3], sys.stdin.read(), main.__spec__.name,
    [sys.stdout.line_buffering, sys.stderr.line_buffering, sys.stdout.encoding],
    sorted(os.sched_getaffinity(0)), len(os.listdir('/proc/self/task')),
]))
"""


def test_job_sees_what_a_plain_one_sees(run: Run) -> None:
    """Environment, folder, arguments, paths, flags, signals, mask, files, stdin."""
    seen = []
    for plain in (False, True):
        job = run.start(SEEN, plain, stdin=subprocess.PIPE, umask=0o027)
        out, err = job.communicate("some text\n")
        assert job.returncode == 0, err
        seen.append(json.loads(out))
    assert seen[0] == seen[1]
    assert seen[0][9] == "some text\n"


def test_job_has_its_own_variables(run: Run) -> None:
    """Another environment, folder or mask is another server's: libraries read them."""
    base = run.environment
    shown = 'import os; print(os.environ.get("CUDA_VISIBLE_DEVICES"), os.getcwd())'
    for device in ("0", "1"):
        environment = {**base, "CUDA_VISIBLE_DEVICES": device}
        assert run.out(shown, env=environment) == f"{device} {run.folder}\n"
    other = run.folder / "src"
    assert run.out(shown, cwd=other) == f"None {other}\n"
    assert run.out("import os; print(os.umask(0))", umask=0o077) == "63\n"
    assert len(run.servers()) == 4
    # What the shell counts is noise, and the job's own all the same.
    level = 'import os; print(os.environ["SHLVL"])'
    for number in ("7", "8"):
        assert run.out(level, env={**base, "SHLVL": number}) == f"{number}\n"
    assert len(run.servers()) == 5


@pytest.mark.parametrize(
    "program", ["", "1/0", "raise SystemExit(75)", "sys.exit('no')"]
)
def test_job_ends_as_a_plain_one(run: Run, program: str) -> None:
    """Exit status and the last line of what is said."""
    ends = []
    for plain in (False, True):
        job = run.start(program, plain)
        out, err = job.communicate()
        ends.append((job.returncode, out, err.splitlines()[-1:]))
    assert ends[0] == ends[1]


def test_job_closes_what_it_opened(run: Run) -> None:
    """Functions for the end are called, threads waited for, output written."""
    program = (
        "import atexit, threading, time; atexit.register(print, 'at the end');"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('a thread'))).start();"
        "print('first')"
    )
    assert run.out(program) == "first\na thread\nat the end\n"


def test_job_dies_of_its_signal(run: Run) -> None:
    """A job that a signal kills looks killed by it from outside, SIGKILL included."""
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV):
        job = run.start(f"import os; os.kill(os.getpid(), {int(number)})")
        job.communicate()
        assert job.returncode == -number


HEARS = """
import signal, sys, time
signal.signal(signal.{name}, lambda *_: (print('heard', flush=True), sys.exit(3)))
print('ready', flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR2", "SIGHUP"])
def test_signal_to_the_client_reaches_the_job(run: Run, name: str) -> None:
    """The job handles it and ends as it wants."""
    job = run.start(HEARS.format(name=name))
    assert job.stdout.readline() == "ready\n"
    job.send_signal(getattr(signal, name))
    assert job.communicate()[0] == "heard\n"
    assert job.returncode == 3


def test_ctrl_c_ends_a_job_as_a_plain_one(run: Run) -> None:
    """A KeyboardInterrupt that nobody catches: death by SIGINT."""
    job = run.start("print('ready', flush=True); import time; time.sleep(60)")
    job.stdout.readline()
    job.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in job.communicate()[1]
    assert job.returncode == -signal.SIGINT


def test_ignored_signals_stay_ignored(run: Run) -> None:
    """As under nohup: the job ignores what its client was started to ignore."""
    asked = "import signal; print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)"
    ignore = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    assert run.out(asked) == "False\n"
    assert run.out(asked, **ignore) == "True\n"


SLEEPS = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"


def test_killed_client_takes_its_job_along(run: Run) -> None:
    """kill -9 of what looks like the job ends the job; others go on."""
    jobs = [run.start(SLEEPS) for _ in range(2)]
    pids = [int(job.stdout.readline()) for job in jobs]
    jobs[0].kill()
    jobs[0].communicate()
    wait_for(lambda: state(pids[0]) in "XZ")
    assert Path(f"/proc/{pids[1]}").exists()
    jobs[1].kill()
    jobs[1].communicate()


def test_stopped_client_stops_its_job(run: Run) -> None:
    """Ctrl-Z and fg."""
    job = run.start(SLEEPS)
    pid = int(job.stdout.readline())

    job.send_signal(signal.SIGTSTP)
    wait_for(lambda: state(pid) == "T" and state(job.pid) == "T")
    job.send_signal(signal.SIGCONT)
    wait_for(lambda: state(pid) != "T" and state(job.pid) != "T")
    job.kill()
    job.communicate()


def test_killed_server(run: Run) -> None:
    """Its jobs are killed with it and say so; the next job starts another server."""
    job = run.start(SLEEPS)
    pid = int(job.stdout.readline())
    (server,) = run.servers()
    os.kill(server, signal.SIGKILL)
    assert "fork server was killed" in job.communicate()[1]
    assert job.returncode == -signal.SIGKILL
    wait_for(lambda: state(pid) in "XZ")
    assert any(path.is_socket() for path in run.sockets.iterdir())  # a stale one
    assert forked(run)
    assert run.servers() != [server]


def test_server_that_does_not_start(run: Run) -> None:
    """Jobs run plainly where torch cannot be imported, or the server's file is gone."""
    (run.folder / "src/torch.py").write_text("raise ImportError('broken')")
    assert int(run.out(WHO).split()[0]) == os.getpid()
    (run.folder / "src/fewstep/forkserver/server.py").unlink()
    assert int(run.out(WHO).split()[0]) == os.getpid()


def test_server_that_does_not_answer(run: Run) -> None:
    """The job runs plainly after a while, and once: the late server starts nothing."""
    text = run.client.read_text().replace("PATIENCE = 60.0", "PATIENCE = 0.5")
    run.client.write_text(text)
    once = "open('ran', 'a').write('x'); import os; print(os.getppid())"
    run.out(WHO)
    (server,) = run.servers()
    os.kill(server, signal.SIGSTOP)
    assert int(run.out(once)) == os.getpid()
    os.kill(server, signal.SIGCONT)
    assert forked(run)  # after the one that nobody waits for
    assert (run.folder / "ran").read_text() == "x"


def test_server_that_hangs_after_its_first_word(run: Run) -> None:
    """The same where it has taken the request, but started nothing."""
    text = run.client.read_text().replace("PATIENCE = 60.0", "PATIENCE = 0.5")
    run.client.write_text(text)
    run.out(WHO)
    path = vacated(run)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        job = run.start(WHO)
        with listener.accept()[0] as client:
            client.sendall(b"ready\n")
            # Its end is not seen yet: the files lie here, unread.
            assert int(job.stdout.readline().split()[0]) == os.getpid()
            with pytest.raises(BrokenPipeError):
                client.sendall(b"started\n")
        job.communicate()


def test_server_with_threads_or_a_gpu_forks_nothing(run: Run) -> None:
    """Where the import has started a thread or CUDA, jobs run plainly."""
    threads = "import threading, time\n"
    threads += "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    (run.folder / "src/torch.py").write_text(TORCH + threads)
    assert int(run.out(WHO).split()[0]) == os.getpid()
    for pid in run.servers():
        os.kill(pid, signal.SIGKILL)
    (run.folder / "src/torch.py").write_text(TORCH.replace("False", "True"))
    assert int(run.out(WHO).split()[0]) == os.getpid()


def test_changed_code_starts_another_server(run: Run) -> None:
    """A job runs the code that lies there, not what a server has imported."""
    cli = run.folder / "src/fewstep/cli.py"
    asked = "import fewstep.cli as c; print(getattr(c, 'value', 0))"
    assert run.out(asked) == "0\n"
    first = run.servers()
    cli.write_text("value = 1\n")
    assert run.out(asked) == "1\n"
    wait_for(lambda: not run.servers())
    assert run.out(asked) == "1\n"
    assert run.servers() not in ([], first)


def test_socket_of_somebody_else_is_not_used(run: Run) -> None:
    """A folder that others may enter, or that is another user's or a link: plainly."""
    run.sockets.mkdir(mode=0o700)
    run.sockets.chmod(0o770)
    assert not forked(run)
    run.sockets.rmdir()
    (run.folder / "elsewhere").mkdir(mode=0o700)
    run.sockets.symlink_to(run.folder / "elsewhere")
    assert not forked(run)
    run.sockets.unlink()
    assert forked(run)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_server_of_another_user_is_not_asked(run: Run) -> None:
    """The one that listens must be of the same user, wherever its socket lies."""
    assert forked(run)
    path = vacated(run)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        os.seteuid(65534)
        try:
            listener.listen()
        finally:
            os.seteuid(0)
        assert int(run.out(WHO).split()[0]) == os.getpid()
    run.sockets.chmod(0o700)
    os.chown(run.sockets, 65534, 65534)
    assert int(run.out(WHO).split()[0]) == os.getpid()


def test_server_ends_with_its_snakemake(run: Run) -> None:
    """Once its process has ended and no job is left, the socket gone too."""
    owner = subprocess.Popen(["sleep", "60"])
    run.owner = owner.pid
    job = run.start(SLEEPS)
    pid = int(job.stdout.readline())
    owner.kill()
    owner.wait()
    time.sleep(0.2)
    assert len(run.servers()) == 1
    assert Path(f"/proc/{pid}").exists()
    os.kill(pid, signal.SIGTERM)
    job.communicate()
    wait_for(lambda: not run.servers())
    assert [path.name for path in run.sockets.iterdir()] == ["lock"]


def test_idle_server_ends(run: Run) -> None:
    """After a while without jobs; while one runs it stays."""
    server = run.client.with_name("server.py")
    server.write_text(server.read_text().replace("IDLE = 30.0", "IDLE = 0.3"))
    out = run.out("import os, time; time.sleep(1); print(os.getppid())")
    assert int(out) != os.getpid()
    wait_for(lambda: not run.servers())
    assert [path.name for path in run.sockets.iterdir()] == ["lock"]


def test_two_snakemakes_share_no_server(run: Run) -> None:
    """Each has its own, which ends with it."""
    assert forked(run)
    first = run.servers()
    run.owner = os.getppid()
    assert forked(run)
    assert len(run.servers()) == 2
    assert first[0] in run.servers()


def test_many_jobs_at_once_start_one_server(run: Run) -> None:
    """Clients that find no server agree on who starts it."""
    jobs = [run.start(WHO) for _ in range(8)]
    parents = {job.communicate()[0].split()[0] for job in jobs}
    assert parents == {str(pid) for pid in run.servers()}
    assert len(parents) == 1


@pytest.mark.parametrize(
    "off",
    [{"FEWSTEP_FORKSERVER": "0"}, {"SLURM_JOB_ID": "1"}, {"OMP_NUM_THREADS": "2"}],
    ids=lambda off: next(iter(off)),
)
def test_some_jobs_never_ask(run: Run, off: dict[str, str]) -> None:
    """Where it is switched off, of SLURM, or with threads that no fork would have."""
    assert int(run.out(WHO, env={**run.environment, **off}).split()[0]) == os.getpid()
    assert not run.sockets.exists()


def test_other_commands_are_left_alone(run: Run) -> None:
    """Only `python -m fewstep` is for the server."""
    command = [sys.executable, "-S", "-E", str(run.client), "-c", "print(1)"]
    done = subprocess.run(command, env=run.environment, capture_output=True, check=True)
    assert done.stdout == b"1\n"
    assert not run.sockets.exists()
