"""What the types cannot say: names that must exist, numbers that must fit together.

Each check is a generator of problems over configurations whose types are right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from fewstep.config.base import is_path
from fewstep.config.checks_par import (
    check_codes,
    check_par,
    check_tokenizers,
    image_size,
)
from fewstep.config.checks_resources import check_resources
from fewstep.config.checks_seqrf import check_pairs, check_seqrf
from fewstep.config.checks_tarflow import check_tarflow
from fewstep.config.data import AssetSpec, ClassifierSpec, ReferenceSpec
from fewstep.config.par import ParExperiment
from fewstep.config.problems import Problem, distinct, unknown
from fewstep.config.seqrf import FlowTrainSpec, SeqRFExperiment
from fewstep.config.spine import TrainSpec
from fewstep.config.tarflow import TarFlowExperiment
from fewstep.config.tokenizers import TokenizerSpec
from fewstep.config.tree import Config, Experiment
from fewstep.yamlpos import KeyPath

RESERVED = frozenset(
    {"all", "clean", "demo", "report", "tarflow", "seqrf", "par", "extract", "train"}
    | {
        "assets",
        "codes",
        "data",
        "extractors",
        "logs",
        "pairs",
        "references",
        "samples",
        "smoke",
        "tables",
        "tokenizers",
    }
)
"""Names that targets and folders of the workflow have already."""


def check_config(config: Config, root: Path) -> Iterator[Problem]:
    """Every problem of a configuration; `root` is where its paths start."""
    yield from _check_datasets(config)
    yield from _check_extractors(config, root)
    yield from _check_references(config, root)
    for name, experiment in config.experiments.items():
        path = ("experiments", name)
        if name in RESERVED:
            what = f"'{name}' is a target or folder of the workflow"
            yield Problem(path, what, "another name")
        yield from _check_weights(experiment, path, config.assets, root)
        if experiment.dataset in config.datasets:
            yield from _check_dataset_fits(experiment, path, config)
        else:
            key = (*path, "dataset")
            yield unknown(key, "dataset", experiment.dataset, config.datasets)
        yield from _check_evaluation(experiment, path, config)
        yield from _check_timing(experiment, path, config)
        yield from _check_system(experiment, path, config)
        yield from check_resources(experiment, path)
    yield from check_pairs(config)
    for name, tokenizer in config.tokenizers.items():
        path = ("tokenizers", name)
        yield from _check_weights(tokenizer, path, config.assets, root)
    yield from check_tokenizers(config)
    yield from check_codes(config)
    yield from _check_batch_presets(config)


def _check_system(
    experiment: Experiment, path: KeyPath, config: Config
) -> Iterator[Problem]:
    """What the experiment's own system asks of it."""
    if isinstance(experiment, TarFlowExperiment):
        yield from check_tarflow(experiment, path)
    elif isinstance(experiment, SeqRFExperiment):
        yield from check_seqrf(experiment, path, config)
    else:
        yield from check_par(experiment, path, config)


def _check_batch_presets(config: Config) -> Iterator[Problem]:
    for device, named in config.batch_presets.items():
        for dataset in named:
            if dataset not in config.datasets:
                key = ("batch_presets", device, dataset)
                yield unknown(key, "dataset", dataset, config.datasets)
    if config.batch_preset not in (None, *config.batch_presets):
        preset = str(config.batch_preset)
        yield unknown(("batch_preset",), "preset", preset, config.batch_presets)


def check_assets(assets: Mapping[str, AssetSpec]) -> Iterator[Problem]:
    """Every problem of an asset table."""
    owners: dict[str, str] = {}
    for name, asset in assets.items():
        if asset.repo is not None and asset.file is None:
            yield Problem((name,), "key 'file' is missing", "the file's name in repo")
        for key in ("file", "revision"):
            if asset.repo is None and getattr(asset, key) is not None:
                yield Problem((name, key), f"'{key}' without 'repo'", "both, or none")
        yield from _check_trained(asset, name)
        owner = owners.setdefault(asset.path, name)
        if owner != name:
            what = f"{asset.path} is the path of asset '{owner}' too"
            yield Problem((name, "path"), what, "a path of its own")


def _check_trained(asset: AssetSpec, name: str) -> Iterator[Problem]:
    """Weights that were never published have a training, and no home."""
    if asset.trained_by is None:
        return
    path = f"results/{asset.trained_by}/model.safetensors"
    if asset.path != path:
        what = f"{asset.path} is not what that training makes"
        yield Problem((name, "path"), what, path)
    for key in ("repo", "mirrors"):
        if getattr(asset, key):
            what = f"'{key}' of weights that nobody published"
            yield Problem((name, key), what, "'trained_by' or a home, not both")


def _check_datasets(config: Config) -> Iterator[Problem]:
    for name, dataset in config.datasets.items():
        path = ("datasets", name)
        if dataset.source == "folder" and dataset.path is None:
            what = "key 'path' is missing"
            yield Problem(path, what, "the folder that holds <class>/<image>")
        for key in ("licence", "attribution"):
            if dataset.source == "folder" and not getattr(dataset, key):
                what = f"key '{key}' is missing"
                yield Problem(path, what, "a source 'folder' must say it")
        if dataset.source != "folder" and dataset.path is not None:
            what = f"source {dataset.source} reads no folder"
            yield Problem((*path, "path"), what, "no path")


def _check_extractors(config: Config, root: Path) -> Iterator[Problem]:
    for name, extractor in config.extractors.items():
        path = ("extractors", name)
        if isinstance(extractor, ClassifierSpec):
            if extractor.dataset not in config.datasets:
                key = (*path, "dataset")
                yield unknown(key, "dataset", extractor.dataset, config.datasets)
        elif extractor.weights is not None:
            key = (*path, "weights")
            yield from _check_file(key, extractor.weights, config.assets, root)


def _check_references(config: Config, root: Path) -> Iterator[Problem]:
    for name, reference in config.references.items():
        path = ("references", name)
        yield from _check_features(reference, path, config)
        if (reference.dataset is None) == (reference.file is None):
            both = "both 'dataset' and 'file'" if reference.file else "neither source"
            yield Problem(path, f"{both} given", "'dataset' or 'file'")
        elif reference.file is not None:
            key = (*path, "file")
            yield from _check_file(key, reference.file, config.assets, root)
            own = config.assets.get(reference.file)
            images = (own.path if own else reference.file).endswith(".npz")
            if reference.keep_features and not images:
                key = (*path, "keep_features")
                yield Problem(key, "a file's features are fixed", "no keep_features")
        else:
            yield from _check_computed(reference, path, config)


def _check_features(
    reference: ReferenceSpec, path: KeyPath, config: Config
) -> Iterator[Problem]:
    """The extractor of a reference, and what it can give."""
    extractor = config.extractors.get(reference.extractor)
    if extractor is None:
        key = (*path, "extractor")
        yield unknown(key, "extractor", reference.extractor, config.extractors)
    if reference.spatial and isinstance(extractor, ClassifierSpec):
        what = f"classifier '{extractor.name}' has no spatial features"
        yield Problem((*path, "spatial"), what, "false, or an Inception network")


def _check_computed(
    reference: ReferenceSpec, path: KeyPath, config: Config
) -> Iterator[Problem]:
    """A reference that the workflow computes from a dataset."""
    if reference.dataset not in config.datasets:
        key = (*path, "dataset")
        yield unknown(key, "dataset", str(reference.dataset), config.datasets)
    if reference.flips == "random":
        what = "random flips cannot be computed anew"
        yield Problem((*path, "flips"), what, "none or both (random: files only)")


def _check_file(
    path: KeyPath, text: str, assets: Mapping[str, AssetSpec], root: Path
) -> Iterator[Problem]:
    """`asset name or path`: the asset must be known, the path must exist."""
    if not is_path(text):
        if text not in assets:
            of = " of the asset table, or a path with a slash, such as ./model.pth"
            yield unknown(path, "asset", text, assets, of)
        elif (trained_by := assets[text].trained_by) is not None:
            what = f"asset '{text}' was never published"
            yield Problem(path, what, f"weights trained by {trained_by}")
    elif not (root / text).is_file():
        where = "" if Path(text).is_absolute() else f" (below {root.resolve()})"
        yield Problem(path, f"file {text} not found{where}", "an existing file")


def _check_weights(
    experiment: Experiment | TokenizerSpec,
    path: KeyPath,
    assets: Mapping[str, AssetSpec],
    root: Path,
) -> Iterator[Problem]:
    """A checkpoint, or the training that makes one."""
    if (experiment.checkpoint is None) == (experiment.train is None):
        found = "both" if experiment.train else "neither"
        what = f"{found} of 'checkpoint' and 'train' given"
        yield Problem(path, what, "exactly one of them")
    if experiment.checkpoint is not None:
        key = (*path, "checkpoint")
        yield from _check_file(key, experiment.checkpoint, assets, root)
    if experiment.train is not None:
        yield from _check_train(experiment.train, (*path, "train"))


def _check_train(train: TrainSpec, path: KeyPath) -> Iterator[Problem]:
    if (train.steps is None) == (train.epochs is None):
        found = "both" if train.steps else "neither"
        yield Problem(path, f"{found} of 'steps' and 'epochs' given", "exactly one")
    if train.warmup_steps is not None and train.warmup_epochs is not None:
        what = "both 'warmup_steps' and 'warmup_epochs' given"
        yield Problem((*path, "warmup_epochs"), what, "at most one of them")
    if train.gpus % train.nodes:
        what = f"{train.nodes} nodes do not share {train.gpus} GPUs evenly"
        yield Problem((*path, "nodes"), what, f"a divisor of {train.gpus}")
    if train.ema_warmup and not train.ema:
        what = "a rate of an average that is not made"
        yield Problem((*path, "ema_warmup"), what, "false, or ema above 0")
    for key in ("start_lr", "min_lr"):
        rate = getattr(train, key)
        if rate > train.lr:
            what = f"{rate} is above the peak lr {train.lr}"
            yield Problem((*path, key), what, f"at most {train.lr}")


def _check_dataset_fits(
    experiment: Experiment, path: KeyPath, config: Config
) -> Iterator[Problem]:
    """The model, and the training, against the dataset."""
    dataset, model = config.datasets[experiment.dataset], experiment.model
    of = f"of dataset '{dataset.name}'"
    size, is_par = _size(experiment, config), isinstance(experiment, ParExperiment)
    if size is not None and size != dataset.size:
        what = f"{size} pixels are not the size {of}"
        key = (*path, "model", "grid" if is_par else "img_size")
        yield Problem(key, what, str(dataset.size) + " pixels" * is_par)
    if model.num_classes not in (0, dataset.num_classes):
        what = f"{model.num_classes} is not the number of classes {of}"
        other = "" if is_par else ", or 0 for an unconditional model"
        expected = f"{dataset.num_classes}{other}"
        yield Problem((*path, "model", "num_classes"), what, expected)
    if dataset.count is None:
        return
    train = experiment.train
    held_out = round(dataset.count * train.holdout) if train else 0
    from_pairs = isinstance(train, FlowTrainSpec) and train.pairs is not None
    if train and not from_pairs and train.batch > dataset.count - held_out:
        what = f"a batch of {train.batch} is more than the training images {of}"
        expected = f"at most {dataset.count - held_out}"
        yield Problem((*path, "train", "batch"), what, expected)
    if not isinstance(experiment, TarFlowExperiment):
        return
    if experiment.rank.num_mc > dataset.count:
        what = f"{experiment.rank.num_mc} is more than the images {of}"
        key = (*path, "rank", "num_mc")
        yield Problem(key, what, f"at most {dataset.count}")


def _size(experiment: Experiment, config: Config) -> int | None:
    """Pixels a side of an experiment's images; None where it cannot be told."""
    if isinstance(experiment, ParExperiment):
        return image_size(experiment, config)
    return experiment.model.img_size


def _check_evaluation(
    experiment: Experiment, path: KeyPath, config: Config
) -> Iterator[Problem]:
    evaluation, path = experiment.evaluation, (*path, "evaluation")
    yield from distinct((*path, "seeds"), evaluation.seeds)
    if evaluation.kid and evaluation.kid_subset_size > evaluation.n:
        what = f"{evaluation.kid_subset_size} is more than n"
        yield Problem((*path, "kid_subset_size"), what, f"at most {evaluation.n}")
    reference = config.references.get(evaluation.reference)
    if reference is None:
        key = (*path, "reference")
        yield unknown(key, "reference", evaluation.reference, config.references)
        return
    needed = evaluation.kid_subset_size if evaluation.kid else 1
    for metric in ("kid", "precision_recall"):
        if reference.file or not getattr(evaluation, metric):
            continue
        if reference.keep_features < (needed if metric == "kid" else 1):
            what = f"reference '{reference.name}' keeps too few real features"
            do = f"set references.{reference.name}.keep_features to {needed} or more"
            yield Problem((*path, metric), what, do=do)
    if evaluation.sfid and not reference.spatial:
        what = f"reference '{reference.name}' has no spatial statistics"
        do = f"set references.{reference.name}.spatial to true"
        if isinstance(config.extractors.get(reference.extractor), ClassifierSpec):
            do = "set it to false: a classifier has no spatial features"
        yield Problem((*path, "sfid"), what, do=do)
    yield from _check_sizes(experiment, reference, path, config)


def _check_sizes(
    experiment: Experiment, reference: ReferenceSpec, path: KeyPath, config: Config
) -> Iterator[Problem]:
    """A classifier does not resize: what it was trained on is what it can score."""
    extractor = config.extractors.get(reference.extractor)
    if not isinstance(extractor, ClassifierSpec):
        return
    size = experiment.evaluation.protocol.resize or _size(experiment, config)
    for name in dict.fromkeys([extractor.dataset, reference.dataset]):
        dataset = config.datasets.get(name or "")
        if size is not None and dataset is not None and dataset.size != size:
            what = (
                f"reference '{reference.name}' is of {dataset.size} px images "
                f"(dataset '{name}'), the model's are {size} px"
            )
            yield Problem((*path, "reference"), what, "a reference of the same size")


def _check_timing(
    experiment: Experiment, path: KeyPath, config: Config
) -> Iterator[Problem]:
    """The baseline is a sampler here, or `experiment/sampler` of the same system."""
    timing, path = experiment.timing, (*path, "timing")
    yield from distinct((*path, "batches"), timing.batches)
    key = (*path, "baseline")
    name, _, sampler = timing.baseline.rpartition("/")
    if not name:
        if sampler not in experiment.samplers:
            yield unknown(key, "sampler", sampler, experiment.samplers)
        return
    other = config.experiments.get(name)
    if other is None or other.system != experiment.system:
        same = [
            n for n, e in config.experiments.items() if e.system == experiment.system
        ]
        yield unknown(key, f"{experiment.system} experiment", name, same)
    elif sampler not in other.samplers:
        yield unknown(key, f"sampler of '{name}'", sampler, other.samplers)
