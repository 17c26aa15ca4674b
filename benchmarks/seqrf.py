"""Following a flow's velocity beside RectifiedFlow: the same weights, noise and NFE.

    python benchmarks/seqrf.py --original PATH        # 3 minutes on one thread
    python benchmarks/seqrf.py --original PATH gpu    # CIFAR-10's own size, for a GPU

The original: https://github.com/gnobitab/RectifiedFlow (folder ImageGeneration). Its
RK45 is SciPy's on the whole batch as one vector, as our `error_norm: batch` is: both
make the same steps. Weights are random, from a seed; no file is read. The widths of the
layers are those of CIFAR-10's model (nf 128), with one residual block a level for four.

The original's compiled FIR filter (`op`) is left out, as CIFAR-10's model has none; so
are the modules that it only draws progress and pictures with. `error` is the largest
difference of a pixel between both programs.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from benchmarks.common import Job, Row, main, row, versus
from torch import Tensor, nn

from fewstep.device import synchronise
from fewstep.seqrf import integrate, reflow_pairs
from fewstep.seqrf.flow import compile_network
from fewstep.seqrf.model import Architecture, NCSNpp
from fewstep.seqrf.ode import ErrorNorm

TOL = 1e-5
EULER_STEPS = 10
OURS, EACH, ORIGINAL = "fewstep", "fewstep, own steps for each image", "original"
SWIFT = "fewstep, compiled"
_FOLDER = "ImageGeneration"
_LEFT_OUT = ("op", "torchvision", "matplotlib", "matplotlib.pyplot", "tqdm")


@dataclass(frozen=True)
class Case:
    """What is drawn.

    Attributes:
        nf: channels at full resolution.
        blocks: residual blocks a level.
        batch: images.
    """

    nf: int = 128
    blocks: int = 1
    batch: int = 4

    def __str__(self) -> str:
        return f"DDPM++ 32x32, nf {self.nf}, {self.blocks} block(s), batch {self.batch}"

    @property
    def architecture(self) -> Architecture:
        """CIFAR-10's, but for the sizes of this case."""
        return Architecture(
            image_size=32,
            nf=self.nf,
            ch_mult=(1, 2, 2, 2),
            num_res_blocks=self.blocks,
            attn_resolutions=(16,),
            init_scale=1.0,  # the published 0 starts at a velocity of nothing
        )

    def model(self, device: torch.device) -> NCSNpp:
        """A network with random weights, as smooth in time as a trained one.

        The features of time go up to 1 rad a label, 999 rad a path. Training has them
        heard where they help; random weights hear all, and RK45 would need thousands
        of evaluations instead of about 100. So what is faster than 3 rad a path is
        damped, and the velocity is of the size of data minus noise.
        """
        torch.manual_seed(0)
        model = NCSNpp(self.architecture)
        last, count = f"all_modules.{len(model.all_modules) - 1}", self.nf // 2
        rate = 999 * torch.exp(-math.log(10000) / (count - 1) * torch.arange(count))
        heard = (3 / rate).clamp(max=1).repeat(2)
        with torch.no_grad():
            model.get_parameter("all_modules.0.weight").mul_(heard)
            model.get_parameter(f"{last}.weight").mul_(0.3)
        return model.to(device).eval()

    def noise(self, device: torch.device) -> Tensor:
        """(B, 3, 32, 32)."""
        generator = torch.Generator().manual_seed(1)
        return torch.randn(self.batch, 3, 32, 32, generator=generator).to(device)


# -- the original -----------------------------------------------------------------


@contextmanager
def left_out() -> Iterator[None]:
    """Empty modules in place of those that sampling does not need."""
    before = {name: sys.modules.get(name) for name in _LEFT_OUT}
    for name in _LEFT_OUT:
        empty = ModuleType(name)
        vars(empty).update(upfirdn2d=None, tqdm=None, pyplot=None)
        sys.modules[name] = empty
    try:
        yield
    finally:
        for name, module in before.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module


class Original:
    """RectifiedFlow's program with the weights of a case.

    Args:
        case: what is drawn.
        job: knows the checkout and the device.
    """

    def __init__(self, case: Case, job: Job) -> None:
        if job.checkout is None:
            sys.exit("this part times the original program: give --original PATH")
        program = replace(job.checkout, path=job.checkout.path / _FOLDER)
        with left_out():
            self.sampling, self.flows = program("sampling"), program("sde_lib")
            networks = program("models.ncsnpp")
        self.shape, self.device = (case.batch, 3, 32, 32), job.device
        model = networks.NCSNpp(_configuration(case)).to(job.device).eval()
        model.load_state_dict(case.model(job.device).state_dict())
        self.model: nn.Module = model

    def sampler(self, method: str, steps: int) -> Callable[[Tensor], tuple[Any, int]]:
        """Noise to samples and NFE, by "rk45" or "euler"."""
        flow = self.flows.RectifiedFlow(
            use_ode_sampler=method, ode_tol=TOL, sample_N=steps
        )
        draw = self.sampling.get_rectified_flow_sampler(
            flow, self.shape, lambda x: x, self.device
        )
        return lambda noise: draw(self.model, noise)


def _configuration(case: Case) -> Any:
    """The original's configuration of a case, its unused keys included."""
    arch = case.architecture
    fixed = {
        "resamp_with_conv": True,
        "conditional": True,
        "resblock_type": "biggan",
        "progressive_combine": "sum",
        "nonlinearity": "swish",
    }
    return SimpleNamespace(
        model=SimpleNamespace(**asdict(arch), **fixed),
        data=SimpleNamespace(image_size=32, num_channels=3, centered=True),
        training=SimpleNamespace(continuous=False, sde="rectified_flow"),
    )


# -- the parts --------------------------------------------------------------------


def rk45(job: Job) -> list[Row]:
    """Our RK45 and SciPy's, at the same tolerance."""
    return _rk45(job, Case(), "seqrf_rk45")


def gpu(job: Job) -> list[Row]:
    """The same with CIFAR-10's own network, also compiled."""
    case = Case(blocks=4, batch=64)
    swift = case.model(job.device)
    compile_network(swift)
    return _rk45(job, case, "seqrf_rk45_cifar10", swift)


def _rk45(job: Job, case: Case, name: str, swift: NCSNpp | None = None) -> list[Row]:
    """A row for each norm of the error; `swift`: also for the compiled network."""
    model, noise = case.model(job.device), case.noise(job.device)
    theirs = Original(case, job).sampler("rk45", 1)
    found: dict[str, Any] = {}

    def draw(rival: str, net: NCSNpp, norm: ErrorNorm) -> Callable[[], None]:
        def call() -> None:
            found[rival] = integrate(
                net, noise, tol=TOL, error_norm=norm, time_factor="released"
            )

        return call

    def reference() -> None:
        found[ORIGINAL] = theirs(noise)

    calls = {OURS: draw(OURS, model, "batch"), EACH: draw(EACH, model, "sample")}
    rivals = {OURS: "", EACH: "_sample"}
    if swift is not None:
        calls[SWIFT] = draw(SWIFT, swift, "batch")
        rivals[SWIFT] = "_compiled"
    clocks = job.race(calls | {ORIGINAL: reference})
    samples, nfe = found[ORIGINAL]
    rows = []
    for ours, suffix in rivals.items():
        mine = found[ours]
        more = {"nfe": mine.nfe, "partner_nfe": nfe, "tolerance": TOL}
        error = float((mine.samples - samples).abs().max())
        what = f"{case}, {mine.nfe:g} NFE for {nfe}"
        rows.append(
            versus(
                name + suffix, clocks, ours, ORIGINAL, error=error, what=what, **more
            )
        )
    return rows


def euler(job: Job) -> list[Row]:
    """Fixed steps of both programs: the network and next to nothing else."""
    case = Case()
    model, noise = case.model(job.device), case.noise(job.device)
    theirs = Original(case, job).sampler("euler", EULER_STEPS)
    found: dict[str, Tensor] = {}

    def ours() -> None:
        found[OURS] = integrate(model, noise, solver="euler", steps=EULER_STEPS).samples

    def reference() -> None:
        found[ORIGINAL] = theirs(noise)[0]

    clocks = job.race({OURS: ours, ORIGINAL: reference})
    error = float((found[OURS] - found[ORIGINAL]).abs().max())
    what = f"{case}, {EULER_STEPS} steps"
    return [versus("seqrf_euler", clocks, OURS, ORIGINAL, error=error, what=what)]


class Timed(nn.Module):
    """A network that counts the seconds in it."""

    def __init__(self, net: NCSNpp, device: torch.device) -> None:
        super().__init__()
        self.net, self.device, self.seconds = net, device, 0.0

    def forward(self, x: Tensor, label: Tensor, index: Any) -> Tensor:
        """As the network itself."""
        synchronise(self.device)
        before = time.process_time()
        found: Tensor = self.net(x, label, index)
        synchronise(self.device)
        self.seconds += time.process_time() - before
        return found


def pairs(job: Job) -> list[Row]:
    """What of making reflow pairs is not the network."""
    case = replace(Case(), nf=64, batch=16)
    net = Timed(case.model(job.device), job.device).eval()
    data, noise = case.noise(job.device).tanh(), case.noise(job.device)
    segment = torch.arange(case.batch) % 4
    shares: list[float] = []

    def make() -> None:
        net.seconds, before = 0.0, time.process_time()
        reflow_pairs(net, data, noise, segment=segment, segments=4, tol=1e-4)
        synchronise(job.device)
        shares.append(100 * (1 - net.seconds / (time.process_time() - before)))

    job.race({OURS: make})
    share = sorted(shares)[len(shares) // 2]
    what = f"{case}, 4 segments, tolerance 1e-4"
    unit = "% outside of the network"
    return [row("seqrf_pairs", share, unit, "at most", 5.0, what=what)]


PARTS = {"rk45": rk45, "euler": euler, "pairs": pairs, "gpu": gpu}

if __name__ == "__main__":
    main(
        "seqrf",
        __doc__,
        PARTS,
        marker=f"{_FOLDER}/sampling.py",
        default=("rk45", "euler", "pairs"),
        packages=("torch", "scipy"),
    )
