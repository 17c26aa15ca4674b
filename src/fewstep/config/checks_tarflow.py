"""The checks of a TarFlow experiment: the model, and what its samplers ask of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fewstep.config.problems import Problem, distinct, unknown
from fewstep.config.tarflow import (
    SEARCHED,
    SEQUENTIAL,
    CrmStrategy,
    SamplerSpec,
    StrategyLists,
    TarFlowExperiment,
    TarFlowModelSpec,
)
from fewstep.yamlpos import KeyPath

HEAD = 64
IMAGE_CHANNELS = 3


def check_tarflow(experiment: TarFlowExperiment, path: KeyPath) -> Iterator[Problem]:
    """Every problem inside one experiment."""
    model, found = experiment.model, list(_check_model(experiment.model, path))
    yield from found
    yield from _check_noise(experiment, path)
    yield from _check_condition(experiment, path)
    if any(problem.path[-1] == "patch_size" for problem in found):
        return  # without a number of tokens no strategy can be judged
    for name, sampler in experiment.samplers.items():
        key = (*path, "samplers", name)
        yield from _check_strategy(sampler, model, key)
    if experiment.search.segments is not None:
        key = (*path, "search", "segments")
        yield from distinct(key, experiment.search.segments)
        for position, segments in enumerate(experiment.search.segments):
            yield from _check_divides(segments, model.tokens, (*key, position))
    if experiment.search.windows is not None:
        yield from distinct((*path, "search", "windows"), experiment.search.windows)


def _check_model(model: TarFlowModelSpec, path: KeyPath) -> Iterator[Problem]:
    path = (*path, "model")
    if model.img_size % model.patch_size:
        what = f"patches of {model.patch_size} do not divide {model.img_size} pixels"
        key = (*path, "patch_size")
        yield Problem(key, what, f"a divisor of {model.img_size}")
    if model.channels % HEAD:
        what = f"{model.channels} is not a multiple of the head dimension {HEAD}"
        near = max(HEAD, round(model.channels / HEAD) * HEAD)
        yield Problem((*path, "channels"), what, f"{near}, for instance")
    if model.in_channels != IMAGE_CHANNELS:
        what = f"datasets have {IMAGE_CHANNELS} colour channels"
        yield Problem((*path, "in_channels"), what, str(IMAGE_CHANNELS))


def _check_noise(experiment: TarFlowExperiment, path: KeyPath) -> Iterator[Problem]:
    noise = experiment.noise
    if noise.kind == "gaussian" and noise.std == 0:
        yield Problem((*path, "noise"), "gaussian noise of std 0", "std above 0")
    if noise.kind == "uniform" and noise.std != 0:
        what = "uniform noise has the width of a level"
        yield Problem((*path, "noise", "std"), what, "no std")
    for name in experiment.samplers:
        denoises = experiment.sampling_of(name).self_denoise > 0
        if noise.kind == "uniform" and denoises:
            key = (*path, "samplers", name, "sampling", "self_denoise")
            yield Problem(key, "denoising needs gaussian training noise", "0")


def _check_condition(experiment: TarFlowExperiment, path: KeyPath) -> Iterator[Problem]:
    """Guidance compares two passes, which must differ."""
    train, classes = experiment.train, experiment.model.num_classes
    if train and train.drop_label > 0 and classes == 0:
        key = (*path, "train", "drop_label")
        yield Problem(key, "an unconditional model has no labels to drop", "0")
    for name in experiment.samplers:
        sampling = experiment.sampling_of(name)
        if sampling.guidance > 0 and classes == 0 and sampling.attn_temp == 1:
            what = (
                f"guidance of an unconditional model changes nothing (sampler '{name}')"
            )
            key = (*path, "sampling", "guidance")
            yield Problem(key, what, "attn_temp other than 1, or guidance 0")
            return


def _check_strategy(
    sampler: SamplerSpec, model: TarFlowModelSpec, path: KeyPath
) -> Iterator[Problem]:
    strategy, key = sampler.strategy, (*path, "strategy")
    if sampler.guess is not None:
        yield from _check_length(sampler.guess, model, (*path, "guess"))
    if isinstance(strategy, StrategyLists):
        yield from _check_lists(strategy, model, key)
    elif isinstance(strategy, CrmStrategy):
        where = (*key, "crm", "segments")
        yield from _check_divides(strategy.crm.segments, model.tokens, where)
    elif _is_notation(strategy):
        yield from _check_notation(strategy, model, key)
    elif strategy not in (SEQUENTIAL, SEARCHED):
        of = ', or the paper\'s notation such as "[7-8-32-10]"'
        yield unknown(key, "strategy", strategy, (SEQUENTIAL, SEARCHED), of)
    if sampler.guess is not None and not _is_notation(strategy):
        what = "only a strategy in the paper's notation takes a guess"
        yield Problem((*path, "guess"), what, "no guess")
    if strategy == SEARCHED and sampler.mode == "released":
        what = "the search measures against the exact inverse"
        yield Problem((*path, "mode"), what, "exact")
    if strategy == SEARCHED and sampler.tol is not None:
        what = "the search's error bound is search.tolerance"
        yield Problem((*path, "tol"), what, "no tol with strategy auto")


def _is_notation(strategy: object) -> bool:
    return isinstance(strategy, str) and strategy.startswith("[")


def _check_notation(
    text: str, model: TarFlowModelSpec, path: KeyPath
) -> Iterator[Problem]:
    # The one place where the configuration asks a system; this module is torch-free.
    from fewstep.tarflow.strategy import Strategy

    try:
        Strategy.parse(text, num_blocks=model.num_blocks, tokens=model.tokens)
    except ValueError as error:
        blocks = f"{model.num_blocks} blocks of {model.tokens} tokens"
        yield Problem(path, str(error), f"[Stack-GS-J-Else] for {blocks}")


def _check_lists(
    lists: StrategyLists, model: TarFlowModelSpec, path: KeyPath
) -> Iterator[Problem]:
    for name in ("num_gs", "max_jacobi", "guess"):
        values = getattr(lists, name)
        if values is not None:
            yield from _check_length(values, model, (*path, name))
    for position, segments in enumerate(lists.num_gs):
        key = (*path, "num_gs", position)
        yield from _check_divides(segments, model.tokens, key)
    for position, (segments, most) in enumerate(
        zip(lists.num_gs, lists.max_jacobi, strict=False)
    ):
        if most == 0 and segments not in (0, model.tokens):
            key = (*path, "max_jacobi", position)
            yield Problem(key, "a Jacobi block without iterations", "at least 1")


def _check_length(
    values: Sequence[int], model: TarFlowModelSpec, path: KeyPath
) -> Iterator[Problem]:
    if len(values) != model.num_blocks:
        what = f"a list of {len(values)} for {model.num_blocks} blocks"
        yield Problem(path, what, f"{model.num_blocks} numbers, the last block first")


def _check_divides(segments: int, tokens: int, path: KeyPath) -> Iterator[Problem]:
    if segments > 1 and tokens % segments:
        divisors = [g for g in range(1, tokens + 1) if tokens % g == 0]
        below = max(g for g in divisors if g < segments)
        above = min((g for g in divisors if g > segments), default=below)
        near = f"{below}" if above == below else f"{below} or {above}"
        what = f"{segments} segments do not divide {tokens} tokens"
        yield Problem(path, what, f"a divisor of {tokens}, such as {near}")
