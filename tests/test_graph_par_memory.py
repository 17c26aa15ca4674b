"""Main memory that PAR's trainings ask for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fewstep.graph import Graph
from fewstep.par.model import Transformer
from fewstep.par.sizes import SIZES, parameters
from tests.test_graph_par import ROOT, par

SHAPES: list[dict[str, Any]] = [
    {"n_layer": 2, "n_head": 2, "dim": 24, "multiple_of": 32, "ar_token_num": 4},
    {"n_layer": 3, "n_head": 5, "dim": 40, "multiple_of": 8, "ar_token_num": 1},
    {**SIZES["L"], "multiple_of": 256, "ar_token_num": 16},
    {**SIZES["3B"], "multiple_of": 256, "ar_token_num": 4},
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: str(shape["dim"]))
def test_parameters_are_counted_without_a_model(shape: dict[str, Any]) -> None:
    """The arithmetic gives the number of parameters of the transformer itself."""
    model = {**shape, "vocab_size": 300, "grid": 8, "num_classes": 7}
    with torch.device("meta"):
        built = Transformer(**model)
    assert parameters(model) == sum(one.numel() for one in built.parameters())


def test_a_training_asks_for_memory_by_size_and_gpus() -> None:
    """A float32 model each process, 12 or 16 bytes a parameter to save, 16 GB."""
    count = parameters(par().par("four").model.resolved()) / 1e6
    plain = {"gpus": 1, "ema": 0.0, "ema_warmup": False}
    averaged = {"gpus": 4, "ema": 0.5}
    for train, a_parameter in ((plain, 4 + 12), (averaged, 4 * 4 + 16)):
        memory = par(train=train).train_memory("four")
        assert memory == int(16_000 + count * a_parameter)
    assert Graph(ROOT).train_memory("par-3b-4x-scratch") > 100_000
