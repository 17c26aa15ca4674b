"""benchmarks/par.py at toy sizes, beside a stand-in for the original's checkout."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import par
from benchmarks.common import Job, original

SIZE = {"n_layer": 2, "n_head": 2, "dim": 16}
TOY = {"batch": 2, "size": "toy", "grid": 4, "vocabulary": 13, "classes": 5}
MARKER = "autoregressive/models/generate.py"

GPT = """
from dataclasses import dataclass
import torch
from fewstep.par.model import Transformer as Ours
from fewstep.par.sampler import halve

@dataclass
class ModelArgs:
    n_layer: int
    n_head: int
    dim: int
    vocab_size: int
    block_size: int
    num_classes: int
    ar_token_num: int
    spe_token_num: int

class Transformer(Ours):
    def __init__(self, a):
        n, grid = a.ar_token_num, int(a.block_size ** 0.5)
        assert a.spe_token_num == n - 1
        super().__init__(
            a.dim, a.n_layer, a.n_head, a.vocab_size, grid, a.num_classes,
            ar_token_num=n,
        )
        self.block_size = a.block_size
        if n == 1:
            self.spe_tok_embeddings = torch.nn.Module()
            self.spe_tok_embeddings.special_embeddings = torch.nn.Embedding(0, a.dim)

    def to(self, device, kind):
        return halve(self) if kind == torch.bfloat16 else self

    def setup_caches(self, max_batch_size, max_seq_length, dtype):
        assert max_seq_length == self.block_size + 1
        assert dtype == torch.float32
        self.places = max_batch_size
"""
GENERATE = """
from fewstep.par.decoding import Guidance, greedy
from fewstep.par.generation import generate_tokens

def drawn(model, labels, cfg_scale):
    guided = Guidance(cfg_scale)
    return generate_tokens(model, labels, greedy, guidance=guided).tokens

def generate(
    model, cond, max_new_tokens, cfg_scale, ar_token_num, spe_token_num, sample_logits
):
    assert (ar_token_num, spe_token_num) == (model.group, model.group - 1)
    assert not sample_logits
    assert max_new_tokens == model.block_size
    tokens = drawn(model, cond, cfg_scale).int()
    tokens[0, 3] = (tokens[0, 3] + WRONG) % 13
    return tokens

def prefill(model, both, start, cfg_scale, sample_logits):
    assert start.tolist() == [0]
    labels, none = both.chunk(2)
    assert (none == model.num_classes).all()
    assert model.places == len(both)
    assert not sample_logits
    model.all = drawn(model, labels, cfg_scale)
    return model.all[:, :1]

def decode_n_tokens(
    model, first, start, count, cfg_scale, cfg_interval, sample_logits
):
    assert start.tolist() == [1]
    assert cfg_interval == -1
    return list(model.all[:, 1 : 1 + count].split(1, dim=1)), None

WRONG = 0
"""


@pytest.fixture(name="job")
def _job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    monkeypatch.setattr(par, "SIZES", {"toy": SIZE})
    folder = tmp_path / "autoregressive" / "models"
    folder.mkdir(parents=True)
    (folder / "gpt.py").write_text(GPT)
    (folder / "generate.py").write_text(GENERATE)
    path = list(sys.path)
    yield Job(original(tmp_path, MARKER), 1, 2, torch.device("cpu"))
    sys.path[:] = path
    for name in [name for name in sys.modules if name.startswith("autoregressive")]:
        del sys.modules[name]


def case(n: int, **more: Any) -> par.Case:
    """A toy of 16 tokens."""
    return par.Case(n, **{**TOY, **more})


@pytest.mark.parametrize("n", [1, 4])
def test_both_draw_the_same_tokens(job: Job, n: int) -> None:
    """The original is given the same weights, labels and options."""
    (row,) = par.beside_original("par_toy", case(n))(job)
    assert row["name"] == "par_toy"
    assert (row["error"], row["unit"]) == (0, "CPU s")
    assert row["ratio"] == pytest.approx(row["partner_value"] / row["value"], rel=1e-2)
    assert f"n = {n}, batch 2" in row["what"]
    assert len(par.ours(case(n), job.device)().unique()) > 1


def test_the_error_is_the_share_of_tokens_that_differ(job: Job) -> None:
    """One of 32 here."""
    job.original("autoregressive.models.generate").WRONG = 1  # type: ignore[attr-defined]
    (row,) = par.beside_original("par_toy", case(4))(job)
    assert row["error"] == 1 / 32


def test_half_precision_is_compared_with_float32(job: Job) -> None:
    """Both programs are; here the other one differs from ours in one token of 32."""
    job.original("autoregressive.models.generate").WRONG = 1  # type: ignore[attr-defined]
    (row,) = par.beside_original("par_toy", case(4, half=True))(job)
    assert "bf16" in row["what"]
    assert abs(row["partner_error"] - row["error"]) == pytest.approx(1 / 32, abs=1e-4)


def test_steps_are_compared_with_single_ones(job: Job) -> None:
    """Ours both; the partner draws one token a step."""
    (row,) = par.beside_single("par_toy", case(4))(job)
    assert row["partner"] == "fewstep, n = 1"
    assert "error" not in row
    assert row["spread"][0] <= row["ratio"] <= row["spread"][1]


def test_the_part_for_a_gpu(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain and compiled beside the original, for every case; here nothing compiles."""
    compiled = []
    monkeypatch.setattr(par, "compile_step", compiled.append)
    part = par.beside_original_on_gpu({"a": case(4), "b": case(4, batch=1)})
    names = [row["name"] for row in part(job)]
    assert names == ["a", "a_compiled", "b", "b_compiled"]
    assert len(compiled) == 2


def test_half_precision_leaves_the_rotary_table() -> None:
    """Weights in bfloat16, as the part for a GPU wants them, angles in float32."""
    gpt = par.transformer(par.Case(4, size="B", half=True, grid=4), torch.device("cpu"))
    assert gpt.output.weight.dtype == torch.bfloat16
    assert gpt.rotary.dtype == torch.float32
