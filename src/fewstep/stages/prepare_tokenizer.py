"""Stage: a published or shipped VQ tokenizer as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewstep import checkpoints
from fewstep.par.checkpoint import check_origin, read_weights
from fewstep.par.tokenizer import VQModel
from fewstep.stages.sources import source_facts


def prepare(spec: dict[str, Any], source: Path, record: Path | None, out: Path) -> None:
    """Load strictly into the tokenizer's architecture, then write our own file.

    Args:
        spec: resolved `name` and `model` of the tokenizer; `ema` (missing: false) takes
            the averaged weights of a training checkpoint.
        source: the checkpoint: LlamaGen's, or `.safetensors` of ours.
        record: what is known of the asset.
        out: `….safetensors`, in float32; its manifest goes beside it.

    Raises:
        UserError: for a file that is not such a checkpoint, or of another model.
    """
    about, ema = source_facts(source, record), bool(spec.get("ema", False))
    tensors = read_weights(source, "tokenizer", ema=ema)
    model = VQModel(**spec["model"])
    checkpoints.load_weights(model, tensors, str(source))
    check_origin(about["origin"], spec["model"], str(source))
    manifest = {
        "tokenizer": spec["name"],
        "model": spec["model"],
        "ema": ema,
        "source_sha256": about["source_sha256"],
    }
    checkpoints.write_state_dict(out, dict(model.state_dict()), manifest, about)
