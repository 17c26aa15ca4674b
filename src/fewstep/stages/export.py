"""Stage: a trained model as a small asset."""

from __future__ import annotations

from pathlib import Path

import torch

from fewstep import checkpoints, files


def export(source: Path, out: Path, command: str) -> None:
    """A trained model as a small asset: half precision, all its history in the header.

    Args:
        source: `model.safetensors` of a training.
        out: the asset; its manifest goes beside it.
        command: the command that trained it.
    """
    manifest = {**files.read_json(source.with_suffix(".json")), "command": command}
    del manifest["sha256"], manifest["bytes"]
    manifest["full_precision_sha256"] = files.sha256_file(source)
    tensors = checkpoints.read_state_dict(source)
    # Tables in double precision are tables of constants: small, and exact.
    halves = {
        name: tensor.half() if tensor.dtype == torch.float32 else tensor
        for name, tensor in tensors.items()
    }
    checkpoints.write_state_dict(out, halves, manifest)
