"""A model for a notebook: sample, time, score, search."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewstep import files
from fewstep.api import searching
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
from fewstep.stages import solver_plan, strategy, timing, token_plan
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
            UserError: for a sampler that does not exist or does not fit the model, and
                for classes that it does not know.
        """
        if n < 1:
            raise UserError(f"{n} samples", expected="at least 1")
        label, graph, plan = self._with(sampler)
        options = self._options(graph, label, seed, (start, start + n), batch)
        found: Sampler = self._load(graph, label, plan)
        if classes is not None:
            given = checked(classes, n, options.num_classes)
            found = Classified(found, given, start)
        progress = _progress(f"sample {self.title}/{label}", n)
        indices = list(range(start, start + n))
        return torch.from_numpy(draw_shard(found, options, indices, progress)[0])

    def time(
        self,
        samplers: Iterable[SamplerLike] | None = None,
        *,
        batch: int = 16,
        baseline: SamplerLike | None = None,
        repeats: int = 3,
    ) -> pd.DataFrame:
        """Time samplers in turn in one run, on the same noise, after a warm-up.

        Args:
            samplers: as `sample` takes them; None: all of `samplers`.
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
        wanted = list(self.samplers if samplers is None else samplers)
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
            reference: a name in the configuration, a file of statistics, or real images
                uint8 (M, 3, H, W); None: the experiment's own.

        Raises:
            UserError: for a reference that is not there, or images that do not fit.
        """
        drawn = images if not isinstance(images, int) else None
        if isinstance(images, int):
            drawn = self.sample(images, sampler, seed=seed)
        assert drawn is not None
        return score_images(self.graph, self.name, drawn, reference)

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
        rank = self.weights.parent / "rank.json"
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
                self._write_plan(graph, label, plan, folder / label / "plan.json")
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
            label = f"search {sampler.strategy}".replace("/", "-")
            own = add_sampler(own, label, {"strategy": SEARCHED})
            return label, graph.with_experiment(self.name, own), sampler
        if isinstance(sampler, str) and sampler in own.samplers:
            return sampler, graph, None
        settings = settings_of(self.system, sampler)
        label = sampler if isinstance(sampler, str) else _words(settings)
        own = add_sampler(own, label, settings)
        graph = graph.with_experiment(self.name, own)
        keys = ("samplers", label)
        check_numbers(graph, self.name, *keys, where=f"sampler {label}")
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
                self._write_plan(graph, label, plan, path)
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

    def _write_plan(
        self, graph: NotebookGraph, label: str, plan: Plan | None, out: Path
    ) -> Path:
        """`plan.json` of a sampler, as the workflow writes it."""
        cell = f"{self.name}/{label}"
        made = self.weights.parent / label / "plan.json"
        if plan is not None:
            files.write_json(out, plan.content)
        elif self.system == "seqrf":
            solver_plan.write(graph.solver_plan(cell), out)
        elif self.system == "par":
            tokenizer = Path(graph.companions((self.name, label))[0])
            token_plan.write(graph.token_plan(cell), tokenizer, out)
        elif self._is_fixed(graph, label):
            strategy.write(graph.strategy(cell), None, out)
        elif made.is_file():
            files.write_json(out, files.read_json(made))
        else:
            raise UserError(
                f"the strategy of {label!r} comes from measurements that are not there",
                where=f"results/{cell}/plan.json",
                do="make that file with snakemake, or use model.search()",
            )
        return out

    def _is_fixed(self, graph: NotebookGraph, label: str) -> bool:
        """Whether a strategy needs neither a search nor a ranking."""
        wanted = graph.strategy(f"{self.name}/{label}")["strategy"]
        return wanted != SEARCHED and not (isinstance(wanted, dict) and "crm" in wanted)


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


def _table(rows: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """What `Model.time` returns."""
    frame = pd.DataFrame.from_dict(dict(rows), orient="index")
    frame = frame[list(_COLUMNS)].rename(columns=_COLUMNS)
    frame.index.name = "sampler"
    return frame.dropna(axis="columns", how="all")


def _words(settings: Mapping[str, Any]) -> str:
    """Settings as a label."""
    text = ", ".join(f"{key} {value}" for key, value in settings.items())
    return text.replace("/", "-") or "plain"


def _progress(label: str, total: int) -> Progress:
    """Lines while there is something to wait for, and none at the end."""
    progress = Progress(label, total)
    write = progress.write
    progress.write = lambda line: write(line) if progress.done < total else None
    return progress
