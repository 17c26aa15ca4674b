"""Typed experiments: what `config.yaml` may say, and what it means.

The types here are the truth: they validate, and they generate the JSON schema and the
page docs/configuration.md (`python -m fewstep.config --fix`). Names are loaded when
used, so that a module that needs one type does not depend on the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewstep._lazy import lazy

if TYPE_CHECKING:
    from fewstep.config.data import (
        AssetSpec,
        ClassifierSpec,
        DatasetSpec,
        ExtractorSpec,
        InceptionSpec,
        ReferenceSpec,
    )
    from fewstep.config.documents import docs_table, json_schema
    from fewstep.config.load import load_config
    from fewstep.config.spine import (
        EvaluationSpec,
        PublishedSpec,
        TimingSpec,
        TraceSpec,
        TrainSpec,
    )
    from fewstep.config.tarflow import (
        NoiseSpec,
        RankSpec,
        SamplerSpec,
        SamplingSpec,
        SearchSpec,
        TarFlowExperiment,
        TarFlowModelSpec,
    )
    from fewstep.config.tree import Config, Experiment

_HOMES = {
    "AssetSpec": "data",
    "ClassifierSpec": "data",
    "Config": "tree",
    "DatasetSpec": "data",
    "EvaluationSpec": "spine",
    "Experiment": "tree",
    "ExtractorSpec": "data",
    "InceptionSpec": "data",
    "NoiseSpec": "tarflow",
    "PublishedSpec": "spine",
    "RankSpec": "tarflow",
    "ReferenceSpec": "data",
    "SamplerSpec": "tarflow",
    "SamplingSpec": "tarflow",
    "SearchSpec": "tarflow",
    "TarFlowExperiment": "tarflow",
    "TarFlowModelSpec": "tarflow",
    "TimingSpec": "spine",
    "TraceSpec": "spine",
    "TrainSpec": "spine",
    "docs_table": "documents",
    "json_schema": "documents",
    "load_config": "load",
}

__all__ = [
    "AssetSpec",
    "ClassifierSpec",
    "Config",
    "DatasetSpec",
    "EvaluationSpec",
    "Experiment",
    "ExtractorSpec",
    "InceptionSpec",
    "NoiseSpec",
    "PublishedSpec",
    "RankSpec",
    "ReferenceSpec",
    "SamplerSpec",
    "SamplingSpec",
    "SearchSpec",
    "TarFlowExperiment",
    "TarFlowModelSpec",
    "TimingSpec",
    "TraceSpec",
    "TrainSpec",
    "docs_table",
    "json_schema",
    "load_config",
]

__getattr__ = lazy(__name__, _HOMES)
