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
