"""RectifiedFlow's training checkpoints: names, safety, the k-headed variant."""

from __future__ import annotations

import os
import re
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fewstep.errors import UserError
from fewstep.seqrf.checkpoint import (
    check_fits,
    read_rectified_flow,
    split_heads,
    weights,
)
from fewstep.seqrf.model import NCSNpp
from tests.seqrf.conftest import CHECKPOINT

Golden = Callable[[str], dict[str, Any]]


class Evil:
    """Runs a command when it is unpickled without care."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("pwned",)


def training_file(state: dict[str, Tensor], frozen: tuple[str, ...] = ()) -> Any:
    """What RectifiedFlow's training would save of these weights, with known numbers.

    The average of a trainable tensor w is w + 1, its moments w + 2 and w + 3.
    """
    names = [name for name in state if name != "sigmas"]
    trained = [name for name in names if name not in frozen]
    adam = {
        names.index(name): {
            "step": 7,
            "exp_avg": state[name] + 2,
            "exp_avg_sq": state[name] + 3,
        }
        for name in trained
    }
    group = {"lr": np.float64(1e-4), "params": list(range(len(names)))}
    return {
        "optimizer": {"state": adam, "param_groups": [group]},
        "model": OrderedDict((f"module.{k}", v) for k, v in state.items()),
        "ema": {
            "decay": 0.999,
            "num_updates": 7,
            "shadow_params": [state[name] + 1 for name in trained],
        },
        "step": 9,
    }


def saved(content: Any, folder: Path) -> Path:
    """The file of a content."""
    torch.save(content, folder / "checkpoint.pth")
    return folder / "checkpoint.pth"


@pytest.fixture(scope="module")
def small() -> dict[str, Tensor]:
    """Names and order as in a Fourier network, with a NIN's trained `W`."""
    return {
        "sigmas": torch.ones(5, dtype=torch.float64),
        "all_modules.0.W": torch.full((4,), 2.0),
        "all_modules.1.weight": torch.arange(12.0).view(3, 4),
        "all_modules.1.bias": torch.arange(3.0),
        "all_modules.2.NIN_0.W": torch.arange(6.0).view(2, 3),
    }


FROZEN = ("all_modules.0.W",)


# What is read


@pytest.mark.parametrize("which", ["model", "ema"])
def test_a_published_kind_of_file_gives_the_published_outputs(
    golden_seqrf: Golden, which: str
) -> None:
    """Raw and averaged weights, loaded strictly, reproduce the original's outputs."""
    case = golden_seqrf("rf_checkpoint_cifar_tiny_expect")
    found = read_rectified_flow(CHECKPOINT)
    model = NCSNpp.from_flat_config(case["config"]).eval()
    check_fits(model, weights(found, which), str(CHECKPOINT))  # type: ignore[arg-type]
    with torch.no_grad():
        out = model(case["x"], case["t"])
    wanted = case[f"out_{which}"]
    error = (out - wanted).abs().amax(dim=(1, 2, 3))
    assert (error <= 2e-5 * wanted.abs().amax(dim=(1, 2, 3))).all()


def test_names_and_counts_are_the_file_s(golden_seqrf: Golden) -> None:
    """Every tensor gets the original's name; counts and the decay are read."""
    case = golden_seqrf("rf_checkpoint_cifar_tiny_expect")
    found = read_rectified_flow(CHECKPOINT)
    assert list(found.model) == ["sigmas", *case["param_names"]]
    assert list(found.ema) == case["ema_names"]
    assert list(found.exp_avg) == list(found.exp_avg_sq) == case["param_names"]
    assert (found.step, found.num_updates) == (case["step"], case["num_updates"])
    assert (found.adam_step, found.ema_decay) == (3, 0.999999)


def test_adam_s_moments_are_those_of_the_original(golden_seqrf: Golden) -> None:
    """The moments that the original's next step starts from are found by name."""
    case = golden_seqrf("train_reflow_k3")
    found = read_rectified_flow(CHECKPOINT)
    time_names = [
        f"all_modules.{i}.{part}" for i in (0, 1) for part in ("weight", "bias")
    ]
    for kind in ("exp_avg", "exp_avg_sq"):
        split = split_heads(getattr(found, kind), time_names, 3)
        same = [torch.equal(split[name], wanted) for name, wanted in case[kind].items()]
        assert same and all(same)


def test_a_fourier_network_s_frozen_matrix_has_no_average(
    golden_seqrf: Golden, tmp_path: Path
) -> None:
    """Average and moments skip the Fourier matrix; the weights to load have it."""
    case = golden_seqrf("ncsnpp_church_a")
    state = case["state_dict"]
    found = read_rectified_flow(saved(training_file(state, FROZEN), tmp_path))
    trained = [name for name in state if name not in ("sigmas", *FROZEN)]
    assert list(found.ema) == list(found.exp_avg) == list(found.exp_avg_sq) == trained
    for name in trained:
        assert torch.equal(found.ema[name], state[name] + 1)
        assert torch.equal(found.exp_avg[name], state[name] + 2)
        assert torch.equal(found.exp_avg_sq[name], state[name] + 3)
    averaged = weights(found)
    assert list(averaged) == list(state)
    assert all(torch.equal(averaged[name], state[name]) for name in ("sigmas", *FROZEN))
    model = NCSNpp.from_flat_config(case["config"]).eval()
    check_fits(model, weights(found, "model"), "file")
    with torch.no_grad():
        out = model(case["x"], case["t"])
    error = (out - case["out"]).abs().amax(dim=(1, 2, 3))
    assert (error <= 2e-5 * case["out"].abs().amax(dim=(1, 2, 3))).all()


@pytest.mark.parametrize("version", ["numpy._core", "numpy.core"])
def test_a_numpy_number_is_read_under_both_of_its_names(
    small: dict[str, Tensor], tmp_path: Path, version: str
) -> None:
    """A learning rate pickled by numpy 1 or numpy 2 does not stop the reading."""
    path = tmp_path / "checkpoint.pth"
    # The old format is one pickle, in which a name can be changed.
    torch.save(training_file(small, FROZEN), path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    assert data.count(b"numpy._core.multiarray\n") == 1
    path.write_bytes(
        data.replace(b"numpy._core.multiarray\n", f"{version}.multiarray\n".encode())
    )
    assert read_rectified_flow(path).adam_step == 7


# Files that are refused


def test_a_pickle_with_code_does_not_run(
    small: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that would run code is refused in one line that names the code."""
    monkeypatch.chdir(tmp_path)
    content = training_file(small, FROZEN)
    content["optimizer"]["param_groups"][0]["lr"] = Evil()
    path = saved(content, tmp_path)
    with pytest.raises(UserError, match=r"refused: .*mkdir") as caught:
        read_rectified_flow(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("value", [np.ones(2), np.float32(1), re.compile("x")])
def test_nothing_beyond_the_list_is_read(
    small: dict[str, Tensor], tmp_path: Path, value: object
) -> None:
    """A numpy array, another numpy type or any other object is refused."""
    content = {**training_file(small, FROZEN), "more": value}
    with pytest.raises(UserError, match=r"refused: |cannot be read"):
        read_rectified_flow(saved(content, tmp_path))


def test_the_allowance_ends_with_the_reading() -> None:
    """After a reading, plain safe loading is as strict as before."""
    # As sets: they are kept as one, whose order is not the list's.
    before = set(torch.serialization.get_safe_globals())
    read_rectified_flow(CHECKPOINT)
    assert set(torch.serialization.get_safe_globals()) == before


def test_missing_and_truncated_files_are_one_line(tmp_path: Path) -> None:
    """Absent, cut and foreign files name the file."""
    path = tmp_path / "checkpoint.pth"
    with pytest.raises(UserError, match="not found"):
        read_rectified_flow(path)
    shutil.copy(CHECKPOINT, path)
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], b"\x80\x02broken", b""):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"checkpoint\.pth: cannot be read"):
            read_rectified_flow(path)
    with pytest.raises(UserError, match="holds a list"):
        read_rectified_flow(saved([1], tmp_path))


def change(content: Any, keys: tuple[Any, ...], value: Any) -> None:
    """Set, or with `del` remove, what stands under a path of keys."""
    *way, last = keys
    for key in way:
        content = content[key]
    if value == "del":
        del content[last]
    else:
        content[last] = value


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("model",), "del", "'model' is missing"),
        (("model", "module.all_modules.1.bias"), 3, "'model' is not a dictionary of"),
        (("ema",), [], "'ema' is no dictionary"),
        (("ema", "shadow_params"), "del", "'shadow_params' is missing"),
        (("ema", "shadow_params", 0), "del", "average holds 2 tensors; expected 3"),
        (
            ("ema", "shadow_params", 1),
            torch.zeros(4),
            r"average of all_modules\.1\.bias: \(4,\); expected \(3,\)",
        ),
        (("ema", "decay"), "fast", "a count is not a number"),
        (("step",), "del", "'step' is missing"),
        (("optimizer",), "del", "'optimizer' is missing"),
        (("optimizer", "state"), "del", "state is incomplete"),
        (("optimizer", "state", 1), "del", r"no state of all_modules\.1\.weight"),
        (("optimizer", "state", 0), {}, r"a state of all_modules\.0\.W"),
        (("optimizer", "state", 1, "exp_avg"), "del", "incomplete.*exp_avg"),
        (
            ("optimizer", "state", 3, "exp_avg_sq"),
            torch.zeros(1),
            r"second moment of all_modules\.2\.NIN_0\.W: \(1,\); expected \(2, 3\)",
        ),
        (("optimizer", "state", 1, "step"), 8, r"Adam counted \[7, 8\] steps"),
        (("optimizer", "param_groups", 0, "params", 0), "del", "holds 3 parameters"),
    ],
)
def test_what_does_not_fit_together_is_named(
    small: dict[str, Tensor],
    tmp_path: Path,
    keys: tuple[Any, ...],
    value: Any,
    message: str,
) -> None:
    """A missing part, a wrong count and the first wrong shape are one line each."""
    content = training_file(small, FROZEN)
    change(content, keys, value)
    with pytest.raises(UserError, match=message) as caught:
        read_rectified_flow(saved(content, tmp_path))
    assert "\n" not in str(caught.value)


def test_another_architecture_is_named(golden_seqrf: Golden) -> None:
    """A checkpoint of another network names the first differing key and both shapes."""
    state = weights(read_rectified_flow(CHECKPOINT))
    model = NCSNpp.from_flat_config(golden_seqrf("ncsnpp_cifar_a")["config"])
    with pytest.raises(UserError) as caught:
        check_fits(model, state, "file")
    message = str(caught.value)
    assert "file: tensor all_modules.0.weight: shape (32, 8)" in message
    assert "expected shape (64, 16)" in message


# Heads


def test_heads_start_as_copies_of_the_one(golden_seqrf: Golden) -> None:
    """At step 0 every head of the k-headed network gives the teacher's output."""
    case = golden_seqrf("rf_checkpoint_cifar_tiny_expect")
    state = weights(read_rectified_flow(CHECKPOINT))
    model = NCSNpp.from_flat_config(case["config"], segments=3).eval()
    check_fits(model, split_heads(state, model.time_names, 3), "file")
    for head in range(3):
        with torch.no_grad():
            out = model(case["x"], case["t"], head)
        assert torch.allclose(out, case["out_ema"], atol=1e-4)


def test_only_the_time_layers_are_split(small: dict[str, Tensor]) -> None:
    """Rows of head h are block h; every other tensor stays, and so does the input."""
    name = "all_modules.1.weight"
    split = split_heads(small, [name], 4)
    assert torch.equal(split[name].view(4, 3, 4), small[name].expand(4, 3, 4))
    assert all(split[other] is small[other] for other in small if other != name)
    assert small[name].shape == (3, 4)
    with pytest.raises(ValueError, match="no tensor 'x'"):
        split_heads(small, ["x"], 2)
    with pytest.raises(ValueError, match="at least 1"):
        split_heads(small, [name], 0)


@pytest.mark.parametrize(("have", "want"), [(4, 2), (2, 4), (1, 4), (3, 2)])
def test_another_number_of_heads_is_said_in_words(
    golden_seqrf: Golden, have: int, want: int
) -> None:
    """A file with other heads than the configuration says both numbers."""
    config = golden_seqrf("rf_checkpoint_cifar_tiny_expect")["config"]
    source = NCSNpp.from_flat_config(config, segments=have)
    model = NCSNpp.from_flat_config(config, segments=want)
    heads = f"{have} head{'s' if have > 1 else ''}, segments says {want}"
    with pytest.raises(UserError, match=f"file: the file has {heads}"):
        check_fits(model, source.state_dict(), "file")
