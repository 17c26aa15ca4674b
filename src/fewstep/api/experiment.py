"""An experiment with the samplers that a notebook adds to it, as the stages see it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fewstep import hub
from fewstep.api.arguments import wrong
from fewstep.config import Config
from fewstep.config.checks import check_config
from fewstep.config.par import TokenSamplerSpec
from fewstep.config.problems import Problem, from_pydantic
from fewstep.config.seqrf import SolverSpec
from fewstep.config.tarflow import SamplerSpec, TarFlowExperiment
from fewstep.config.tree import Experiment
from fewstep.errors import UserError
from fewstep.graph import Graph

_SPECS: dict[str, type[Any]] = {
    "par": TokenSamplerSpec,
    "seqrf": SolverSpec,
    "tarflow": SamplerSpec,
}
_SOLVER = re.compile(
    r"(euler|heun|heun_released)-(\d+)|(rk45)(?:-(\d+(?:\.\d*)?(?:e-?\d+)?))?"
)
SEARCHED = "auto"


@dataclass(frozen=True)
class Plan:
    """A strategy that `Model.search` found; `Model.sample` takes it as a sampler.

    Attributes:
        strategy: in the paper's notation.
        error: largest error of a value against the exact inverse, on noise that the
            search did not see; images span [-1, 1].
        tolerance: what was allowed.
        batch: batch size that it was timed at.
        seconds: of one batch.
        speedup: over the exact inverse, in the same run.
        content: what the workflow writes to plan.json.
    """

    strategy: str
    error: float
    tolerance: float
    batch: int
    seconds: float
    speedup: float
    content: dict[str, Any]

    def __repr__(self) -> str:
        return (
            f"<Plan {self.strategy}: {self.speedup:.3g} times as fast as For at batch "
            f"{self.batch}, error {self.error:.2g} of {self.tolerance:.2g} allowed>"
        )


class NotebookGraph(Graph):
    """The workflow's view of a configuration that need not lie in a file.

    Args:
        config: one or more experiments.
        root: folder that the paths of the configuration start from.
        tokenizer: weights of PAR's tokenizer, where they do not lie in results/.
        workflow: what config.yaml says, whose jobs can make what is missing; None:
            no such file knows the experiment.
    """

    def __init__(
        self,
        config: Config,
        root: Path,
        tokenizer: Path | None = None,
        workflow: Config | None = None,
    ) -> None:
        self.root, self.config = root, config
        self.experiments = config.experiments
        self.tokenizer, self.workflow = tokenizer, workflow

    def tokenizer_file(self, name: str) -> str:
        """The weights of a tokenizer (PAR)."""
        return str(self.tokenizer or super().tokenizer_file(name))

    def with_experiment(self, name: str, own: Experiment) -> NotebookGraph:
        """This graph with another version of one experiment."""
        experiments = {**self.experiments, name: own}
        config = self.config.model_copy(update={"experiments": experiments})
        config._assets = self.config.assets
        return NotebookGraph(config, self.root, self.tokenizer, self.workflow)


def fetch_asset(graph: NotebookGraph, name: str) -> Path:
    """The file of an asset, fetched and verified; where the workflow has it.

    Raises:
        UserError: one line for each way in which that can fail.
    """
    spec = graph.asset(name)
    if not Path(spec["path"]).exists():
        spec["path"] = str(graph.root / spec["path"])
    hub.fetch(spec, graph.root / hub.LEDGER, expected_mb=graph.asset_mb(name))
    return Path(spec["path"])


def settings_of(system: str, sampler: str | Mapping[str, Any]) -> dict[str, Any]:
    """Keys of a sampler as config.yaml has them, from what a notebook says.

    Args:
        system: "tarflow", "seqrf" or "par".
        sampler: such keys; or a strategy ("for", "[5-8-8-8]"), or a solver ("euler-8",
            "heun-4", "rk45", "rk45-1e-3").

    Raises:
        UserError: for a word that is no sampler, and for what is neither.
    """
    if isinstance(sampler, Mapping):
        return {str(key): value for key, value in sampler.items()}
    if not isinstance(sampler, str):
        raise wrong(sampler, "sampler", _EXPECTED[system])
    if system == "tarflow" and sampler.lower() == "for":
        return {"strategy": "for"}
    if system == "tarflow" and sampler.startswith("["):
        return {"strategy": sampler}
    found = _SOLVER.fullmatch(sampler) if system == "seqrf" else None
    if found is None:
        raise UserError(f"no sampler is called {sampler!r}", expected=_EXPECTED[system])
    if found[3]:
        return {"solver": "rk45", "tol": float(found[4] or 1e-3)}
    return {"solver": found[1], "steps": int(found[2])}


_EXPECTED = {
    "par": "one of model.samplers, or settings such as {'cfg_scale': 2.0}",
    "seqrf": "one of model.samplers, 'euler-8', 'heun-4', 'rk45' or settings",
    "tarflow": "one of model.samplers, 'for', a strategy '[5-8-8-8]', or settings",
}


def add_sampler(own: Experiment, label: str, settings: Mapping[str, Any]) -> Experiment:
    """The experiment with one more sampler.

    Raises:
        UserError: for settings that are none of a sampler's.
    """
    made = checked(_SPECS[own.system], settings, f"sampler {label}")
    copy = own.model_copy(update={"samplers": {**own.samplers, label: made}})
    copy._name = own.name
    return copy


def with_search(own: TarFlowExperiment, **changes: Any) -> TarFlowExperiment:
    """The experiment with other settings of its search; None leaves one as it is."""
    wanted = {key: value for key, value in changes.items() if value is not None}
    value = {**own.search.model_dump(), **wanted}
    search = checked(type(own.search), value, "search")
    copy = own.model_copy(update={"search": search})
    copy._name = own.name
    return copy


def checked(
    spec: type[Any], value: Mapping[str, Any], where: str, *, skipped: int = 0
) -> Any:
    """A spec of the configuration, or one line that says what is wrong.

    Args:
        spec: its type.
        value: what was given.
        where: what the line names.
        skipped: keys at the beginning of a path that the line leaves out.

    Raises:
        UserError: for the first problem.
    """
    try:
        return spec.model_validate(value)
    except ValidationError as error:
        found = from_pydantic(error, value, spec.model_json_schema())
        raise _as_error(found[0], where, skipped) from error


def check_numbers(graph: NotebookGraph, name: str, *keys: str, where: str) -> None:
    """Refuse numbers that do not fit together, as config.yaml is checked.

    Args:
        graph, name: the experiment.
        keys: what is checked of it; nothing: all that is not about data.
        where: what the error names.

    Raises:
        UserError: for the first problem.
    """
    path = ("experiments", name, *keys)
    for problem in check_config(graph.config, graph.root):
        inner = problem.path[: len(path)] == path and len(problem.path) > 2
        if inner and problem.path[2] not in ("dataset", "evaluation", "timing"):
            raise _as_error(problem, where, len(path))


def _as_error(problem: Problem, where: str, skipped: int) -> UserError:
    """A problem as one line that does not speak of a file."""
    path = ".".join(map(str, problem.path[skipped:]))
    return UserError(
        problem.what,
        where=f"{where}: {path}" if path else where,
        expected=problem.expected,
        do=problem.do,
    )
