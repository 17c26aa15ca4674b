"""A model for a notebook: sample, time, score, search."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewstep import files
from fewstep.api import plans as plan_files
from fewstep.api import searching
from fewstep.api.arguments import MOST, several, whole
from fewstep.api.classes import Classified, checked
from fewstep.api.experiment import (
    SEARCHED,
    NotebookGraph,
    Plan,
    add_sampler,
    check_numbers,
    settings_of,
)
from fewstep.api.scoring import Score, score_images
from fewstep.config.tree import Experiment
from fewstep.errors import UserError
from fewstep.progress import Progress
from fewstep.sampling import SampleOptions, Sampler, draw_shard
from fewstep.stages import timing
from fewstep.stages.systems import load_sampler

SamplerLike = str | Mapping[str, Any] | Plan
"""A name of `Model.samplers`, a strategy or solver in words, settings, or a plan."""

_COLUMNS = {
    "batch": "batch",
    "seconds_per_image": "seconds_per_image",
    "ratio": "times_as_fast",
    "error_to_exact": "error_to_exact",
    "steps": "steps",
    "iterations": "iterations",
    "nfe": "nfe",
    "peak_memory_mb": "peak_memory_mb",
}
_LONGEST_LABEL, _SLASH = 60, "\u2215"
_OWN_IMAGES = 32  # they stand in for real ones; the metrics are means over them


class Model:
    """A generative model and the samplers of its experiment; `fewstep.load` makes one.

    Args:
        name: of the experiment.
        graph: the configuration that it stands in.
        weights: `model.safetensors`.
        title: what to call it; "": by its name.
    """

    def __init__(
        self, name: str, graph: NotebookGraph, weights: Path, title: str = ""
    ) -> None:
        self.name, self.graph, self.weights = name, graph, weights
        self.title = title or name
        self._loaded: tuple[str, Sampler] | None = None

    def __repr__(self) -> str:
        return f"<{self.system} {self.title}: samplers {', '.join(self.samplers)}>"

    @property
    def experiment(self) -> Experiment:
        """Its part of the configuration."""
        return self.graph.experiments[self.name]

    @property
    def system(self) -> str:
        """Its system: "tarflow", "seqrf" or "par"."""
        return self.experiment.system

    @property
    def samplers(self) -> list[str]:
        """Names that `sample`, `time` and `score` take."""
        return list(self.experiment.samplers)

    def sample(
        self,
        n: int,
        sampler: SamplerLike | None = None,
        *,
        seed: int = 0,
        start: int = 0,
        batch: int | None = None,
        classes: int | Sequence[int] | NDArray[Any] | Tensor | None = None,
    ) -> Tensor:
        """Draw images.

        Sample i depends on (seed, i) alone, so these are the images that the workflow
        draws, bit for bit on one machine where the batch is the same.

        Args:
            n: how many.
            sampler: one of `samplers`, a strategy such as "[5-8-8-8]", a solver such as
                "euler-8", settings as in config.yaml, or a `Plan` of `search`; None:
                the first of `samplers`.
            seed: of the run.
            start: number of the first sample.
            batch: images drawn at once; None: as configured.
            classes: one for all images or one for each; None: as configured, by
                default every class equally often.

        Returns:
            uint8 (n, 3, H, W), on the CPU.

        Raises:
            UserError: for a sampler that does not exist or does not fit the model, for
                classes that it does not know, and for numbers that are none.
        """
        seed, start = whole(seed, "seed", 0), whole(start, "start", 0)
        n = whole(n, "n", 1, MOST - start)
        batch = None if batch is None else whole(batch, "batch", 1)
        label, graph, plan = self._with(sampler)
        options = self._options(graph, label, seed, (start, start + n), batch)
        found: Sampler = self._load(graph, label, plan)
        if classes is not None:
            given = checked(classes, n, options.num_classes)
            found = Classified(found, given, start)
        progress = _progress(f"sample {self.title}/{_shown(label)}", n)
        indices = list(range(start, start + n))
        return torch.from_numpy(draw_shard(found, options, indices, progress)[0])

    def time(
        self,
        samplers: Iterable[SamplerLike] | SamplerLike | None = None,
        *,
        batch: int = 16,
        baseline: SamplerLike | None = None,
        repeats: int = 3,
    ) -> pd.DataFrame:
        """Time samplers in turn in one run, on the same noise, after a warm-up.

        Args:
            samplers: one or more, as `sample` takes them; None: all of `samplers`.
            batch: images at once.
            baseline: whose time the others are divided into; None: the first one.
            repeats: runs of each, of which the median counts.

        Returns:
            a row a sampler: batch, seconds_per_image (sampling alone), times_as_fast
            (as the baseline), error_to_exact (largest difference of a value to For,
            where For is the baseline), steps, iterations, nfe, peak_memory_mb.

        Raises:
            UserError: as `sample`.
        """
        batch, repeats = whole(batch, "batch", 1), whole(repeats, "repeats", 1)
        wanted = several(self.samplers if samplers is None else samplers, "samplers")
        first = wanted[0] if baseline is None else baseline
        graph, plans = self.graph, dict[str, Plan | None]()
        for one in (first, *wanted):
            label, graph, plan = self._with(one, graph)
            plans[label] = plan
        graph = _timed(graph, self.name, next(iter(plans)), batch, repeats)
        return _table(self._clocks(graph, plans))

    def score(
        self,
        images: Tensor | NDArray[Any] | int,
        sampler: SamplerLike | None = None,
        *,
        reference: str | Path | Tensor | NDArray[Any] | None = None,
        seed: int = 0,
    ) -> Score:
        """Score images by their Fréchet distance to real ones, and what goes with it.

        Args:
            images: uint8 (N, 3, H, W), or how many to draw.
            sampler, seed: of those that are drawn.
            reference: a name in the configuration; a file of statistics, made by the
                experiment's extractor, or real images uint8 (M, 3, H, W); None: the
                experiment's own.

        Raises:
            UserError: for a reference that is not there, or images that do not fit.
        """
        if isinstance(images, int | np.integer):
            count = whole(images, "images", 2)
            images = self.sample(count, sampler, seed=seed)
        return score_images(self.graph, self.name, images, reference)

    def search(
        self,
        *,
        tolerance: float | None = None,
        batch: int | None = None,
        images: Tensor | NDArray[Any] | None = None,
        **settings: Any,
    ) -> Plan:
        """Find the fastest strategy within a tolerance, by measurement (TarFlow).

        Args:
            tolerance: largest error of a value against the exact inverse; images span
                [-1, 1]. None: as configured, by default half a grey level.
            batch: batch size that it shall be fast at; None: as configured.
            images: real images uint8 (M, 3, H, W) that tell which blocks are tough;
                None: those of the workflow's `rank.json` where it is there, else the
                model's own samples.
            settings: further keys of `search` in config.yaml.

        Raises:
            UserError: for another system, or settings that are wrong.
        """
        if self.system != "tarflow":
            raise UserError(
                f"{self.title} is of {self.system}", expected="a TarFlow to search"
            )
        rank = self.weights.parent / plan_files.RANK
        real = images
        if real is None and not rank.is_file():
            real = self.sample(_OWN_IMAGES, "for")
        changes = {"tolerance": tolerance, "batch": batch, **settings}
        return searching.run(self.graph, self.name, self.weights, real, changes)

    def _clocks(
        self, graph: NotebookGraph, plans: Mapping[str, Plan | None]
    ) -> dict[str, dict[str, Any]]:
        """What the stage `timing` measures of each sampler, the baseline first."""
        labels = list(plans)
        spec = graph.timing((self.name, labels[0]))
        spec["samplers"] = {one: graph.sampler((self.name, one)) for one in labels}
        spec["timing"]["batches"] = list(graph.experiments[self.name].timing.batches)
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            paths = [
                plan_files.write(
                    graph,
                    (self.name, label),
                    plan,
                    self.weights,
                    folder / label / "plan.json",
                )
                for label, plan in plans.items()
            ]
            out, rows = folder / "timing.json", folder / "timing.parquet"
            rival = self.weights, paths[0]
            timing.run_together(spec, self.weights, paths, *rival, out, rows)
            clocks = files.read_json(out)["samplers"]
        return {label: clocks[label]["batches"][0] for label in labels}

    def _with(
        self, sampler: SamplerLike | None, graph: NotebookGraph | None = None
    ) -> tuple[str, NotebookGraph, Plan | None]:
        """A sampler's label, a graph that knows it, and its plan if it brings one."""
        graph = graph or self.graph
        own = graph.experiments[self.name]
        if sampler is None:
            sampler = self.samplers[0]
        if isinstance(sampler, Plan):
            plan_files.check_fits(sampler, own)
            label = _label(f"search {sampler.strategy}")
            own = add_sampler(own, label, {"strategy": SEARCHED})
            return label, graph.with_experiment(self.name, own), sampler
        if isinstance(sampler, str) and sampler in own.samplers:
            return sampler, graph, None
        settings = settings_of(self.system, sampler)
        label = _label(sampler if isinstance(sampler, str) else settings)
        own = add_sampler(own, label, settings)
        graph = graph.with_experiment(self.name, own)
        keys = ("samplers", label)
        check_numbers(graph, self.name, *keys, where=f"sampler {_shown(label)}")
        return label, graph, None

    def _options(
        self,
        graph: NotebookGraph,
        label: str,
        seed: int,
        numbers: tuple[int, int],
        batch: int | None,
    ) -> SampleOptions:
        """As the stage `sample` has them."""
        own = graph.experiments[self.name]
        sampling, protocol = own.sampling_of(label), own.evaluation.protocol
        return SampleOptions(
            seed=seed,
            start=numbers[0],
            stop=numbers[1],
            batch=batch or sampling.batch,
            shard=numbers[1] - numbers[0],
            num_classes=own.model.num_classes,
            labels=getattr(sampling, "labels", "none"),
            rounding=protocol.rounding,
            nan_policy=sampling.nan_policy,
            max_redraws=sampling.max_redraws,
            resize=protocol.resize,
            batch_decides=own.depends_on_batch(label),
        )

    def _load(self, graph: NotebookGraph, label: str, plan: Plan | None) -> Sampler:
        """The sampler; the last one is kept."""
        spec = graph.sampler((self.name, label))
        key = files.sha256_json([spec, plan.content if plan else None])
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # its memory goes first
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "plan.json"
                cell = self.name, label
                plan_files.write(graph, cell, plan, self.weights, path)
                weights = self._weights_of(graph, label)
                self._loaded = key, load_sampler(spec, weights, path)
        return self._loaded[1]

    def _weights_of(self, graph: NotebookGraph, label: str) -> Path:
        """The last weights, or those of an earlier training step."""
        path = graph.weights((self.name, label))
        if path.endswith("/model.safetensors"):
            return self.weights
        found = graph.root / path
        if not found.is_file():
            raise UserError(
                "these weights are kept by the workflow's training, and not there",
                where=str(found),
            )
        return found


def _timed(
    graph: NotebookGraph, name: str, baseline: str, batch: int, repeats: int
) -> NotebookGraph:
    """The graph with another clock."""
    own = graph.experiments[name]
    change = {"batches": (batch,), "repeats": repeats, "baseline": baseline}
    clock = own.timing.model_copy(update=change)
    copy = own.model_copy(update={"timing": clock})
    copy._name = name
    return graph.with_experiment(name, copy)


class _Times(pd.DataFrame):
    """A table that a terminal shows whole, too."""

    def __repr__(self) -> str:
        return self.to_string(
            float_format=lambda value: f"{value:.4g}",
            na_rep="-",
            line_width=shutil.get_terminal_size().columns,
        )


def _table(rows: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """What `Model.time` returns."""
    named = {_shown(label): row for label, row in rows.items()}
    frame = pd.DataFrame.from_dict(named, orient="index")
    frame = frame[list(_COLUMNS)].rename(columns=_COLUMNS)
    frame.index.name = "sampler"
    return _Times(frame.dropna(axis="columns", how="all"))


def _label(sampler: str | Mapping[str, Any]) -> str:
    """A sampler's words as a name that may stand in a path.

    A slash, which parts the blocks of a notation, becomes one that parts no folders.
    """
    if isinstance(sampler, str):
        text = sampler
    else:
        text = ", ".join(f"{key} {value}" for key, value in sampler.items()) or "plain"
    if len(text) > _LONGEST_LABEL:  # two that begin alike must not be one
        text = f"{text[:_LONGEST_LABEL]}… {files.sha256_json(text)[:6]}"
    return text.replace("/", _SLASH)


def _shown(label: str) -> str:
    """A label as it was said."""
    return label.replace(_SLASH, "/")


def _progress(label: str, total: int) -> Progress:
    """Lines while there is something to wait for, and none at the end."""
    progress = Progress(label, total)
    write = progress.write
    progress.write = lambda line: write(line) if progress.done < total else None
    return progress
