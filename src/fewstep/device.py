"""Which device to work on, and with how many threads."""

from __future__ import annotations

import os

import torch

from fewstep.errors import UserError


def pick_device(name: str | None = None) -> torch.device:
    """The wanted device, FEWSTEP_DEVICE, or the best that is there.

    Under torchrun each process takes the GPU of its LOCAL_RANK.

    Raises:
        UserError: when the wanted device is not there.
    """
    name = name or os.environ.get("FEWSTEP_DEVICE") or ""
    if not name:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device {name!r} is not available ({str(error).splitlines()[0]})",
            where="FEWSTEP_DEVICE",
            expected="cpu, cuda or cuda:N",
        ) from error
    return device


def set_threads(threads: int) -> None:
    """Number of CPU threads of one job."""
    torch.set_num_threads(max(1, threads))
