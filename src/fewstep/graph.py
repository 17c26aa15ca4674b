"""What the rules ask of the configuration: targets, inputs, and each stage's spec.

Imported when a Snakefile is parsed, so without torch. A spec holds exactly what decides
a job's output; it becomes the job's params, so a change reruns that job and no other.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from fewstep.codedigest import digest
from fewstep.config import ClassifierSpec, Config, load_config
from fewstep.config.base import is_path
from fewstep.config.tarflow import CrmStrategy
from fewstep.errors import UserError
from fewstep.files import sha256_file, sha256_json

Cell = tuple[str, str]
"""Experiment and sampler."""


def use_this_python() -> None:
    """Make jobs run the interpreter that runs Snakemake, whatever PATH said."""
    here = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([here, os.environ.get("PATH", "")])


@cache
def code(*modules: str) -> str:
    """Digest of the library code behind a stage; modules without `fewstep.`."""
    return digest(*(f"fewstep.{module}" for module in modules))


def as_json(value: Any) -> str:
    """A spec as the one JSON argument of a stage."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def one_of(names: Iterable[str]) -> str:
    """A wildcard constraint that admits just these names."""
    return "|".join(name.replace(".", r"\.") for name in names) or "(?!)"


class Graph:
    """The configuration as the rules see it.

    Args:
        root: folder of the Snakefile.
        configfiles: files given with --configfile; none: the repository's own.
        overrides: values given with --config.

    Raises:
        UserError: for a configuration that is wrong, before any job starts.
    """

    def __init__(
        self,
        root: Path,
        configfiles: Iterable[Path] = (),
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        given = [str(path) for path in configfiles]
        if len(given) > 1:
            raise UserError("more than one --configfile", expected="one")
        path = given[0] if given else os.path.relpath(root / "config.yaml")
        assets = os.path.relpath(root / "workflow" / "assets.yaml")
        self.root = root
        self.config: Config = load_config(path, assets=assets, overrides=overrides)
        self.experiments = self.config.experiments

    # ---- targets ----

    def cells(self, system: str | None = None) -> list[Cell]:
        """Every (experiment, sampler), of one system or of all."""
        return [
            (experiment, sampler)
            for experiment, sampler in self.config.evaluations()
            if system in (None, self.experiments[experiment].system)
        ]

    def published(self) -> list[Cell]:
        """All samplers of the experiments that repeat a published table."""
        return [
            (experiment, sampler)
            for experiment, sampler in self.cells()
            if any(s.published for s in self.experiments[experiment].samplers.values())
        ]

    def demo(self) -> list[str]:
        """The experiments that the demo shows: none that trains for an hour."""
        return [
            name
            for name, own in self.experiments.items()
            if name.startswith("demo-") and not name.endswith("-scratch")
        ]

    def evaluations(self, cells: Iterable[Cell]) -> list[str]:
        """Target files of cells."""
        return [f"results/{one}_{other}_fid.json" for one, other in cells]

    def seed_files(self, name: str) -> Callable[[Any], list[str]]:
        """Input function: a file of the cell for each seed of the experiment."""

        def files(wildcards: Any) -> list[str]:
            folder = f"results/{wildcards.experiment}/{wildcards.sampler}"
            seeds = self.experiments[wildcards.experiment].evaluation.seeds
            return [f"{folder}/seed{seed}/{name}" for seed in seeds]

        return files

    # ---- assets and data ----

    def asset(self, name: str) -> dict[str, Any]:
        """An asset with the path where it lies: shipped files lie beside the rules."""
        spec = self.config.assets[name].resolved()
        shipped = self.root / spec["path"]
        if not Path(spec["path"]).exists() and shipped.exists():
            spec["path"] = os.path.relpath(shipped)
        return spec

    def asset_inputs(self, name: str) -> list[str]:
        """Rule inputs for an asset name (its record) or a path."""
        return [name] if is_path(name) else [f"results/assets/{name}.json"]

    def asset_path(self, name: str) -> str:
        """Where the file of an asset name or a path lies."""
        return name if is_path(name) else str(self.asset(name)["path"])

    def dataset_folder(self, experiment: str) -> str:
        """The folder of an experiment's dataset."""
        return f"results/data/{self.experiments[experiment].dataset}"

    def dataset_files(self, wildcards: Any) -> list[str]:
        """The files of an experiment's dataset, the manifest first."""
        folder = self.dataset_folder(wildcards.experiment)
        names = ("dataset.json", "images.npy", "labels.npy")
        return [f"{folder}/{name}" for name in names]

    def real_images(self, wildcards: Any) -> list[str]:
        """The manifest of the dataset that a row rests on, if it rests on one.

        A published checkpoint that is scored on published statistics needs no images.
        """
        own = self.experiments[wildcards.experiment]
        reference = self.config.references[own.evaluation.reference]
        used = own.train is not None or reference.dataset is not None
        return self.dataset_files(wildcards)[:1] if used else []

    def reference_of(self, experiment: str) -> str:
        """The reference that an experiment is scored against."""
        return self.experiments[experiment].evaluation.reference

    def extractor(self, reference: str) -> dict[str, Any]:
        """The resolved extractor behind a reference."""
        name = self.config.references[reference].extractor
        return self.config.extractors[name].resolved()

    def extractor_inputs(self, reference: str) -> list[str]:
        """Files that the extractor of a reference needs."""
        spec = self.config.extractors[self.config.references[reference].extractor]
        if isinstance(spec, ClassifierSpec):
            return [f"results/extractors/{spec.name}.safetensors"]
        return self.asset_inputs(spec.weights) if spec.weights else []

    def extractor_option(self, reference: str) -> str:
        """`--weights PATH`, or nothing for torch-fidelity's own download."""
        spec = self.config.extractors[self.config.references[reference].extractor]
        if isinstance(spec, ClassifierSpec):
            return f"--weights results/extractors/{spec.name}.safetensors"
        if spec.weights is None:
            return ""
        return f"--weights {shlex.quote(self.asset_path(spec.weights))}"

    def reference_inputs(self, reference: str) -> list[str]:
        """What a reference is made of."""
        spec = self.config.references[reference]
        if spec.dataset:
            folder = f"results/data/{spec.dataset}"
            return [f"{folder}/dataset.json", f"{folder}/images.npy"]
        assert spec.file is not None
        return self.asset_inputs(spec.file)

    def reference_option(self, reference: str) -> str:
        """`--dataset FOLDER` or `--file PATH`."""
        spec = self.config.references[reference]
        if spec.dataset:
            return f"--dataset results/data/{spec.dataset}"
        assert spec.file is not None
        return f"--file {shlex.quote(self.asset_path(spec.file))}"

    # ---- specs ----

    def experiment(self, name: str, *keys: str, **more: Any) -> dict[str, Any]:
        """Resolved parts of an experiment with its name."""
        resolved = self.experiments[name].resolved()
        return {"name": name, **{key: resolved[key] for key in keys}, **more}

    def sampler(self, cell: Cell, *keys: str, **more: Any) -> dict[str, Any]:
        """Architecture, noise, sampling and the sampler's mode: what loads it."""
        name, sampler = cell
        own = self.experiments[name]
        return self.experiment(
            name,
            "system",
            "model",
            "noise",
            *keys,
            sampler=sampler,
            sampling=own.sampling_of(sampler).resolved(),
            mode=own.samplers[sampler].mode,
            tol=own.samplers[sampler].tol,
            **more,
        )

    def sample(self, cell: Cell) -> dict[str, Any]:
        """What decides the images."""
        evaluation = self.experiments[cell[0]].evaluation
        return self.sampler(
            cell,
            n=evaluation.n,
            rounding=evaluation.protocol.rounding,
            code=code("stages.sample", "tarflow.sampler"),
        )

    def timing(self, cell: Cell) -> dict[str, Any]:
        """What the clock needs: the sampler, and the one it is measured against."""
        spec = self.sampler(
            cell,
            "timing",
            baseline=self.sampler((cell[0], self.baseline(cell[0]))),
            exact_baseline=self._is_exact(cell[0], self.baseline(cell[0])),
            code=code("stages.timing", "tarflow.sampler"),
        )
        own = self.experiments[cell[0]].samplers[cell[1]].batch
        batches = {*spec["timing"]["batches"], *([own] if own else [])}
        spec["timing"]["batches"] = sorted(batches)
        return spec

    def _is_exact(self, experiment: str, sampler: str) -> bool:
        """Whether a sampler is the exact inverse."""
        return self.experiments[experiment].samplers[sampler].strategy == "for"

    def baseline(self, experiment: str) -> str:
        """The sampler that an experiment's speed-ups are relative to."""
        return self.experiments[experiment].timing.baseline

    def score(self, experiment: str) -> dict[str, Any]:
        """What the scores need."""
        reference = self.reference_of(experiment)
        return {
            "evaluation": self.experiments[experiment].evaluation.resolved(),
            "extractor": self.extractor(reference),
            "real_levels": self.config.references[reference].real_levels,
        }

    def evaluation(self, cell: Cell) -> dict[str, Any]:
        """What the row says beyond the measurements."""
        name, sampler = cell
        own = self.experiments[name]
        reference = self.config.references[self.reference_of(name)]
        # A published score is only met on the statistics that were published with it.
        note = "" if reference.file else "the real images' statistics are our own"
        return {
            "name": name,
            "system": own.system,
            "protocol_note": note,
            "sampler": sampler,
            "sampling": own.sampling_of(sampler).resolved(),
            "timing_batch": own.samplers[sampler].batch
            or own.sampling_of(sampler).batch,
            "mode": own.samplers[sampler].mode,
            "tol": own.samplers[sampler].tol,
            "published": own.samplers[sampler].resolved()["published"],
            "code": self.sample(cell)["code"],
        }

    def report_inputs(self, experiments: Iterable[str]) -> list[str]:
        """Evaluations, tables and pictures of a report."""
        found = []
        for name in experiments:
            own, folder = self.experiments[name], f"results/{name}"
            cells = [(name, sampler) for sampler in own.samplers]
            found += self.evaluations(cells)
            found += [f"{folder}/{chart}.png" for chart in ("rank", "convergence")]
            found += [f"{folder}/training.png"] if own.train else []
            for _, sampler in cells:
                found += [f"{folder}/{sampler}/{p}.png" for p in ("grid", "trace")]
        return found

    def report(self, experiments: Iterable[str], command: str) -> dict[str, Any]:
        """What a report says beyond what lies in its files."""
        templates = self.root / "workflow" / "report"
        return {
            "experiments": {
                name: list(self.experiments[name].samplers) for name in experiments
            },
            "descriptions": {
                name: self.experiments[name].description for name in experiments
            },
            "command": command,
            "templates": os.path.relpath(templates),
            "look": sha256_json(
                {p.name: sha256_file(p) for p in sorted(templates.iterdir())}
            ),
            "code": code("stages.report"),
        }

    # ---- TarFlow ----

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
