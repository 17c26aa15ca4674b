"""Stage: a published or shipped TarFlow, checked and written as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewstep import checkpoints
from fewstep.stages.sources import source_facts
from fewstep.tarflow.model import TarFlow


def prepare(spec: dict[str, Any], source: Path, record: Path | None, out: Path) -> None:
    """Load strictly into the experiment's architecture, then write our own file.

    Args:
        spec: resolved `name` and `model` of the experiment.
        source: the checkpoint as it was published.
        record: what is known of the asset (its hash, revision, licence).
        out: `model.safetensors`; its manifest goes beside it.
    """
    about = source_facts(source, record)
    with checkpoints.unfilled():
        model = TarFlow(**spec["model"])
    found = checkpoints.read_state_dict(source)
    tensors = {
        name: tensor
        for name, tensor in checkpoints.fitted(model, found, str(source)).items()
        if not name.endswith("attn_mask")
    }
    manifest = {
        "experiment": spec["name"],
        "model": spec["model"],
        **about,
    }
    checkpoints.write_state_dict(out, tensors, manifest)
