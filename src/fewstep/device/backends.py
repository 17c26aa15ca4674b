"""The kinds of device, and what each does in its own way.

`Backend` is a CPU, and what holds for any kind that torch itself knows (mps, meta). The
two TPU kinds are written from the sources of torch-tpu 0.2.0 and torch-xla 2.9; neither
has ever run here (docs/howto.md, "… compute on a TPU").
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fewstep.device.host import free_bytes, physical_bytes
from fewstep.errors import UserError


class Backend:
    """The CPU.

    Attributes:
        compiles_shapes: whether the first use of every new shape costs a compilation.
        replays: whether `replayable` makes one launch of a step.
        lower_right: whether attention after a prefix is told a causal mask by name.
    """

    compiles_shapes = False
    replays = False
    lower_right = False

    def count(self) -> int | None:
        """Devices that processes of one machine may share out; None: not known."""
        return None

    def open(self, name: str) -> torch.device:
        """The device of this process, tried out."""
        try:
            device = torch.device(name)
            probe(device)
        except (RuntimeError, AssertionError) as error:
            raise UserError(
                f"device {name!r} is not available ({str(error).splitlines()[0]})",
                where="FEWSTEP_DEVICE",
                expected="cpu, cuda, cuda:N, tpu or xla",
            ) from error
        return device

    def label(self, device: torch.device) -> str | None:  # noqa: ARG002
        """The accelerator's name; None for a CPU."""
        return None

    def driver(self) -> str | None:
        """The version of the accelerator's driver or runtime."""
        return None

    def has_bf16(self, device: torch.device) -> bool:
        """Whether it computes in bfloat16; what only imitates it does not."""
        return device.type != "cpu" or cpu_has_bf16()

    def synchronise(self, device: torch.device) -> None:
        """Wait for all that was asked of it."""

    def mark_step(self, device: torch.device) -> None:
        """Let a device that gathers operations begin with those it has."""

    def replayable(self, step: Callable[[], object]) -> Callable[[], object]:
        """A call that does what the step does, with as few launches as can be."""
        return step

    def free_memory(self, device: torch.device) -> int | None:
        """Bytes that this process may still take; None: not known."""
        return free_bytes() if device.type == "cpu" else None

    def total_memory(self, device: torch.device) -> int | None:
        """Bytes of the whole device; None: not known."""
        return physical_bytes() if device.type == "cpu" else None

    def peak_memory(self, device: torch.device) -> int | None:  # noqa: ARG002
        """Peak bytes since the start or `reset_peak`; None: ask the host."""
        return None

    def reset_peak(self, device: torch.device) -> bool:  # noqa: ARG002
        """Let the peak start anew; False where the device keeps none."""
        return False

    def empty_cache(self, device: torch.device) -> None:
        """Give back memory that is kept for later."""

    @contextmanager
    def fork_rng(self, device: torch.device) -> Iterator[None]:  # noqa: ARG002
        """Draws inside leave torch's generators as they were."""
        with torch.random.fork_rng([]):
            yield

    def seed(self, value: int, device: torch.device) -> None:  # noqa: ARG002
        """Seed torch's generators."""
        torch.manual_seed(value)

    def group(self) -> tuple[str, dict[str, Any]]:
        """Back end and further arguments of the process group."""
        return "gloo", {}

    def before_launch(self, processes: int, nodes: int) -> None:
        """What the parent of the processes of one job must do, before they start."""


class Cuda(Backend):
    """NVIDIA, and AMD by torch's ROCm builds."""

    replays = True
    lower_right = True

    def count(self) -> int | None:
        return torch.cuda.device_count()

    def open(self, name: str) -> torch.device:
        if name == "cuda":
            name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        device = super().open(name)
        torch.cuda.set_device(device)
        return device

    def label(self, device: torch.device) -> str | None:
        if not torch.cuda.is_available():
            return None
        return str(torch.cuda.get_device_name(device))

    def driver(self) -> str | None:
        """The NVIDIA driver's version, None where nvidia-smi is not there."""
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=20, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.split("\n", maxsplit=1)[0].strip() or None

    def has_bf16(self, device: torch.device) -> bool:  # noqa: ARG002
        return bool(torch.cuda.is_bf16_supported())

    def synchronise(self, device: torch.device) -> None:
        torch.cuda.synchronize(device)

    def replayable(self, step: Callable[[], object]) -> Callable[[], object]:
        """A CUDA graph; a RuntimeError where the step cannot be recorded."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            step()  # what libraries set up at their first call cannot be recorded
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        return graph.replay

    def free_memory(self, device: torch.device) -> int | None:
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + kept)  # torch's own cache is free for this process too

    def total_memory(self, device: torch.device) -> int | None:
        return int(torch.cuda.mem_get_info(device)[1])

    def peak_memory(self, device: torch.device) -> int | None:
        return int(torch.cuda.max_memory_allocated(device))

    def reset_peak(self, device: torch.device) -> bool:
        torch.cuda.reset_peak_memory_stats(device)
        return True

    def empty_cache(self, device: torch.device) -> None:  # noqa: ARG002
        torch.cuda.empty_cache()

    @contextmanager
    def fork_rng(self, device: torch.device) -> Iterator[None]:
        with torch.random.fork_rng([device]):
            yield

    def group(self) -> tuple[str, dict[str, Any]]:
        return "nccl", {}


class Tpu(Backend):
    """A TPU by torch-tpu: device "tpu", operations run as they come.

    A process is bound to one chip by the environment that its parent prepares, so the
    device has no number.
    """

    compiles_shapes = True

    def loaded(self) -> bool:
        """Whether `import torch` has loaded torch-tpu and a chip is there."""
        return "torch_tpu" in sys.modules and self._chips()

    def count(self) -> int | None:
        self._load()
        return int(self._module.device_count())

    def open(self, name: str) -> torch.device:
        if name != "tpu":
            raise UserError(
                f"device {name!r}: a process cannot choose its chip",
                where="FEWSTEP_DEVICE",
                expected="tpu without a number",
            )
        self._load()
        return super().open(name)

    def label(self, device: torch.device) -> str | None:
        return str(self._module.get_device_name(device))

    def driver(self) -> str | None:
        """The version of libtpu."""
        try:
            return importlib.metadata.version("libtpu")
        except importlib.metadata.PackageNotFoundError:
            return None

    def synchronise(self, device: torch.device) -> None:  # noqa: ARG002
        self._module.synchronize()

    def total_memory(self, device: torch.device) -> int | None:
        try:
            return int(self._module.get_device_properties(device).total_memory)
        except RuntimeError:  # a generation that torch-tpu does not know
            return None

    @contextmanager
    def fork_rng(self, device: torch.device) -> Iterator[None]:
        state = self._module.get_rng_state(device)
        with torch.random.fork_rng([]):
            try:
                yield
            finally:
                self._module.set_rng_state(state, device)

    def group(self) -> tuple[str, dict[str, Any]]:
        return "tpu_dist", {}

    def before_launch(self, processes: int, nodes: int) -> None:
        """Addresses and topology, which every process must find in its environment."""
        self._load()
        launch = importlib.import_module("torch.tpu.distributed")
        launch.set_tpu_launch_env(nnodes=nodes, nproc_per_node=processes)

    @property
    def _module(self) -> Any:
        return torch.tpu  # type: ignore[attr-defined]

    def _chips(self) -> bool:
        module = getattr(torch, "tpu", None)
        return module is not None and bool(module.is_available())

    def _load(self) -> None:
        """Import torch-tpu, which without libtpu would abort the process."""
        for module, package in (("torch_tpu", "torch-tpu"), ("libtpu", "libtpu")):
            _require(module, package, "tpu")
        _import("torch_tpu", "tpu")
        if not self._chips():
            raise UserError(
                "device 'tpu' is not available (torch-tpu finds no chip)",
                where="FEWSTEP_DEVICE",
                expected="a machine with a TPU",
            )


class Xla(Backend):
    """A TPU by torch-xla: device "xla", operations gathered until `mark_step`."""

    compiles_shapes = True

    def open(self, name: str) -> torch.device:
        _require("torch_xla", "torch-xla", "xla")
        module = _import("torch_xla", "xla")
        number = name.partition(":")[2]
        try:
            device: torch.device = module.device(int(number) if number else None)
        except (RuntimeError, ValueError, IndexError) as error:
            raise UserError(
                f"device {name!r} is not available ({str(error).splitlines()[0]})",
                where="FEWSTEP_DEVICE",
                expected="xla or xla:N, on a machine with a TPU",
            ) from error
        return super().open(str(device))

    def label(self, device: torch.device) -> str | None:
        return str(self._core.xla_device_hw(device))

    def driver(self) -> str | None:
        """The version of torch-xla."""
        try:
            return importlib.metadata.version("torch-xla")
        except importlib.metadata.PackageNotFoundError:
            return None

    def synchronise(self, device: torch.device) -> None:  # noqa: ARG002
        self._module.sync(wait=True)
        self._core.wait_device_ops()

    def mark_step(self, device: torch.device) -> None:  # noqa: ARG002
        self._module.sync()

    def free_memory(self, device: torch.device) -> int | None:
        known = self._core.get_memory_info(device)
        return int(known["bytes_limit"]) - int(known["bytes_used"])

    def total_memory(self, device: torch.device) -> int | None:
        return int(self._core.get_memory_info(device)["bytes_limit"])

    def peak_memory(self, device: torch.device) -> int | None:
        peak = self._core.get_memory_info(device).get("peak_bytes_used")
        return None if peak is None else int(peak)

    @contextmanager
    def fork_rng(self, device: torch.device) -> Iterator[None]:
        state = self._core.get_rng_state(device)
        with torch.random.fork_rng([]):
            try:
                yield
            finally:
                self._core.set_rng_state(state, device)

    def seed(self, value: int, device: torch.device) -> None:
        torch.manual_seed(value)
        self._core.set_rng_state(value, device)

    def group(self) -> tuple[str, dict[str, Any]]:
        importlib.import_module("torch_xla.distributed.xla_backend")
        return "xla", {"init_method": "xla://"}

    @property
    def _module(self) -> Any:
        return importlib.import_module("torch_xla")

    @property
    def _core(self) -> Any:
        return importlib.import_module("torch_xla.core.xla_model")


CPU, CUDA, TPU, XLA = Backend(), Cuda(), Tpu(), Xla()
_BY_KIND = {"cuda": CUDA, "tpu": TPU, "xla": XLA}


def backend(device: torch.device | str) -> Backend:
    """What a device, or a name such as "cuda:1", belongs to."""
    kind = str(device).partition(":")[0]
    return _BY_KIND.get(kind, CPU)


def cpu_has_bf16() -> bool:
    """Whether oneDNN multiplies bfloat16 on this processor.

    Elsewhere, as on x86 without AVX-512, a convolution in bfloat16 takes 18 times as
    long as one in float32.
    """
    asked = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return asked is not None and bool(asked())


def probe(device: torch.device) -> None:
    """Make a tensor there, which tells a device that is not from one that is."""
    torch.empty(1, device=device)


def _require(module: str, package: str, kind: str) -> None:
    """The package is installed; it is not imported."""
    if module in sys.modules or importlib.util.find_spec(module) is not None:
        return
    raise UserError(
        f"device {kind!r} needs the package {package}, which is not installed",
        where="FEWSTEP_DEVICE",
        do=f"pip install {package} on the TPU's machine, or leave FEWSTEP_DEVICE out",
    )


def _import(module: str, kind: str) -> Any:
    """Import a back end; one built for another torch fails in its own many ways."""
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise UserError(
            f"device {kind!r}: importing {module} failed ({reason})",
            where="FEWSTEP_DEVICE",
            expected=f"a {module} that was made for torch {torch.__version__}",
        ) from error
