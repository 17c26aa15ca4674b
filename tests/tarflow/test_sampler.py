"""The sampler of the spine and self-denoising."""

from __future__ import annotations

import copy
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from fewstep import checkpoints, files
from fewstep.errors import UserError
from fewstep.sampling import complete
from fewstep.tarflow import Strategy, TarFlow, reverse, self_denoise
from fewstep.tarflow.guidance import Guidance
from fewstep.tarflow.sampler import (
    TarFlowSampler,
    compile_blocks,
    load_model,
    load_sampler,
)
from fewstep.tarflow.strategy import BlockPlan

Case = tuple[TarFlow, dict[str, Any]]
CONFIG = {
    "in_channels": 3,
    "img_size": 8,
    "patch_size": 2,
    "channels": 64,
    "num_blocks": 3,
    "layers_per_block": 1,
    "num_classes": 3,
}
SAMPLING = {
    "guidance": 1.0,
    "guide_what": "ac",
    "attn_temp": 1.0,
    "annealed": True,
    "temperature": 1.0,
    "self_denoise": 0.0,
    "precision": "fp32",
    "compile": False,
}


def test_self_denoising_matches_the_golden_numbers(case: Case) -> None:
    """The denoised images equal the released program's for every multiplier."""
    model, golden = case
    runs = {run["name"]: run for run in golden["reverse"]["runs"]}
    for run in golden["self_denoise"]["runs"]:
        x = runs[run["input_run"]]["samples"]
        y = golden["reverse"]["y"]
        out = self_denoise(model, x, y, golden["noise_std"], run["lr_multiplier"])
        torch.testing.assert_close(out, run["denoised"], atol=5e-5, rtol=0)


def test_self_denoising_does_not_depend_on_the_batch(tiny: TarFlow) -> None:
    """A sample is denoised alike alone and among others."""
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = self_denoise(tiny, x, None, 0.1, 1.0)
    alone = self_denoise(tiny, x[1:2], None, 0.1, 1.0)
    torch.testing.assert_close(whole[1:2], alone, atol=1e-6, rtol=1e-5)


def test_sampler_is_the_inverse_of_its_noise(tiny: TarFlow) -> None:
    """Draws are reverse() of the noise of (seed, i) with labels and guidance."""
    sampler = TarFlowSampler(
        tiny, Strategy.sequential(3, 16), Guidance(1.0), temperature=0.5
    )
    labels = np.array([0, 2])
    z, y = sampler.inputs(7, [3, 5], labels)
    draw = complete(sampler, 7, [3, 5], labels)
    torch.testing.assert_close(draw.images, reverse(tiny, z, y, guidance=1.0))
    assert draw.steps == 3 * 15
    assert draw.iterations == pytest.approx(15 / 16)
    assert 0.4 < float(z.std()) < 0.6


def test_shards_and_batches_do_not_change_a_sample(tiny: TarFlow) -> None:
    """Sample i is the same drawn alone, in a batch, or in another order."""
    sampler = TarFlowSampler(
        tiny, Strategy.sequential(3, 16), denoise=1.0, noise_std=0.1
    )
    whole = complete(sampler, 0, [0, 1, 2, 3], np.array([0, 1, 2, 0])).images
    part = complete(sampler, 0, [3, 1], np.array([0, 1])).images
    torch.testing.assert_close(whole[[3, 1]], part, atol=1e-5, rtol=1e-5)


def test_a_saved_sampler_loads(tmp_path: Path, tiny: TarFlow) -> None:
    """Checkpoint and plan on disk give the sampler that was saved, masks left out."""
    tensors = {k: v for k, v in tiny.state_dict().items() if "attn_mask" not in k}
    checkpoints.write_state_dict(tmp_path / "model.safetensors", tensors, {})
    strategy = Strategy.parse("[1-4-2-3]", num_blocks=3, tokens=16)
    files.write_json(tmp_path / "plan.json", {"strategy": strategy.to_dict()})
    spec = {
        "model": CONFIG,
        "noise": {"std": 0.1},
        "sampling": SAMPLING,
    }
    paths = (tmp_path / "model.safetensors", tmp_path / "plan.json")
    sampler = load_sampler(spec, *paths)
    assert sampler.strategy == strategy
    z = torch.zeros(1, 16, 12)
    torch.testing.assert_close(
        reverse(sampler.model, z), reverse(tiny, z), atol=1e-6, rtol=0
    )


def test_weights_of_another_architecture_are_named(
    tmp_path: Path, tiny: TarFlow
) -> None:
    """A checkpoint that does not fit names the first tensor that differs."""
    path = tmp_path / "model.safetensors"
    checkpoints.write_state_dict(path, tiny.state_dict(), {})
    with pytest.raises(UserError, match=r"var: shape \(16, 12\).*\(64, 12\)"):
        load_model({**CONFIG, "img_size": 16}, path, torch.device("cpu"))


STRATEGIES = (
    Strategy.sequential(3, 16),
    Strategy((BlockPlan(1, 5), BlockPlan(4, 6), BlockPlan(0, 16, window=4)), 16),
)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
# torch's compiler still loads modules that use its own deprecated parts.
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_compiled_blocks_give_the_same_images(tiny: TarFlow) -> None:
    """By 4 graphs for all strategies, batches, blocks and layers: one token or more."""
    other = copy.deepcopy(tiny)
    compile_blocks(other)
    torch._dynamo.reset()
    counters.clear()
    guidance = Guidance(1.5, "ac", 1.3, annealed=True)
    for strategy, size in product(STRATEGIES, (1, 3, 4)):
        plain, compiled = (
            TarFlowSampler(model, strategy, guidance) for model in (tiny, other)
        )
        inputs = plain.inputs(0, list(range(size)), np.arange(size) % 3)
        wanted, found = plain.draw(inputs), compiled.draw(inputs)
        torch.testing.assert_close(found.images, wanted.images, atol=2e-5, rtol=1e-5)
        assert found.steps == wanted.steps
    assert counters["stats"]["unique_graphs"] == 4
    assert not counters["graph_break"]


def test_blocks_are_compiled_where_the_settings_say_so(
    tmp_path: Path, tiny: TarFlow
) -> None:
    """All of them, or none."""
    path = tmp_path / "model.safetensors"
    checkpoints.write_state_dict(path, tiny.state_dict(), {})
    for wanted in (True, False):
        found = load_sampler(
            {
                "model": CONFIG,
                "noise": {"std": 0.1},
                "sampling": {**SAMPLING, "compile": wanted},
            },
            path,
            None,
        )
        assert {block.compiles for block in found.model.flows} == {wanted}
