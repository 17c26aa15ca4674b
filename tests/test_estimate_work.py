"""Estimated operations against those that torch counts in small models."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fewstep import estimate
from fewstep.estimate import par as par_estimate
from fewstep.estimate.training import training_work
from fewstep.par.decoding import Guidance as TokenGuidance
from fewstep.par.model import Transformer
from fewstep.par.sampler import ParSampler
from fewstep.par.tokenizer import VQModel
from fewstep.seqrf.flow import Flow, build_model
from fewstep.seqrf.sampler import FlowSampler
from fewstep.seqrf.segments import Segments
from fewstep.tarflow.guidance import Guidance
from fewstep.tarflow.model import TarFlow
from fewstep.tarflow.sampler import TarFlowSampler
from fewstep.tarflow.strategy import Strategy
from tests.test_estimate_memory import DDPMPP, GPT, LONG, NCSNPP, VQ

# Estimates are for GPUs.
pytestmark = pytest.mark.usefixtures("plain_kernels")

CLOSE = 0.12
"""Largest relative difference; what a mask leaves out is counted by neither."""


def counted(run: Any) -> int:
    """Operations of matrix products, convolutions and attention."""
    # Else attention is one operation of the CPU, which the counter does not know.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def estimated(system: str, model: Any, settings: Any, batch: int) -> float:
    """The same by arithmetic."""
    works = estimate.sampling_work(system, model, settings, batch, "fp32")
    return sum(work.flops for work in works)


@pytest.mark.parametrize(
    ("plan", "guidance"),
    [("For", 0.0), ("[0-1-3-3]", 1.0), ("[0-1-3-1]", 0.0)],
)
def test_work_of_a_tarflow(plan: str, guidance: float) -> None:
    """For is one pass over all tokens, Jacobi one an iteration."""
    net = TarFlow(**LONG).eval()
    torch.nn.init.normal_(net.flows[0].proj_out.weight, std=0.02)
    torch.nn.init.normal_(net.flows[1].proj_out.weight, std=0.02)
    strategy = Strategy.parse(plan, num_blocks=2, tokens=net.tokens)
    sampler = TarFlowSampler(net, strategy, Guidance(guidance))
    inputs = sampler.inputs(0, [0, 1], np.zeros(2, dtype=np.int64))
    settings = {"sampling": {"guidance": guidance}, "strategy": strategy.to_dict()}
    found = estimated("tarflow", LONG, settings, 2)
    assert found == pytest.approx(counted(lambda: sampler.draw(inputs)), rel=CLOSE)


@pytest.mark.parametrize("model", [DDPMPP, NCSNPP], ids=["ddpm++", "ncsn++"])
def test_work_of_a_flow(model: dict[str, Any]) -> None:
    """So many evaluations of the network as the solver has steps."""
    flow = Flow(build_model(model, 2).eval(), Segments.of(2), "exact")
    sampler = FlowSampler(flow, "heun", 2)
    inputs = sampler.inputs(0, [0, 1])
    settings = {"segments": 2, "solver": "heun", "steps": 2}
    found = estimated("seqrf", model, settings, 2)
    assert found == pytest.approx(counted(lambda: sampler.draw(inputs)), rel=CLOSE)


@pytest.mark.parametrize("group", [1, 4])
def test_work_of_a_transformer(group: int) -> None:
    """Every token once, whatever the group, and the decoder of the tokenizer."""
    model = {**GPT, "ar_token_num": group}
    gpt, vq = Transformer(**model).eval(), VQModel(**VQ).eval()
    sampler = ParSampler(gpt, vq, TokenGuidance(1.5))
    inputs = sampler.inputs(0, [0, 1], np.zeros(2, dtype=np.int64))
    settings = {"draw": {"cfg_scale": 1.5}, "tokenizer": {"model": VQ}}
    found = estimated("par", model, settings, 2)
    assert found == pytest.approx(counted(lambda: sampler.draw(inputs)), rel=CLOSE)


def test_work_of_a_tokenizer() -> None:
    """Encoder and decoder apart."""
    vq, images = VQModel(**VQ).eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        both = {
            "encode": counted(partial(vq.latent, images)),
            "decode": counted(partial(vq.decode_latent, torch.randn(2, 8, 8, 8))),
        }
    for part, operations in both.items():
        found = par_estimate.tokenizer_work(VQ, 32, 2, part).flops
        assert found == pytest.approx(operations, rel=CLOSE)


def test_work_of_a_training_step() -> None:
    """Forwards once and backwards twice."""
    labels = torch.zeros(2, dtype=torch.long)
    flow, images = TarFlow(**LONG), torch.randn(2, 3, 24, 24)
    gpt, codes = Transformer(**GPT), torch.zeros(2, 64, dtype=torch.long)
    losses = {
        "tarflow": (LONG, partial(flow, images, labels)),
        "par": (GPT, partial(gpt, codes, labels)),
    }

    def step(loss: Callable[[], Any]) -> None:
        loss().loss.backward()

    for system, (model, loss) in losses.items():
        works = training_work(system, model, {"batch": 2})
        found = sum(work.flops for work in works)
        assert found == pytest.approx(counted(partial(step, loss)), rel=CLOSE), system
