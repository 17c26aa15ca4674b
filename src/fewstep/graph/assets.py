"""Which assets a target needs, and which targets an asset feeds."""

from __future__ import annotations

from collections.abc import Iterator

from fewstep.config import Config, InceptionSpec
from fewstep.config.base import is_path
from fewstep.config.par import ParExperiment, ParTrainSpec
from fewstep.config.seqrf import FlowTrainSpec


def asset_users(config: Config, name: str) -> list[str]:
    """Targets that need an asset, in the order of the configuration.

    Of weights that nobody published: those that need the training which makes them.

    Args:
        config: a checked configuration.
        name: of the asset table.
    """
    trained_by = config.assets[name].trained_by
    found = []
    for experiment, sampler in config.evaluations():
        needed = set(behind(config, experiment))
        if trained_by in needed or name in experiment_assets(config, experiment):
            found.append(f"results/{experiment}_{sampler}_fid.json")
    for codes, own in config.codes.items():
        if name in _tokenizer_assets(config, own.tokenizer):
            found.append(f"results/codes/{codes}/codes.json")
    return found


def experiment_assets(
    config: Config, experiment: str, *, timed: bool = True
) -> list[str]:
    """Names of the assets behind the evaluations of an experiment.

    Args:
        config: a checked configuration.
        experiment: its name.
        timed: with those of its baseline in time, which change no image and no score.
    """
    found: list[str | None] = []
    for name in behind(config, experiment, timed=timed):
        own = config.experiments[name]
        found.append(own.checkpoint)
        if isinstance(own, ParExperiment):
            found += _tokenizer_assets(config, own.tokenizer)
            if isinstance(own.train, ParTrainSpec):
                tokenizer = config.codes[own.train.codes].tokenizer
                found += _tokenizer_assets(config, tokenizer)
    reference = config.references[config.experiments[experiment].evaluation.reference]
    extractor = config.extractors[reference.extractor]
    found.append(reference.file)
    if isinstance(extractor, InceptionSpec):
        found.append(extractor.weights)
    return _names(found)


def behind(config: Config, experiment: str, *, timed: bool = True) -> Iterator[str]:
    """Experiments whose weights the evaluations of one need: itself first.

    Where `timed`, those of its baseline too; the start of its training, and the
    teacher of its pairs; each once.
    """
    waiting, seen = [experiment], set[str]()
    baseline = config.experiments[experiment].timing.baseline.rpartition("/")[0]
    waiting += [baseline] if baseline and timed else []
    while waiting:
        name = waiting.pop(0)
        if name in seen:
            continue
        seen.add(name)
        yield name
        train = config.experiments[name].train
        if isinstance(train, FlowTrainSpec | ParTrainSpec) and train.start:
            waiting.append(train.start)
        if isinstance(train, FlowTrainSpec) and train.pairs:
            waiting.append(config.pairs[train.pairs].teacher)


def _tokenizer_assets(config: Config, name: str) -> list[str]:
    return _names([config.tokenizers[name].checkpoint])


def _names(found: list[str | None]) -> list[str]:
    """Asset names among names, paths and nothing; each once."""
    return list(dict.fromkeys(n for n in found if n is not None and not is_path(n)))
