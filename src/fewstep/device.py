"""Which device to work on, and with how many threads."""

from __future__ import annotations

import logging
import os
from functools import cache

import torch

from fewstep.errors import UserError

logger = logging.getLogger(__name__)


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
        if device.type == "cuda":
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device {name!r} is not available ({str(error).splitlines()[0]})",
            where="FEWSTEP_DEVICE",
            expected="cpu, cuda or cuda:N",
        ) from error
    return device


@cache
def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return True


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The autocast of a precision: "bf16" where the device has it, else none."""
    wanted = precision == "bf16"
    if wanted and not has_bf16(device):
        logger.warning("%s has no bf16: computing in fp32", device)
        wanted = False
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted)


def set_threads(threads: int) -> None:
    """Number of CPU threads of one job; torchrun's processes share them."""
    share = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, threads // share))
