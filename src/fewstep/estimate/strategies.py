"""What a configured strategy will be, as far as that is known before its search."""

from __future__ import annotations

from typing import Any

from fewstep.estimate.work import Settings
from fewstep.tarflow.strategy import Strategy

FOR = {"segments": 0, "max_jacobi": 1}


def planned(strategy: Any, guess: list[int] | None, model: Settings) -> dict[str, Any]:
    """The blocks' plans, as in plan.json, of a resolved `SamplerSpec.strategy`.

    A search keeps For unless something is faster, so `auto` counts as For. Of a rule on
    the CRM one block is taken to be tough.

    Args:
        strategy: "for", "auto", the paper's notation, or the lists or rule.
        guess: starts of the blocks; without influence here.
        model: resolved `TarFlowModelSpec`.
    """
    blocks = model["num_blocks"]
    tokens = (model["img_size"] // model["patch_size"]) ** 2
    if strategy in ("for", "auto"):
        return {"blocks": [FOR] * blocks}
    if isinstance(strategy, str):
        return Strategy.parse(
            strategy, num_blocks=blocks, tokens=tokens, guess=guess
        ).to_dict()
    if "crm" in strategy:
        rule = strategy["crm"]
        tough = {"segments": rule["segments"], "max_jacobi": rule["max_jacobi"]}
        easy = {"segments": 1, "max_jacobi": rule["else"]}
        return {"blocks": [easy] * (blocks - 1) + [tough]}
    lists = (strategy["num_gs"], strategy["max_jacobi"], strategy.get("guess"))
    return Strategy.from_lists(*lists, tokens=tokens).to_dict()
