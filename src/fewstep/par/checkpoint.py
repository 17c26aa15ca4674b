"""Checkpoints of PAR and LlamaGen: whatever wraps the weights, and our own files.

DDP runs save {"model": …}, DeepSpeed {"module": …}, others {"state_dict": …}, FSDP runs
the bare tensors. Names may carry the prefixes of DDP and torch.compile. Nothing in a
file is run.
"""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from fewstep.checkpoints import read_foreign, read_state_dict
from fewstep.errors import UserError

Kind = Literal["transformer", "tokenizer"]

_WRAPPERS = ("model", "module", "state_dict")
_AVERAGE = "ema"
_PREFIXES = {"module", "_orig_mod"}
_IGNORED = {"kv_cache", "freqs_cis", "codebook_used"}
"""Parts of names: leftovers of drawing, derived tables, a statistic of training."""

_MARKS: dict[Kind, str] = {
    "transformer": "tok_embeddings.weight",
    "tokenizer": "quantize.embedding.weight",
}
_NAMES: dict[Kind, str] = {
    "transformer": "a PAR or LlamaGen transformer",
    "tokenizer": "a VQ tokenizer",
}
_TRANSITION = "spe_tok_embeddings.special_embeddings.weight"

_UNSEEN = ("n_head", "rope_base", "norm_eps", "codebook_l2_norm")
"""Arguments of the models that no shape of a tensor tells."""


def read_weights(
    path: str | Path, kind: Kind, *, ema: bool = False
) -> dict[str, Tensor]:
    """The weights in a file, by the names of our models, on the CPU, in float32.

    Args:
        path: `.safetensors` of ours, or a file of torch in any of the wrappers.
        kind: what has to be in it.
        ema: take the averaged weights that stand beside the raw ones.

    Raises:
        UserError: for a file that is missing, broken, asks for more than tensors and
            the list of a program's arguments, lacks the average, or holds another
            kind of model.
    """
    where, path = str(path), Path(path)
    if path.suffix == ".safetensors":
        content: Mapping[str, Any] = read_state_dict(path)
    else:
        content = _load(path, _NAMES[kind])
    tensors = _named(_unwrap(content, ema, where), where)
    _check_kind(tensors, kind, where)
    return tensors


def group_of(tensors: Mapping[str, Tensor]) -> int:
    """n that a transformer was trained for: its transition tokens and one."""
    rows = tensors.get(_TRANSITION)
    return 1 if rows is None else len(rows) + 1


def check_group(tensors: Mapping[str, Tensor], group: int, where: str) -> None:
    """Refuse a transformer of another n than `group`.

    Raises:
        UserError: naming both.
    """
    found = group_of(tensors)
    if found != group:
        raise UserError(
            f"the checkpoint draws {found} token{'' if found == 1 else 's'} a step, "
            f"ar_token_num says {group}",
            where=where,
            expected="the n that the weights were trained for",
            do=f"set ar_token_num to {found}, or give a checkpoint of n = {group}",
        )


def check_origin(
    origin: Mapping[str, Any], model: Mapping[str, Any], where: str
) -> None:
    """Refuse a file of ours whose model differs where no shape would tell.

    Args:
        origin: the file's manifest; empty for a foreign file.
        model: arguments of the model that is to take the weights.
        where: the file.

    Raises:
        UserError: naming the argument and both values.
    """
    known = origin.get("model") or {}
    for key in _UNSEEN:
        if key in known and key in model and known[key] != model[key]:
            raise UserError(
                f"the weights were made with {key} {known[key]}, "
                f"the model says {model[key]}",
                where=where,
                do=f"set {key} to {known[key]}",
            )


def _unwrap(content: Mapping[str, Any], ema: bool, where: str) -> Mapping[str, Any]:
    """The state dict in a wrapper, or what is bare."""
    wanted = (_AVERAGE,) if ema else _WRAPPERS
    for key in wanted:
        if isinstance(content.get(key), Mapping):
            found: Mapping[str, Any] = content[key]
            return found
    if ema:
        raise UserError(
            "holds no averaged weights",
            where=where,
            expected="a training checkpoint with 'ema'",
            do="take the raw weights instead",
        )
    if isinstance(content.get(_AVERAGE), Mapping):
        raise UserError("holds averaged weights alone", where=where, do="ask for ema")
    return content


def _named(state: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """Tensors without prefixes and leftovers, in float32."""
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        parts = [part for part in str(name).split(".") if part not in _PREFIXES]
        if _IGNORED.intersection(parts):
            continue
        short = ".".join(parts)
        if not isinstance(value, Tensor):
            raise UserError(
                f"{name} is of type {type(value).__name__}, no tensor",
                where=where,
                expected="a state dict, bare or under " + ", ".join(_WRAPPERS),
            )
        if short in tensors:
            raise UserError(f"holds {short} twice", where=where, expected="once")
        plain = value.detach()
        tensors[short] = plain.float() if plain.is_floating_point() else plain
    return tensors


def _check_kind(tensors: Mapping[str, Tensor], kind: Kind, where: str) -> None:
    if _MARKS[kind] in tensors:
        return
    held = [_NAMES[other] for other, mark in _MARKS.items() if mark in tensors]
    what = f"holds {held[0]}" if held else f"has no tensor {_MARKS[kind]}"
    raise UserError(what, where=where, expected=_NAMES[kind])


# Reading


def _load(path: Path, expected: str) -> Mapping[str, Any]:
    if not path.is_file():
        what = "a folder" if path.is_dir() else "file not found"
        inside = path / "consolidated.pth"  # what FSDP runs write
        do = f"give {inside}" if inside.is_file() else ""
        raise UserError(what, where=str(path), expected=expected, do=do)
    # The training programs save their arguments too. Mapped, the optimizer's state
    # beside the weights is not read: it is twice as long.
    mapped = zipfile.is_zipfile(path)
    return read_foreign(path, expected, [argparse.Namespace], mmap=mapped)
