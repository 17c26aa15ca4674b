"""Questions of the host that the device answers while it goes on working."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def ask(flag: Tensor) -> Callable[[], bool]:
    """Send for a flag's value, which the caller takes later.

    A GPU then has work while the host waits, as long as the host has sent more of it
    between the question and its answer.

    Args:
        flag: a single bool, on any device.

    Returns:
        what waits for the value and gives it.
    """
    if flag.device.type != "cuda":
        return lambda: bool(flag)
    with torch.cuda.device(flag.device):
        copy = flag.to("cpu", non_blocking=True)  # in pinned memory
        there = torch.cuda.current_stream().record_event()

    def answer() -> bool:
        there.synchronize()
        return bool(copy)

    return answer
