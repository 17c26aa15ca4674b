"""Stage: a published or shipped checkpoint, checked and written as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fewstep import checkpoints, files
from fewstep.errors import UserError
from fewstep.tarflow.sampler import load_model


def prepare_tarflow(
    spec: dict[str, Any], source: Path, record: Path | None, out: Path
) -> None:
    """Load strictly into the experiment's architecture, then write our own file.

    Args:
        spec: resolved `name` and `model` of the experiment.
        source: the checkpoint as it was published.
        record: what is known of the asset (its hash, revision, licence).
        out: `model.safetensors`; its manifest goes beside it.
    """
    asset = {} if record is None else files.read_json(record)
    source_sha256 = files.sha256_file(source)
    if asset and asset["sha256"] != source_sha256:
        raise UserError(
            f"the file has changed since it was checked: sha256 {source_sha256[:12]}…",
            where=str(source),
            expected=f"{asset['sha256'][:12]}…",
            do=f"delete {record} and run again",
        )
    origin = checkpoints.read_manifest(source) if _is_ours(source) else {}
    model = load_model(spec["model"], source, torch.device("cpu"))
    tensors = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.endswith("attn_mask")
    }
    manifest = {
        "experiment": spec["name"],
        "model": spec["model"],
        "source": str(source),
        "source_sha256": source_sha256,
        "asset": asset,
        "origin": origin,
    }
    checkpoints.write_state_dict(out, tensors, manifest)


def export(source: Path, out: Path, command: str) -> None:
    """A trained model as a small asset: half precision, its history in the header.

    Args:
        source: `model.safetensors` of a training.
        out: the asset; its manifest goes beside it.
        command: the command that trained it.
    """
    manifest = {**checkpoints.read_manifest(source), "command": command}
    manifest["full_precision_sha256"] = files.sha256_file(source)
    tensors = checkpoints.read_state_dict(source)
    halves = {name: tensor.half() for name, tensor in tensors.items()}
    checkpoints.write_state_dict(out, halves, manifest)


def _is_ours(path: Path) -> bool:
    return path.suffix == ".safetensors"
