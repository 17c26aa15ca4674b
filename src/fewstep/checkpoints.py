"""Checkpoints: foreign ones read safely, our own written as safetensors."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fewstep import files
from fewstep.errors import UserError


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict (.pth, .pt, .safetensors) on the CPU, running no code in it.

    Tensors are mapped: they are read when they are used.

    Raises:
        UserError: where the file is missing or not a dictionary of tensors.
    """
    path = Path(path)
    expected = "a state dict: names and tensors, nothing else"
    if not path.is_file():
        raise UserError("file not found", where=str(path), expected=expected)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        value: Any = torch.load(
            path,
            map_location="cpu",
            weights_only=True,
            mmap=zipfile.is_zipfile(path),
        )
    except (
        *(OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError),
        *(AttributeError, pickle.UnpicklingError, SafetensorError),
    ) as error:
        raise UserError(
            f"cannot be read as tensors ({type(error).__name__})",
            where=str(path),
            expected=expected,
            do="fetch the file again",
        ) from error
    named = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
    if not named or not all(isinstance(v, Tensor) for v in value.values()):
        raise UserError("not a state dict", where=str(path), expected=expected)
    return dict(value)


def read_foreign(
    path: Path, expected: str, allowed: Sequence[Any] = (), *, mmap: bool = False
) -> Mapping[str, Any]:
    """Read a training checkpoint of another program, running no code in it.

    Args:
        path: a file that exists.
        expected: what has to be in it, for the errors.
        allowed: what it may hold besides tensors, as `torch.serialization.safe_globals`
            takes it.
        mmap: read tensors when they are used.

    Raises:
        UserError: for a file that is broken, asks for more than is allowed, or holds
            no dictionary.
    """
    try:
        with torch.serialization.safe_globals(list(allowed)):
            content: Any = torch.load(
                path, map_location="cpu", weights_only=True, mmap=mmap
            )
    except (
        *(OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError),
        *(AttributeError, pickle.UnpicklingError),
    ) as error:
        raise _refused(path, expected, error) from error
    if not isinstance(content, Mapping):
        raise UserError(
            f"holds a {type(content).__name__}",
            where=str(path),
            expected=expected,
            do="fetch the file again",
        )
    return content


def _refused(path: Path, expected: str, error: Exception) -> UserError:
    """Why a file was not read: it asks for code, or it is broken."""
    asked = re.search(r"GLOBAL ([\w.]+)", str(error))
    if asked:
        return UserError(
            f"refused: reading it would use {asked[1]}, which weights do not need",
            where=str(path),
            expected=expected,
            do="get the file from its publisher",
        )
    return UserError(
        f"cannot be read ({type(error).__name__})",
        where=str(path),
        expected=expected,
        do="fetch the file again",
    )


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(
        f"the checkpoint cannot be read ({type(error).__name__})",
        where=str(path),
        do="delete it and fetch it again",
    )


def write_state_dict(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    manifest: dict[str, Any],
    history: dict[str, Any] | None = None,
) -> None:
    """Write a `.safetensors` file with its manifest in the header and beside it.

    Args:
        path: `….safetensors`; the manifest also goes to `….json`.
        tensors: contiguous copies are made.
        manifest: a JSON value: what the weights are. Equal weights with an equal
            manifest are an equal file.
        history: when, where and how fast they were made: `….json` alone.
    """
    path = Path(path)
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with files.atomic_path(path) as part:
        save_file(whole, part, {"manifest": json.dumps(manifest, sort_keys=True)})
    record = {"sha256": files.sha256_file(path), "bytes": path.stat().st_size}
    files.write_json(
        path.with_suffix(".json"), {**record, **manifest, **(history or {})}
    )


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest in a `.safetensors` header; empty where there is none."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("manifest", "{}")
    except (SafetensorError, OSError) as error:
        raise _unreadable(Path(path), error) from error
    value: dict[str, Any] = json.loads(text)
    return value


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy weights strictly into a model; see `fitted`.

    Raises:
        UserError: naming the first tensor that is missing, extra or of another shape.
    """
    model.load_state_dict(fitted(model, tensors, where))


def assign_weights(
    model: nn.Module, tensors: Mapping[str, Tensor], where: str, device: torch.device
) -> None:
    """Let a model take the tensors themselves, on its device; see `fitted`.

    With `unfilled` a model is in memory once. Not for training, which would write to a
    mapped file's pages.

    Args:
        model: on the CPU; buffers that are not stored stay there.
        tensors: of a file, as `read_state_dict` gives them.
        where: the file, for the message.
        device: where the model is to compute.

    Raises:
        UserError: naming the first tensor that is missing, extra or of another shape.
    """
    whole = fitted(model, tensors, where)
    placed = {name: _placed(value, device) for name, value in whole.items()}
    model.load_state_dict(placed, assign=True)


_ALIGNMENT = 64


def _placed(value: Tensor, device: torch.device) -> Tensor:
    """On the device; on a CPU where its vector units read at full speed.

    Safetensors start at any multiple of 8 bytes: products of few rows take twice as
    long there, and other digits come out.
    """
    if device.type == "cpu" and value.data_ptr() % _ALIGNMENT:
        return value.clone()
    return value.to(device)


def fitted(
    model: nn.Module, tensors: Mapping[str, Tensor], where: str
) -> dict[str, Tensor]:
    """What a model's state dict becomes, in the model's own types.

    Buffers that only mask may be absent: the model's own are taken.

    Raises:
        UserError: naming the first tensor that is missing, extra or of another shape.
    """
    own = model.state_dict()
    derived = {name for name in own if name.rsplit(".", 1)[-1] == "attn_mask"}
    for name in (*own, *tensors):
        found, wanted = tensors.get(name), own.get(name)
        if found is None and name in derived:
            continue
        if found is None or wanted is None or found.shape != wanted.shape:
            raise UserError(
                f"tensor {name}: {_shape(found)}",
                where=where,
                expected=f"{_shape(wanted)}: checkpoint and model do not fit",
                do="check the experiment's model against the checkpoint",
            )
    return {
        name: tensors.get(name, value).to(value.dtype) for name, value in own.items()
    }


@contextmanager
def unfilled() -> Iterator[None]:
    """Models made here are not filled with random numbers.

    What is not written to takes no memory. Their weights have to come from a file.
    """
    with _NoFilling():
        yield


class _NoFilling(TorchFunctionMode):
    """Leaves out torch.nn.init."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if getattr(func, "__module__", "") == "torch.nn.init":
            return named["tensor"] if "tensor" in named else args[0]
        return func(*args, **named)


def _shape(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else f"shape {tuple(tensor.shape)}"
