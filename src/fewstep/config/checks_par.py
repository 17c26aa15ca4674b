"""The checks of PAR: order and widths, tokenizers, codes, trainings, samplers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fewstep.config.data import ClassifierSpec, DatasetSpec
from fewstep.config.par import (
    ParExperiment,
    ParModelSpec,
    ParTrainSpec,
    TokenSamplerSpec,
)
from fewstep.config.problems import Problem, unknown
from fewstep.config.spine import TrainSpec
from fewstep.config.tokenizers import CodesSpec, TokenizerSpec, VQModelSpec
from fewstep.par.schedule import misfit
from fewstep.yamlpos import KeyPath

if TYPE_CHECKING:
    from fewstep.config.tree import Config

NORM_GROUPS = 32
_SCORED = "-reconstruction"
_WIDTHS = ("dim", "n_layer", "n_head")
_GUIDANCE = (
    *("guidance_shape", "guidance_power", "guidance_first", "guidance_last"),
    "cfg_interval",
)


def check_par(
    experiment: ParExperiment, path: KeyPath, config: Config
) -> Iterator[Problem]:
    """Every problem of one experiment."""
    yield from _check_model(experiment.model, (*path, "model"))
    tokenizer = config.tokenizers.get(experiment.tokenizer)
    if tokenizer is None:
        key = (*path, "tokenizer")
        yield unknown(key, "tokenizer", experiment.tokenizer, config.tokenizers)
    elif tokenizer.model.codebook_size != experiment.model.vocab_size:
        what = (
            f"{experiment.model.vocab_size} is not the codebook of '{tokenizer.name}'"
        )
        expected = str(tokenizer.model.codebook_size)
        yield Problem((*path, "model", "vocab_size"), what, expected)
    if experiment.train is not None:
        yield from _check_train(experiment, experiment.train, path, config)
    for name, sampler in experiment.samplers.items():
        key = (*path, "samplers", name)
        entries = experiment.model.vocab_size
        if sampler.top_k > entries:
            what = f"{sampler.top_k} tokens of {entries}"
            yield Problem((*key, "top_k"), what, f"at most {entries} (0: all)")
        if sampler.cfg_scale > 1:
            yield from _check_guided(experiment, sampler, key)
        else:
            yield from _check_unguided(sampler, key)


def _check_guided(
    experiment: ParExperiment, sampler: TokenSamplerSpec, path: KeyPath
) -> Iterator[Problem]:
    """Guidance needs a model that has seen images without their class, and passes."""
    train = experiment.train
    if train is not None and not train.drop_label and train.start is None:
        what = "guidance of a model that always knew the class"
        expected = "1, or train.drop_label above 0"
        yield Problem((*path, "cfg_scale"), what, expected)
    if sampler.guidance_first >= sampler.guidance_last:
        what = f"guidance from {sampler.guidance_first:g} on never begins"
        expected = f"less than {sampler.guidance_last:g}"
        yield Problem((*path, "guidance_first"), what, expected)
    given = "guidance_power" in sampler.model_fields_set
    if given and sampler.guidance_shape != "cosine":
        what = f"a power of the shape '{sampler.guidance_shape}'"
        expected = "no guidance_power, or guidance_shape: cosine"
        yield Problem((*path, "guidance_power"), what, expected)


def _check_unguided(sampler: TokenSamplerSpec, path: KeyPath) -> Iterator[Problem]:
    """Without guidance nothing may be said about it: it would be ignored."""
    if sampler.cfg_scale < 1:
        what = f"a scale of {sampler.cfg_scale:g} guides nothing"
        yield Problem((*path, "cfg_scale"), what, "1 (no guidance), or more than 1")
        return
    for name in _GUIDANCE:
        if name in sampler.model_fields_set:
            what = f"'{name}' without guidance"
            yield Problem((*path, name), what, f"no {name}, or cfg_scale above 1")


def image_size(experiment: ParExperiment, config: Config) -> int | None:
    """Pixels a side of an experiment's images; None without a known tokenizer."""
    tokenizer = config.tokenizers.get(experiment.tokenizer)
    if tokenizer is None:
        return None
    return experiment.model.grid * tokenizer.model.downsample


def _check_model(model: ParModelSpec, path: KeyPath) -> Iterator[Problem]:
    given = [name for name in _WIDTHS if getattr(model, name) is not None]
    if model.size is not None and given:
        what = f"both 'size' and '{given[0]}' given"
        yield Problem((*path, given[0]), what, "one of them")
    if model.size is None and len(given) < len(_WIDTHS):
        lacking = next(name for name in _WIDTHS if name not in given)
        expected = f"{lacking}, or 'size' alone, such as XL"
        yield Problem(path, f"key '{lacking}' is missing", expected)
    if model.dim and model.n_head and (model.dim / model.n_head) % 4:
        what = f"{model.dim} features in {model.n_head} heads"
        key = (*path, "n_head")
        yield Problem(key, what, "dim / n_head a multiple of 4 (2D rotary positions)")
    fault = misfit(model.grid, model.ar_token_num)
    if fault:
        sides = [s for s in range(1, model.grid) if model.grid % s == 0]
        expected = "one of " + ", ".join(str(s * s) for s in sides[:6])
        yield Problem((*path, "ar_token_num"), fault, expected)


def _check_train(
    experiment: ParExperiment, train: ParTrainSpec, path: KeyPath, config: Config
) -> Iterator[Problem]:
    path, codes = (*path, "train"), config.codes.get(train.codes)
    if codes is None:
        yield unknown((*path, "codes"), "codes", train.codes, config.codes)
    else:
        yield from _check_codes_fit(experiment, codes, (*path, "codes"))
    if train.sharded and train.gpus == 1:
        what = "parameters sharded over a single GPU"
        yield Problem((*path, "sharded"), what, "gpus of 2 or more, or false")
    yield from _check_parts(train, path)
    if train.flip:
        what = "codes are mirrored when they are made"
        yield Problem((*path, "flip"), what, "false; `views` stands at the codes")
    if train.start is not None:
        yield from _check_start(experiment, train.start, path, config)


def _check_parts(train: TrainSpec, path: KeyPath) -> Iterator[Problem]:
    """A batch is spread over GPUs and over parts of a step."""
    if train.batch % (train.gpus * train.accumulate):
        parts = f"{train.gpus} GPUs x {train.accumulate} parts"
        what = f"a batch of {train.batch} is not divisible by {parts}"
        near = train.gpus * train.accumulate
        yield Problem((*path, "batch"), what, f"a multiple of {near}")


def _check_codes_fit(
    experiment: ParExperiment, codes: CodesSpec, key: KeyPath
) -> Iterator[Problem]:
    if codes.tokenizer != experiment.tokenizer:
        what = f"codes '{codes.name}' are of tokenizer '{codes.tokenizer}'"
        yield Problem(key, what, f"codes of '{experiment.tokenizer}'")
    if codes.dataset is not None and codes.dataset != experiment.dataset:
        what = f"codes '{codes.name}' are of dataset '{codes.dataset}'"
        yield Problem(key, what, f"codes of '{experiment.dataset}'")


def _check_start(
    experiment: ParExperiment, start: str, path: KeyPath, config: Config
) -> Iterator[Problem]:
    """The weights to start from are of the same model, and do not start from these."""
    key, others = (*path, "start"), par_experiments(config)
    other = others.get(start)
    if other is None:
        yield unknown(key, "par experiment", start, others)
        return
    mine, theirs = experiment.model.resolved(), other.model.resolved()
    for name, value in mine.items():
        if theirs[name] != value:
            what = f"{name} of '{start}' is {theirs[name]}"
            yield Problem(key, what, f"{value}, as here")
            return
    seen = {experiment.name}
    while other is not None and other.train is not None and other.train.start:
        if other.name in seen:
            yield Problem(key, f"'{start}' starts from this experiment", "another one")
            return
        seen.add(other.name)
        other = others.get(other.train.start)


def par_experiments(config: Config) -> dict[str, ParExperiment]:
    """The experiments of this system by name."""
    return {
        name: own
        for name, own in config.experiments.items()
        if isinstance(own, ParExperiment)
    }


def check_tokenizers(config: Config) -> Iterator[Problem]:
    """Every problem of the tokenizers, but of their checkpoint and recipe."""
    for name, own in config.tokenizers.items():
        path: KeyPath = ("tokenizers", name)
        yield from _check_vq(own.model, (*path, "model"))
        dataset = config.datasets.get(own.dataset)
        if dataset is None:
            yield unknown((*path, "dataset"), "dataset", own.dataset, config.datasets)
        else:
            yield from _check_side(dataset.size, own.model, (*path, "dataset"))
        if own.train is not None:
            yield from _check_parts(own.train, (*path, "train"))
            yield from _check_enough(own.train, dataset, (*path, "train"))
            if own.train.drop_label:
                what = "a tokenizer knows no classes"
                yield Problem((*path, "train", "drop_label"), what, "0")
        if name.endswith(_SCORED):
            what = f"a name that ends in '{_SCORED}', as the scores of a tokenizer do"
            yield Problem(path, what, "another name")
        yield from _check_reconstruction(own, path, config)


def _check_enough(
    train: TrainSpec, dataset: DatasetSpec | None, path: KeyPath
) -> Iterator[Problem]:
    if dataset is None or dataset.count is None:
        return
    most = dataset.count - round(dataset.count * train.holdout)
    if train.batch > most:
        what = (
            f"a batch of {train.batch} is more than the training images of dataset "
            f"'{dataset.name}'"
        )
        yield Problem((*path, "batch"), what, f"at most {most}")


def _check_vq(model: VQModelSpec, path: KeyPath) -> Iterator[Problem]:
    for position, factor in enumerate((1, *model.ch_mult)):
        width = model.ch * factor
        if width % NORM_GROUPS:
            key = (*path, "ch") if position == 0 else (*path, "ch_mult", position - 1)
            what = f"{width} channels in {NORM_GROUPS} groups of GroupNorm"
            yield Problem(key, what, f"a multiple of {NORM_GROUPS}")
            return


def _check_side(size: int, model: VQModelSpec, key: KeyPath) -> Iterator[Problem]:
    if size % model.downsample:
        what = f"{size} pixels are not divisible by {model.downsample}"
        yield Problem(key, what, "a dataset whose size the downsampling divides")


def _check_reconstruction(
    own: TokenizerSpec, path: KeyPath, config: Config
) -> Iterator[Problem]:
    if own.reconstruction is None:
        return
    key = (*path, "reconstruction", "reference")
    reference = config.references.get(own.reconstruction.reference)
    if reference is None:
        name = own.reconstruction.reference
        yield unknown(key, "reference", name, config.references)
        return
    extractor = config.extractors.get(reference.extractor)
    dataset = config.datasets.get(own.dataset)
    if not isinstance(extractor, ClassifierSpec) or dataset is None:
        return
    trained_on = config.datasets.get(extractor.dataset)
    if trained_on is not None and trained_on.size != dataset.size:
        what = f"the reference is of {trained_on.size} px images"
        yield Problem(key, what, f"a reference of {dataset.size} px images")


def check_codes(config: Config) -> Iterator[Problem]:
    """Every problem of the codes."""
    for codes, own in config.codes.items():
        path: KeyPath = ("codes", codes)
        if (own.dataset is None) == (own.released is None):
            both = "both 'dataset' and 'released'" if own.dataset else "neither source"
            yield Problem(path, f"{both} given", "'dataset' or 'released'")
        if own.released is not None and own.count is None:
            what = "key 'count' is missing"
            yield Problem(path, what, "the number of images in the released folder")
        for name in ("views", "crop_ranges", "precision"):
            if own.released is not None and name in own.model_fields_set:
                what = f"'{name}' of codes that exist already"
                yield Problem((*path, name), what, f"no {name}")
        tokenizer = config.tokenizers.get(own.tokenizer)
        if tokenizer is None:
            key = (*path, "tokenizer")
            yield unknown(key, "tokenizer", own.tokenizer, config.tokenizers)
        if own.dataset is not None:
            yield from _check_source(own, own.dataset, path, config)


def _check_source(
    own: CodesSpec, name: str, path: KeyPath, config: Config
) -> Iterator[Problem]:
    """The images behind codes: their number is known before the first job."""
    dataset = config.datasets.get(name)
    if dataset is None:
        yield unknown((*path, "dataset"), "dataset", name, config.datasets)
        return
    if own.count is not None:
        what = "the number of images is the dataset's"
        yield Problem((*path, "count"), what, "no count")
    if dataset.count is None:
        what = f"dataset '{name}' does not say how many images it has"
        yield Problem((*path, "dataset"), what, f"datasets.{name}.count")
    if own.views == "ten-crop" and dataset.source != "folder":
        what = f"dataset '{name}' has images of {dataset.size} px only"
        yield Problem((*path, "views"), what, "plain or flip; ten-crop needs a folder")
    if own.views != "ten-crop" and "crop_ranges" in own.model_fields_set:
        what = f"'crop_ranges' of the views '{own.views}'"
        expected = "no crop_ranges, or views: ten-crop"
        yield Problem((*path, "crop_ranges"), what, expected)
    tokenizer = config.tokenizers.get(own.tokenizer)
    if tokenizer is not None:
        yield from _check_side(dataset.size, tokenizer.model, (*path, "dataset"))
