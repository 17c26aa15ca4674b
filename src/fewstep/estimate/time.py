"""From work to seconds on a device: a roofline with an assumed efficiency."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from fewstep.estimate.work import Work


class Device(Protocol):
    """What is asked of a device (`fewstep.config.resources.HardwareSpec`)."""

    @property
    def tflops_bf16(self) -> float: ...
    @property
    def tflops_tf32(self) -> float: ...
    @property
    def tflops_fp32(self) -> float: ...
    @property
    def bandwidth_gb(self) -> float: ...
    @property
    def efficiency(self) -> float: ...
    @property
    def launch_us(self) -> float: ...


def seconds(works: Iterable[Work], device: Device) -> float:
    """Seconds of works one after the other.

    The slowest of arithmetic, memory and kernel launches decides each.
    """
    return sum(_seconds(work, device) for work in works)


def _seconds(work: Work, device: Device) -> float:
    rate = float(getattr(device, f"tflops_{work.precision}")) * 1e12
    arithmetic = work.flops / rate
    memory = work.traffic / (device.bandwidth_gb * 1e9)
    launches = work.kernels * device.launch_us * 1e-6
    return max(max(arithmetic, memory) / device.efficiency, launches)
