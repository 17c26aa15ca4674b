"""Mean parameters of a block over a calibration batch: a start for its iteration."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from fewstep.tarflow.guidance import UNGUIDED, BlockEvaluator, Guidance
from fewstep.tarflow.model import FlowBlock, TarFlow
from fewstep.tarflow.solve import Means


def mean_parameters(
    block: FlowBlock, x: Tensor, y: Tensor | None, guidance: Guidance = UNGUIDED
) -> Means:
    """E[s] and E[u] of each entry, at exact inputs x (B, T, C) in raster order.

    As precise as a plan keeps them: half precision.
    """
    x = block.ordered(x)
    with torch.inference_mode():
        evaluate = BlockEvaluator(block, y, len(x), guidance)
        found = [part.mean(dim=0) for part in evaluate(x[:, :-1], 0)]
    s, u = (torch.cat([torch.zeros_like(part[:1]), part]) for part in found)
    return s.half().float(), u.half().float()


def write_means(means: Mapping[int, Means]) -> dict[str, str]:
    """As JSON: block to base64 of E[s] and E[u] (2, T, C) in half precision."""
    return {
        str(block): base64.b64encode(
            torch.stack(pair).half().cpu().numpy().tobytes()
        ).decode()
        for block, pair in means.items()
    }


def read_means(written: Mapping[str, str], model: TarFlow) -> dict[int, Means]:
    """What `write_means` wrote, on the model's device."""
    found = {}
    for block, text in written.items():
        values = np.frombuffer(base64.b64decode(text), dtype=np.float16)
        both = torch.from_numpy(values.copy()).float().to(model.var.device)
        s, u = both.view(2, model.tokens, model.token_dim)
        found[int(block)] = (s, u)
    return found
