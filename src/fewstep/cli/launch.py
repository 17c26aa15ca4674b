"""Trainings on several GPUs: the same command once more, under torchrun."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

from fewstep.errors import UserError

PATIENCE = 120
"""Seconds that the other nodes have once the training has ended on one of them."""


def start_training(
    spec: dict[str, Any], gpus: int, nodes: int, save_every: int
) -> None:
    """What every verb that trains does first.

    Args:
        spec: of the stage; `train` gets what decides no weights, and so is no param.
        gpus, nodes: as for `torchrun`, which does not come back where it starts others.
        save_every: steps between two checkpoints.
    """
    torchrun(gpus, nodes)
    spec["train"]["save_every"] = save_every


def torchrun(gpus: int, nodes: int = 1) -> None:
    """With several GPUs, start the same command under torchrun.

    On several nodes that is one torchrun on each, started by srun inside the job. With
    FEWSTEP_DEVICE=cpu the processes train on the CPU.

    Args:
        gpus: of all nodes together.
        nodes: that share them evenly.

    Raises:
        UserError: for more GPUs or nodes than there are.
    """
    if gpus == 1 or "WORLD_SIZE" in os.environ:
        return
    each = gpus // nodes
    _check_gpus(each, nodes)
    launch = [sys.executable, "-m", "torch.distributed.run"]
    launch += [f"--nproc-per-node={each}"]
    if nodes == 1:
        launch += ["--standalone"]
    else:
        _check_nodes(nodes)
        launch = [*_srun(nodes), *launch, f"--nnodes={nodes}", *_meeting_point()]
    launch += ["-m", "fewstep", *sys.argv[1:]]
    os.execvp(launch[0], launch)


def _srun(nodes: int) -> list[str]:
    """One process a node, beside the step that runs the rule."""
    return [
        *("srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"),
        f"--cpus-per-task={os.environ.get('SLURM_CPUS_PER_TASK', '1')}",
        *("--overlap", "--input=none", f"--wait={PATIENCE}", "--kill-on-bad-exit=0"),
        # SLURM's warning is for the training; its launchers would end with it.
        *("bash", "-c", "trap '' USR2; exec \"$@\"", "bash"),
    ]


def _meeting_point() -> list[str]:
    """Where the nodes find one another: a free port of this one."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    where = f"--rdzv-endpoint={socket.gethostname()}:{port}"
    return ["--rdzv-backend=c10d", where, f"--rdzv-id={os.environ['SLURM_JOB_ID']}"]


def _check_nodes(wanted: int) -> None:
    found = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
    if "SLURM_JOB_ID" not in os.environ or found != wanted:
        raise UserError(
            f"{wanted} nodes for the training, and {found} here",
            where="train.nodes",
            expected="a job of SLURM with as many",
            do="run it with --profile slurm, or set train.nodes to 1",
        )


def _check_gpus(wanted: int, nodes: int) -> None:
    """Count the devices, and do what their kind needs before processes start."""
    if os.environ.get("FEWSTEP_DEVICE") == "cpu":
        return
    from fewstep.device import before_launch, device_count

    found = device_count()
    if found is not None and found < wanted:
        raise UserError(
            f"{wanted} GPUs for the training, and {found or 'none'} here",
            where="train.gpus",
            expected=f"at most {max(found, 1)}",
            do="set it to that, which changes the weights by rounding alone",
        )
    before_launch(wanted, nodes)
