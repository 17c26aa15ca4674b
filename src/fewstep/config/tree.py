"""The whole configuration."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PrivateAttr, model_validator

from fewstep.config.base import Count, Name, Spec, give_names
from fewstep.config.data import AssetSpec, DatasetSpec, ExtractorSpec, ReferenceSpec
from fewstep.config.par import ParExperiment
from fewstep.config.resources import HardwareSpec
from fewstep.config.seqrf import PairsSpec, SeqRFExperiment
from fewstep.config.tarflow import TarFlowExperiment
from fewstep.config.tokenizers import CodesSpec, TokenizerSpec

Experiment = Annotated[
    TarFlowExperiment | SeqRFExperiment | ParExperiment, Field(discriminator="system")
]


class BatchSpec(Spec):
    """Batch sizes that suit a device, for one dataset's flows."""

    train: Count | None = None
    """Of trainings (null: as configured)."""
    sample: Count | None = None
    """Of pairs and samples (null: as configured)."""


class Config(Spec):
    """`config.yaml`, with the asset table beside it."""

    experiments: Annotated[dict[Name, Experiment], Field(min_length=1)]
    """Experiments by name."""
    datasets: dict[Name, DatasetSpec] = Field(default_factory=dict)
    """Datasets by name."""
    extractors: dict[Name, ExtractorSpec] = Field(default_factory=dict)
    """Feature extractors by name."""
    references: dict[Name, ReferenceSpec] = Field(default_factory=dict)
    """Reference statistics by name."""
    pairs: dict[Name, PairsSpec] = Field(default_factory=dict)
    """Reflow pairs by name (SeqRF)."""
    tokenizers: dict[Name, TokenizerSpec] = Field(default_factory=dict)
    """Tokenizers by name (PAR)."""
    codes: dict[Name, CodesSpec] = Field(default_factory=dict)
    """Codes of datasets by name (PAR)."""
    batch_presets: dict[Name, dict[Name, BatchSpec]] = Field(default_factory=dict)
    """Device, then dataset: batch sizes that SeqRF recommends."""
    batch_preset: Name | None = None
    """Which of them is used: `snakemake --config batch_preset=tpu-v2-8 …`."""
    hardware: HardwareSpec = Field(default_factory=HardwareSpec)
    """The GPU of your cluster, for estimates of time and memory."""

    _assets: dict[str, AssetSpec] = PrivateAttr(default_factory=dict)

    @property
    def assets(self) -> dict[str, AssetSpec]:
        """The asset table (workflow/assets.yaml) by name."""
        return self._assets

    @model_validator(mode="after")
    def _batches(self) -> Config:
        """Lay the chosen device's batch sizes over the flows and their pairs."""
        chosen = self.batch_presets.get(self.batch_preset or "", {})
        for name, own in self.experiments.items():
            preset = chosen.get(own.dataset)
            if preset is not None and isinstance(own, SeqRFExperiment):
                self.experiments[name] = _with_batches(own, preset)
        for name, pairs in self.pairs.items():
            teacher = self.experiments.get(pairs.teacher)
            preset = chosen.get(teacher.dataset) if teacher else None
            if preset and preset.sample:
                self.pairs[name] = pairs.model_copy(update={"batch": preset.sample})
        return self

    def evaluations(self) -> list[tuple[str, str]]:
        """Every (experiment, sampler) by name, in the order of the file."""
        return [
            (name, sampler)
            for name, experiment in self.experiments.items()
            for sampler in experiment.samplers
        ]

    def with_assets(self, assets: dict[str, AssetSpec]) -> Config:
        """This configuration, its parts named, with an asset table."""
        for group in (
            self.experiments,
            self.datasets,
            self.extractors,
            self.references,
            self.pairs,
            self.tokenizers,
            self.codes,
            assets,
        ):
            give_names(group)
        self._assets = assets
        return self


def _with_batches(own: SeqRFExperiment, preset: BatchSpec) -> SeqRFExperiment:
    """An experiment with a device's batch sizes."""
    update: dict[str, Any] = {}
    if preset.sample:
        change = {"batch": preset.sample}
        update["sampling"] = own.sampling.model_copy(update=change)
    if preset.train and own.train:
        update["train"] = own.train.model_copy(update={"batch": preset.train})
    return own.model_copy(update=update)
