"""Where the weights of a training step lie, and whether they are the listed ones."""

from __future__ import annotations

from pathlib import Path

from fewstep import files
from fewstep.errors import UserError


def file_name(step: int) -> str:
    """Name of the weights of a training step."""
    return f"step-{step:08d}.safetensors"


def verify(weights: Path) -> None:
    """Hold the weights of a training step against the list of snapshots.

    Raises:
        UserError: if the step was not kept, or the file has changed.
    """
    index = weights.parent.parent / "snapshots.json"
    listed = {file_name(s["step"]): s for s in files.read_json(index)["snapshots"]}
    known = listed.get(weights.name)
    if known is None or not weights.exists():
        steps = ", ".join(str(entry["step"]) for entry in listed.values()) or "none"
        raise UserError(
            "no weights of this training step",
            where=str(weights),
            expected=f"one of the steps that were kept: {steps}",
            do=f"delete {index} and run again",
        )
    if files.sha256_file(weights) != known["sha256"]:
        raise UserError(
            "the weights have changed",
            where=str(weights),
            expected=f"sha256 {known['sha256'][:12]}…",
            do=f"delete {index} and run again",
        )
