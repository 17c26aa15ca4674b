"""Specs of TarFlow: training, ranking, strategies and their search."""

from __future__ import annotations

from typing import Any

from fewstep.config.tarflow import CrmStrategy, TarFlowExperiment
from fewstep.graph.base import NO_PARAMS, Cell, code
from fewstep.graph.spine import SpineGraph


class TarFlowGraph(SpineGraph):
    """What rules/tarflow.smk asks for."""

    def tarflow(self, experiment: str) -> TarFlowExperiment:
        """An experiment of this system."""
        own = self.experiments[experiment]
        assert isinstance(own, TarFlowExperiment)
        return own

    def rank(self, experiment: str) -> dict[str, Any]:
        """What IGM, CRM and the profile need."""
        search = self.tarflow(experiment).search
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

    def tarflow_train(self, experiment: str) -> dict[str, Any]:
        """What decides the weights of a training: how many GPUs does not."""
        spec = self.experiment(
            experiment, "model", "noise", "train", code=code("stages.train_tarflow")
        )
        for key in NO_PARAMS:
            del spec["train"][key]
        return spec

    def trace(self, cell: Cell) -> dict[str, Any]:
        """What the filmstrip needs."""
        return self.sampler(cell, "trace", code=code("stages.pictures"))

    def side_by_side(self, wildcards: Any) -> list[str]:
        """Input function: samples of the first seed, the baseline's first."""
        own, name = self.tarflow(wildcards.experiment), wildcards.experiment
        base, seed = self.baseline(name), own.evaluation.seeds[0]
        # It may be another experiment's; then the first sampler stands for it.
        ordered = sorted(own.samplers, key=lambda sampler: (name, sampler) != base)
        return [f"results/{name}/{one}/seed{seed}/samples.json" for one in ordered]

    def plans(self, *, searched: bool) -> list[str]:
        """`experiment/sampler` whose strategy is searched, or given."""
        return [
            f"{name}/{sampler}"
            for name, sampler in self.cells("tarflow")
            if (self.tarflow(name).samplers[sampler].strategy == "auto") == searched
        ]

    def strategy_inputs(self, cell: str) -> list[str]:
        """`rank.json` where the strategy follows from the CRM."""
        name, sampler = cell.split("/")
        strategy = self.tarflow(name).samplers[sampler].strategy
        crm = isinstance(strategy, CrmStrategy)
        return [f"results/{name}/rank.json"] if crm else []

    def strategy(self, cell: str) -> dict[str, Any]:
        """What writing a given strategy needs."""
        name, sampler = cell.split("/")
        own = self.tarflow(name)
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
