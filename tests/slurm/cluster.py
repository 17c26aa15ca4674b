"""A real SLURM on one machine: a controller and two nodes by name, with fake GPUs.

No systemd, no cgroups, no munge, no fixed port: several can run at once. Everything
lies in one folder, and only processes that carry that folder's `SLURM_CONF` in their
environment are ever ended.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import psutil

ADOPTER = Path(__file__).with_name("node.py")
Found = TypeVar("Found")
NODES = ("n1", "n2")
FOREIGN = ("SLURM_", "SBATCH_", "SQUEUE_", "SINFO_", "SACCT_", "SNAKEMAKE_")
"""Variables that mean another cluster, or another workflow."""
COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo")
"""What asks the controller; each call of them is written down."""

CONF = """\
ClusterName=fewstep
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
AuthInfo=cred_expire={hold}
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldTimeout=60
SlurmdTimeout={node_timeout}
KillWait=2
MessageTimeout=5
MinJobAge=300
OverTimeLimit=0
MailProg=/bin/true
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{parameters}
GresTypes=gpu,tpu
"""
NODE = (
    "NodeName={name} NodeHostName={host} NodeAddr=127.0.0.1 Port={port} CPUs=4"
    " RealMemory=64000 Gres=gpu:a100:2,tpu:4 Feature=fast,{name} State=UNKNOWN\n"
)
PARTITION = (
    "PartitionName={name} Nodes={nodes} Default={default} PriorityTier={tier}"
    " PreemptMode={mode} GraceTime={grace} MaxTime={limit} DefMemPerCPU=500 State=UP\n"
)
WRAPPER = """\
#!/bin/sh
[ -z "$SLURM_CALLS" ] || echo "{name} $*" >> "$SLURM_CALLS"
exec {program} "$@"
"""


def wait_for(
    condition: Callable[[], Found | None], seconds: float, what: str | Callable[[], str]
) -> Found:
    """Wait until a condition gives something true, and give it.

    Args:
        condition: asked about twenty times a second.
        seconds: an upper bound, generous: time decides no test.
        what: that did not happen; may be made only then.

    Raises:
        AssertionError: if it never was true.
    """
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            text = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {seconds:g} s: {text}")
        time.sleep(0.05)
    return found


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


@dataclass(frozen=True)
class Job:
    """What the controller says of a job (`scontrol show job`)."""

    fields: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        return self.fields.get(name, "")

    @property
    def state(self) -> str:
        """Such as PENDING, RUNNING, COMPLETED."""
        return self["JobState"]

    @property
    def restarts(self) -> int:
        """How often it was requeued."""
        return int(self["Restarts"] or 0)


@dataclass
class Cluster:
    """A SLURM that a test may use, break and mend.

    Attributes:
        folder: where everything of it lies; absolute.
        user_signal: at a preemption the signal that a job asked for is sent
            (`preempt_send_user_signal`), else SIGTERM.
        grace: seconds that a preempted job has.
        hold: seconds that a requeued job is held back (SLURM's default is 120).
        node_timeout: seconds after which a silent node is down.
    """

    folder: Path
    user_signal: bool = True
    grace: int = 30
    hold: int = 5
    node_timeout: int = 5
    _broken: bool = False
    _ports: list[int] = field(default_factory=list)
    _daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def conf(self) -> Path:
        """`SLURM_CONF` of this cluster."""
        return self.folder / "slurm.conf"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use this cluster; calls are counted on the way."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(FOREIGN)
        }
        return {
            **inherited,
            "SLURM_CONF": str(self.conf),
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
        }

    # -- daemons ---------------------------------------------------------------

    def start(self) -> None:
        """Write the files, start the daemons, wait until every node is idle."""
        self._broken = False
        self._ports = free_ports(1 + len(NODES))
        for name in ("state", "log", "gpu", "bin", *(f"spool/{n}" for n in NODES)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._write_conf()
        self._write_wrappers()
        for name in ("slurmctld", *NODES):
            self.start_daemon(name)
        self.wait_idle()

    def start_daemon(self, name: str) -> None:
        """Start slurmctld or a node's slurmd, which go on from what they find."""
        node = () if name == "slurmctld" else ("-N", name)
        program = "slurmd" if node else "slurmctld"
        with (self.folder / "log" / f"{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                [sys.executable, str(ADOPTER), program, "-D", *node],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill_daemon(self, name: str) -> None:
        """End one as a power cut would: with it a node's jobs and all they started."""
        self._broken = True
        child = self._daemons.pop(name)
        below = psutil.Process(child.pid)
        # Parents first: a step that outlives its job would report it as failed.
        while found := below.children(recursive=True):
            _kill(found)
        child.wait()

    def stop_controller(self) -> None:
        """End slurmctld as an administrator would; it saves what it knows."""
        self._broken = True
        child = self._daemons.pop("slurmctld")
        for process in psutil.Process(child.pid).children():
            process.terminate()
        child.wait(60)

    def wait_idle(self, seconds: float = 60) -> None:
        """Wait until no job is on any node and all are up."""

        def idle() -> bool:
            return self.ask("sinfo", "-h", "-N", "-p", "low", "-o", "%T").split() == [
                *("idle",) * len(NODES)
            ]

        wait_for(idle, seconds, lambda: f"idle nodes\n{self.report()}")

    def repair(self) -> None:
        """All daemons up, no job left, all nodes idle: as after `start`."""
        if not self._broken:
            try:
                self.cancel_all()
                self.wait_idle(20)
                return
            except AssertionError:
                pass  # a new one is there in a second
        self.stop()
        for name in ("state", "spool"):
            shutil.rmtree(self.folder / name)
        self.start()

    def stop(self) -> None:
        """End every process that belongs to this cluster."""
        for name in list(self._daemons):
            self.kill_daemon(name)
        spared = {os.getpid(), *(p.pid for p in psutil.Process().parents())}
        _kill([p for p in self.processes() if p.pid not in spared])

    def processes(self) -> list[psutil.Process]:
        """Live processes of this cluster: daemons, steps, jobs, Snakemakes."""
        found = {}
        for process in psutil.process_iter():
            try:
                if process.environ().get("SLURM_CONF") == str(self.conf):
                    # A step's environment cannot be read, but it is a node's child.
                    for one in (process, *process.children(recursive=True)):
                        found[one.pid] = one
            except psutil.Error:
                continue
        return list(found.values())

    # -- questions and orders --------------------------------------------------

    def run(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command against this cluster; not checked."""
        return subprocess.run(
            command,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            **options,
        )

    def ask(self, *command: str) -> str:
        """What a command prints; empty while the controller does not answer."""
        done = self.run(*command)
        return done.stdout if done.returncode == 0 else ""

    def order(self, *command: str) -> str:
        """Run a command that must work; what it printed."""
        done = self.run(*command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, *options: str, command: str = "sleep 600") -> str:
        """Submit a job that is not the plugin's; its id."""
        output = str(self.folder / "log" / "job-%j.log")
        arguments = ("--parsable", "-o", output, *options, "--wrap", command)
        return self.order("sbatch", *arguments).strip()

    def cancel_all(self) -> None:
        """Cancel every job and wait until none is left on a node."""
        if not (live := self.live()):
            return
        self.run("scancel", "--signal=KILL", *live)
        self.run("scancel", *live)
        end = time.monotonic() + 15
        while self.live() and time.monotonic() < end:
            time.sleep(0.05)

    def live(self, *options: str) -> list[str]:
        """Ids of jobs that wait or run, those of arrays one by one."""
        return self.ask("squeue", "-h", "-r", "-o", "%i", *options).split()

    def job(self, number: str) -> Job:
        """The record of a job."""
        text = self.ask("scontrol", "-o", "show", "job", number)
        first = text.splitlines()[0] if text else ""
        pairs = (part.partition("=") for part in first.split())
        return Job({name: value for name, _, value in pairs})

    def wait_state(self, number: str, *states: str, seconds: float = 60) -> Job:
        """Wait until a job is in one of some states; its record."""

        def reached() -> Job | None:
            job = self.job(number)
            return job if job.state in states else None

        what = f"job {number} {' or '.join(states)}"
        return wait_for(reached, seconds, lambda: f"{what}\n{self.report()}")

    def report(self) -> str:
        """Nodes and jobs, for the message of a failed test."""
        nodes = self.ask("sinfo", "-N", "-o", "%N %P %T %E")
        jobs = self.ask("squeue", "-r", "--states=all", "-o", "%i %P %j %T %N %r %S")
        return f"{nodes}{jobs}"

    # -- files -----------------------------------------------------------------

    def _write_conf(self) -> None:
        """slurm.conf and gres.conf."""
        host = socket.gethostname().partition(".")[0]
        signals = "SlurmctldParameters=preempt_send_user_signal"
        text = CONF.format(
            host=host,
            port=self._ports[0],
            folder=self.folder,
            hold=self.hold,
            node_timeout=self.node_timeout,
            parameters=signals if self.user_signal else "",
        )
        for name, port in zip(NODES, self._ports[1:], strict=True):
            text += NODE.format(name=name, host=host, port=port)
        for name, default, tier, mode in (
            ("low", "YES", 1, "REQUEUE"),
            ("high", "NO", 10, "OFF"),
        ):
            text += PARTITION.format(
                name=name,
                nodes=",".join(NODES),
                default=default,
                tier=tier,
                mode=mode,
                grace=self.grace,
                limit="1-0",
            )
        self.conf.write_text(text)
        # Plain files are no devices to SLURM, and then no job sees a number of a GPU.
        for number in (0, 1):
            device = self.folder / "gpu" / f"nvidia{number}"
            if not device.exists():
                os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        gres = (
            f"Name=gpu Type=a100 File={self.folder}/gpu/nvidia[0-1]\nName=tpu Count=4\n"
        )
        (self.folder / "gres.conf").write_text(gres)

    def _write_wrappers(self) -> None:
        """SLURM's commands, which write each of their calls to $SLURM_CALLS."""
        for name in COMMANDS:
            program = shutil.which(name)
            wrapper = self.folder / "bin" / name
            wrapper.write_text(WRAPPER.format(name=name, program=program))
            wrapper.chmod(0o755)


def _kill(processes: Sequence[psutil.Process]) -> None:
    """SIGKILL, and a little time for their end."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=2)
