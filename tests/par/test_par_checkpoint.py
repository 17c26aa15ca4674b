"""Checkpoints of PAR and LlamaGen: wrappers, names, safety, one line a mistake."""

from __future__ import annotations

import argparse
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fewstep.checkpoints import load_weights
from fewstep.par.checkpoint import (
    check_group,
    check_origin,
    group_of,
    read_weights,
)
from fewstep.par.model import Transformer
from tests.par.tiny import (
    SIZES,
    Tensors,
    assert_equal,
    complaint,
    ddp,
    saved,
    weights_of,
)
from tests.par.tiny import model as tokenizer


class Evil:
    """Runs a command when it is unpickled without care."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("pwned",)


# What is read


WRAPPERS: dict[str, Callable[[Tensors], Any]] = {
    "ddp": ddp,
    "deepspeed": lambda state: {"module": state, "dp_world_size": 8},
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "bare": OrderedDict,
    "prefix": lambda state: {"model": {f"module.{n}": v for n, v in state.items()}},
    "compiled": lambda state: {
        "model": {f"module._orig_mod.{n}": v for n, v in state.items()}
    },
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("old", [False, True])
def test_every_wrapper_gives_the_same_weights(
    tmp_path: Path, wrapper: str, old: bool
) -> None:
    """Names are the model's; it loads strictly, in torch's new and old file format."""
    state, path = weights_of(), tmp_path / "checkpoint.pt"
    content = WRAPPERS[wrapper](state)
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    found = read_weights(path, "transformer")
    assert_equal(found, state)
    load_weights(Transformer(**SIZES, ar_token_num=4), found, "file")


def test_the_average_is_taken_on_request(tmp_path: Path) -> None:
    """`ema` takes the averaged weights, and only where there are some."""
    state = weights_of()
    path = saved(ddp(state), tmp_path)
    found = read_weights(path, "transformer", ema=True)
    assert_equal(found, {name: value + 1 for name, value in state.items()})
    path = saved({"model": state}, tmp_path)
    line = complaint(lambda: read_weights(path, "transformer", ema=True))
    assert "no averaged weights" in line


def test_averaged_weights_alone_are_not_taken_unasked(tmp_path: Path) -> None:
    """A file with nothing but an average says so instead of guessing."""
    path = saved({"ema": weights_of()}, tmp_path)
    assert "ask for ema" in complaint(lambda: read_weights(path, "transformer"))


def test_leftovers_of_the_released_programs_are_dropped(tmp_path: Path) -> None:
    """Caches, rotary tables and the list of recent codes are no weights."""
    state = weights_of()
    cache = "layers.0.attention.kv_cache.k_cache"
    more = {cache: torch.zeros(2), "freqs_cis": torch.zeros(3)}
    assert_equal(
        read_weights(saved({"model": {**state, **more}}, tmp_path), "transformer"),
        state,
    )
    state = dict(tokenizer().state_dict())
    used = nn.Parameter(torch.zeros(65536))
    content = {"model": {**state, "quantize.codebook_used": used}, "discriminator": {}}
    assert_equal(read_weights(saved(content, tmp_path), "tokenizer"), state)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(tmp_path: Path, kind: torch.dtype) -> None:
    """The numbers are those of the file, whether it is torch's or ours."""
    halves = {name: value.to(kind) for name, value in weights_of().items()}
    wide = {name: value.float() for name, value in halves.items()}
    path = saved({"model": halves}, tmp_path)
    assert_equal(read_weights(path, "transformer"), wide)
    save_file(halves, tmp_path / "model.safetensors")
    ours = read_weights(tmp_path / "model.safetensors", "transformer")
    assert_equal(ours, wide)


# n


@pytest.mark.parametrize("group", [1, 4])
def test_n_is_read_from_the_transition_tokens(group: int) -> None:
    """Rows of their embedding and one; without it 1."""
    assert group_of(weights_of(group)) == group
    check_group(weights_of(group), group, "file")


@pytest.mark.parametrize(("held", "asked"), [(4, 1), (1, 4)])
def test_another_n_is_refused(held: int, asked: int) -> None:
    """One line names both numbers and the file."""
    line = complaint(lambda: check_group(weights_of(held), asked, "par.pt"))
    assert line.startswith("par.pt: ")
    plural = "" if held == 1 else "s"
    assert f"{held} token{plural} a step" in line
    assert f"ar_token_num says {asked}" in line


# What no shape tells


def test_what_no_shape_tells_is_held_against_our_manifest() -> None:
    """Heads and normalisation must be the file's; a foreign file says nothing."""
    about = {"model": {**SIZES, "codebook_l2_norm": True}}
    check_origin(about, {**SIZES, "codebook_l2_norm": True}, "file")
    check_origin({}, SIZES, "file")
    check_origin(about, {**SIZES, "grid": 8}, "file")  # larger grids extrapolate
    for key, value in (("n_head", 4), ("codebook_l2_norm", False)):
        other = {**about["model"], key: value}
        line = complaint(lambda other=other: check_origin(about, other, "file"))  # type: ignore[misc]
        assert key in line
        assert str(value) in line


# Files that are refused


@pytest.mark.parametrize("inside", ["args", "beside"])
def test_a_pickle_with_code_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    """Such a file is refused in one line that names the code, in `args` too."""
    monkeypatch.chdir(tmp_path)
    evil = argparse.Namespace(hook=Evil()) if inside == "args" else Evil()
    path = saved({**ddp(weights_of()), "args": evil}, tmp_path)
    line = complaint(lambda: read_weights(path, "transformer"))
    assert "mkdir" in line
    assert not (tmp_path / "pwned").exists()


def test_the_other_kind_of_model_is_refused(tmp_path: Path) -> None:
    """A tokenizer is no transformer, and the other way round: one line says which."""
    path = saved({"model": tokenizer().state_dict()}, tmp_path)
    line = complaint(lambda: read_weights(path, "transformer"))
    assert "holds a VQ tokenizer" in line
    assert "expected a PAR or LlamaGen transformer" in line
    path = saved({"model": weights_of()}, tmp_path)
    line = complaint(lambda: read_weights(path, "tokenizer"))
    assert "holds a PAR or LlamaGen transformer" in line
    path = saved({"weight": torch.zeros(2)}, tmp_path)
    line = complaint(lambda: read_weights(path, "tokenizer"))
    assert "no tensor quantize.embedding.weight" in line


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"model": {"tok_embeddings.weight": 3}}, "is of type int, no tensor"),
        ([torch.zeros(2)], "holds a list"),
        (
            {
                "tok_embeddings.weight": torch.zeros(2),
                "module.tok_embeddings.weight": 0,
            },
            "no tensor",
        ),
        ({"a.weight": torch.zeros(2), "module.a.weight": torch.zeros(2)}, "twice"),
    ],
)
def test_what_is_no_state_dict_is_refused(
    tmp_path: Path, content: Any, what: str
) -> None:
    """One line names the file and what is in it."""
    path = saved(content, tmp_path)
    line = complaint(lambda: read_weights(path, "transformer"))
    assert str(path) in line
    assert what in line


@pytest.mark.parametrize("cut", [0, 40, -40])
def test_a_broken_file_is_refused(tmp_path: Path, cut: int) -> None:
    """A download that stopped early is a line, not a traceback."""
    path = saved({"model": weights_of()}, tmp_path)
    path.write_bytes(path.read_bytes()[:cut])
    line = complaint(lambda: read_weights(path, "transformer"))
    assert "cannot be read" in line


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    """A path without a file; the folder of an FSDP run points to its weights."""
    line = complaint(lambda: read_weights(tmp_path / "none.pt", "transformer"))
    assert "file not found" in line
    torch.save(weights_of(), tmp_path / "consolidated.pth")
    line = complaint(lambda: read_weights(tmp_path, "transformer"))
    assert f"give {tmp_path}/consolidated.pth" in line
    assert_equal(
        read_weights(tmp_path / "consolidated.pth", "transformer"), weights_of()
    )
