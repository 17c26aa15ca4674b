"""Which device to work on: the only place that knows CUDA, TPUs and the CPU.

Everything else asks here: for a device, its memory, its clock, its random generator,
its process group. `fewstep.device.backends` has the answers of each kind.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

import torch

from fewstep.device.backends import CUDA, TPU, backend

__all__ = [
    "autocast",
    "before_launch",
    "check_shapes",
    "device_count",
    "driver",
    "empty_cache",
    "fork_rng",
    "free_memory",
    "has_bf16",
    "is_out_of_memory",
    "label",
    "mark_step",
    "masks_by_name",
    "memory_errors",
    "peak_memory",
    "pick_device",
    "process_group",
    "replayable",
    "replays",
    "reset_peak_memory",
    "seed",
    "set_threads",
    "synchronise",
    "total_memory",
]

logger = logging.getLogger(__name__)

_MEMORY_MESSAGES = (
    "out of memory",
    "resource_exhausted",  # XLA
    "can't allocate memory",  # torch on a CPU
    "not enough memory",
)


def pick_device(name: str | None = None) -> torch.device:
    """The wanted device, FEWSTEP_DEVICE, or the best that is there.

    Under torchrun each process takes the GPU of its LOCAL_RANK, or the TPU's chip that
    its environment binds it to. torch-xla is used where it is asked for by name: to
    look for its devices is to claim them.

    Raises:
        UserError: when the wanted device is not there.
    """
    wanted = name or os.environ.get("FEWSTEP_DEVICE") or _best()
    return backend(wanted).open(wanted)


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "tpu" if TPU.loaded() else "cpu"


def device_count() -> int | None:
    """Devices of the kind that `pick_device` would take; None: not limited or known."""
    wanted = os.environ.get("FEWSTEP_DEVICE") or _best()
    if wanted == "cpu" and not os.environ.get("FEWSTEP_DEVICE"):
        return CUDA.count()  # none: a training for GPUs does not slip onto a CPU
    return backend(wanted).count()


def before_launch(processes: int, nodes: int = 1) -> None:
    """What a parent does before torchrun starts the processes of one node."""
    wanted = os.environ.get("FEWSTEP_DEVICE") or _best()
    backend(wanted).before_launch(processes, nodes)


def process_group(device: torch.device) -> tuple[str, dict[str, Any]]:
    """Back end of the process group, and its further arguments."""
    return backend(device).group()


@cache
def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16."""
    return backend(device).has_bf16(device)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The autocast of a precision: "bf16" where the device has it, else none."""
    wanted = precision == "bf16"
    if wanted and not has_bf16(device):
        _say_once(f"{device} has no bf16: computing in fp32")
        wanted = False
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted)


@cache
def _say_once(words: str) -> None:
    logger.warning(words)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    backend(device).synchronise(device)


def mark_step(device: torch.device) -> None:
    """After a group of network calls: a device that gathers operations runs them now.

    Without it the graph of torch-xla would grow over a whole loop and be compiled as
    one. Everywhere else nothing happens.
    """
    if device.type == "xla":
        backend(device).mark_step(device)


def masks_by_name(device: torch.device) -> bool:
    """Whether attention has kernels there that need no tensor for a causal mask."""
    return backend(device).lower_right


def replays(device: torch.device) -> bool:
    """Whether `replayable` gains anything there."""
    return backend(device).replays


def replayable(
    step: Callable[[], object], device: torch.device
) -> Callable[[], object]:
    """A step that is launched as one where the device can (a CUDA graph).

    Args:
        step: reads and writes the same tensors at every call, and asks nothing of the
            device. It may be called here: what it changed has to be set anew after it.
        device: where.

    Returns:
        what to call in its place: the step itself, with one warning, where recording it
        fails.
    """
    try:
        return backend(device).replayable(step)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        _say_once(f"steps are launched one by one: {str(error).splitlines()[0]}")
        return step


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process may still take there (CPU: available RAM), or None."""
    return backend(device).free_memory(device)


def total_memory(device: torch.device) -> int | None:
    """Bytes of the whole device, or None where it does not tell."""
    return backend(device).total_memory(device)


def peak_memory(device: torch.device | str) -> int | None:
    """Peak bytes that torch held there, or None where the device does not tell."""
    return backend(device).peak_memory(torch.device(device))


def reset_peak_memory(device: torch.device | str) -> bool:
    """Let the peak start anew; False where the device keeps none."""
    return backend(device).reset_peak(torch.device(device))


def empty_cache(device: torch.device) -> None:
    """Give back memory that torch keeps for later, after something did not fit."""
    backend(device).empty_cache(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the device's memory is full."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(s in text for s in _MEMORY_MESSAGES)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Full memory inside is a `torch.OutOfMemoryError`, whatever the device raises."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, torch.OutOfMemoryError) or not is_out_of_memory(error):
            raise
        raise torch.OutOfMemoryError(str(error)) from error


def fork_rng(device: torch.device) -> AbstractContextManager[None]:
    """Draws inside leave the generators of CPU and device as they were."""
    return backend(device).fork_rng(device)


def seed(value: int, device: torch.device) -> None:
    """Seed the generators of CPU and device."""
    backend(device).seed(value, device)


def label(device: torch.device | str) -> str | None:
    """The accelerator's name; None for a CPU."""
    return backend(device).label(torch.device(device))


def driver(device: torch.device | str) -> str | None:
    """The version of the accelerator's driver; None for a CPU."""
    return backend(device).driver()


def check_shapes(device: torch.device, static: bool, what: str) -> None:
    """Warn once of a sampler whose shapes change, where each shape is compiled.

    It is a warning and no error: the images are the same, the first batch pays for the
    compilations, and without For no TarFlow on a TPU would have a baseline.
    """
    if backend(device).compiles_shapes and not static:
        _warn_shapes(device.type, what)


@cache
def _warn_shapes(kind: str, what: str) -> None:
    logger.warning(
        "%s: shapes change from step to step, and the %s compiles each of them once; "
        "expect a slow first batch",
        what,
        kind,
    )


def set_threads(threads: int) -> None:
    """Number of CPU threads of one job; torchrun's processes share them."""
    share = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, threads // share))
