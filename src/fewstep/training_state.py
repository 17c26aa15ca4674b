"""What a training run saves, and how it goes on from there."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep import files
from fewstep.errors import UserError
from fewstep.optimizer import load_optimizer
from fewstep.sharding import gather, is_sharded, shares_of

logger = logging.getLogger(__name__)


@dataclass
class TrainState:
    """Everything that a resume needs besides the model and the optimiser.

    Attributes:
        step: steps done.
        ema: averaged weights by name; empty where the recipe has none.
        curve: points with `step`, `loss`, `lr`, `seconds`, `images` (examples seen),
            where there is one `validation_loss`, with clipping `grad_norm` (before
            it), and what `on_snapshot` returned.
        seconds: of training, without snapshots.
        snapshot: the step of the last snapshot.
    """

    step: int = 0
    ema: dict[str, Tensor] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    snapshot: int = 0


def save(
    path: Path,
    key: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: TrainState,
    *,
    first: bool = True,
) -> None:
    """Write a run's checkpoint, from the first process alone.

    Args:
        path: where to.
        key: identity of the run.
        model, optimizer, state: of the run. Where they are sharded, all processes must
            call this at the same step.
        first: whether this is the first process.
    """
    content = {
        "key": key,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        **vars(state),
    }
    if is_sharded(model):
        content = gather(content, keep=first)
    if not first:
        return
    with files.atomic_path(path) as part:
        torch.save(content, part)


def resume(
    path: Path,
    key: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
) -> TrainState | None:
    """Load the checkpoint of the same run, if there is one.

    It may have been written by another number of processes, sharded or not.

    Raises:
        UserError: for a file that cannot be read.
    """
    if not path.exists():
        return None
    try:
        # Mapped: each process reads what it keeps, and none holds a copy of the file.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise UserError(
            f"the checkpoint cannot be read ({type(error).__name__})",
            where=str(path),
            do="delete it and run again",
        ) from error
    if content.pop("key") != key:
        logger.warning("%s belongs to another run: starting anew", path)
        return None
    own = model.state_dict()
    model.load_state_dict(shares_of(content.pop("model"), own))
    load_optimizer(optimizer, content.pop("optimizer"))
    for values in optimizer.state.values():
        for name, value in values.items():
            values[name] = _unmapped(value)
    state = TrainState(**content)
    logger.info("going on from step %d", state.step)
    ema = shares_of(state.ema, own)
    state.ema = {name: _unmapped(value.to(device)) for name, value in ema.items()}
    return state


def _unmapped(value: Any) -> Any:
    """A tensor that may lie in the mapped file, in memory of its own.

    Else it would change with the file, and keep one that was replaced on the disk.
    """
    if not isinstance(value, Tensor) or value.device.type != "cpu":
        return value
    # A share was copied when it was cut out.
    return value if is_sharded(value) else value.clone()


def kept(
    model: nn.Module, ema: Mapping[str, Tensor], first: bool = True
) -> dict[str, Tensor]:
    """Copies on the CPU of the averaged weights, or of the last ones.

    Of a sharded model the first process alone gets them, and all must ask.
    """
    chosen = ema or model.state_dict()
    if is_sharded(model):
        found = gather(chosen, keep=first)
        return dict(found) if first else {}
    return {name: value.detach().cpu().clone() for name, value in chosen.items()}
