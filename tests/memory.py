"""Bytes that tensors hold while something is computed, counted op by op."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


class Peak(TorchDispatchMode):
    """Counts every storage that an operation makes, until it is freed.

    Args:
        models: what was there before; its parameters and buffers are not counted, nor
            are tensors that share their memory.

    Attributes:
        now: bytes held.
        peak: most bytes held at once.
    """

    def __init__(self, *models: nn.Module) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen = WeakIdKeyDictionary()
        # Kept, so that a storage stays the same Python object.
        self._before = [
            one.untyped_storage()
            for model in models
            for one in (*model.parameters(), *model.buffers())
        ]
        for storage in self._before:
            self._seen[storage] = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, torch.Tensor):
                self._count(one.untyped_storage())
        self.peak = max(self.peak, self.now)
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._seen:
            size = storage.nbytes()
            self._seen[storage] = size
            self.now += size
            weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size


def model_bytes(*models: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    found = 0
    for model in models:
        held = [*model.parameters(), *model.buffers()]
        found += sum(one.untyped_storage().nbytes() for one in held)
    return found
