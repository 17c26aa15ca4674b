"""Golden models and a random one that no block of which is the identity."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fewstep.tarflow import TarFlow

NAMES = ("cond_cfg", "uncond_temp")


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest, golden: Any) -> tuple[TarFlow, dict[str, Any]]:
    """A golden model with its numbers."""
    content = golden(f"tarflow/{request.param}")
    model = TarFlow(**content["config"])
    model.load_state_dict(content["state_dict"])
    return model.eval(), content


def random_model(blocks: int = 3, classes: int = 3, scale: float = 0.03) -> TarFlow:
    """A TarFlow of 16 tokens with random output projections."""
    with torch.random.fork_rng():
        torch.manual_seed(blocks)
        model = TarFlow(3, 8, 2, 64, blocks, 1, classes)
        for block in model.blocks:
            torch.nn.init.normal_(block.proj_out.weight, std=scale)
            torch.nn.init.normal_(block.pos_embed, std=0.3)
    return model.eval()


@pytest.fixture(scope="session")
def tiny() -> TarFlow:
    """The random model; read only."""
    return random_model()
