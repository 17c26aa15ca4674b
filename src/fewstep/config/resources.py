"""What jobs ask a cluster for, and the device that estimates are made for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fewstep.config.base import Count, Index, Spec

Positive = Annotated[float, Field(gt=0)]

Stage = Literal[
    "prepare",
    "train",
    "pairs",
    "rank",
    "search",
    "trace",
    "trajectories",
    "sample",
    "timing",
    "score",
]
"""Jobs of an experiment whose resources can be set; `pairs` at the teacher."""

Share = Annotated[float, Field(gt=0, le=1)]


class RuleResources(Spec):
    """Resources of one kind of job, instead of the estimated ones (null: estimated)."""

    runtime: Count | None = None
    """Minutes."""
    mem_mb: Count | None = None
    """Main memory in MB."""
    gpu: Index | None = None
    """GPUs; not of `train`, where `train.gpus` says it."""
    gpu_model: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] | None = None
    """Type of GPU, as `--gres=gpu:MODEL:N` names it."""


Resources = dict[Stage, RuleResources]


class HardwareSpec(Spec):
    """The GPU that estimates of time are made for, and that models shall fit into."""

    name: str = "A100-80GB"
    """What it is called in reports."""
    memory_gb: Positive = 80.0
    """Memory, in 10^9 bytes."""
    tflops_bf16: Positive = 312.0
    """Dense bfloat16, in 10^12 operations a second."""
    tflops_tf32: Positive = 156.0
    """The same in TF32, in which PyTorch computes convolutions of float32."""
    tflops_fp32: Positive = 19.5
    """The same in float32."""
    bandwidth_gb: Positive = 2039.0
    """Memory bandwidth, in 10^9 bytes a second."""
    efficiency: Share = 0.4
    """Share of these speeds that is assumed to be reached."""
    launch_us: Positive = 8.0
    """Microseconds of one kernel launch, PyTorch's own work for it among them."""
    slice_hours: Count = 24
    """Longest time that a job asks for; longer ones go on after it."""
    margin: Annotated[float, Field(ge=1)] = 2.0
    """Time that a job asks for, over what it is estimated to take."""
