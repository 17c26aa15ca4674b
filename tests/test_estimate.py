"""Parameters, work and time, by arithmetic alone."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewstep import estimate
from fewstep.config import load_config
from fewstep.config.resources import HardwareSpec
from fewstep.estimate import convolutions, par, seqrf, tarflow
from fewstep.estimate.strategies import planned
from fewstep.estimate.time import seconds
from fewstep.estimate.training import (
    fitting_accumulation,
    micro_batch,
    state_memory,
    training_memory,
    training_work,
)
from fewstep.estimate.work import Work
from fewstep.par.model import Transformer
from fewstep.par.tokenizer import VQModel
from fewstep.seqrf.flow import build_model
from fewstep.tarflow.model import TarFlow

CONFIG = load_config()
A100 = HardwareSpec()
AFHQ = CONFIG.experiments["afhq"].model.resolved()
VQ16 = CONFIG.tokenizers["vq-16"].model.resolved()
CIFAR = CONFIG.experiments["cifar10-1rf"].model.resolved()
CHURCH = CONFIG.experiments["church-1rf"].model.resolved()
XL = CONFIG.experiments["par-xl-4x"].model.resolved()
DRAW = {"draw": {"cfg_scale": 1.5}, "tokenizer": {"model": VQ16}}
PLAIN = {"sampling": {"guidance": 3.4, "attn_temp": 1.0, "self_denoise": 0.0}}


def trained(net: torch.nn.Module) -> int:
    """Numbers that a network learns."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def _distinct() -> list[str]:
    """One experiment of every architecture."""
    found: dict[str, str] = {}
    for name, own in CONFIG.experiments.items():
        key = [own.system, own.model.resolved(), getattr(own, "segments", 1)]
        found.setdefault(json.dumps(key, sort_keys=True), name)
    return list(found.values())


@pytest.mark.parametrize("name", _distinct())
def test_parameters_are_those_of_the_network(name: str) -> None:
    """Every experiment's architecture is counted exactly, without building it."""
    own = CONFIG.experiments[name]
    model: dict[str, Any] = own.resolved()["model"]
    segments = getattr(own, "segments", 1)
    with torch.device("meta"):
        if own.system == "tarflow":
            net: torch.nn.Module = TarFlow(**model)
        elif own.system == "seqrf":
            net = build_model(model, segments)
        else:
            net = Transformer(**model)
    assert estimate.parameters(own.system, model, segments) == trained(net)


@pytest.mark.parametrize("name", list(CONFIG.tokenizers))
def test_parameters_of_a_tokenizer(name: str) -> None:
    """Encoder, codebook and decoder are counted exactly."""
    model = CONFIG.tokenizers[name].model.resolved()
    with torch.device("meta"):
        net = VQModel(**model)
    assert estimate.parameters("tokenizer", model) == trained(net)


def test_a_size_by_its_name() -> None:
    """A model that names LlamaGen's size is counted as the numbers behind it."""
    model = {
        "size": "XL",
        "vocab_size": 16384,
        "grid": 24,
        "num_classes": 1000,
        "ar_token_num": 4,
    }
    assert estimate.parameters("par", model) == 774_699_520 + 3 * 1280


def test_the_sheet_s_counts() -> None:
    """Parameters and multiplications that were counted on the released networks."""
    assert estimate.parameters("seqrf", CIFAR) == 61_804_419
    assert estimate.parameters("seqrf", CHURCH) == 65_574_421
    assert estimate.parameters("tokenizer", VQ16) == 71_883_403
    for model, giga in ((CIFAR, 10.85), (CHURCH, 266.7)):
        macs = sum(part.macs for part in seqrf.parts(model))
        assert macs == pytest.approx(giga * 1e9, rel=0.03)


def test_heads_cost_their_time_layers_alone() -> None:
    """A further segment adds 328,704 parameters to the network of CIFAR-10."""
    one, two = (estimate.parameters("seqrf", CIFAR, k) for k in (1, 2))
    assert two - one == 328_704


@given(batch=st.integers(1, 512), factor=st.integers(2, 8))
def test_memory_grows_with_the_batch(batch: int, factor: int) -> None:
    """Never less for more samples, and less than so many times as much."""
    for system, model, settings in (
        ("tarflow", AFHQ, PLAIN),
        ("seqrf", CIFAR, {"segments": 1, "solver": "rk45"}),
        ("par", XL, DRAW),
    ):
        few = estimate.sampling_memory(system, model, settings, batch, "bf16")
        many = estimate.sampling_memory(system, model, settings, factor * batch, "bf16")
        assert few < many < factor * few


def test_a_batch_is_halved_until_it_fits() -> None:
    """The answer is a power of two below, fits with a margin, and is at least 1."""
    asked = ("tarflow", AFHQ, PLAIN)
    whole = estimate.sampling_memory(*asked, 128, "bf16")
    room = int(1.2 * whole)
    assert estimate.fitting_batch(*asked, 128, "bf16", room) == 128
    half = estimate.fitting_batch(*asked, 128, "bf16", whole)
    assert half in (32, 64)
    needed = estimate.sampling_memory(*asked, half, "bf16")
    assert estimate.MARGIN * needed <= whole
    assert estimate.fitting_batch(*asked, 128, "bf16", 1) == 1
    assert estimate.fitting_batch(*asked, 1, "bf16", 1) == 1


def test_guidance_doubles_the_rows() -> None:
    """Only where there is something to guide: classes, or a temperature."""
    free = {**AFHQ, "num_classes": 0}
    assert tarflow.guided(AFHQ, PLAIN["sampling"])
    assert not tarflow.guided(free, PLAIN["sampling"])
    assert tarflow.guided(free, {"guidance": 0.2, "attn_temp": 0.3})
    assert not tarflow.guided(AFHQ, {"guidance": 0.0})
    cached = par.cache_memory(XL, 1, "fp32")
    assert cached == 2 * 36 * 576 * 1280 * 4


def _time(system: str, model: Any, settings: Any, batch: int, precision: str) -> float:
    works = estimate.sampling_work(system, model, settings, batch, precision)
    return seconds(works, A100)


def _planned(strategy: Any) -> dict[str, Any]:
    return {**PLAIN, "strategy": planned(strategy, None, AFHQ)}


def test_one_image_gains_most_from_jacobi() -> None:
    """At batch 1 For waits for kernels; at 128 it is arithmetic, done once."""
    sequential, parallel = _planned("for"), _planned("[7-8-32-10]")
    alone = [_time("tarflow", AFHQ, s, 1, "bf16") for s in (sequential, parallel)]
    many = [_time("tarflow", AFHQ, s, 128, "bf16") for s in (sequential, parallel)]
    assert alone[0] > 4 * alone[1]
    assert many[0] / many[1] < alone[0] / alone[1]
    denoised = {**sequential, "sampling": {**PLAIN["sampling"], "self_denoise": 1.4}}
    assert _time("tarflow", AFHQ, denoised, 128, "bf16") > many[0]


@pytest.mark.parametrize(
    ("strategy", "first", "last"),
    [
        ("for", (0, 1), (0, 1)),
        ("auto", (0, 1), (0, 1)),
        ("[7-8-32-10]", (1, 10), (8, 32)),
        ({"num_gs": [1] * 8, "max_jacobi": [5] * 8, "guess": None}, (1, 5), (1, 5)),
        ({"crm": {"segments": 8, "max_jacobi": 9, "else": 4}}, (1, 4), (8, 9)),
    ],
    ids=["for", "auto", "notation", "lists", "crm"],
)
def test_every_way_to_write_a_strategy(
    strategy: Any, first: tuple[int, int], last: tuple[int, int]
) -> None:
    """Each gives one plan a block; a search counts as For, which it starts from."""
    blocks = planned(strategy, None, AFHQ)["blocks"]
    assert len(blocks) == AFHQ["num_blocks"]
    found = [(one["segments"], one["max_jacobi"]) for one in blocks]
    assert (found[0], found[-1]) == (first, last)


def test_calls_of_solvers() -> None:
    """Fixed steps exactly; RK45 needs more for a smaller tolerance or more segments."""
    assert seqrf.calls({"solver": "euler", "steps": 8}) == 8
    assert seqrf.calls({"solver": "heun", "steps": 8}) == 16
    loose, tight = (seqrf.calls({"solver": "rk45", "tol": t}) for t in (1e-2, 1e-5))
    assert 14 <= loose < tight < 200
    many = seqrf.calls({"solver": "rk45", "tol": 1e-2, "segments": 12})
    assert many == 2 + 6 * 24


def test_more_tokens_a_step_are_faster() -> None:
    """PAR at batch 1: sixteen at once take less time than four, these than one."""
    times = [
        _time("par", {**XL, "ar_token_num": n}, DRAW, 1, "bf16") for n in (1, 4, 16)
    ]
    assert times[0] > 2.5 * times[1] > 2.5 * times[2]


def test_the_slowest_part_decides() -> None:
    """Arithmetic, memory or launches: the largest is the time."""
    hours = HardwareSpec(efficiency=0.5, launch_us=10)
    bf16 = Work(312e12, precision="bf16")
    assert seconds([bf16], hours) == pytest.approx(2)
    assert seconds([Work(0, 2039e9)], hours) == pytest.approx(2)
    assert seconds([Work(0, 0, 1e5)], hours) == pytest.approx(1)
    assert seconds([bf16 * 3, Work(0, 2039e9)], hours) == pytest.approx(8)
    slow = Work(1e15, precision="fp32")
    assert seconds([slow], A100) > 7 * seconds([Work(1e15, precision="tf32")], A100)


def test_state_of_a_training() -> None:
    """16 bytes a parameter, 4 for an average; buckets, copies or shares beside them."""
    assert state_memory(100, {}) == 1600
    assert state_memory(100, {"ema": 0.9}) == 2000
    assert state_memory(100, {"precision": "bf16"}) == 1800
    assert state_memory(100, {"gpus": 8}) == 2000
    assert state_memory(100, {"gpus": 8, "sharded": True, "precision": "bf16"}) == 200


def test_parts_of_a_batch_that_fit() -> None:
    """Twice as many until one fits; None where not even one example does."""
    train = {"batch": 256, "gpus": 8, "precision": "bf16"}
    whole = training_memory("tarflow", AFHQ, train)
    assert micro_batch(train) == 32
    assert fitting_accumulation("tarflow", AFHQ, train, whole) == 1
    assert fitting_accumulation("tarflow", AFHQ, train, whole - 1) == 2
    assert fitting_accumulation("tarflow", AFHQ, train, 10**9) is None


@pytest.mark.parametrize(
    ("system", "model", "side"),
    [
        ("tarflow", AFHQ, 0),
        ("seqrf", CIFAR, 0),
        ("par", XL, 0),
        ("tokenizer", VQ16, 64),
    ],
)
def test_work_of_a_training_is_shared(system: str, model: Any, side: int) -> None:
    """Each of two GPUs does half; activations that are forgotten cost a third more."""
    train = {"batch": 64, "precision": "bf16"}
    alone = sum(w.flops for w in training_work(system, model, train, side))
    two = sum(w.flops for w in training_work(system, model, {**train, "gpus": 2}, side))
    assert two == pytest.approx(alone / 2)
    if system == "par":
        again = training_work(system, model, {**train, "recompute": True})
        assert again[0].flops == pytest.approx(alone * 4 / 3)
        kept, forgotten = (
            training_memory(system, model, {**train, "recompute": r})
            for r in (False, True)
        )
        assert forgotten < kept / 2


def test_a_resampling_block_holds_both_sizes() -> None:
    """A filter on the way up needs more than repetition does."""
    sizes = {"shortcut": True, "embedding": 64}
    plain = convolutions.residual(32, 32, 16, 32, **sizes)  # type: ignore[arg-type]
    filtered = convolutions.residual(32, 32, 16, 32, filtered=True, **sizes)  # type: ignore[arg-type]
    assert filtered.live > plain.live >= 3 * 32 * 32**2


def test_torch_is_not_imported() -> None:
    """The estimates, and all that a Snakefile imports with them, are light."""
    code = (
        "import sys; import fewstep.estimate, fewstep.estimate.training, "
        "fewstep.estimate.time, fewstep.graph; print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not {"torch", "numpy", "pandas"} & set(done.stdout.split())
