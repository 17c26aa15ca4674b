"""What a PAR model is trained on: codes, classes that are dropped, cross-entropy."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fewstep import noise
from fewstep.data import epoch_order, holdout_split
from fewstep.errors import UserError
from fewstep.par.model import Output, Transformer

CodeBatch = tuple[Tensor, Tensor]
"""Raster codes (B, N) and labels (B,), int64."""

_VALIDATION_IMAGES = 256
_VALIDATION_LOGITS = 2**27  # half a gigabyte


class Codes(Protocol):
    """Codes of images, such as `fewstep.par.codes.CodeData`.

    Attributes:
        views: stored views of an image.
        classes: number of classes; labels lie below it.
        largest: no code is larger.
        tokens: codes of a view, N.
    """

    views: int
    classes: int
    largest: int
    tokens: int

    def __len__(self) -> int:
        """Number of images."""

    def batch(
        self, images: NDArray[np.int64], views: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Raster codes (B, N) and labels (B,) of one view each of images (B,)."""


class CodesObjective:
    """Next-token likelihood of codes (LlamaGen; PAR, arXiv 2412.15119, §3).

    An epoch shows every training image once, in one of its views; what is left of it
    below a whole batch is not shown. View and dropped label of an example depend on the
    seed and on its place in the run alone.

    Args:
        model: the transformer, which holds the dropouts.
        data: codes and labels.
        batch: images a step over all processes.
        seed: of order, views, dropped labels and held-out images.
        drop_label: probability that an example's label becomes no class.
        validation: images held out of training (0: none).

    Attributes:
        train_index: images of the training, ascending.
        held_out: the others.
        per_epoch: steps an epoch.

    Raises:
        UserError: for codes that the model cannot read, and a batch that is larger than
            the set of training images.
    """

    def __init__(
        self,
        model: Transformer,
        data: Codes,
        *,
        batch: int,
        seed: int = 0,
        drop_label: float = 0.1,
        validation: int = 0,
    ) -> None:
        check_codes(model, data)
        self.model: nn.Module = model
        self.data, self.size, self.seed = data, batch, seed
        self.drop_label, self.no_class = drop_label, model.num_classes
        share = validation / max(1, len(data))
        self.train_index, self.held_out = holdout_split(len(data), seed, share)
        self.per_epoch = len(self.train_index) // batch
        if not self.per_epoch:
            raise UserError(
                f"batch {batch} is larger than {len(self.train_index)} training images",
                do="lower train.batch",
            )
        logits = model.schedule.tokens * model.vocab_size
        self.chunk = max(1, min(_VALIDATION_IMAGES, _VALIDATION_LOGITS // logits))

    def batch(self, step: int, start: int, stop: int) -> CodeBatch:
        """Codes (n, N) and labels (n,); see `fewstep.training.Objective.batch`."""
        epoch, place = divmod(step, self.per_epoch)
        order = _order(len(self.train_index), self.seed, epoch)
        chosen = order[place * self.size + start : place * self.size + stop]
        views = np.empty(stop - start, dtype=np.int64)
        dropped = np.empty(stop - start, dtype=bool)
        for row, position in enumerate(range(start, stop)):
            stream = noise.stream(self.seed, "train", step * self.size + position)
            views[row] = stream.integers(self.data.views)
            dropped[row] = stream.random() < self.drop_label
        codes, labels = self.data.batch(self.train_index[chosen], views)
        labels = np.where(dropped, self.no_class, labels)
        return torch.from_numpy(codes), torch.from_numpy(labels)

    def loss(self, model: nn.Module, batch: CodeBatch, device: torch.device) -> Tensor:
        """Mean cross-entropy of all tokens in nats, a scalar."""
        return _output(model, batch, device).loss

    def validate(self, model: nn.Module, device: torch.device) -> float | None:
        """Nats a token of the held-out images: first view, own label, no dropout."""
        if not len(self.held_out):
            return None
        training, total = model.training, 0.0
        model.eval()
        for start in range(0, len(self.held_out), self.chunk):
            index = self.held_out[start : start + self.chunk]
            codes, labels = self.data.batch(index, np.zeros_like(index))
            batch = torch.from_numpy(codes), torch.from_numpy(labels)
            losses = _output(model, batch, device).token_loss.detach()
            total += float(losses.double().sum())
        model.train(training)
        return total / (len(self.held_out) * self.data.tokens)

    def shard_units(self, model: nn.Module) -> list[nn.Module]:
        """The transformer's blocks; see `fewstep.sharding.shard`."""
        assert isinstance(model, Transformer)
        return list(model.layers)


@lru_cache(maxsize=4)
def _order(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """`epoch_order`, drawn once an epoch, not once a batch; not to be changed."""
    return epoch_order(n, seed, epoch)


def _output(model: nn.Module, batch: CodeBatch, device: torch.device) -> Output:
    codes, labels = (part.to(device, non_blocking=True) for part in batch)
    out: Output = model(codes, labels)
    return out


def check_codes(model: Transformer, data: Codes) -> None:
    """Hold codes against the model that shall read them.

    Raises:
        UserError: for another grid, a code outside the vocabulary or too many classes.
    """
    do = "take the codes of the model's own tokenizer and dataset, or change its model"
    grid = model.schedule.grid
    if data.tokens != grid**2:
        raise UserError(
            f"the codes have {data.tokens} tokens an image",
            expected=f"{grid**2}, the model's grid of {grid}x{grid}",
            do=do,
        )
    if data.largest >= model.vocab_size:
        raise UserError(
            f"the codes go up to {data.largest}",
            expected=f"0 to {model.vocab_size - 1}, "
            f"the model's codebook of {model.vocab_size}",
            do=do,
        )
    if data.classes > model.num_classes:
        raise UserError(
            f"the codes have {data.classes} classes",
            expected=f"at most {model.num_classes}, the model's",
            do=do,
        )
