"""A run's checkpoint: read without a copy of it, and let go of afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewstep import training_state
from fewstep.training_state import TrainState, resume, save

CPU = torch.device("cpu")


def fresh(seed: int) -> tuple[nn.Linear, torch.optim.AdamW]:
    """A model and its optimiser with two steps behind them."""
    torch.manual_seed(seed)
    model = nn.Linear(64, 64)
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(2):
        model(torch.randn(8, 64)).square().mean().backward()
        optimizer.step()
    return model, optimizer


def tensors(model: nn.Module, optimizer: torch.optim.Optimizer, ema: Any) -> Any:
    """All tensors of a run by name."""
    found = {**model.state_dict(), **{f"ema {name}": v for name, v in ema.items()}}
    for number, values in optimizer.state_dict()["state"].items():
        found |= {f"{number} {name}": value for name, value in values.items()}
    return found


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    """A checkpoint, and copies of what is in it."""
    model, optimizer = fresh(0)
    ema = {name: value.detach() + 1 for name, value in model.state_dict().items()}
    save(tmp_path / "last.pt", "k", model, optimizer, TrainState(2, ema))
    whole = tensors(model, optimizer, ema)
    return tmp_path / "last.pt", {name: v.clone() for name, v in whole.items()}


def test_a_checkpoint_is_mapped(
    saved: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process reads the whole file into its memory, sharded or not."""
    asked: list[dict[str, Any]] = []
    load = torch.load

    def listen(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs)
        return load(*args, **kwargs)

    monkeypatch.setattr(training_state.torch, "load", listen)
    assert resume(saved[0], "k", *fresh(1), CPU) is not None
    (kwargs,) = asked
    assert kwargs["mmap"] is True and kwargs["weights_only"] is True


def test_a_resumed_run_does_not_rest_on_the_file(
    saved: tuple[Path, dict[str, Tensor]],
) -> None:
    """Weights, average and moments keep their values when the file changes in place."""
    path, expected = saved
    model, optimizer = fresh(1)
    state = resume(path, "k", model, optimizer, CPU)
    assert state is not None
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)
    found = tensors(model, optimizer, state.ema)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_a_resumed_run_leaves_the_file_alone(saved: tuple[Path, Any]) -> None:
    """Steps after a resume write into memory of their own."""
    path, before = saved[0], saved[0].read_bytes()
    model, optimizer = fresh(1)
    state = resume(path, "k", model, optimizer, CPU)
    assert state is not None
    model(torch.ones(1, 64)).sum().backward()
    optimizer.step()
    for value in state.ema.values():
        value.add_(1)
    assert path.read_bytes() == before
