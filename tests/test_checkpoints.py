"""Reading foreign checkpoints safely and writing our own."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from fewstep import checkpoints
from fewstep.errors import UserError

CPU = torch.device("cpu")


class Evil:
    """Runs a command when it is unpickled without care."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("pwned",)


def test_a_pickle_with_code_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that would execute code is refused in one line."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match=r"evil\.pth.*cannot be read"):
        checkpoints.read_state_dict("evil.pth")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_broken_and_missing_files_are_one_line(tmp_path: Path, name: str) -> None:
    """Truncated and absent checkpoints name the file."""
    with pytest.raises(UserError, match="not found"):
        checkpoints.read_state_dict(tmp_path / name)
    (tmp_path / name).write_bytes(b"\x80\x02broken")
    with pytest.raises(UserError, match="cannot be read"):
        checkpoints.read_state_dict(tmp_path / name)


def test_only_tensors_are_a_state_dict(tmp_path: Path) -> None:
    """A pickle of something else is refused."""
    torch.save({"epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="not a state dict"):
        checkpoints.read_state_dict(tmp_path / "a.pth")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    """Tensors and manifest survive; the manifest stands beside the file too."""
    path = tmp_path / "model.safetensors"
    tensors = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.ones(1).half()}
    checkpoints.write_state_dict(path, tensors, {"steps": 5})
    read = checkpoints.read_state_dict(path)
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert checkpoints.read_manifest(path) == {"steps": 5}
    assert '"steps": 5' in path.with_suffix(".json").read_text()


def test_loading_names_the_tensor_that_does_not_fit() -> None:
    """Missing, extra and misshapen tensors are each named."""
    model = nn.Linear(2, 2)
    good = model.state_dict()
    for change, message in (
        ({"weight": torch.zeros(3, 2)}, r"weight: shape \(3, 2\)"),
        ({"more": torch.zeros(1)}, "more: shape"),
    ):
        with pytest.raises(UserError, match=message):
            checkpoints.load_weights(model, {**good, **change}, "file")
    with pytest.raises(UserError, match="bias: absent"):
        checkpoints.load_weights(model, {"weight": good["weight"]}, "file")


def test_half_precision_weights_become_the_model_s_type() -> None:
    """An asset in half precision loads into a float32 model."""
    model = nn.Linear(2, 2)
    halves = {name: value.half() for name, value in model.state_dict().items()}
    checkpoints.load_weights(model, halves, "file")
    assert model.weight.dtype == torch.float32


def test_a_model_takes_the_tensors_themselves() -> None:
    """Assigned weights are not copied, and those that do not fit are named."""
    tensors = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
    with checkpoints.unfilled():
        model = torch.nn.Linear(3, 2)
    checkpoints.assign_weights(model, tensors, "x.pth", CPU)
    assert model.weight.data_ptr() == tensors["weight"].data_ptr()
    assert model.weight.requires_grad
    other = {**tensors, "weight": torch.ones(3, 3)}
    with pytest.raises(UserError, match=r"x.pth: tensor weight: shape \(3, 3\)"):
        checkpoints.assign_weights(model, other, "x.pth", CPU)


def test_a_cpu_s_weights_lie_where_it_reads_fast() -> None:
    """Tensors that start in the middle of a cache line are copied to a whole one."""
    whole = torch.arange(32.0)
    tensors = {"weight": whole[2:8].view(2, 3), "bias": whole[16:18]}
    model = torch.nn.Linear(3, 2)
    checkpoints.assign_weights(model, tensors, "x.pth", CPU)
    assert torch.equal(model.weight, tensors["weight"])
    assert model.weight.data_ptr() % 64 == 0
    assert model.bias.data_ptr() == tensors["bias"].data_ptr()


def test_models_without_values_draw_no_random_numbers() -> None:
    """Inside `unfilled` the initial weights cost no random number, outside they do."""
    before = torch.get_rng_state()
    with checkpoints.unfilled():
        torch.nn.Linear(3, 2)
        torch.nn.Conv2d(3, 2, 3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.nn.Linear(3, 2)
    assert not torch.equal(torch.get_rng_state(), before)


def test_a_file_stays_what_it_is(tmp_path: Path) -> None:
    """Tensors are mapped, not copied; writing to them changes no file."""
    tensors = {"a": torch.arange(4.0)}
    torch.save(tensors, tmp_path / "x.pth")
    checkpoints.write_state_dict(tmp_path / "x.safetensors", tensors, {})
    for name in ("x.pth", "x.safetensors"):
        before = (tmp_path / name).read_bytes()
        found = checkpoints.read_state_dict(tmp_path / name)
        found["a"].add_(1)
        assert torch.equal(found["a"], tensors["a"] + 1)
        assert (tmp_path / name).read_bytes() == before
