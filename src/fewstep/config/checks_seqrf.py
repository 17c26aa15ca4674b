"""The checks of a SeqRF experiment: its weights, its pairs, its solvers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from fewstep.config.problems import Problem, distinct, unknown
from fewstep.config.seqrf import (
    FIXED_STEP,
    FlowModelSpec,
    FlowTrainSpec,
    PairsSpec,
    SeqRFExperiment,
    SolverSpec,
)
from fewstep.yamlpos import KeyPath

if TYPE_CHECKING:
    from fewstep.config.tree import Config


PATH = "path"
"""Name of the fine reference path in the tables, which no sampler may have."""


def check_seqrf(
    experiment: SeqRFExperiment, path: KeyPath, config: Config
) -> Iterator[Problem]:
    """Every problem of one experiment."""
    yield from _check_model(experiment.model, (*path, "model"))
    if experiment.train is not None:
        yield from _check_train(experiment, experiment.train, path, config)
    elif experiment.segments != 1 and experiment.checkpoint is None:
        yield Problem((*path, "segments"), "segments without training", "1")
    swept = experiment.swept()
    for name, sampler in experiment.samplers.items():
        if name not in swept:  # it stands nowhere in the file
            yield from _check_solver(experiment, sampler, (*path, "samplers", name))
    yield from _check_paths(experiment, path)
    yield from _check_sweep(experiment, path)


def _check_paths(experiment: SeqRFExperiment, path: KeyPath) -> Iterator[Problem]:
    """Straightness in other numbers of segments, whose rows are named by them."""
    trajectory, key = experiment.trajectory, (*path, "trajectory", "compare")
    if trajectory.compare:
        yield from distinct(key, trajectory.compare)
    for position, k in enumerate(trajectory.compare):
        if trajectory.steps % k:
            what = f"{k} segments do not divide {trajectory.steps} steps"
            yield Problem((*key, position), what, "a divisor of trajectory.steps")
    for name in experiment.samplers:
        if name == PATH or name.startswith(f"{PATH}-k"):
            what = f"'{name}' is what the tables call the path itself"
            yield Problem((*path, "samplers", name), what, "another name")


def _check_sweep(experiment: SeqRFExperiment, path: KeyPath) -> Iterator[Problem]:
    sweep = experiment.sweep
    if sweep is None:
        return
    key = (*path, "sweep", "steps")
    yield from distinct(key, sweep.steps)
    for position, step in enumerate(sweep.steps):
        yield from _check_train_step(experiment, step, (*key, position))
    for name in sweep.samplers:
        if name not in experiment.samplers:
            place = (*path, "sweep", "samplers")
            yield unknown(place, "sampler", name, experiment.samplers)
    for name, (_, step) in experiment.swept().items():
        own = experiment.samplers.get(name)
        if own is not None and own.train_step != step:
            place = (*path, "samplers", name)
            yield Problem(place, "a name that the sweep gives", "another name")


def check_pairs(config: Config) -> Iterator[Problem]:
    """Every problem of the reflow pairs."""
    flows = flow_experiments(config)
    for name, pairs in config.pairs.items():
        path: KeyPath = ("pairs", name)
        teacher = flows.get(pairs.teacher)
        if teacher is None:
            key = (*path, "teacher")
            yield unknown(key, "seqrf experiment", pairs.teacher, flows)
            continue
        yield from _check_teacher(pairs, teacher, path, config)
        if pairs.adaptive and pairs.adaptive.steps < pairs.segments:
            key = (*path, "adaptive", "steps")
            what = f"{pairs.adaptive.steps} steps cannot hold {pairs.segments} segments"
            yield Problem(key, what, "many more steps than segments")
        if pairs.count < pairs.segments:
            what = f"{pairs.count} pairs for {pairs.segments} segments"
            yield Problem((*path, "count"), what, f"at least {pairs.segments}")
    yield from _check_circles(config, flows)


def _check_teacher(
    pairs: PairsSpec, teacher: SeqRFExperiment, path: KeyPath, config: Config
) -> Iterator[Problem]:
    """A teacher of several heads can only make pairs of its own segments."""
    if teacher.segments not in (1, pairs.segments):
        what = f"teacher '{pairs.teacher}' has {teacher.segments} segments"
        expected = f"{teacher.segments}, or a teacher of one segment"
        yield Problem((*path, "segments"), what, expected)
    own = config.pairs.get((teacher.train and teacher.train.pairs) or "")
    unequal = pairs.adaptive or (own is not None and own.adaptive)
    if teacher.segments > 1 and unequal:
        what = f"'{pairs.teacher}' has {teacher.segments} segments, not these"
        yield Problem((*path, "teacher"), what, "a teacher of one segment")


def flow_experiments(config: Config) -> dict[str, SeqRFExperiment]:
    """The experiments of this system by name."""
    return {
        name: own
        for name, own in config.experiments.items()
        if isinstance(own, SeqRFExperiment)
    }


def _check_circles(
    config: Config, flows: Mapping[str, SeqRFExperiment]
) -> Iterator[Problem]:
    """Nobody is its own ancestor, through weights or through pairs."""

    def parents(name: str) -> set[str]:
        train = flows[name].train if name in flows else None
        if train is None:
            return set()
        pairs = config.pairs.get(train.pairs or "")
        found = {train.start, pairs.teacher if pairs else None}
        return {parent for parent in found if parent is not None}

    for name in flows:
        seen: set[str] = set()
        ahead = parents(name)
        while ahead:
            if name in ahead:
                key = ("experiments", name, "train")
                yield Problem(key, "the experiment is its own ancestor", "no circle")
                break
            seen |= ahead
            ahead = {p for one in ahead for p in parents(one)} - seen


def _check_model(model: FlowModelSpec, path: KeyPath) -> Iterator[Problem]:
    if model.nf % 4:
        yield Problem((*path, "nf"), f"{model.nf} is not a multiple of 4", "one")
    halvings = len(model.ch_mult) - 1
    if model.img_size % 2**halvings:
        what = f"{halvings} halvings do not divide {model.img_size} pixels"
        yield Problem((*path, "ch_mult"), what, "fewer levels")
    sizes = [model.img_size >> level for level in range(halvings + 1)]
    for position, size in enumerate(model.attn_resolutions):
        if size not in sizes:
            key = (*path, "attn_resolutions", position)
            shown = ", ".join(map(str, sizes))
            yield Problem(key, f"no level has size {size}", f"one of {shown}")
    if model.progressive_input == "residual" and not model.fir:
        key = (*path, "fir")
        yield Problem(key, "progressive_input residual needs the filter", "fir: true")


def _check_train(
    experiment: SeqRFExperiment, train: FlowTrainSpec, path: KeyPath, config: Config
) -> Iterator[Problem]:
    key, flows = (*path, "train"), flow_experiments(config)
    if train.objective == "flow":
        if train.pairs is not None:
            what = "objective flow learns from the dataset"
            yield Problem((*key, "pairs"), what, "no pairs, or another objective")
    elif train.pairs is None:
        what = f"objective {train.objective} without 'pairs'"
        yield Problem(key, what, "the name of reflow pairs")
    elif train.pairs not in config.pairs:
        yield unknown((*key, "pairs"), "pairs", train.pairs, config.pairs)
    else:
        pairs = config.pairs[train.pairs]
        yield from _check_pairs_fit(experiment, train, pairs, path)
    if train.start is not None:
        start = flows.get(train.start)
        if start is None:
            yield unknown((*key, "start"), "seqrf experiment", train.start, flows)
        else:
            yield from _check_start(experiment, start, train, path)
    if train.optimizer == "imported" and train.start is None:
        yield Problem((*key, "optimizer"), "imported without 'start'", "fresh")
    yield from _check_unread(train, key)
    yield from _check_counts(train, key)
    snapshots = train.snapshots
    if snapshots and snapshots.sampler not in (None, *experiment.samplers):
        name = (*key, "snapshots", "sampler")
        yield unknown(name, "sampler", str(snapshots.sampler), experiment.samplers)


def _check_unread(train: FlowTrainSpec, key: KeyPath) -> Iterator[Problem]:
    """Settings that this objective would not read."""
    if train.drop_label:
        what = "these models know no classes"
        yield Problem((*key, "drop_label"), what, "0")
    if train.objective == "flow" and train.pair_count is not None:
        what = "objective flow reads no pairs"
        yield Problem((*key, "pair_count"), what, "no pair_count")
    if train.objective != "flow" and train.flip:
        what = "pairs are mirrored when they are made"
        yield Problem((*key, "flip"), what, "false; `flip` stands at the pairs")
    if train.objective != "step_distill" and train.distill_steps != 1:
        what = f"objective {train.objective} takes no distill_steps"
        yield Problem((*key, "distill_steps"), what, "objective step_distill")


def _check_counts(train: FlowTrainSpec, key: KeyPath) -> Iterator[Problem]:
    """Numbers of steps and parts that must fit together."""
    if train.batch % (train.accumulate * train.gpus):
        what = f"{train.gpus} x {train.accumulate} parts do not divide the batch"
        name = "accumulate" if train.accumulate > 1 else "gpus"
        yield Problem((*key, name), what, f"a divisor of {train.batch}")
    if train.optimizer == "fresh" and train.count_offset:
        what = f"a fresh optimizer that counts from step {train.count_offset}"
        yield Problem((*key, "count_offset"), what, "0, or optimizer imported")
    snapshots = train.snapshots
    if snapshots and train.steps is not None and snapshots.every > train.steps:
        what = f"{snapshots.every} steps, in a training of {train.steps}"
        yield Problem((*key, "snapshots", "every"), what, f"at most {train.steps}")


def _check_start(
    experiment: SeqRFExperiment,
    start: SeqRFExperiment,
    train: FlowTrainSpec,
    path: KeyPath,
) -> Iterator[Problem]:
    """The weights must fit: the same network, one head or as many."""
    key = (*path, "train", "start")
    own = experiment.model.resolved(without=("dropout",))
    other = start.model.resolved(without=("dropout",))
    differing = [name for name in own if own[name] != other[name]]
    if differing:
        what = f"'{train.start}' has another model ({differing[0]} differs)"
        yield Problem(key, what, "an experiment of the same model")
    if start.segments not in (1, experiment.segments):
        what = (
            f"'{train.start}' has {start.segments} segments, this {experiment.segments}"
        )
        yield Problem(key, what, "one segment, or as many as here")
    if train.optimizer == "imported" and start.checkpoint is None:
        what = f"'{train.start}' has no published checkpoint"
        yield Problem((*path, "train", "optimizer"), what, "fresh")


def _check_pairs_fit(
    experiment: SeqRFExperiment, train: FlowTrainSpec, pairs: PairsSpec, path: KeyPath
) -> Iterator[Problem]:
    key = (*path, "train")
    if pairs.segments != experiment.segments:
        what = (
            f"{experiment.segments} segments, but pairs '{pairs.name}' have another k"
        )
        yield Problem((*path, "segments"), what, str(pairs.segments))
    if train.objective == "step_distill" and pairs.segments != 1:
        what = "step_distill learns an N-step sampler of one segment"
        yield Problem((*key, "pairs"), what, "pairs of one segment")
    used = train.pair_count or pairs.count
    left = used - round(used * train.holdout)
    if used > pairs.count:
        what = f"{used} is more than pairs '{pairs.name}' hold"
        yield Problem((*key, "pair_count"), what, f"at most {pairs.count}")
    elif train.batch > left:
        what = f"a batch of {train.batch} is more than the pairs"
        yield Problem((*key, "batch"), what, f"at most {left}")


def _check_solver(
    experiment: SeqRFExperiment, sampler: SolverSpec, path: KeyPath
) -> Iterator[Problem]:
    fixed = sampler.solver in FIXED_STEP
    needed, other = ("steps", "tol") if fixed else ("tol", "steps")
    if getattr(sampler, needed) is None:
        what = f"solver {sampler.solver} without '{needed}'"
        yield Problem(path, what, f"a value for {needed}")
    if getattr(sampler, other) is not None:
        what = f"solver {sampler.solver} takes no {other}"
        yield Problem((*path, other), what, f"{needed} only")
    if fixed and sampler.steps is not None and sampler.steps < experiment.segments:
        what = f"{sampler.steps} steps for {experiment.segments} segments"
        yield Problem((*path, "steps"), what, f"at least {experiment.segments}")
    yield from _check_distilled(experiment, sampler, path)
    redraws = experiment.sampling_of(str(path[-1])).nan_policy == "redraw"
    if redraws and not fixed:
        what = "rk45 cannot go on after a value that is not finite"
        yield Problem((*path, "sampling", "nan_policy"), what, "fail with rk45")
    if sampler.train_step is not None:
        key = (*path, "train_step")
        yield from _check_train_step(experiment, sampler.train_step, key)


def _check_distilled(
    experiment: SeqRFExperiment, sampler: SolverSpec, path: KeyPath
) -> Iterator[Problem]:
    """A distilled flow was trained at the times of one sampler, and at no others."""
    train = experiment.train
    if train is None or train.objective not in ("distill", "step_distill"):
        return
    steps = experiment.segments
    if train.objective == "step_distill":
        steps = train.distill_steps
    if (sampler.solver, sampler.steps) != ("euler", steps):
        what = f"a flow distilled to {steps} steps knows no other times"
        yield Problem((*path, "solver"), what, f"solver euler with steps {steps}")


def _check_train_step(
    experiment: SeqRFExperiment, step: int, path: KeyPath
) -> Iterator[Problem]:
    """Weights of a step are there only where snapshots keep them."""
    train = experiment.train
    if train is None or train.snapshots is None:
        yield Problem(path, "no snapshots are kept", "train.snapshots")
    elif step % train.snapshots.every:
        what = f"no snapshot is kept at step {step}"
        yield Problem(path, what, f"a multiple of {train.snapshots.every}")
    elif train.steps is not None and step > train.steps:
        what = f"step {step} of a training of {train.steps}"
        yield Problem(path, what, f"at most {train.steps}")
