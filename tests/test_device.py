"""The one place that knows devices: choice, memory, generators, groups.

No TPU can be had here. What torch-tpu and torch-xla would be told is tested with fakes;
numbers are tested on the CPU.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

import fewstep
from fewstep import device as devices
from fewstep.device import backends, host
from fewstep.device.backends import cpu_has_bf16
from fewstep.errors import UserError
from fewstep.processes import join_group

CPU = torch.device("cpu")
PACKAGE = Path(fewstep.__file__).parent
GIB = 2**30


class Calls(list[tuple[Any, ...]]):
    """What was asked of a fake, in order."""

    def note(self, name: str, answer: Any = None) -> Callable[..., Any]:
        """A function that notes its call and gives an answer."""

        def call(*given: Any, **named: Any) -> Any:
            self.append((name, *given, *named.items()))
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


@pytest.fixture(name="calls")
def _calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """A machine without an accelerator, where a device is believed to be there."""
    monkeypatch.delenv("FEWSTEP_DEVICE", raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    calls = Calls()
    monkeypatch.setattr(backends, "probe", calls.note("probe"))
    return calls


@pytest.fixture(name="tpu")
def _tpu(monkeypatch: pytest.MonkeyPatch, calls: Calls) -> Calls:
    """A machine with four chips and torch-tpu, as `import torch` leaves it."""
    module = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 4,
        synchronize=calls.note("synchronize"),
        get_device_name=calls.note("name", "TPU v7"),
        get_device_properties=calls.note(
            "properties", SimpleNamespace(total_memory=GIB)
        ),
        get_rng_state=calls.note("get_rng_state", "before"),
        set_rng_state=calls.note("set_rng_state"),
    )
    launch = ModuleType("torch.tpu.distributed")
    launch.set_tpu_launch_env = calls.note("launch")  # type: ignore[attr-defined]
    monkeypatch.setattr(torch, "tpu", module, raising=False)
    for name in ("torch_tpu", "libtpu"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    # Torch.tpu is no package here, and `torch.tpu.distributed` is found all the same.
    monkeypatch.setitem(sys.modules, "torch.tpu", ModuleType("torch.tpu"))
    monkeypatch.setitem(sys.modules, "torch.tpu.distributed", launch)
    return calls


@pytest.fixture(name="xla")
def _xla(monkeypatch: pytest.MonkeyPatch, calls: Calls) -> Calls:
    """A machine with torch-xla."""
    memory = {"bytes_used": GIB, "bytes_limit": 16 * GIB, "peak_bytes_used": 2 * GIB}
    packages = {name: ModuleType(name) for name in XLA_MODULES}
    package, core = packages["torch_xla"], packages["torch_xla.core.xla_model"]
    vars(package)["device"] = calls.note("device", torch.device("xla:1"))
    vars(package)["sync"] = calls.note("sync")
    for name, answer in {
        "wait_device_ops": None,
        "get_memory_info": memory,
        "get_rng_state": 7,
        "set_rng_state": None,
        "xla_device_hw": "TPU",
    }.items():
        vars(core)[name] = calls.note(name, answer)
    for name, one in packages.items():
        monkeypatch.setitem(sys.modules, name, one)
    return calls


XLA_MODULES = (
    *("torch_xla", "torch_xla.core", "torch_xla.core.xla_model"),
    *("torch_xla.distributed", "torch_xla.distributed.xla_backend"),
)
XLA = torch.device("xla:1")
ANY = torch.device("privateuseone")
"""What torch calls a TPU before torch-tpu has renamed it."""


# ---- which device ----


def test_the_best_device_that_is_there(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The CPU; a TPU whose back end torch has loaded; CUDA before both."""
    assert devices.pick_device() == CPU
    request.getfixturevalue("tpu")
    opened: list[str] = []
    monkeypatch.setattr(backends.TPU, "open", opened.append)
    monkeypatch.setattr(backends.CUDA, "open", opened.append)
    devices.pick_device()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    devices.pick_device()
    assert opened == ["tpu", "cuda"]
    assert calls == [("probe", CPU)]


def test_the_environment_names_a_device_and_the_caller_another(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FEWSTEP_DEVICE comes before what is there, an argument before FEWSTEP_DEVICE."""
    monkeypatch.setenv("FEWSTEP_DEVICE", "meta")
    assert devices.pick_device() == torch.device("meta")
    assert devices.pick_device("cpu") == CPU
    assert len(calls) == 2


def test_a_process_of_torchrun_takes_its_own_gpu(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LOCAL_RANK numbers the GPU, which becomes torch's current one."""
    monkeypatch.setattr(torch.cuda, "set_device", calls.note("set_device"))
    monkeypatch.setenv("LOCAL_RANK", "3")
    gpu = torch.device("cuda:3")
    assert devices.pick_device("cuda") == gpu
    assert devices.pick_device("cuda:1") == torch.device("cuda:1")
    assert calls[:2] == [("probe", gpu), ("set_device", gpu)]


@pytest.mark.parametrize("name", ["cuda", "gpu", "cuda:x", "mps", "xpu:1"])
def test_a_device_that_is_not_there_is_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever torch says of it, the user reads what to write instead."""
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(
        UserError, match=r"^FEWSTEP_DEVICE: device .* not available"
    ) as e:
        devices.pick_device(name)
    assert "expected cpu, cuda, cuda:N, tpu or xla" in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("name", "package"),
    [("tpu", "torch-tpu"), ("xla", "torch-xla"), ("xla:0", "torch-xla")],
)
@pytest.mark.usefixtures("calls")
def test_a_missing_package_is_named(name: str, package: str) -> None:
    """Neither back end is part of the installation."""
    message = (
        f"needs the package {package}, which is not installed; pip install {package}"
    )
    with pytest.raises(UserError, match=message):
        devices.pick_device(name)


@pytest.mark.usefixtures("calls")
def test_torch_tpu_is_not_imported_without_libtpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its import would end the process without an exception."""
    (tmp_path / "torch_tpu.py").write_text("raise SystemExit(134)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="needs the package libtpu"):
        devices.pick_device("tpu")
    (tmp_path / "libtpu.py").write_text("")
    with pytest.raises(SystemExit):
        devices.pick_device("tpu")


@pytest.mark.usefixtures("calls")
def test_a_back_end_of_another_torch_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """torch-xla 2.9 beside torch 2.13 ends in an undefined symbol."""
    text = "raise ImportError('_XLAC.so: undefined symbol: _ZN5torch8autograd')"
    (tmp_path / "torch_xla.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    wanted = (
        rf"importing torch_xla failed .*undefined symbol.*torch {torch.__version__}"
    )
    with pytest.raises(UserError, match=wanted.replace("+", r"\+")):
        devices.pick_device("xla")


@pytest.mark.usefixtures("tpu")
def test_a_tpu_without_chips_and_one_with_a_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process is bound to its chip: a number is refused, and so is no chip."""
    with pytest.raises(UserError, match="cannot choose its chip; expected tpu without"):
        devices.pick_device("tpu:1")
    monkeypatch.setattr(torch.tpu, "is_available", lambda: False)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"'tpu' is not available .*finds no chip"):
        devices.pick_device("tpu")
    assert devices.pick_device() == CPU


def test_a_tpu_as_its_package_registers_it(tmp_path: Path) -> None:
    """With packages that register as torch-tpu does, device and autocast are "tpu"."""
    (tmp_path / "libtpu.py").write_text("")
    (tmp_path / "torch_tpu.py").write_text(
        textwrap.dedent("""
        import sys, types, torch
        torch.utils.rename_privateuse1_backend("tpu")
        module = types.ModuleType("torch.tpu")
        module.is_available = lambda: True
        module.device_count = lambda: 1
        module.get_amp_supported_dtype = lambda: [torch.bfloat16]
        torch._register_device_module("tpu", module)
        kernels = torch.library.Library("aten", "IMPL")
        meta = lambda size, **_: torch.empty(size, device="meta")
        kernels.impl("empty.memory_format", meta, "PrivateUse1")
    """)
    )
    code = """
        import torch
        from fewstep.device import autocast, pick_device, process_group
        device = pick_device("tpu")
        with autocast(device, "bf16"):
            on = torch.is_autocast_enabled("tpu"), torch.get_autocast_dtype("tpu")
        print(device, on, process_group(device)[0])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout == "tpu (True, torch.bfloat16) tpu_dist\n", done.stderr


def test_an_xla_device_by_number(xla: Calls) -> None:
    """torch-xla gives the device, by a number only where one was named."""
    assert devices.pick_device("xla") == XLA
    assert devices.pick_device("xla:1") == XLA
    assert [call for call in xla if call[0] == "device"] == [
        ("device", None),
        ("device", 1),
    ]


@pytest.mark.parametrize("error", [RuntimeError("no TPU\nstack"), IndexError("of 4")])
def test_an_xla_device_that_is_not_there(
    xla: Calls, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever torch-xla raises is one line."""
    monkeypatch.setattr(sys.modules["torch_xla"], "device", xla.note("device", error))
    with pytest.raises(UserError, match=r"'xla:9' is not available \((no TPU|of 4)\)"):
        devices.pick_device("xla:9")


# ---- many devices ----


@pytest.mark.usefixtures("calls")
def test_devices_of_a_machine_are_counted(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """GPUs, or chips; any number of processes share a CPU that was asked for."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert devices.device_count() == 0
    monkeypatch.setenv("FEWSTEP_DEVICE", "cpu")
    assert devices.device_count() is None
    request.getfixturevalue("tpu")
    monkeypatch.setenv("FEWSTEP_DEVICE", "tpu")
    assert devices.device_count() == 4


def test_the_parent_of_many_processes_prepares_a_tpu(
    tpu: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch-tpu's addresses and topology are set; other devices need nothing."""
    devices.before_launch(8, 4)
    assert tpu == [("launch", ("nnodes", 4), ("nproc_per_node", 8))]
    monkeypatch.setenv("FEWSTEP_DEVICE", "cpu")
    devices.before_launch(8)
    assert len(tpu) == 1


@pytest.mark.usefixtures("xla")
def test_a_process_group_suits_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """nccl on GPUs, gloo on CPUs, the back ends' own on TPUs."""
    given: list[Any] = []

    def init(backend: str, timeout: object, **further: Any) -> None:
        given.append((backend, further))

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "init_process_group", init)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    for device in (CPU, torch.device("cuda:1"), XLA):
        assert join_group(device) == (1, 2)
    assert backends.TPU.group() == ("tpu_dist", {})
    assert given == [("gloo", {}), ("nccl", {}), ("xla", {"init_method": "xla://"})]


# ---- clock, memory, generators ----


def test_only_torch_xla_marks_steps(xla: Calls) -> None:
    """Where operations are gathered they are sent off; elsewhere nothing happens."""
    for device in (CPU, torch.device("cuda:0"), torch.device("meta"), XLA):
        devices.mark_step(device)
    assert xla == [("sync",)]


def test_waiting_for_a_tpu(
    xla: Calls, tpu: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock waits for torch-xla's gathered operations, for torch-tpu and for CUDA."""
    assert xla is tpu
    devices.synchronise(CPU)
    devices.synchronise(XLA)
    assert xla == [("sync", ("wait", True)), ("wait_device_ops",)]
    backends.TPU.synchronise(ANY)
    monkeypatch.setattr(torch.cuda, "synchronize", xla.note("cuda"))
    devices.synchronise(torch.device("cuda:1"))
    assert xla[2:] == [("synchronize",), ("cuda", torch.device("cuda:1"))]


@pytest.mark.usefixtures("xla", "tpu")
def test_memory_of_a_tpu() -> None:
    """torch-xla tells all; torch-tpu the size alone, and the rest is not known."""
    assert devices.free_memory(XLA) == 15 * GIB
    assert devices.total_memory(XLA) == 16 * GIB
    assert devices.peak_memory(XLA) == 2 * GIB
    assert not devices.reset_peak_memory(XLA)
    assert backends.TPU.total_memory(ANY) == GIB
    assert backends.TPU.free_memory(ANY) is None
    assert backends.TPU.peak_memory(ANY) is None
    assert (backends.TPU.label(ANY), devices.label(XLA)) == ("TPU v7", "TPU")
    assert (backends.TPU.driver(), devices.driver(XLA)) == (None, None)


def test_memory_of_a_gpu(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch keeps for later is free for this process too."""
    gpu = torch.device("cuda:0")
    for name, answer in {
        "mem_get_info": (3 * GIB, 80 * GIB),
        "memory_reserved": 6 * GIB,
        "memory_allocated": 2 * GIB,
        "max_memory_allocated": 5 * GIB,
        "reset_peak_memory_stats": None,
        "empty_cache": None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, calls.note(name, answer))
    assert devices.free_memory(gpu) == 7 * GIB
    assert devices.total_memory(gpu) == 80 * GIB
    assert devices.peak_memory("cuda:0") == 5 * GIB
    assert devices.reset_peak_memory("cuda:0")
    devices.empty_cache(CPU)
    assert ("empty_cache",) not in calls
    devices.empty_cache(gpu)
    assert calls[-1] == ("empty_cache",)


def test_memory_of_this_machine() -> None:
    """Free memory is some of what the machine has; a CPU keeps no peak of its own."""
    free, whole = devices.free_memory(CPU), devices.total_memory(CPU)
    assert free is not None
    assert whole is not None
    assert 0 < free <= whole
    assert devices.peak_memory("cpu") is None
    assert devices.free_memory(torch.device("meta")) is None


@pytest.mark.parametrize("version", [1, 2])
def test_a_job_has_the_memory_of_its_control_group(
    version: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The least that a group above the process leaves, cached files not counted."""
    info, own = tmp_path / "meminfo", tmp_path / "cgroup"
    info.write_text("MemTotal: 64 kB\nMemAvailable:   50000 kB\n")
    own.write_text(
        "3:cpu:/x\n" + ("4:memory:/job/step\n" if version == 1 else "0::/job\n")
    )
    job = tmp_path / ("memory/job" if version == 1 else "job")
    (job / "step").mkdir(parents=True)
    names = {1: ("limit_in_bytes", "usage_in_bytes"), 2: ("max", "current")}[version]
    for name, value in zip(names, (9_000_000, 5_000_000), strict=True):
        (job / f"memory.{name}").write_text(f"{value}\n")
    cached = {1: "total_inactive_file", 2: "inactive_file"}[version]
    (job / "memory.stat").write_text(f"anon 1\n{cached} 1500000\n")
    for name, path in (("_MEMINFO", info), ("_OWN_GROUPS", own), ("_GROUPS", tmp_path)):
        monkeypatch.setattr(host, name, path)
    assert host.free_bytes() == 5_500_000
    (job / f"memory.{names[0]}").write_text("max\n")
    assert host.free_bytes() == 50_000 * 1024
    for path in (info, own):
        path.unlink()
    assert host.free_bytes() is None


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("RESOURCE_EXHAUSTED: Attempting to allocate 3.2G"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 12 bytes"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_full_memory_is_one_kind_of_error(error: Exception, full: bool) -> None:
    """Each device says it in its own words; everything else passes unchanged."""
    assert devices.is_out_of_memory(error) is full
    expected = torch.OutOfMemoryError if full else type(error)
    with pytest.raises(expected) as caught, devices.memory_errors():
        raise error
    assert caught.value is error or caught.value.__cause__ is error


def test_a_cpu_that_is_full_is_recognised() -> None:
    """torch's own message for more memory than any machine has."""
    with pytest.raises(torch.OutOfMemoryError), devices.memory_errors():
        torch.empty(2**50)


def test_draws_leave_the_generators_as_they_were(xla: Calls, tpu: Calls) -> None:
    """Of the CPU, and of a TPU by either back end; an error changes nothing in that."""
    assert xla is tpu
    before = torch.random.get_rng_state()

    def draw() -> None:
        torch.rand(3)
        raise KeyError

    for context in (
        devices.fork_rng(CPU),
        devices.fork_rng(XLA),
        backends.TPU.fork_rng(ANY),
    ):
        with pytest.raises(KeyError), context:
            draw()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert ("set_rng_state", 7, XLA) in xla
    assert ("set_rng_state", "before", ANY) in xla


def test_seeds_reach_the_device(xla: Calls) -> None:
    """One seed gives one draw; torch-xla has a generator of its own."""
    drawn = []
    with devices.fork_rng(CPU):
        for device in (CPU, XLA):
            devices.seed(11, device)
            drawn.append(torch.rand(4))
    assert torch.equal(*drawn)
    assert xla == [("set_rng_state", 11, XLA)]


# ---- precision, shapes ----


def test_a_processor_says_whether_it_multiplies_bf16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As oneDNN says; without oneDNN it does not."""
    for answer in (True, False):
        said = SimpleNamespace(_is_mkldnn_bf16_supported=lambda answer=answer: answer)
        monkeypatch.setattr(torch.ops, "mkldnn", said)
        assert cpu_has_bf16() is answer
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    assert not cpu_has_bf16()


def test_autocast_computes_in_bf16_where_the_device_can(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """bf16 on a CPU; fp32, with a warning, where bf16 is not to be had."""
    x = torch.rand(4, 4)
    for precision, kind in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with devices.autocast(CPU, precision):
            assert (x @ x).dtype == kind
    torch.testing.assert_close(
        (x.bfloat16() @ x.bfloat16()).float(), x @ x, atol=0.03, rtol=0.02
    )
    monkeypatch.setattr(devices, "has_bf16", lambda _: False)
    devices._say_once.cache_clear()
    for _ in range(3):
        with devices.autocast(CPU, "bf16"):
            assert (x @ x).dtype == torch.float32
    assert caplog.text.count("cpu has no bf16: computing in fp32") == 1
    with devices.autocast(XLA, "bf16"):
        assert not torch.is_autocast_enabled("xla")


def test_changing_shapes_are_warned_of_once_where_they_are_compiled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On a TPU, once a sampler, and not for one that declares static shapes."""
    for device, static, what in [
        *((CPU, False, "For"), (torch.device("cuda"), False, "For")),
        *((XLA, True, "Jacobi"), (XLA, False, "a test's For")),
        (XLA, False, "a test's For"),
    ]:
        with caplog.at_level(logging.WARNING):
            devices.check_shapes(device, static, what)
    (line,) = caplog.messages
    assert line.startswith("a test's For: shapes change from step to step")
    assert "xla" in line


def _with_graphs(monkeypatch: pytest.MonkeyPatch, calls: Calls, graph: Any) -> None:
    """Put a torch.cuda that notes its streams and graphs in place of the real one."""
    stream = SimpleNamespace(wait_stream=lambda other: calls.append(("wait", other)))
    main = SimpleNamespace(wait_stream=lambda other: calls.append(("wait", other)))
    for name, value in {
        "Stream": lambda: stream,
        "current_stream": lambda: main,
        "stream": lambda _: nullcontext(),
        "CUDAGraph": lambda: SimpleNamespace(replay=calls.note("replay")),
        "graph": graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)


def test_a_gpu_records_a_step_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs once for what libraries set up, is recorded, and replayed from then."""
    calls = Calls()
    _with_graphs(monkeypatch, calls, lambda _: nullcontext())
    run = devices.replayable(calls.note("step"), torch.device("cuda"))
    assert [call[0] for call in calls] == ["wait", "step", "wait", "step"]
    run()
    run()
    assert [call[0] for call in calls[4:]] == ["replay", "replay"]


def test_a_step_that_cannot_be_recorded_is_taken_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning says so; full memory is no such case."""
    devices._say_once.cache_clear()
    for error in (RuntimeError("a test's capture\nmore"), torch.OutOfMemoryError()):
        calls = Calls()
        _with_graphs(monkeypatch, calls, calls.note("graph", error))
        step = calls.note("step")
        if isinstance(error, torch.OutOfMemoryError):
            with pytest.raises(torch.OutOfMemoryError):
                devices.replayable(step, torch.device("cuda"))
            continue
        for _ in range(2):
            assert devices.replayable(step, torch.device("cuda")) is step
    assert caplog.messages == ["steps are launched one by one: a test's capture"]


# ---- the house rule ----


def test_no_other_module_knows_cuda_or_tpus() -> None:
    """Everybody asks the device module; none names a vendor's library."""
    words = ("torch.cuda", "torch_xla", "torch_tpu", "torch.tpu", '"nccl"', "libtpu")
    for path in PACKAGE.rglob("*.py"):
        if path.parent != PACKAGE / "device":
            text = path.read_text()
            assert not [word for word in words if word in text], path
