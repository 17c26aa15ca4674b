"""The whole configuration."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PrivateAttr

from fewstep.config.base import Name, Spec, give_names
from fewstep.config.data import AssetSpec, DatasetSpec, ExtractorSpec, ReferenceSpec
from fewstep.config.tarflow import TarFlowExperiment

# A second system makes this `Annotated[A | B, Field(discriminator="system")]`; the
# checks, the messages and the documents already take such a union.
Experiment = TarFlowExperiment


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

    _assets: dict[str, AssetSpec] = PrivateAttr(default_factory=dict)

    @property
    def assets(self) -> dict[str, AssetSpec]:
        """The asset table (workflow/assets.yaml) by name."""
        return self._assets

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
            assets,
        ):
            give_names(group)
        self._assets = assets
        return self
