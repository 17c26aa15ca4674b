"""Stage: a strategy that needs no search, as a file that the sampler reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewstep import files
from fewstep.tarflow.strategy import BlockPlan, Strategy


def write(spec: dict[str, Any], rank: Path | None, out: Path) -> None:
    """Write `plan.json` for For, a notation, lists, or a rule on the CRM.

    Args:
        spec: `strategy`, `guess` of the sampler, `num_blocks`, `tokens` of the model.
        rank: `rank.json`, for a rule on the CRM.
        out: the plan.
    """
    wanted, blocks, tokens = spec["strategy"], spec["num_blocks"], spec["tokens"]
    source = "config"
    if isinstance(wanted, str):
        strategy = Strategy.parse(
            wanted, num_blocks=blocks, tokens=tokens, guess=spec.get("guess")
        )
    elif "crm" in wanted:
        assert rank is not None
        strategy = from_crm(wanted["crm"], files.read_json(rank), tokens)
        source = "crm"
    else:
        strategy = Strategy.from_lists(
            wanted["num_gs"], wanted["max_jacobi"], wanted["guess"], tokens
        )
    files.write_json(
        out,
        {"source": source, "notation": str(strategy), "strategy": strategy.to_dict()},
    )


def from_crm(rule: dict[str, Any], rank: dict[str, Any], tokens: int) -> Strategy:
    """The published recipe: segment the tough blocks, few iterations for the others.

    The initial guess of each block is the one of smaller IGM.
    """
    plans = [
        BlockPlan(rule["segments"], rule["max_jacobi"], guess)
        if number in rank["tough"]
        else BlockPlan(1, rule["else"], guess)
        for number, guess in enumerate(rank["guess"])
    ]
    return Strategy(tuple(plans), tokens)
