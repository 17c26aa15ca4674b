"""What jobs ask a cluster for: estimated, or as the configuration says.

Resources are no params: an estimate that changes reruns nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from fewstep.config.resources import RuleResources
from fewstep.graph.needs import Need
from fewstep.graph.needs_systems import SystemNeedsGraph, jobs

_LEAST_MINUTES = 30
_LEAST_AT_ONCE = 240
"""Of stages that keep nothing on their way: one that is cut short begins anew."""
_SURE = 5  # minutes, margin included, whose estimate cannot be wrong by much
_RESUMED = ("train", "train_tokenizer", "sample")
_STEP = 1_000  # main memory is asked for in whole GB
_OPEN = RuleResources()


@dataclass(frozen=True)
class Ask:
    """Resources of a job.

    Attributes:
        runtime: minutes.
        mem_mb: main memory.
        gpu: GPUs of each node.
        gpu_model: their type; None: any.
    """

    runtime: int
    mem_mb: int
    gpu: int
    gpu_model: str | None = None


class ResourceGraph(SystemNeedsGraph):
    """What the rules' `resources:` ask for."""

    def need(self, kind: str, name: str) -> Need:
        """The estimate for a job, made once.

        Args:
            kind: as `jobs` has them.
            name: experiment, `experiment/sampler`, or pairs, codes, tokenizer, dataset,
                reference.
        """
        known: dict[tuple[str, str], Need] = self.__dict__.setdefault("_needs", {})
        if (kind, name) not in known:
            key: Any = tuple(name.split("/")) if "/" in name else name
            known[kind, name] = jobs(self)[kind](key)
        return known[kind, name]

    def ask(self, kind: str, name: str, *, share: float = 1.0) -> Ask:
        """What a job asks for.

        The time has a margin. Stages that go on where they were get at most the longest
        slice of the configuration; the others, which begin anew when they are cut
        short, get what they are estimated to need, and hours if that is little.

        Args:
            kind, name: as in `need`.
            share: of the work that this job does, where several do it together.
        """
        need, said = self.need(kind, name), self._said(kind, name)
        hardware = self.config.hardware
        minutes = math.ceil(hardware.margin * need.seconds * share / 60)
        if kind in _RESUMED:
            minutes = min(max(minutes, _LEAST_MINUTES), 60 * hardware.slice_hours)
        else:
            least = _LEAST_MINUTES if minutes <= _SURE else _LEAST_AT_ONCE
            minutes = max(minutes, least)
        memory = -(-need.host_mb // _STEP) * _STEP
        gpu = need.gpus
        if kind == "train":
            train = self.experiments[name].train
            gpu = gpu // train.nodes if train else gpu
        if kind == "train_tokenizer":
            gpu //= self.tokenizer_nodes(name)
        gpu = gpu if said.gpu is None else said.gpu
        return Ask(
            said.runtime or minutes,
            said.mem_mb or memory,
            gpu,
            said.gpu_model if gpu else None,
        )

    def _said(self, kind: str, name: str) -> RuleResources:
        """What the configuration says of a job's resources."""
        experiment = name.split("/", maxsplit=1)[0]
        if kind in ("pairs", "edges"):
            kind, experiment = "pairs", self.config.pairs[name].teacher
        if kind == "timing_together":
            kind = "timing"
        own = self.experiments.get(experiment)
        if own is None or kind in ("codes", "reconstruct", "dataset", "reference"):
            return _OPEN
        return next((v for k, v in own.resources.items() if k == kind), _OPEN)
