"""A sampler that declares static shapes has them, whatever number of steps it takes.

A TPU compiles every operation of every new shape. So a draw of more steps must bring no
operation of a shape that a draw of fewer steps has not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fewstep import checkpoints
from fewstep.device import backends
from fewstep.par.decoding import Guidance
from fewstep.par.sampler import ParSampler
from fewstep.sampling import Sampler
from fewstep.seqrf.flow import Flow, build_model
from fewstep.seqrf.sampler import FlowSampler, load_sampler
from fewstep.seqrf.segments import Segments
from fewstep.tarflow.sampler import TarFlowSampler
from fewstep.tarflow.strategy import BlockPlan, Strategy
from tests.par import tiny
from tests.par.random_models import transformer
from tests.seqrf.conftest import TINY_FLOW
from tests.tarflow.conftest import random_model

Shapes = set[tuple[str, tuple[tuple[int, ...], ...]]]
HEAVY = ("aten.mm", "aten.bmm", "aten.addmm", "aten.convolution", "attention")
"""Operations whose compilation takes time, in the middle of a draw."""


class Watch(TorchDispatchMode):
    """Notes each operation with the shapes of what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Shapes = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = [
            leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)
        ]
        self.seen.add((str(func), tuple(tuple(one.shape) for one in given)))
        return func(*args, **(kwargs or {}))


def shapes(sampler: Sampler) -> Shapes:
    """Operations and shapes of a draw of three images."""
    inputs = sampler.inputs(0, [0, 1, 2], None)
    with Watch() as watch:
        sampler.draw(inputs)
    return watch.seen


def tarflow(iterations: int, segments: int = 1, mode: str = "exact") -> Sampler:
    """Jacobi with so many iterations, or segments of the sequence."""
    plan = BlockPlan(segments, iterations, 0)
    strategy = Strategy((plan,) * 3, 16)
    return TarFlowSampler(random_model(), strategy, mode=mode)  # type: ignore[arg-type]


def flow(steps: int, solver: str = "euler", segments: int = 2) -> Sampler:
    """A fixed-step solver over equal segments."""
    torch.manual_seed(0)
    model = build_model(TINY_FLOW, segments).eval()
    return FlowSampler(Flow(model, Segments.of(segments), "exact"), solver, steps)  # type: ignore[arg-type]


def par(grid: int) -> Sampler:
    """PAR, four tokens a step."""
    gpt = transformer(grid, 4, vocab_size=32)
    return ParSampler(gpt, tiny.model().eval(), Guidance(1.5))


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(tarflow, id="jacobi"),
        pytest.param(lambda n: tarflow(n, mode="released"), id="jacobi-released"),
        pytest.param(flow, id="euler"),
        pytest.param(lambda n: flow(n, "heun"), id="heun"),
        pytest.param(lambda n: flow(n, "heun_released"), id="heun-released"),
    ],
)
def test_declared_static_shapes_are_static(make: Callable[[int], Sampler]) -> None:
    """Three times the steps bring no operation of a new shape."""
    few, many = make(4), make(12)
    assert few.static_shapes  # type: ignore[attr-defined]
    assert many.static_shapes  # type: ignore[attr-defined]
    short = shapes(few)
    assert any(word in name for name, _ in short for word in HEAVY)
    # The grid of times, one-dimensional and as long as the path, is the host's.
    new = shapes(many) - short
    assert [one for one in new if any(len(shape) > 1 for shape in one[1])] == []


def test_samplers_that_do_not_declare_them_have_a_reason() -> None:
    """For and windows see a growing cache, and so does PAR; rk45 drops samples."""
    for sampler in (tarflow(1, segments=0), tarflow(4, segments=4), par(4)):
        assert not sampler.static_shapes  # type: ignore[attr-defined]
        heavy = {one for one in shapes(sampler) if any(w in one[0] for w in HEAVY)}
        attended = {one[1] for one in heavy if "attention" in one[0]}
        assert len({given[1][-2] for given in attended}) > 2
    adaptive = FlowSampler(flow(4).flow, "rk45", tol=1e-3)  # type: ignore[attr-defined]
    assert not adaptive.static_shapes


def test_a_sampler_with_changing_shapes_is_warned_of_when_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Only on a device that compiles, only for rk45, in one line."""
    monkeypatch.setenv("FEWSTEP_DEVICE", "cpu")
    torch.manual_seed(0)
    weights = build_model(TINY_FLOW, 1).state_dict()
    path = tmp_path / "model.safetensors"
    about = {"edges": [1.0, 0.0], "time_factor": "exact"}
    checkpoints.write_state_dict(path, weights, about)
    sampling = {"precision": "fp32", "compile": False}
    common = {"mode": None, "error_norm": "sample", "sampling": sampling}
    spec = {"model": TINY_FLOW, "segments": 1, **common}
    kinds = [{"solver": "rk45", "tol": 1e-2, "steps": None}]
    kinds += [{"solver": "euler", "steps": 2, "tol": None}]
    with caplog.at_level(logging.WARNING):
        for compiles in (False, True):
            monkeypatch.setattr(backends.CPU, "compiles_shapes", compiles)
            for kind in kinds:
                load_sampler({**spec, **kind}, path, None)
    (line,) = caplog.messages
    assert line.startswith("rk45: shapes change from step to step")
