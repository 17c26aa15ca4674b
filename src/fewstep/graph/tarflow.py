"""Specs of TarFlow: training, ranking, strategies and their search."""

from __future__ import annotations

import shlex
from typing import Any

from fewstep.config.base import is_path
from fewstep.config.tarflow import CrmStrategy
from fewstep.graph.base import Cell, code
from fewstep.graph.spine import SpineGraph


class TarFlowGraph(SpineGraph):
    """What rules/tarflow.smk asks for."""

    def tarflow(self, *, trained: bool | None = None) -> list[str]:
        """TarFlow experiments: all, those trained here, or those with a checkpoint."""
        return [
            name
            for name, own in self.experiments.items()
            if own.system == "tarflow" and trained in (None, own.train is not None)
        ]

    def checkpoint_inputs(self, experiment: str) -> list[str]:
        """The record of the published checkpoint, or its path."""
        name = self.experiments[experiment].checkpoint
        assert name is not None
        return self.asset_inputs(name)

    def checkpoint_option(self, experiment: str) -> str:
        """`--source PATH`, and `--record FILE` for an asset."""
        name = self.experiments[experiment].checkpoint
        assert name is not None
        option = f"--source {shlex.quote(self.asset_path(name))}"
        if is_path(name):
            return option
        return f"{option} --record {self.asset_inputs(name)[0]}"

    def rank(self, experiment: str) -> dict[str, Any]:
        """What IGM, CRM and the profile need."""
        search = self.experiments[experiment].search
        return self.experiment(
            experiment,
            "model",
            "noise",
            "rank",
            search={
                "tolerance": search.tolerance,
                "tough_factor": search.tough_factor,
            },
            code=code("stages.rank"),
        )

    def train(self, experiment: str) -> dict[str, Any]:
        """What decides the weights of a training: how many GPUs does not."""
        spec = self.experiment(
            experiment, "model", "noise", "train", code=code("stages.train")
        )
        del spec["train"]["gpus"]
        return spec

    def gpus(self, experiment: str) -> int:
        """GPUs that a training asks for."""
        train = self.experiments[experiment].train
        return 1 if train is None else train.gpus

    def trace(self, cell: Cell) -> dict[str, Any]:
        """What the filmstrip needs."""
        return self.sampler(cell, "trace", code=code("stages.pictures"))

    def plans(self, *, searched: bool) -> list[str]:
        """`experiment/sampler` whose strategy is searched, or given."""
        return [
            f"{name}/{sampler}"
            for name, sampler in self.cells("tarflow")
            if (self.experiments[name].samplers[sampler].strategy == "auto") == searched
        ]

    def strategy_inputs(self, cell: str) -> list[str]:
        """`rank.json` where the strategy follows from the CRM."""
        name, sampler = cell.split("/")
        strategy = self.experiments[name].samplers[sampler].strategy
        crm = isinstance(strategy, CrmStrategy)
        return [f"results/{name}/rank.json"] if crm else []

    def strategy(self, cell: str) -> dict[str, Any]:
        """What writing a given strategy needs."""
        name, sampler = cell.split("/")
        own = self.experiments[name]
        chosen = own.samplers[sampler].resolved()
        return {
            "strategy": chosen["strategy"],
            "guess": chosen["guess"],
            "num_blocks": own.model.num_blocks,
            "tokens": own.model.tokens,
        }

    def search(self, cell: str) -> dict[str, Any]:
        """What a search needs."""
        name, sampler = cell.split("/")
        spec = self.sampler((name, sampler), "search", code=code("stages.search"))
        own = self.experiments[name].samplers[sampler].batch
        spec["search"]["batch"] = own or spec["search"]["batch"]
        return spec
