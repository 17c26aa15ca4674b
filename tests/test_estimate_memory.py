"""Estimated memory against the bytes that small models hold on a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fewstep import estimate
from fewstep.estimate.training import training_memory
from fewstep.par.decoding import Guidance as TokenGuidance
from fewstep.par.model import Transformer
from fewstep.par.sampler import ParSampler, halve
from fewstep.par.tokenizer import VQModel
from fewstep.seqrf.flow import Flow, build_model
from fewstep.seqrf.sampler import FlowSampler
from fewstep.seqrf.segments import Segments
from fewstep.tarflow.corrected import Learned
from fewstep.tarflow.guidance import Guidance
from fewstep.tarflow.model import TarFlow
from fewstep.tarflow.sampler import TarFlowSampler
from fewstep.tarflow.strategy import BlockPlan, Strategy
from tests.memory import Peak, model_bytes

# Estimates are for GPUs.
pytestmark = pytest.mark.usefixtures("plain_kernels")

LEAST, MOST = 0.7, 1.5
"""Estimate over measurement: too little memory is worse than too much."""

LONG = {
    "img_size": 24,
    "patch_size": 2,
    "channels": 128,
    "num_blocks": 2,
    "layers_per_block": 2,
    "num_classes": 10,
}
WIDE = {
    "img_size": 64,
    "patch_size": 8,
    "channels": 256,
    "num_blocks": 2,
    "layers_per_block": 3,
    "num_classes": 10,
}
DDPMPP = {
    "img_size": 32,
    "nf": 32,
    "ch_mult": [1, 2, 2],
    "num_res_blocks": 2,
    "attn_resolutions": [16],
    "dropout": 0.1,
}
NCSNPP = {
    "img_size": 32,
    "nf": 32,
    "ch_mult": [1, 1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [16],
    "centered": False,
    "fir": True,
    "progressive": "output_skip",
    "progressive_input": "input_skip",
    "embedding_type": "fourier",
    "scale_by_sigma": True,
    "sigma_max": 380,
    "num_scales": 2000,
}
VQ = {
    "ch": 32,
    "ch_mult": [1, 2, 2],
    "num_res_blocks": 1,
    "z_channels": 32,
    "codebook_size": 512,
    "codebook_embed_dim": 8,
}
GPT = {
    "dim": 128,
    "n_layer": 4,
    "n_head": 2,
    "vocab_size": 512,
    "grid": 8,
    "num_classes": 10,
    "ar_token_num": 4,
}
LARGE_VOCABULARY = {**GPT, "vocab_size": 4096, "ar_token_num": 16}
LARGE_CODEBOOK = {**VQ, "codebook_size": 4096, "ch_mult": [1, 1]}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def fits(estimated: int, measured: int) -> bool:
    """Whether an estimate is of use."""
    return LEAST <= estimated / measured <= MOST


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("model", "plan", "guidance", "denoise"),
    [
        (LONG, "For", 1.0, 0.0),
        (LONG, "[1-4-4-3]", 1.0, 0.0),
        (LONG, "[0-1-3-3]", 0.0, 0.0),
        (WIDE, "For", 0.0, 1.0),
        (WIDE, "[0-1-4-2]", 1.0, 0.0),
    ],
    ids=["for", "gs-jacobi", "jacobi", "denoised", "wide"],
)
def test_memory_of_a_tarflow(
    model: dict[str, Any], plan: str, guidance: float, denoise: float, precision: str
) -> None:
    """Weights, one block's cache, a window's activations; denoising's too."""
    net = TarFlow(**model).eval()
    strategy = Strategy.parse(plan, num_blocks=2, tokens=net.tokens)
    sampler = TarFlowSampler(
        net,
        strategy,
        Guidance(guidance),
        noise_std=0.1,
        denoise=denoise,
        precision=precision,
    )
    with Peak(net) as counted:
        inputs = sampler.inputs(0, [0, 1, 2, 3], np.zeros(4, dtype=np.int64))
        sampler.finish(sampler.draw(inputs).images, inputs)
    settings = {
        "sampling": {"guidance": guidance, "attn_temp": 1.0, "self_denoise": denoise},
        "strategy": strategy.to_dict(),
    }
    found = estimate.sampling_memory("tarflow", model, settings, 4, precision)
    assert fits(found, counted.peak + model_bytes(net))
    unplanned = {"sampling": settings["sampling"]}
    most = estimate.sampling_memory("tarflow", model, unplanned, 4, precision)
    assert most >= found


def test_memory_of_a_block_behind_a_front() -> None:
    """Its cache and a wide window: what the measured peak is, as any plan may need."""
    net = TarFlow(**LONG).eval()
    front = BlockPlan(1, 3, corrected=True, front=net.tokens // 4)
    strategy = Strategy((front, front), net.tokens)
    known = Learned(weights=torch.zeros(3, 12 * net.token_dim, 2 * net.token_dim))
    sampler = TarFlowSampler(net, strategy, Guidance(1.0), learned={0: known, 1: known})
    with Peak(net) as counted:
        sampler.draw(sampler.inputs(0, [0, 1, 2, 3], np.zeros(4, dtype=np.int64)))
    settings = {"sampling": {"guidance": 1.0}, "strategy": strategy.to_dict()}
    found = estimate.sampling_memory("tarflow", LONG, settings, 4, "fp32")
    assert fits(found, counted.peak + model_bytes(net))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", [DDPMPP, NCSNPP], ids=["ddpm++", "ncsn++"])
@pytest.mark.parametrize("solver", ["euler", "rk45"])
def test_memory_of_a_flow(model: dict[str, Any], solver: str, precision: str) -> None:
    """Weights, skips, the widest layer, and the states of the solver."""
    net = build_model(model, 2).eval()
    steps, tol = (2, None) if solver == "euler" else (None, 1.0)
    flow = Flow(net, Segments.of(2), "exact")
    sampler = FlowSampler(flow, solver, steps, tol, precision=precision)  # type: ignore[arg-type]
    with Peak() as counted:
        sampler.draw(sampler.inputs(0, list(range(4))))
    settings = {"segments": 2, "solver": solver}
    found = estimate.sampling_memory("seqrf", model, settings, 4, precision)
    assert fits(found, counted.peak + model_bytes(net))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("model", "tokenizer", "batch", "scale"),
    [(GPT, VQ, 40, 1.5), (LARGE_VOCABULARY, LARGE_CODEBOOK, 8, 1.0)],
    ids=["decoder", "logits"],
)
def test_memory_of_a_transformer(
    model: dict[str, Any],
    tokenizer: dict[str, Any],
    batch: int,
    scale: float,
    precision: str,
) -> None:
    """Weights, keys and values, then logits or the decoder, whichever is more."""
    gpt, vq = Transformer(**model).eval(), VQModel(**tokenizer).eval()
    if precision == "bf16":
        halve(gpt)
    sampler = ParSampler(gpt, vq, TokenGuidance(scale))
    with Peak() as counted:
        labels = np.zeros(batch, dtype=np.int64)
        sampler.draw(sampler.inputs(0, list(range(batch)), labels))
    settings = {"draw": {"cfg_scale": scale}, "tokenizer": {"model": tokenizer}}
    found = estimate.sampling_memory("par", model, settings, batch, precision)
    assert fits(found, counted.peak + model_bytes(gpt, vq))


def _stepped(model: nn.Module, *inputs: Tensor, precision: str) -> int:
    """Peak bytes of two optimiser steps, weights among them."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    began = model_bytes(model)
    with Peak() as counted:
        for _ in range(2):
            optimizer.zero_grad(set_to_none=True)
            wanted = precision == "bf16"
            with torch.autocast("cpu", torch.bfloat16, enabled=wanted):
                out = model(*inputs)
                if isinstance(out, Tensor):
                    loss = out.float().square().mean()
                elif hasattr(out, "images"):
                    loss = out.images.square().mean() + out.latents.mean()
                else:
                    loss = out.loss
            loss.backward()
            optimizer.step()
    return counted.peak + began


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("system", ["tarflow", "ddpm++", "ncsn++", "par", "recompute"])
def test_memory_of_a_training(system: str, precision: str) -> None:
    """Weights, gradients, moments, and what a forward pass keeps."""
    labels = torch.zeros(8, dtype=torch.long)
    train = {"batch": 8, "precision": precision, "recompute": system == "recompute"}
    if system == "tarflow":
        model, net = LONG, TarFlow(**LONG)
        measured = _stepped(net, torch.randn(8, 3, 24, 24), labels, precision=precision)
        found = training_memory("tarflow", model, train)
    elif system in ("ddpm++", "ncsn++"):
        model = DDPMPP if system == "ddpm++" else NCSNPP
        size = model["img_size"]
        images = torch.randn(8, 3, size, size)
        measured = _stepped(
            build_model(model, 1), images, torch.full((8,), 500.0), precision=precision
        )
        found = training_memory("seqrf", model, train)
    else:
        model = {**GPT, "dropout": 0.1, "recompute": system == "recompute"}
        codes = torch.zeros(8, 64, dtype=torch.long)
        measured = _stepped(Transformer(**model), codes, labels, precision=precision)
        found = training_memory("par", GPT, train)
    assert fits(found, measured), found / measured


def test_memory_of_a_tokenizer_s_training() -> None:
    """Encoder and decoder keep their activations."""
    images = torch.randn(4, 3, 32, 32)
    measured = _stepped(VQModel(**VQ), images, precision="fp32")
    found = training_memory("tokenizer", VQ, {"batch": 4}, side=32)
    assert fits(found, measured), found / measured
