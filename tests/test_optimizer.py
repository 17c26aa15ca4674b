"""The optimiser: what decays, and loading what another run saved."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fewstep.initial import InitialState
from fewstep.optimizer import adamw, load_optimizer
from fewstep.recipe import TrainOptions
from fewstep.training import PreemptedError, train

OPTIONS = TrainOptions(
    steps=6, batch=4, lr=0.1, weight_decay=0.5, decay="matrices", save_every=2
)


class Net(nn.Module):
    """A vector before two matrices, one of them an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Parameter(torch.ones(3))
        self.embedding = nn.Embedding(4, 3)
        self.linear = nn.Linear(3, 2)


class Sums:
    """Fits the sums of embedded numbers; may be told to stop."""

    def __init__(self, stop_at: int = -1) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = Net()
        self.stop_at = stop_at

    def batch(self, step: int, start: int, stop: int) -> Tensor:
        return torch.arange(step + start, step + stop) % 4

    def loss(self, model: nn.Module, batch: Tensor, device: torch.device) -> Tensor:
        assert isinstance(model, Net)
        self.stop_at -= 1
        if self.stop_at == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        out: Tensor = model.linear(model.embedding(batch) * model.norm)
        return (out.sum(-1) - batch).square().mean()

    def validate(self, model: nn.Module, device: torch.device) -> float | None:
        return None


def decayed(options: TrainOptions) -> set[str]:
    """Names of the parameters that a step without gradient makes smaller."""
    net = Net()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(1.0)
    optimizer = adamw(net, options)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return {name for name, p in net.named_parameters() if float(p.detach().max()) < 1}


def test_matrices_alone_decay_where_that_is_the_recipe() -> None:
    """Matrices and embeddings decay, vectors do not; without the option all do."""
    assert decayed(OPTIONS) == {"embedding.weight", "linear.weight"}
    assert decayed(replace(OPTIONS, decay="all")) == set(dict(Net().named_parameters()))


def test_a_model_of_matrices_alone_has_an_empty_group() -> None:
    """The groups are there and in their order, whatever the model holds."""
    groups = adamw(nn.Linear(2, 2, bias=False), OPTIONS).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [
        (1, 0.5),
        (0, 0.0),
    ]


def test_a_run_with_groups_resumes_to_the_same_bits(tmp_path: Path) -> None:
    """Moments find their parameters again although groups reorder these."""
    whole, _ = train(Sums(), OPTIONS, tmp_path / "one", key="k")
    with pytest.raises(PreemptedError):
        train(Sums(stop_at=3), OPTIONS, tmp_path / "two", key="k")
    rest, _ = train(Sums(), OPTIONS, tmp_path / "two", key="k")
    assert all(torch.equal(rest[name], whole[name]) for name in whole)


def test_imported_moments_reach_their_parameters(tmp_path: Path) -> None:
    """Moments that push one parameter alone move it far, in whatever group it is."""
    for pushed, _ in Net().named_parameters():
        moments = {n: torch.zeros_like(p) for n, p in Sums().model.named_parameters()}
        moments[pushed] += 1e6
        ones = {name: torch.ones_like(value) for name, value in moments.items()}
        start = InitialState(exp_avg=moments, exp_avg_sq=ones, adam_count=100)
        options = replace(OPTIONS, steps=1, start_lr=0.1)
        kept, _ = train(Sums(), options, tmp_path / pushed, key="k", initial=start)
        far = {name for name, value in kept.items() if float(value.abs().max()) > 100}
        assert far == {pushed}


def test_how_another_run_updated_is_not_loaded() -> None:
    """`foreach` of a sharded run stays in its own file; rates come from it."""
    net = Net()
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    first, second = adamw(net, OPTIONS), adamw(net, OPTIONS)
    first.step()
    state = first.state_dict()
    for group in state["param_groups"]:
        group["foreach"], group["lr"] = True, 0.25
    load_optimizer(second, state)
    assert [group["foreach"] for group in second.param_groups] == [None, None]
    assert [group["lr"] for group in second.param_groups] == [0.25, 0.25]
    assert len(second.state_dict()["state"]) == 4
