"""The inverse of a TarFlow beside the released GS-Jacobi program.

    python benchmarks/tarflow.py --original PATH             # for and auto, one thread
    python benchmarks/tarflow.py --original PATH --repeats 1 auto-b16 windows
    python benchmarks/tarflow.py --original PATH --repeats 1 gpu gpu-bf16  # on a GPU

PATH is a checkout of https://github.com/encoreus/GS-Jacobi_for_TarFlow. Both programs
get the same weights, noise, labels and guidance. The error is the largest difference
of any value of an image from the original program's For, which is exact. The fastest
strategy of the original is looked for on the noise of the clock itself; that of fewstep
on other noise, once, before the clock starts.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import roofline, tarflow_models
from benchmarks.clock import once
from benchmarks.common import Job, Row, main, versus
from benchmarks.tarflow_models import Flow
from benchmarks.tarflow_original import MARKER, MODULE, Lists, Released, fastest

from fewstep.device import autocast
from fewstep.tarflow import BlockPlan, Inversion, Strategy, block_metrics
from fewstep.tarflow.case import SearchOptions
from fewstep.tarflow.sampler import TarFlowSampler, compile_blocks
from fewstep.tarflow.search import search

TOLERANCE = 1e-3
BF16_TOLERANCE = 2e-2
"""Of the search in bfloat16: For itself is no better there."""
BATCHES = (1, 16)
GPU_BATCHES = (1, 8, 128)
WINDOWS = (8, 16, 32, 64)
CALIBRATION = 48
"""Samples that the search measures errors on."""
_CLOCKED, _CALIBRATED, _HELD_OUT = 3, 1, 2  # seeds of the noise
FOR = "original For"


@dataclass
class Bench:
    """One flow at one batch size, with what its rivals gave.

    Attributes:
        flow: the flow.
        job: what the part is told.
        batch: samples at once.
        precision: of fewstep and, as autocast, of the original.
        images: last result of each rival.
        inversions: counts of fewstep's rivals.
        exact: images of the exact inverse; those of the original's For if None.
    """

    flow: Flow
    job: Job
    batch: int
    precision: str = "fp32"
    images: dict[str, Tensor] = field(default_factory=dict)
    inversions: dict[str, Inversion] = field(default_factory=dict)
    exact: Tensor | None = None

    def __post_init__(self) -> None:
        self.z, self.y = self.flow.noise(self.batch, _CLOCKED)
        self.released = Released(self.job.original(MODULE), self.flow)

    def sampler(self, strategy: Strategy | None = None) -> TarFlowSampler:
        """Fewstep's sampler of a strategy (None: For)."""
        model = self.flow.model
        sequential = Strategy.sequential(len(model.flows), model.tokens)
        return TarFlowSampler(
            model,
            strategy or sequential,
            self.flow.guidance,
            precision=self.precision,
        )

    def original(self, strategy: Lists) -> Callable[[], Tensor]:
        """The original program as a rival; its images are kept."""
        name = f"original {strategy}"

        def call() -> Tensor:
            with autocast(self.job.device, self.precision):
                self.images[name] = self.released(self.z, self.y, strategy).float()
            return self.images[name]

        return call

    def ours(self, name: str, sampler: TarFlowSampler) -> Callable[[], Tensor]:
        """A sampler of fewstep as a rival; its images and counts are kept."""

        def call() -> Tensor:
            self.inversions[name] = sampler.invert(self.z, self.y)
            self.images[name] = self.inversions[name].images
            return self.images[name]

        return call

    def error(self, name: str) -> float:
        """Largest difference of a rival's images from the exact ones."""
        exact = self.images[FOR] if self.exact is None else self.exact
        return float((self.images[name] - exact).abs().max())

    def clocked(self, call: Callable[[], Tensor]) -> tuple[float, Tensor]:
        """Seconds of one call, as `race` counts them, and its result."""
        found: list[Tensor] = []
        cpu, wall = once(lambda: found.append(call()), self.job.device)
        of_cpu = self.job.threads == 1 and self.job.device.type == "cpu"
        return cpu if of_cpu else wall, found[0]

    def rows(
        self,
        calls: Mapping[str, Callable[[], object]],
        pairs: Mapping[str, tuple[str, str]],
        **what: str,
    ) -> list[Row]:
        """Race; a row for each (ours, partner), by its name."""
        clocks = self.job.race(calls)
        rows = []
        for name, (ours, partner) in pairs.items():
            row = versus(
                name,
                clocks,
                ours,
                partner,
                error=self.error(ours),
                partner_error=self.error(partner),
                what="; ".join([self.flow.name, *what.values()]),
                batch=self.batch,
                precision=self.precision,
            )
            rows.append(row | {key: text for key, text in what.items() if text})
        return rows

    def share(self, name: str, seconds: float) -> float:
        """Share of the roofline that a rival of fewstep reached."""
        made = self.inversions[name]
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        least = roofline.floor(
            self.flow.model, 2 * self.batch, made.steps, made.evaluations, dtype
        )
        return least / seconds


def planned(bench: Bench) -> tuple[TarFlowSampler, str]:
    """What fewstep's search finds at a batch size, on noise of its own; in words."""
    flow, count = bench.flow, max(bench.batch, CALIBRATION)
    calibration = flow.noise(count, _CALIBRATED)
    sampler = bench.sampler()
    z, y = calibration
    metrics = block_metrics(flow.model, sampler.invert(z[:8], y[:8]).images, y[:8])
    result = search(
        sampler,
        calibration,
        flow.noise(count, _HELD_OUT),
        metrics.igm.tolist(),
        [flow.tough],
        SearchOptions(
            tolerance=TOLERANCE if bench.precision == "fp32" else BF16_TOLERANCE,
            batch=bench.batch,
        ),
    )
    sampler = bench.sampler(result.strategy)
    sampler.learned = result.learned
    return sampler, f"fewstep {result.strategy}"


def compare(bench: Bench, prefix: str, strategy: Lists | None = None) -> list[Row]:
    """Original For and GS-Jacobi, fewstep's For and what its search found.

    Args:
        bench: the flow and the batch.
        prefix: of the rows' names.
        strategy: of the original; None: the fastest, which is looked for.
    """
    if strategy is None:
        exact = bench.sampler().invert(bench.z, bench.y).images  # as exact, and sooner
        found = fastest(
            bench.released, bench.z, bench.y, exact, bench.clocked, TOLERANCE
        )
        strategy = found.strategy
    auto, plan = planned(bench)
    gsj = f"original {strategy}"
    calls = {
        FOR: bench.original(Lists(bench.flow)),
        gsj: bench.original(strategy),
        "fewstep For": bench.ours("fewstep For", bench.sampler()),
        "fewstep auto": bench.ours("fewstep auto", auto),
    }
    pairs = {
        f"{prefix}_vs_for": ("fewstep auto", FOR),
        f"{prefix}_vs_gsj": ("fewstep auto", gsj),
        f"{prefix}_vs_own_for": ("fewstep auto", "fewstep For"),
    }
    return bench.rows(calls, pairs, strategy=plan)


def auto_untuned(job: Job) -> list[Row]:
    """Sixteen images, T = 256, beside [7-256-1-7] without looking for a faster one."""
    bench = Bench(middle(job.device), job, 16)
    return compare(bench, "tarflow_auto_b16", Lists(bench.flow, 0, 1, 7))


@cache
def middle(device: torch.device) -> Flow:
    """T = 256, width 256, 8 blocks of 4 layers, random, which converges as trained."""
    return tarflow_models.shaped(tarflow_models.MIDDLE, device)


@cache
def demo(device: torch.device) -> Flow:
    """The demo's trained flow, T = 64."""
    return tarflow_models.demo(device)


FLOWS = {"tarflow": middle, "tarflow_demo": demo}


def for_(job: Job) -> list[Row]:
    """For against For."""
    rows = []
    for prefix, flow in FLOWS.items():
        for batch in BATCHES:
            bench = Bench(flow(job.device), job, batch)
            calls = {
                FOR: bench.original(Lists(bench.flow)),
                "fewstep For": bench.ours("fewstep For", bench.sampler()),
            }
            pairs = {f"{prefix}_for_b{batch}": ("fewstep For", FOR)}
            rows += bench.rows(calls, pairs)
    return rows


def auto(job: Job, batches: Sequence[int] | None = None) -> list[Row]:
    """What the search finds against the original's For and best GS-Jacobi."""
    rows = []
    for prefix, flow in FLOWS.items():
        for batch in batches or BATCHES:
            bench = Bench(flow(job.device), job, batch)
            rows += compare(bench, f"{prefix}_auto_b{batch}")
    return rows


def auto_one(job: Job) -> list[Row]:
    """One image at a time."""
    return auto(job, [1])


def auto_many(job: Job) -> list[Row]:
    """Sixteen images at a time: half an hour on one thread."""
    return auto(job, [16])


def windows(job: Job) -> list[Row]:
    """Windows of each width against For, fewstep both."""
    rows = []
    for batch in BATCHES:
        bench = Bench(middle(job.device), job, batch)
        bench.exact = bench.sampler().invert(bench.z, bench.y).images
        calls = {"fewstep For": bench.ours("fewstep For", bench.sampler())}
        pairs = {}
        for width in WINDOWS:
            name = f"fewstep window {width}"
            calls[name] = bench.ours(name, windowed(bench, width))
            pairs[f"tarflow_window{width}_b{batch}"] = (name, "fewstep For")
        rows += bench.rows(calls, pairs)
    return rows


def windowed(bench: Bench, width: int) -> TarFlowSampler:
    """The same sliding window on every block, a quarter of the tolerance in each."""
    model = bench.flow.model
    plan = BlockPlan(window=width, tol=TOLERANCE / 4)
    return bench.sampler(Strategy((plan,) * len(model.flows), model.tokens))


def swift(sampler: TarFlowSampler) -> TarFlowSampler:
    """The same sampler with compiled blocks."""
    model = copy.deepcopy(sampler.model)
    compile_blocks(model)
    return replace(sampler, model=model)


def gpu(job: Job, precision: str = "fp32") -> list[Row]:
    """The architecture published for AFHQ, with the strategy published for it."""
    flow = tarflow_models.shaped(tarflow_models.AFHQ, job.device)
    rows = []
    for batch in GPU_BATCHES:
        bench = Bench(flow, job, batch, precision)
        published = Lists(flow, segments=8, jacobi=32, other=10)
        gsj = f"original {published}"
        auto_sampler, plan = planned(bench)
        ours = {"for": bench.sampler(), "auto": auto_sampler}
        ours |= {f"{kind}_compiled": swift(one) for kind, one in ours.items()}
        ours["window"] = windowed(bench, WINDOWS[1])
        if precision == "bf16":  # the exact inverse has no part in the race
            exact = Bench(flow, job, batch)
            bench.exact = exact.sampler().invert(bench.z, bench.y).images
        calls = {
            FOR: bench.original(Lists(flow)),
            gsj: bench.original(published),
        } | {
            f"fewstep {kind}": bench.ours(f"fewstep {kind}", s)
            for kind, s in ours.items()
        }
        prefix = f"tarflow_gpu_{precision}"
        pairs = {
            f"{prefix}_{kind}_b{batch}_vs_{short}": (f"fewstep {kind}", partner)
            for kind in ours
            for short, partner in (("for", FOR), ("gsj", gsj))
        }
        found = bench.rows(calls, pairs, strategy=plan)
        for row, (name, _) in zip(found, pairs.values(), strict=True):
            row["roofline"] = bench.share(name, row["value"])
            row["what"] += f"; {row['roofline']:.0%} of the roofline"
        rows += found
    return rows


def gpu_bf16(job: Job) -> list[Row]:
    """The same in bfloat16 autocast, as the original's scripts run it."""
    return gpu(job, "bf16")


PARTS = {
    "for": for_,
    "auto": auto,
    "auto-b1": auto_one,
    "auto-b16": auto_many,
    "auto-b16-untuned": auto_untuned,
    "windows": windows,
    "gpu": gpu,
    "gpu-bf16": gpu_bf16,
}

if __name__ == "__main__":
    main("tarflow", __doc__, PARTS, marker=MARKER, default=["for", "auto"])
