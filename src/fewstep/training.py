"""One training loop for every limb: resumable to the bit, preemptible, distributed.

A limb says what a batch and its loss are (`Objective`); everything here is the same for
all. Every random draw is keyed by the position of an example in the run, so neither a
resume nor the number of processes changes what the model sees.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fewstep import files
from fewstep.device import autocast
from fewstep.errors import UserError
from fewstep.progress import Progress

logger = logging.getLogger(__name__)


class PreemptedError(Exception):
    """The job was told to stop; its checkpoint is saved."""


class Objective(Protocol):
    """What a limb trains."""

    model: nn.Module

    def batch(self, step: int, start: int, stop: int) -> Any:
        """Examples start..stop-1 of the global batch of `step`, on the CPU."""

    def loss(self, model: nn.Module, batch: Any, device: torch.device) -> Tensor:
        """Mean loss of the batch, a scalar."""

    def validate(self, model: nn.Module, device: torch.device) -> float | None:
        """Loss on held-out data, or None where there is none."""


@dataclass(frozen=True)
class TrainOptions:
    """The recipe.

    Attributes:
        steps: optimiser steps.
        batch: examples a step over all processes.
        lr: peak learning rate.
        start_lr: rate of the first step of the linear warm-up.
        min_lr: rate at the end of the cosine.
        warmup_steps: steps of the warm-up.
        weight_decay, betas: of AdamW, on every parameter.
        grad_clip: largest gradient norm, 0 = no clipping.
        ema: decay of the averaged weights that are kept in the end, 0 = none.
        precision: "fp32", or "bf16" autocast.
        seed: of every draw.
        save_every: steps between two checkpoints.
        log_every: steps between two points of the curve.
    """

    steps: int
    batch: int
    lr: float
    start_lr: float = 1e-6
    min_lr: float = 1e-6
    warmup_steps: int = 0
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)
    grad_clip: float = 0.0
    ema: float = 0.0
    precision: str = "fp32"
    seed: int = 0
    save_every: int = 1000
    log_every: int = 50


@dataclass
class TrainState:
    """Everything that a resume needs besides the model and the optimiser."""

    step: int = 0
    ema: dict[str, Tensor] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0


def learning_rate(step: int, options: TrainOptions) -> float:
    """Linear warm-up, then half a cosine to `min_lr`; `step` counts from 0."""
    if step < options.warmup_steps:
        share = step / options.warmup_steps
        return options.start_lr + (options.lr - options.start_lr) * share
    span = max(1, options.steps - options.warmup_steps)
    share = min(1.0, (step - options.warmup_steps) / span)
    cosine = 0.5 * (1 + math.cos(math.pi * share))
    return options.min_lr + (options.lr - options.min_lr) * cosine


def train(
    objective: Objective,
    options: TrainOptions,
    folder: str | Path,
    *,
    key: str,
    device: torch.device | None = None,
    label: str = "train",
) -> tuple[dict[str, Tensor], TrainState]:
    """Train, going on from `folder`'s checkpoint where there is one.

    Args:
        objective: model, batches and loss.
        options: the recipe.
        folder: where the checkpoint of the unfinished run lies.
        key: identity of the run (recipe, data, architecture); a checkpoint of
            another key is not resumed from.
        device: default CPU.
        label: name on the progress line.

    Returns:
        the state dict to keep (averaged weights where the recipe has them) and the
        final state with the curve.

    Raises:
        PreemptedError: after SIGTERM or SIGUSR2, once the checkpoint is saved.
        UserError: when the loss is not finite, or the batch does not divide.
    """
    device = device or torch.device("cpu")
    rank, world = _join_group(device)
    if options.batch % world:
        raise UserError(
            f"batch {options.batch} is not divisible by {world} processes",
            do="change train.batch or the number of processes",
        )
    model = objective.model.to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=options.lr,
        betas=options.betas,
        weight_decay=options.weight_decay,
    )
    path = Path(folder) / "last.pt"
    state = _resume(path, key, model, optimizer, device)
    if options.ema and not state.ema:
        state.ema = {k: v.detach().clone() for k, v in model.state_dict().items()}
    run = _Run(objective, options, path, key, model, optimizer, state, device)
    _loop(run, rank, world, Progress(label, options.steps, done=state.step))
    kept = state.ema or model.state_dict()
    return {k: v.detach().cpu().clone() for k, v in kept.items()}, state


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


def _loop(run: _Run, rank: int, world: int, progress: Progress) -> None:
    """All steps that are left; the next batch is made while one is trained on."""
    options, state = run.options, run.state
    model = DistributedDataParallel(run.model) if world > 1 else run.model
    share = options.batch // world
    began = time.monotonic() - state.seconds

    def load(step: int) -> Any:
        return run.objective.batch(step, rank * share, (rank + 1) * share)

    with _stop_signal() as stop, ThreadPoolExecutor(1) as loader:
        pending = loader.submit(load, state.step)
        while state.step < options.steps:
            batch = pending.result()
            pending = loader.submit(load, state.step + 1)
            loss = _step(run, model, batch)
            state.step += 1
            state.seconds = time.monotonic() - began
            _average(state.ema, run.model, options.ema)
            last = state.step == options.steps
            if last or state.step % options.log_every == 0:
                _log(run, loss)
            stopping = _any_rank(stop["now"], world, run.device)
            if rank == 0:
                progress.advance()
                if last or stopping or state.step % options.save_every == 0:
                    _save(run)
            if stopping and not last:
                raise PreemptedError(
                    f"stopped at step {state.step}; {run.path} is saved"
                )


def _step(run: _Run, model: nn.Module, batch: Any) -> Tensor:
    """One optimiser step; returns the loss, still on the device."""
    options, optimizer = run.options, run.optimizer
    model.train()
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(run.state.step, options)
    with autocast(run.device, options.precision):
        loss = run.objective.loss(model, batch, run.device)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if options.grad_clip:
        nn.utils.clip_grad_norm_(model.parameters(), options.grad_clip)
    optimizer.step()
    return loss.detach()


def _log(run: _Run, loss: Tensor) -> None:
    """Add a point to the curve; a loss that is not finite ends the run."""
    state, value = run.state, _mean_over_ranks(loss)
    if not math.isfinite(value):
        raise UserError(
            f"the loss is {value} at step {state.step}",
            do="lower train.lr, lengthen the warm-up or set train.clip",
        )
    run.model.eval()
    with torch.no_grad():
        held_out = run.objective.validate(run.model, run.device)
    point = {
        "step": state.step,
        "loss": value,
        "lr": learning_rate(state.step - 1, run.options),
        "seconds": state.seconds,
    }
    if held_out is not None:
        point["validation_loss"] = held_out
    state.curve.append(point)


def _average(ema: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    """ema <- decay ema + (1 - decay) weights."""
    if not decay:
        return
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                ema[name].lerp_(value, 1 - decay)
            else:
                ema[name].copy_(value)


def _save(run: _Run) -> None:
    content = {
        "key": run.key,
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        **asdict(run.state),
    }
    with files.atomic_path(run.path) as part:
        torch.save(content, part)


def _resume(
    path: Path,
    key: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
) -> TrainState:
    """Load the checkpoint of the same run, if there is one."""
    if not path.exists():
        return TrainState()
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"the checkpoint cannot be read ({type(error).__name__})",
            where=str(path),
            do="delete it and run again",
        ) from error
    if content["key"] != key:
        logger.warning("%s belongs to another run: starting anew", path)
        return TrainState()
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    logger.info("going on from step %d", content["step"])
    ema = {name: value.to(device) for name, value in content["ema"].items()}
    return TrainState(content["step"], ema, content["curve"], content["seconds"])


def _join_group(device: torch.device) -> tuple[int, int]:
    """(rank, world size); under torchrun the process group is made."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return 0, 1
    if not torch.distributed.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend)
    return torch.distributed.get_rank(), world


def leave_group() -> bool:
    """End the process group, if there is one; whether this process is the first."""
    if not torch.distributed.is_initialized():
        return True
    rank = torch.distributed.get_rank()
    torch.distributed.destroy_process_group()
    return rank == 0


def _any_rank(flag: bool, world: int, device: torch.device) -> bool:
    """Whether any process raised its flag: all must leave after the same step."""
    if world == 1:
        return flag
    raised = torch.tensor(int(flag), device=device)
    torch.distributed.all_reduce(raised, torch.distributed.ReduceOp.MAX)
    return bool(raised.item())


def _mean_over_ranks(loss: Tensor) -> float:
    """The loss of the whole batch."""
    if torch.distributed.is_initialized():
        loss = loss.clone()
        torch.distributed.all_reduce(loss)
        loss /= torch.distributed.get_world_size()
    return float(loss)


@contextmanager
def _stop_signal() -> Iterator[dict[str, bool]]:
    """A flag that SIGTERM and SIGUSR2 (SLURM's warning) raise."""
    stop = {"now": False}

    def handler(*_: Any) -> None:
        stop["now"] = True

    previous = {}
    try:
        for number in (signal.SIGTERM, signal.SIGUSR2):
            previous[number] = signal.signal(number, handler)
    except ValueError:  # not the main thread, e.g. in a notebook's worker
        previous.clear()
    try:
        yield stop
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
