"""The processes of one job: their group, what they agree on, their end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from fewstep.device import process_group

# While the first process scores a snapshot, the others wait in the next step.
_PATIENCE = timedelta(hours=2)

_LISTENING: list[dict[str, bool]] = []
"""The flag of the stage that listens for signals, while there is one."""


class PreemptedError(Exception):
    """The job was told to stop; what it has is saved, and the same command goes on."""


def join_group(device: torch.device) -> tuple[int, int]:
    """(rank, world size); under torchrun the process group is made."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return 0, 1
    if not torch.distributed.is_initialized():
        backend, further = process_group(device)
        torch.distributed.init_process_group(backend, timeout=_PATIENCE, **further)
    return torch.distributed.get_rank(), world


@contextmanager
def closing_group() -> Iterator[bool]:
    """The end of a training: whether this is the first process, which writes results.

    The others wait until it has: whoever started them may take their end for a failure
    and stop the first one while it writes.
    """
    if not torch.distributed.is_initialized():
        yield True
        return
    yield torch.distributed.get_rank() == 0
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def any_rank(flag: bool, world: int, device: torch.device) -> bool:
    """Whether any process raised its flag: all must leave after the same step."""
    if world == 1:
        return flag
    raised = torch.tensor(int(flag), device=device)
    torch.distributed.all_reduce(raised, torch.distributed.ReduceOp.MAX)
    return bool(raised.item())


def mean_over_ranks(loss: Tensor) -> float:
    """The loss of the whole batch."""
    if torch.distributed.is_initialized():
        loss = loss.clone()
        torch.distributed.all_reduce(loss)
        loss /= torch.distributed.get_world_size()
    return float(loss)


@contextmanager
def stop_signal() -> Iterator[dict[str, bool]]:
    """A flag that SIGTERM and SIGUSR2 (SLURM's warning) raise.

    Inside another one it is that one's flag: a training learns of a signal that came
    while it drew samples. Outside the main thread no signal raises a new one.
    """
    if _LISTENING:
        yield _LISTENING[0]
        return
    stop = {"now": False}

    def handler(*_: Any) -> None:
        stop["now"] = True

    previous = {}
    try:
        for number in (signal.SIGTERM, signal.SIGUSR2):
            previous[number] = signal.signal(number, handler)
    except ValueError:  # not the main thread, e.g. in a notebook's worker
        yield stop
        return
    _LISTENING.append(stop)
    try:
        yield stop
    finally:
        _LISTENING.clear()
        for number, old in previous.items():
            # None: a handler that Python does not know, which it cannot give back.
            signal.signal(number, signal.SIG_DFL if old is None else old)
