"""Targets, assets and data: what every system's rules ask for."""

from __future__ import annotations

import inspect
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from fewstep.codedigest import noted_digest
from fewstep.config import ClassifierSpec, Config, ExtractorSpec, load_config
from fewstep.config.base import is_path
from fewstep.errors import UserError
from fewstep.graph.assets import asset_users, experiment_assets

NO_PARAMS = ("gpus", "nodes", "save_every")
"""Keys of a training that decide nothing that it makes, but rounding."""
Cell = tuple[str, str]
"""Experiment and sampler."""

_PLANNING = ("size_mb", "unused")
"""Of an asset: what a download does not need, so that it reruns nothing."""


def use_this_python() -> None:
    """Make jobs run the interpreter that runs Snakemake, whatever PATH said."""
    here = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([here, os.environ.get("PATH", "")])


@cache
def code(*modules: str) -> str:
    """Digest of the library code behind a stage; modules without `fewstep.`."""
    return noted_digest(*(f"fewstep.{module}" for module in modules))


def as_json(value: Any) -> str:
    """A spec as the one JSON argument of a stage."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def one_of(names: Iterable[str]) -> str:
    """A wildcard constraint that admits just these names."""
    return "|".join(name.replace(".", r"\.") for name in names) or "(?!)"


def settle_signatures(rules: Iterable[Any]) -> None:
    """Note on the rules' functions what parameters they take.

    Snakemake asks `inspect.signature` 34,000 times for a graph of 2,500 jobs; it
    answers at once where a function carries its `__signature__`.
    """
    for rule in rules:
        for given in (*rule.input, *rule.params):
            # An input function lies inside the name of a file.
            function = getattr(getattr(given, "_file", given), "callable", given)
            if inspect.isfunction(function):
                function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]


class DataGraph:
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

    def codes_at_paper_scale(self) -> list[str]:
        """All codes but those of the demo."""
        names = [name for name in self.config.codes if not name.startswith("demo")]
        return [f"results/codes/{name}/codes.json" for name in names]

    def trainings_at_paper_scale(self) -> list[str]:
        """The weights of all trainings but those of the demo."""
        return [
            f"results/{name}/model.safetensors"
            for name, own in self.experiments.items()
            if own.train is not None and not name.startswith("demo")
        ]

    def training_targets(self) -> dict[str, str]:
        """`train_NAME` and the weights it makes; NAME is the experiment's.

        Without its `-scratch`: `train_afhq` trains what `afhq` takes published
        weights for.
        """
        trained = [n for n, own in self.experiments.items() if own.train is not None]
        found = {}
        for name in trained:
            short = name.removesuffix("-scratch")
            target = f"train_{name if short in trained else short}"
            found[target] = f"results/{name}/model.safetensors"
        return found

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
        spec = self.config.assets[name].resolved(without=_PLANNING)
        shipped = self.root / spec["path"]
        if not Path(spec["path"]).exists() and shipped.exists():
            spec["path"] = os.path.relpath(shipped)
        return spec

    def asset_mb(self, name: str) -> int:
        """About how large an asset is; 0: unknown, or known to the byte."""
        return self.config.assets[name].size_mb or 0

    def asset_users(self, name: str) -> list[str]:
        """Targets that need an asset, in the order of the configuration."""
        return asset_users(self.config, name)

    def asset_records(self, experiment: str) -> list[str]:
        """Records of the published files behind an experiment's images and scores."""
        names = experiment_assets(self.config, experiment, timed=False)
        return [f"results/assets/{name}.json" for name in names]

    def asset_inputs(self, name: str) -> list[str]:
        """Rule inputs for an asset name (its record) or a path."""
        if is_path(name):  # Snakemake warns of a leading ./
            return [os.path.normpath(name)]
        return [f"results/assets/{name}.json"]

    def asset_path(self, name: str) -> str:
        """Where the file of an asset name or a path lies."""
        return name if is_path(name) else str(self.asset(name)["path"])

    def source_option(self, name: str) -> str:
        """`--source PATH` of an asset name or path, and `--record FILE` of an asset."""
        return self._with_record("source", name, "record")

    def _with_record(self, option: str, name: str, record: str) -> str:
        """An option with a path, and another one with what is known of an asset."""
        given = f"--{option} {shlex.quote(self.asset_path(name))}"
        if is_path(name):
            return given
        return f"{given} --{record} {self.asset_inputs(name)[0]}"

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
        # Codes are made of single files: nobody builds ImageNet at 384 pixels.
        folder = self.config.datasets[own.dataset].source == "folder"
        trained = own.train is not None and not (folder and own.system == "par")
        used = trained or reference.dataset is not None
        return self.dataset_files(wildcards)[:1] if used else []

    def reference_of(self, experiment: str) -> str:
        """The reference that an experiment is scored against."""
        return self.experiments[experiment].evaluation.reference

    def extractor(self, reference: str) -> dict[str, Any]:
        """The resolved extractor behind a reference."""
        return self._extractor(reference).resolved()

    def _extractor(self, reference: str) -> ExtractorSpec:
        return self.config.extractors[self.config.references[reference].extractor]

    def extractor_inputs(self, reference: str) -> list[str]:
        """Files that the extractor of a reference needs."""
        spec = self._extractor(reference)
        if isinstance(spec, ClassifierSpec):
            return [f"results/extractors/{spec.name}.safetensors"]
        return self.asset_inputs(spec.weights) if spec.weights else []

    def extractor_option(self, reference: str) -> str:
        """`--weights PATH` and, of an asset, `--weights-record FILE`.

        Nothing for torch-fidelity's own download.
        """
        spec = self._extractor(reference)
        if isinstance(spec, ClassifierSpec):
            return f"--weights results/extractors/{spec.name}.safetensors"
        if spec.weights is None:
            return ""
        return self._with_record("weights", spec.weights, "weights-record")

    def reference_inputs(self, reference: str) -> list[str]:
        """What a reference is made of."""
        spec = self.config.references[reference]
        if spec.dataset:
            folder = f"results/data/{spec.dataset}"
            return [f"{folder}/dataset.json", f"{folder}/images.npy"]
        assert spec.file is not None
        return self.asset_inputs(spec.file)

    def reference_option(self, reference: str) -> str:
        """`--dataset FOLDER`, or `--file PATH` and, of an asset, `--record FILE`."""
        spec = self.config.references[reference]
        if spec.dataset:
            return f"--dataset results/data/{spec.dataset}"
        assert spec.file is not None
        return self._with_record("file", spec.file, "record")
