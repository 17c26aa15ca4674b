"""`plan.json` of a sampler that a notebook asks for."""

from __future__ import annotations

from pathlib import Path

from fewstep import files
from fewstep.api.experiment import SEARCHED, NotebookGraph, Plan
from fewstep.config.tree import Experiment
from fewstep.errors import UserError
from fewstep.stages import solver_plan, strategy, token_plan

RANK = "rank.json"
"""IGM and CRM of the blocks, beside the weights that they were made of."""


def write(
    graph: NotebookGraph,
    cell: tuple[str, str],
    plan: Plan | None,
    weights: Path,
    out: Path,
) -> Path:
    """Write a plan as the workflow does; returns `out`.

    Args:
        graph: knows the sampler.
        cell: experiment and sampler.
        plan: what a search found, where the sampler is that.
        weights: `model.safetensors`; the workflow's measurements lie beside it.
        out: the file.

    Raises:
        UserError: for a strategy that follows from measurements which are not there.
    """
    (name, label), text = cell, "/".join(cell)
    system = graph.experiments[name].system
    made, rank = weights.parent / label / "plan.json", weights.parent / RANK
    if plan is not None:
        files.write_json(out, plan.content)
    elif system == "seqrf":
        solver_plan.write(graph.solver_plan(text), out)
    elif system == "par":
        token_plan.write(graph.token_plan(text), Path(graph.companions(cell)[0]), out)
    elif _is_given(graph, text):
        strategy.write(graph.strategy(text), None, out)
    elif made.is_file():
        files.write_json(out, files.read_json(made))
    elif graph.strategy_inputs(text) and rank.is_file():
        strategy.write(graph.strategy(text), rank, out)
    else:
        raise _unmeasured(graph, name, label)
    return out


def check_fits(plan: Plan, own: Experiment) -> None:
    """Refuse a plan that was searched for another architecture.

    Raises:
        UserError: with both.
    """
    if own.system != "tarflow":
        raise UserError(
            "a plan is for a TarFlow", where=repr(plan.strategy), expected=own.system
        )
    found = plan.content["strategy"]
    theirs = f"{len(found['blocks'])} blocks of {found['tokens']} tokens"
    mine = f"{own.model.num_blocks} blocks of {own.model.tokens} tokens"
    if theirs != mine:
        raise UserError(
            f"a plan for {theirs}", where=repr(plan.strategy), expected=mine
        )


def _is_given(graph: NotebookGraph, text: str) -> bool:
    """Whether a strategy needs neither a search nor a ranking."""
    searched = graph.strategy(text)["strategy"] == SEARCHED
    return not searched and not graph.strategy_inputs(text)


def _unmeasured(graph: NotebookGraph, name: str, label: str) -> UserError:
    """The line about measurements that are not there, and how to get them."""
    ranked = graph.strategy_inputs(f"{name}/{label}")
    path = ranked[0] if ranked else f"results/{name}/{label}/plan.json"
    do = "use what model.search() finds, or a strategy in the paper's notation"
    known = graph.workflow.experiments[name].samplers if graph.workflow else None
    # No job searches for a sampler that a notebook alone knows.
    if known is not None and (ranked or label in known):
        do = f"run `snakemake --profile local {path}` and load the model again, or {do}"
    return UserError(
        f"the strategy of {label!r} comes from measurements that are not there", do=do
    )
