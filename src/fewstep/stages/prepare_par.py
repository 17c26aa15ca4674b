"""Stage: a published or shipped PAR transformer as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewstep import checkpoints
from fewstep.par.checkpoint import check_group, check_origin, read_weights
from fewstep.par.model import Transformer
from fewstep.stages.sources import source_facts


def prepare(spec: dict[str, Any], source: Path, record: Path | None, out: Path) -> None:
    """Load strictly into the experiment's transformer, then write our own file.

    Args:
        spec: resolved `name` and `model` of the experiment; `ema` (missing: false)
            takes the averaged weights of a training checkpoint.
        source: the checkpoint: PAR's, LlamaGen's, or `.safetensors` of ours.
        record: what is known of the asset.
        out: `model.safetensors`, in float32; its manifest goes beside it.

    Raises:
        UserError: for a file that is not such a checkpoint, or of another model.
    """
    about, ema = source_facts(source, record), bool(spec.get("ema", False))
    tensors = read_weights(source, "transformer", ema=ema)
    with checkpoints.unfilled():
        model = Transformer(**spec["model"])
    check_group(tensors, model.group, str(source))
    # Straight from the mapped source: 3B is 12 GB in float32.
    whole = checkpoints.fitted(model, tensors, str(source))
    check_origin(about["origin"], spec["model"], str(source))
    manifest = {
        "experiment": spec["name"],
        "model": spec["model"],
        "ema": ema,
        "source_sha256": about["source_sha256"],
    }
    checkpoints.write_state_dict(out, whole, manifest, about)
