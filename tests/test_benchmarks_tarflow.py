"""The TarFlow benchmark: its flows, its strategies, and its parts in miniature."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from benchmarks import roofline, tarflow, tarflow_models
from benchmarks.common import Job, Row
from benchmarks.tarflow_models import Flow, jacobi
from benchmarks.tarflow_original import Lists, Released, fastest, smallest
from torch import Tensor, nn

from fewstep.tarflow import Strategy, TarFlow, reverse

CPU = torch.device("cpu")
TINY = {
    **tarflow_models.MIDDLE,
    "img_size": 8,
    "channels": 64,
    "num_blocks": 3,
    "layers_per_block": 1,
}


class Model(TarFlow):
    """Stands for the original program's model: the same arguments and results."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        for number, block in enumerate(self.flows):
            block.reverse = Tough(self, number)

    def reverse(self, z: Tensor, y: Tensor, **given: Any) -> Tensor:
        lists = [given[f"{key}_list"] for key in ("num_GS", "max_jacobi", "guess")]
        return reverse(
            self,
            z,
            y,
            strategy=Strategy.from_lists(*lists),
            guidance=given["guidance"],
            guide_what=given["guide_what"],
            mode="released",
            tol=given["ebound"],
        )


class Tough(nn.Module):
    """A block's own inverse, as the original's blocks have it."""

    def __init__(self, model: Model, number: int) -> None:
        super().__init__()
        self.of = [model], number  # in a list: not a part of this module

    def forward(self, z: Tensor, y: Tensor, **given: Any) -> Tensor:
        (model,), number = self.of
        one = TarFlow(**{**TINY, "num_blocks": number + 1}).eval()
        for copy, block in zip(one.flows, model.flows, strict=True):
            copy.load_state_dict(block.state_dict())
        # All other blocks are the identity.
        for copy in one.flows[:-1]:
            copy.proj_out.weight.data.zero_()
            copy.proj_out.bias.data.zero_()
        strategy = Strategy.from_lists(
            [given["num_GS"], *[0] * number], [given["max_jacobi"], *[1] * number]
        )
        images = reverse(
            one,
            z,
            y,
            strategy=strategy,
            guidance=given["guidance"],
            mode="released",
            tol=given["ebound"],
        )
        return one.patchify(images)


@pytest.fixture(scope="module")
def flow() -> Flow:
    """A tiny shaped flow: T = 16, three blocks."""
    return tarflow_models.shaped(TINY, CPU, iterations=(4, 5, 9))


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job whose original is the stand-in."""
    module = ModuleType("stand_in")
    module.Model = Model  # type: ignore[attr-defined]
    monkeypatch.setattr(Job, "original", lambda *_: module)
    return Job(None, 1, 1, CPU)


def test_blocks_converge_as_wanted(flow: Flow) -> None:
    """Each block needs its number of iterations, the tough one two more or fewer."""
    assert flow.iterations[:2] == (4, 5)
    assert abs(flow.iterations[2] - 9) <= 2
    assert flow.tough == 2
    assert "Jacobi in 4/5/" in flow.name


def test_shaped_flows_are_the_same_each_time(flow: Flow) -> None:
    """The weights are decided by the seed alone."""
    again = tarflow_models.shaped(TINY, CPU, iterations=(4, 5, 9))
    for name, value in flow.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name


def test_the_counting_solver_is_exact(flow: Flow) -> None:
    """Jacobi as it counts here ends where For does, block by block."""
    z, y = flow.noise(2, 5)
    x = z
    for block in reversed(flow.model.flows):
        x, _ = jacobi(block, x, y, flow.guidance.weight)
    exact = reverse(flow.model, z, y, guidance=flow.guidance.weight)
    assert float((flow.model.unpatchify(x) - exact).abs().max()) < 1e-4


def test_noise_is_a_matter_of_seed_and_number(flow: Flow) -> None:
    """A sample does not depend on the batch; nothing comes near ±3."""
    many, labels = flow.noise(5, 1)
    few, _ = flow.noise(2, 1)
    assert torch.equal(many[:2], few)
    assert not torch.equal(many[:2], flow.noise(2, 2)[0])
    assert float(many.abs().max()) <= 2.5
    assert labels.tolist() == [0, 1, 2, 3, 4]


def test_strategies_as_the_original_takes_them(flow: Flow) -> None:
    """Position 0 of the lists is the last block, which is the tough one here."""
    strategy = Lists(flow, segments=8, jacobi=32, other=10)
    assert str(strategy) == "[2-8-32-10]"
    assert strategy.lists() == {
        "num_GS_list": [8, 1, 1],
        "max_jacobi_list": [32, 10, 10],
        "guess_list": [0, 0, 0],
    }
    assert str(Lists(flow)) == "For"
    assert Lists(flow).lists()["num_GS_list"] == [0, 0, 0]
    assert str(Lists(flow, segments=0, jacobi=1, other=6)) == "[2-16-1-6]"


@pytest.mark.parametrize("least", range(1, 9))
def test_smallest_count_by_halving(least: int) -> None:
    """It is the first of the counts that is enough; none may be."""
    counts = (2, 3, 5, 7)
    wanted = next((n for n in counts if n >= least), None)
    assert smallest(counts, lambda n: n >= least) == wanted
    assert smallest((), lambda _: True) is None


def clocked(call: Any) -> tuple[float, Tensor]:
    """A clock by which all calls are equally fast."""
    return 1.0, call()


@pytest.mark.parametrize("tolerance", [1e-3, 1e-12])
def test_best_strategy_of_the_original(flow: Flow, job: Job, tolerance: float) -> None:
    """It is within the tolerance; where none is, about as accurate as any."""
    released = Released(job.original("any"), flow)
    z, y = flow.noise(2, 3)
    exact = released(z, y, Lists(flow))
    found = fastest(released, z, y, exact, clocked, tolerance)
    images = released(z, y, found.strategy)
    assert float((images - exact).abs().max()) == found.error
    assert found.error <= max(tolerance, 1e-5)
    assert found.strategy.other > 0


def names(rows: list[Row]) -> set[str]:
    return {row["name"] for row in rows}


@pytest.fixture
def small(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts on the tiny flow and small batches."""
    monkeypatch.setattr(tarflow, "FLOWS", {"tarflow": lambda _: flow})
    monkeypatch.setattr(tarflow, "middle", lambda _: flow)
    monkeypatch.setattr(tarflow_models, "shaped", lambda *_: flow)
    monkeypatch.setattr(tarflow, "BATCHES", (1, 2))
    monkeypatch.setattr(tarflow, "GPU_BATCHES", (2,))
    monkeypatch.setattr(tarflow, "WINDOWS", (2, 4))
    monkeypatch.setattr(tarflow, "CALIBRATION", 4)
    monkeypatch.setattr(roofline, "rates", lambda *_: (1e11, 1e10))


@pytest.mark.usefixtures("small")
def test_for_and_auto_in_miniature(job: Job) -> None:
    """Every row is there; For is exact, auto as good as four samples could tell."""
    rows = tarflow.for_(job)
    assert names(rows) == {"tarflow_for_b1", "tarflow_for_b2"}
    assert all(row["error"] < 1e-4 for row in rows)
    rows = tarflow.auto(job)
    partners = ("for", "gsj", "own_for")
    assert names(rows) == {
        f"tarflow_auto_b{batch}_vs_{partner}"
        for batch in (1, 2)
        for partner in partners
    }
    for row in rows:
        assert row["error"] <= 3 * tarflow.TOLERANCE
        assert row["strategy"].startswith("fewstep ")
        assert flow_name(row)


def flow_name(row: Row) -> bool:
    """Whether the row says which flow it is about."""
    return "random, Jacobi in" in row["what"]


@pytest.mark.usefixtures("small")
def test_windows_in_miniature(job: Job) -> None:
    """A row a width and batch, within the tolerance."""
    rows = tarflow.windows(job)
    assert names(rows) == {
        f"tarflow_window{width}_b{batch}" for width in (2, 4) for batch in (1, 2)
    }
    assert all(row["error"] <= tarflow.TOLERANCE for row in rows)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("part", ["gpu", "gpu-bf16"])
def test_gpu_parts_in_miniature(
    job: Job, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs on a GPU runs here, small: each of ours against both originals."""
    compiled: list[TarFlow] = []
    monkeypatch.setattr(tarflow, "compile_blocks", compiled.append)
    precision = {"gpu": "fp32", "gpu-bf16": "bf16"}[part]
    rows = tarflow.PARTS[part](job)
    assert names(rows) == {
        f"tarflow_gpu_{precision}_{kind}_b2_vs_{partner}"
        for kind in ("for", "window", "auto", "for_compiled", "auto_compiled")
        for partner in ("for", "gsj")
    }
    assert len(compiled) == 2
    for row in rows:
        assert row["roofline"] > 0
        assert row["precision"] == precision
        assert row["error"] <= (3e-3 if part == "gpu" else 1.0)


def test_roofline_counts_the_larger_of_work_and_traffic(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row a step is bound by the weights' traffic, many rows by their products."""
    monkeypatch.setattr(roofline, "rates", lambda *_: (1e12, 1e12))
    steps, tokens = [15, 15, 15], [15, 15, 15]
    slow = roofline.floor(flow.model, 1, steps, tokens)
    monkeypatch.setattr(roofline, "rates", lambda *_: (1e12, 2e12))
    assert roofline.floor(flow.model, 1, steps, tokens) == pytest.approx(slow / 2)
    monkeypatch.setattr(roofline, "rates", lambda *_: (2e9, 1e18))
    weights = sum(p.numel() for p in flow.model.flows[0].parameters() if p.dim() == 2)
    work = 3 * 15 * (weights + 2 * 64 * 8)
    assert roofline.floor(flow.model, 4, steps, tokens) == pytest.approx(4e-9 * work)


def test_rates_are_measured() -> None:
    """A product and a copy have a rate on this machine."""
    flops, traffic = roofline.rates(CPU, torch.float32)
    assert flops > 1e6
    assert traffic > 1e6
