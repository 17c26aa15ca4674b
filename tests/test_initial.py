"""What a run starts from: averaged weights and Adam's moments."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fewstep.initial import InitialState, initial_average, set_moments


class Net(nn.Module):
    """One trained and one frozen parameter, and a buffer."""

    offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 3))
        self.frozen = nn.Parameter(torch.full((4,), 2.0), requires_grad=False)
        self.register_buffer("offset", torch.full((1,), 3.0))


def test_average_takes_what_is_given_and_the_rest_from_the_model() -> None:
    """An average that names trained parameters alone keeps buffers of the model."""
    net, given = Net(), {"weight": torch.full((2, 3), 5.0)}
    average = initial_average(net, given)
    assert {name: float(v.flatten()[0]) for name, v in average.items()} == {
        "weight": 5.0,
        "frozen": 2.0,
        "offset": 3.0,
    }
    average["weight"].zero_()
    assert torch.equal(net.weight, torch.ones(2, 3))
    assert float(given["weight"].min()) == 5


def test_without_an_average_it_is_the_weights() -> None:
    """The default average is a copy of the model."""
    average = initial_average(Net(), None)
    assert torch.equal(average["weight"], torch.ones(2, 3))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "ema: weight is missing"),
        ({"weight": torch.ones(2, 3), "x": torch.ones(1)}, "ema: x is unknown"),
        ({"weight": torch.ones(3)}, r"ema: weight is \(3,\), expected \(2, 3\)"),
    ],
)
def test_an_average_of_another_model_is_refused(
    given: dict[str, Tensor], message: str
) -> None:
    """A name too few or too many, or a shape that would broadcast, is an error."""
    with pytest.raises(ValueError, match=message):
        initial_average(Net(), given)


def moments(value: float) -> dict[str, Tensor]:
    return {"weight": torch.full((2, 3), value)}


def test_moments_become_adamw_s_own() -> None:
    """AdamW's next step is the one of an optimiser that has made the steps before."""
    net = Net()
    first = torch.optim.AdamW([net.weight], lr=0.1)
    for _ in range(3):
        net.weight.grad = torch.arange(6.0).reshape(2, 3)
        first.step()
    other = Net()
    other.load_state_dict(net.state_dict())
    second = torch.optim.AdamW(other.parameters(), lr=0.1)
    state = first.state[net.weight]
    given = InitialState(
        exp_avg={"weight": state["exp_avg"]}, exp_avg_sq={"weight": state["exp_avg_sq"]}
    )
    set_moments(second, other, given, count=3)
    for own, optimizer in ((net, first), (other, second)):
        own.weight.grad = torch.ones(2, 3)
        optimizer.step()
    assert torch.equal(net.weight, other.weight)


def test_a_count_of_the_moments_wins_over_the_recipe_s() -> None:
    """`adam_count` is for moments whose steps differ from the schedule's."""
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters())
    given = InitialState(exp_avg=moments(0.1), exp_avg_sq=moments(0.2), adam_count=7)
    set_moments(optimizer, net, given, count=3)
    assert float(optimizer.state[net.weight]["step"]) == 7
    assert net.frozen not in optimizer.state


def test_no_moments_leave_adamw_at_zero() -> None:
    """Without moments the counter does not start at the offset."""
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters())
    set_moments(optimizer, net, InitialState(), count=800_001)
    assert not optimizer.state


def test_one_moment_alone_is_refused() -> None:
    """Both moments are given or none."""
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters())
    with pytest.raises(ValueError, match="both or none"):
        set_moments(optimizer, net, InitialState(exp_avg=moments(1.0)), count=0)
    wrong = InitialState(exp_avg=moments(1.0), exp_avg_sq={"weight": torch.ones(1)})
    with pytest.raises(ValueError, match="exp_avg_sq: weight is"):
        set_moments(optimizer, net, wrong, count=0)
