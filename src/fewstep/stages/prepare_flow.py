"""Stages: a published or shipped flow as safetensors, and its optimizer's state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from fewstep import checkpoints
from fewstep.seqrf.checkpoint import check_fits, read_rectified_flow, weights
from fewstep.seqrf.flow import build_model
from fewstep.stages.sources import is_ours, source_facts


def prepare(spec: dict[str, Any], source: Path, record: Path | None, out: Path) -> None:
    """Load strictly into the experiment's network, then write our own file.

    Of a training checkpoint of RectifiedFlow the averaged weights are taken, which it
    samples with.

    Args:
        spec: resolved `name`, `model`, `segments` of the experiment.
        source: the checkpoint: `.pth` of RectifiedFlow, or `.safetensors` of ours.
        record: what is known of the asset.
        out: `model.safetensors`; its manifest goes beside it.
    """
    about = source_facts(source, record)
    facts: dict[str, Any] = {"edges": [1.0, 0.0], "time_factor": "released"}
    if is_ours(source):
        tensors, origin = checkpoints.read_state_dict(source), about["origin"]
        facts = {key: origin[key] for key in facts if key in origin}
    else:
        checkpoint = read_rectified_flow(source)
        tensors = weights(checkpoint, "ema")
        facts["ema_decay"], facts["steps"] = checkpoint.ema_decay, checkpoint.step
    model = build_model(spec["model"], spec["segments"])
    check_fits(model, tensors, str(source))
    manifest = {
        "experiment": spec["name"],
        "model": spec["model"],
        "segments": spec["segments"],
        **facts,
        "source_sha256": about["source_sha256"],
    }
    checkpoints.write_state_dict(out, dict(model.state_dict()), manifest, about)


def state(source: Path, record: Path | None, out: Path) -> None:
    """Raw weights, average and Adam's moments of a RectifiedFlow checkpoint.

    Args:
        source: the `.pth` file.
        record: what is known of the asset.
        out: `state.safetensors`: tensors `model/…`, `ema/…`, `exp_avg/…`,
            `exp_avg_sq/…`.
    """
    found = read_rectified_flow(source)
    parts = {
        "model": found.model,
        "ema": weights(found, "ema"),
        "exp_avg": found.exp_avg,
        "exp_avg_sq": found.exp_avg_sq,
    }
    # What has no average is shared, which the file format refuses.
    tensors: dict[str, Tensor] = {
        f"{part}/{name}": tensor.clone()
        for part, named in parts.items()
        for name, tensor in named.items()
    }
    about = source_facts(source, record)
    manifest = {"adam_step": found.adam_step, "source_sha256": about["source_sha256"]}
    checkpoints.write_state_dict(out, tensors, manifest, about)
