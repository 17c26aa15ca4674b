"""For in steps of one shape: the same images, and steps that can be recorded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fewstep.device import backends, replayable
from fewstep.tarflow import TarFlow, invert
from fewstep.tarflow.corrected import Learned
from fewstep.tarflow.guidance import UNGUIDED, Guidance
from fewstep.tarflow.inverse import make_evaluator
from fewstep.tarflow.replay import solve_replayed
from fewstep.tarflow.solve import solve_exact
from fewstep.tarflow.strategy import BlockPlan, Strategy

NOISE = torch.randn(3, 16, 12, generator=torch.Generator().manual_seed(5))
LABELS = torch.tensor([0, 2, -1])
FOR = BlockPlan(0)


class Calls(TorchDispatchMode):
    """Notes every operation with the tensors' shapes and whatever else it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = [
            tuple(leaf.shape) if isinstance(leaf, Tensor) else leaf
            for leaf in tree_leaves((args, kwargs))
        ]
        self.seen.append(f"{func} {given}")
        return func(*args, **(kwargs or {}))


class Graph(TorchDispatchMode):
    """A CUDA graph's way on a CPU: operations on tensors at fixed places, no Python."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        more = kwargs or {}
        self.nodes.append((func, args, more, func(*args, **more)))
        return self.nodes[-1][-1]

    def replay(self) -> None:
        """The same operations once more; each result goes where its first one lies."""
        for func, args, kwargs, kept in self.nodes:
            new = func(*args, **kwargs)
            for old, now in zip(tree_leaves(kept), tree_leaves(new), strict=True):
                if isinstance(old, Tensor) and _memory(old) != _memory(now):
                    old.copy_(now)  # else it is a view, or was changed in place


def _memory(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


@pytest.mark.parametrize("part", [1, 5, 15, 128])
@pytest.mark.parametrize("guidance", [UNGUIDED, Guidance(1.5, "ac", 0.7, True)])
def test_recorded_steps_are_those_of_for(
    tiny: TarFlow, guidance: Guidance, part: int
) -> None:
    """However long the parts are, tokens and counts are those of the solver's For."""
    block = tiny.flows[1]
    z = block.ordered(NOISE)
    with torch.inference_mode():
        plain = make_evaluator(block, LABELS, z, guidance, cached=True)
        expected = solve_exact(plain, z, FOR)
        evaluate = make_evaluator(block, LABELS, z, guidance, cached=True)
        found = solve_replayed(evaluate, z, part)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    assert (evaluate.steps, evaluate.evaluations) == (plain.steps, plain.evaluations)


def test_a_step_can_be_recorded(tiny: TarFlow, monkeypatch: pytest.MonkeyPatch) -> None:
    """All steps of a part are the same operations, none of which asks the device."""
    steps: list[list[str]] = []

    def watched(step: Any, device: torch.device) -> Any:
        def call() -> None:
            with Calls() as calls:
                step()
            steps.append(calls.seen)

        return call

    monkeypatch.setattr("fewstep.tarflow.replay.replayable", watched)
    # The CPU's own way for a single query leaves torch; a GPU has none.
    monkeypatch.setattr("fewstep.tarflow.frozen._by_numpy", lambda _: False)
    block, z = tiny.flows[0], tiny.flows[0].ordered(NOISE)
    evaluate = make_evaluator(block, LABELS, z, Guidance(1.5), cached=True)
    solve_replayed(evaluate, z, 8)
    assert len(steps) == 15
    for part in (steps[:8], steps[8:]):
        assert len({tuple(one) for one in part}) == 1
    asked = [one for one in steps[0] if "_local_scalar_dense" in one]
    assert not asked


@pytest.mark.parametrize("guidance", [UNGUIDED, Guidance(1.5, "ac", 0.7, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operations_recorded_once_invert_a_block(
    tiny: TarFlow,
    dtype: torch.dtype,
    guidance: Guidance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Replayed on the same memory they give For: Python has no part in a step."""
    recorded: list[Graph] = []

    def record(step: Any, device: torch.device) -> Any:
        graph = Graph()
        with graph:
            step()
        recorded.append(graph)
        return graph.replay

    monkeypatch.setattr("fewstep.tarflow.replay.replayable", record)
    # A CPU's own kernels leave torch; a GPU has none.
    monkeypatch.setattr("fewstep.tarflow.frozen._by_numpy", lambda _: False)
    monkeypatch.setattr("fewstep.tarflow.frozen._packs", lambda _: False)
    block, z = tiny.flows[1], tiny.flows[1].ordered(NOISE)
    with torch.inference_mode():
        plain, evaluate = (
            make_evaluator(block, LABELS, z, guidance, cached=True, dtype=dtype)
            for _ in range(2)
        )
        expected = solve_exact(plain, z, FOR)
        found = solve_replayed(evaluate, z, 6)
    assert len(recorded) == 3
    tolerance = 2e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def test_steps_that_recording_took_do_no_harm(
    tiny: TarFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device may run a step before it replays it; the images stay the same."""

    def records(step: Any) -> Any:
        step()
        step()
        return step

    expected = invert(tiny, NOISE, LABELS, guidance=Guidance(1.5)).images
    monkeypatch.setattr(backends.CPU, "replays", True)
    monkeypatch.setattr(backends.CPU, "replayable", records)
    found = invert(tiny, NOISE, LABELS, guidance=Guidance(1.5))
    torch.testing.assert_close(found.images, expected, atol=5e-5, rtol=0)
    assert found.steps == [15, 15, 15]


def test_a_front_is_replayed_and_iterations_follow(
    tiny: TarFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device that records steps a front has the same images and counts."""
    front = BlockPlan(1, 7, corrected=True, front=8)
    weights = torch.zeros(7, 144, 24)
    known = {number: Learned(weights=weights) for number in range(3)}
    given = {"strategy": Strategy((front,) * 3, 16), "learned": known}
    expected = invert(tiny, NOISE, LABELS, guidance=Guidance(1.5), **given)
    monkeypatch.setattr(backends.CPU, "replays", True)
    found = invert(tiny, NOISE, LABELS, guidance=Guidance(1.5), **given)
    torch.testing.assert_close(found.images, expected.images, atol=5e-5, rtol=0)
    assert found.steps == expected.steps == [15, 15, 15]
    assert found.evaluations == expected.evaluations


def test_whoever_looks_at_each_token_gets_each(
    tiny: TarFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sampling trace of For sees all its steps on a device that records them, too."""
    monkeypatch.setattr(backends.CPU, "replays", True)
    seen: list[tuple[int, int]] = []
    invert(
        tiny,
        NOISE,
        LABELS,
        on_iteration=lambda block, segment, k, _: seen.append((block, segment + k)),
    )
    assert len(set(seen)) == 3 * 15


def test_a_cpu_takes_the_step_itself() -> None:
    """Where nothing can be recorded a step is what it was."""
    step = [].clear
    assert replayable(step, torch.device("cpu")) is step


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_a_gpu_replays_what_a_cpu_computes(tiny: TarFlow) -> None:
    """For by CUDA graphs equals For on the CPU, at one sample and at three."""
    gpu, guidance = torch.device("cuda"), Guidance(1.5)
    expected = invert(tiny, NOISE, LABELS, guidance=guidance).images
    there = tiny.to(gpu)
    try:
        for count in (1, 3):
            noise, labels = NOISE[:count].to(gpu), LABELS[:count].to(gpu)
            found = invert(there, noise, labels, guidance=guidance).images.cpu()
            torch.testing.assert_close(found, expected[:count], atol=1e-3, rtol=0)
    finally:
        tiny.to("cpu")
