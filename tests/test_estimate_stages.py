"""Estimated passes and draws against the stages that make them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from fewstep.estimate.par import DECODED
from fewstep.estimate.tarflow import DENOISED, forward_work
from fewstep.estimate.time import seconds as time_of
from fewstep.graph import Graph
from fewstep.graph.needs import READ, START
from fewstep.graph.needs_systems import PROFILED
from fewstep.par import sampler as par_sampler
from fewstep.sampling import Draw
from fewstep.stages import rank, timing
from fewstep.tarflow import sampler as tarflow_sampler

ROOT = Path(__file__).parents[1]


def changed(**experiment: Any) -> Graph:
    """The repository's configuration, with keys of the experiment `afhq` changed."""
    return Graph(ROOT, overrides={"experiments": {"afhq": experiment}})


def test_images_taken_together_are_those_of_the_samplers() -> None:
    """The estimates may not import the samplers, whose modules load torch."""
    assert (DENOISED, DECODED) == (tarflow_sampler._CHUNK, par_sampler._DECODED)


def test_a_profile_of_convergence_is_most_of_a_rank() -> None:
    """16 inversions of 32 images: one block by as many iterations as tokens."""
    assert PROFILED == rank._PROFILE_IMAGES
    few = changed(rank={"num_mc": 16, "batch": 16})
    own = few.tarflow("afhq").model
    tough, others = own.tokens / 2, 12 * (own.num_blocks - 1)
    passes = 2 * (tough + others) / own.num_blocks
    work = forward_work(own.resolved(), rank._PROFILE_IMAGES, "fp32") * passes
    least = time_of([work], few.config.hardware)
    assert least < few.need("rank", "afhq").seconds < 4 * least
    more = changed(rank={"num_mc": 1000, "batch": 16}).need("rank", "afhq").seconds
    assert 0 < more - few.need("rank", "afhq").seconds < more / 2


@dataclass
class Counted:
    """A sampler that counts its draws."""

    draws: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def inputs(self, *_: Any, **__: Any) -> None:
        """Nothing is needed."""

    def draw(self, inputs: None) -> Draw:
        """One black pixel."""
        del inputs
        self.draws += 1
        return Draw(torch.zeros(1, 3, 1, 1), 1)

    def finish(self, images: torch.Tensor, inputs: None) -> torch.Tensor:
        """As they are."""
        del inputs
        return images


@pytest.mark.parametrize("cell", [("afhq", "gsj"), ("afhq", "for")])
def test_a_clock_is_estimated_by_its_draws(cell: tuple[str, str]) -> None:
    """As many draws of the sampler and of its baseline as the stage makes."""
    graph = changed(timing={"batches": [1]})
    spec, rival = graph.timing(cell), Counted()
    sampler = rival if cell == graph.baseline("afhq") else Counted()
    timing._measure(spec, {cell[1]: sampler}, rival, 1)
    counts = {graph.baseline("afhq"): rival.draws, cell: sampler.draws}
    drawing = sum(n * graph.drawn(c, 1)[1] for c, n in counts.items())
    loading = 2 * (START + graph.weights_bytes("afhq") / READ)
    assert graph.need("timing", "/".join(cell)).seconds == pytest.approx(
        loading + drawing
    )
