"""One training loop for every limb: resumable to the bit, preemptible, distributed.

A limb says what a batch and its loss are (`Objective`); everything here is the same for
all. Every draw of data is keyed by the position of an example in the run, so neither a
resume nor the number of processes changes what the model sees. Draws inside the model
(dropout) are keyed by step, process and micro-batch: a resume repeats them, another
number of processes or micro-batches draws others.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fewstep import noise
from fewstep.device import autocast, fork_rng, mark_step, seed
from fewstep.errors import UserError
from fewstep.initial import InitialState, initial_average, set_moments
from fewstep.optimizer import adamw
from fewstep.processes import (
    PreemptedError,
    any_rank,
    closing_group,
    join_group,
    mean_over_ranks,
    stop_signal,
)
from fewstep.progress import Progress
from fewstep.recipe import TrainOptions, ema_decay, learning_rate
from fewstep.sharding import is_sharded, reduce_gradients, shard, whole
from fewstep.training_state import TrainState, kept, resume, save

__all__ = [
    "InitialState",
    "Objective",
    "PreemptedError",
    "TrainOptions",
    "TrainState",
    "closing_group",
    "learning_rate",
    "train",
]

OnSnapshot = Callable[[int, dict[str, Tensor]], dict[str, float] | None]


class Objective(Protocol):
    """What a limb trains.

    One whose model may be sharded (`TrainOptions.sharded`) can also say
    `shard_units(model) -> list[nn.Module]`: parts, such as transformer blocks, whose
    weights are gathered one after the other, and in bf16 where that is the precision.
    """

    model: nn.Module

    def batch(self, step: int, start: int, stop: int) -> Any:
        """Examples start..stop-1 of the global batch of `step`, on the CPU."""

    def loss(self, model: nn.Module, batch: Any, device: torch.device) -> Tensor:
        """Mean loss of the batch, a scalar."""

    def validate(self, model: nn.Module, device: torch.device) -> float | None:
        """Loss on held-out data, or None where there is none."""


def train(
    objective: Objective,
    options: TrainOptions,
    folder: str | Path,
    *,
    key: str,
    device: torch.device | None = None,
    label: str = "train",
    initial: InitialState | None = None,
    on_snapshot: OnSnapshot | None = None,
) -> tuple[dict[str, Tensor], TrainState]:
    """Train, going on from `folder`'s checkpoint where there is one.

    Args:
        objective: model, batches and loss.
        options: the recipe.
        folder: where the checkpoint of the unfinished run lies.
        key: identity of the run (recipe, data, architecture, initial state); a
            checkpoint of another key is not resumed from.
        device: default CPU.
        label: name on the progress line.
        initial: averaged weights and moments to start from; a checkpoint wins over it.
        on_snapshot: called every `snapshot_every` steps in the first process with the
            step and the weights to keep so far (copies on the CPU); the numbers that
            it returns go into that step's point of the curve. A run that is killed
            meanwhile, or that it ends with a PreemptedError, calls it again for the
            same step: calling it twice must do no more than calling it once.

    Returns:
        the state dict to keep (averaged weights where the recipe has them; of a
        sharded run in the first process alone) and the final state with the curve.

    Raises:
        PreemptedError: after SIGTERM or SIGUSR2, once the checkpoint is saved.
        UserError: when the loss is not finite, or the batch does not divide.
        ValueError: for an initial state of another model.
    """
    device = device or torch.device("cpu")
    rank, world = join_group(device)
    _check_batch(options, world)
    model = _place(objective, options, device, world)
    optimizer = adamw(model, options)
    path = Path(folder) / "last.pt"
    state = resume(path, key, model, optimizer, device)
    if is_sharded(model):
        any_rank(False, world, device)  # nobody saves before all have read
    if state is None:
        state, initial = TrainState(), initial or InitialState()
        if options.ema:
            state.ema = initial_average(model, initial.ema)
        set_moments(optimizer, model, initial, options.count_offset)
    run = _Run(objective, options, path, key, model, optimizer, state, device)
    run.rank, run.world, run.on_snapshot = rank, world, on_snapshot
    # The draws of dropout leave the caller's generator as it was.
    with fork_rng(device):
        _loop(run, Progress(label, options.steps, done=state.step))
    return _kept(run), state


def _place(
    objective: Objective, options: TrainOptions, device: torch.device, world: int
) -> nn.Module:
    """The objective's model on its device, sharded where that is wanted."""
    model = objective.model
    if not options.sharded or world == 1:
        return model.to(device)
    find = getattr(objective, "shard_units", None)
    shard(model, find(model) if find else [], device, options.precision)
    return model


@dataclass
class _Run:
    """A training run on its way."""

    objective: Objective
    options: TrainOptions
    path: Path
    key: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    state: TrainState
    device: torch.device
    rank: int = 0
    world: int = 1
    on_snapshot: OnSnapshot | None = None
    began: float = 0.0


def _loop(run: _Run, progress: Progress) -> None:
    """All steps that are left; the next batch is made while one is trained on."""
    options, state = run.options, run.state
    model = run.model
    if run.world > 1 and not is_sharded(model):
        model = DistributedDataParallel(model)
    run.began = time.monotonic() - state.seconds
    _snapshot(run)  # one that a stop put off
    with stop_signal() as stop, ThreadPoolExecutor(1) as loader:
        pending = loader.submit(_load, run, state.step)
        while state.step < options.steps:
            parts = pending.result()
            pending = loader.submit(_load, run, state.step + 1)
            loss, norm = _step(run, model, parts)
            _average(state.ema, run.model, ema_decay(state.step, options))
            state.step += 1
            state.seconds = time.monotonic() - run.began
            last, snapshot = state.step == options.steps, _snapshot_due(run)
            if last or snapshot or _due(state.step, options.log_every):
                _log(run, loss, norm)
            stopping = any_rank(stop["now"], run.world, run.device)
            if run.rank == 0:
                progress.advance()
            # Before a snapshot too: a signal that comes in it may end the run there.
            if last or stopping or snapshot or _due(state.step, options.save_every):
                _save(run)
            if stopping and not last:
                raise PreemptedError(
                    f"stopped at step {state.step}; {run.path} is saved"
                )
            _snapshot(run)


def _load(run: _Run, step: int) -> list[Any]:
    """This process's share of a batch, in micro-batches."""
    size = run.options.batch // run.world // run.options.accumulate
    first = run.rank * run.options.accumulate
    starts = [(first + part) * size for part in range(run.options.accumulate)]
    return [run.objective.batch(step, start, start + size) for start in starts]


def _step(
    run: _Run, model: nn.Module, parts: list[Any]
) -> tuple[Tensor, Tensor | None]:
    """One optimiser step; its loss and, with clipping, the unclipped norm."""
    options, optimizer = run.options, run.optimizer
    model.train()
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(run.state.step, options)
    optimizer.zero_grad(set_to_none=True)
    losses = []
    for number, part in enumerate(parts):
        _seed_torch(run, number)
        with _sync(model, wanted=number == len(parts) - 1):
            with autocast(run.device, options.precision):
                loss = run.objective.loss(model, part, run.device) / len(parts)
            loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
    norm = None
    if options.grad_clip:
        clip = nn.utils.clip_grad_norm_
        norm = whole(clip(model.parameters(), options.grad_clip))
    optimizer.step()
    mark_step(run.device)
    return torch.stack(losses).sum(), norm


def _seed_torch(run: _Run, part: int) -> None:
    """Key torch's own draws (dropout) by what they are for."""
    purpose = f"torch/{run.rank}/{part}"
    stream = noise.stream(run.options.seed, purpose, run.state.step)
    seed(int(stream.integers(2**63)), run.device)


def _sync(model: nn.Module, wanted: bool) -> AbstractContextManager[Any]:
    """Gradients go to the other processes once a step, with the last micro-batch."""
    reduce_gradients(model, wanted)
    if wanted or not isinstance(model, DistributedDataParallel):
        return nullcontext()
    return model.no_sync()


def _log(run: _Run, loss: Tensor, norm: Tensor | None) -> None:
    """Add a point to the curve; a loss that is not finite ends the run."""
    state, value = run.state, mean_over_ranks(loss)
    if not math.isfinite(value):
        raise UserError(
            f"the loss is {value} at step {state.step}",
            do="lower train.lr, lengthen the warm-up or set train.clip",
        )
    run.model.eval()
    # The blocks of a sharded model are gathered in the recipe's precision.
    precision = run.options.precision if is_sharded(run.model) else "fp32"
    with torch.no_grad(), autocast(run.device, precision):
        held_out = run.objective.validate(run.model, run.device)
    point = {
        "step": state.step,
        "images": state.step * run.options.batch,
        "loss": value,
        "lr": learning_rate(state.step - 1, run.options),
        "seconds": state.seconds,
    }
    if held_out is not None:
        point["validation_loss"] = held_out
    if norm is not None:
        point["grad_norm"] = float(norm)
    state.curve.append(point)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _snapshot_due(run: _Run) -> bool:
    due = _due(run.state.step, run.options.snapshot_every)
    return due and run.on_snapshot is not None


def _snapshot(run: _Run) -> None:
    """Call `on_snapshot` if it is due and was not called, and save that it was.

    A stop comes before it, so that a long one does not use up the time to leave; the
    resumed run then makes up for it.
    """
    state = run.state
    if run.on_snapshot is None or not _snapshot_due(run):
        return
    if state.snapshot == state.step or not state.curve:
        return
    point = state.curve[-1]
    if point["step"] != state.step:  # saved when this step was not yet to have one
        return
    began = time.monotonic()
    if run.rank == 0 or is_sharded(run.model):
        tensors = _kept(run)
    if run.rank == 0:
        numbers = run.on_snapshot(state.step, tensors) or {}
        point.update({name: float(value) for name, value in numbers.items()})
    run.began += time.monotonic() - began
    state.snapshot = state.step
    _save(run)


def _average(ema: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    """ema <- decay ema + (1 - decay) weights."""
    if not ema:
        return
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                ema[name].lerp_(value, 1 - decay)
            else:
                ema[name].copy_(value)


def _kept(run: _Run) -> dict[str, Tensor]:
    return kept(run.model, run.state.ema, first=run.rank == 0)


def _save(run: _Run) -> None:
    if run.rank == 0 or is_sharded(run.model):
        parts = (run.model, run.optimizer, run.state)
        save(run.path, run.key, *parts, first=run.rank == 0)


def _check_batch(options: TrainOptions, world: int) -> None:
    if options.batch % world:
        raise UserError(
            f"batch {options.batch} is not divisible by {world} processes",
            do="change train.batch or the number of processes",
        )
    share = options.batch // world
    if share % options.accumulate:
        raise UserError(
            f"{share} examples a process are not divisible into "
            f"{options.accumulate} micro-batches",
            do="change train.batch or train.accumulate",
        )
