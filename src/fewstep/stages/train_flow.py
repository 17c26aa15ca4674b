"""Stage: train a flow: from data, or from reflow pairs, or distil it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep import checkpoints, files
from fewstep.data import open_dataset
from fewstep.device import pick_device
from fewstep.errors import UserError
from fewstep.initial import InitialState
from fewstep.seqrf.checkpoint import check_fits, split_heads
from fewstep.seqrf.model import NCSNpp
from fewstep.seqrf.objectives import BaseFlowObjective, ReflowObjective
from fewstep.seqrf.pairs import PairData, open_pairs
from fewstep.seqrf.sampler import build_model
from fewstep.seqrf.segments import Segments
from fewstep.stages.snapshots import Snapshots
from fewstep.stages.training import COSMETIC, manifest_of, train_options, write_curve
from fewstep.training import TrainState, leave_group, train

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Sources:
    """Files that a training reads; which of them depends on its objective.

    Attributes:
        dataset: folder of images, for a flow from data.
        pairs: `pairs.json`.
        teacher: weights that must have made the pairs.
        start: weights that the training starts from, or a `state.safetensors`.
        reference: statistics of real images, where snapshots are scored.
        extractor: the feature extractor's weights, likewise.
    """

    dataset: Path | None = None
    pairs: Path | None = None
    teacher: Path | None = None
    start: Path | None = None
    reference: Path | None = None
    extractor: Path | None = None


def train_flow(
    spec: dict[str, Any], sources: Sources, work: Path, out: Path, curve: Path
) -> None:
    """Train a flow.

    Args:
        spec: resolved `name`, `model`, `segments`, `train` of the experiment, and
            `scoring` where snapshots are scored.
        sources: what it reads.
        work: folder of the unfinished run's checkpoint.
        out: `model.safetensors`; its manifest goes beside it, and the snapshots into
            `snapshots/` with their list `snapshots.json`.
        curve: Parquet file of the training curve.
    """
    recipe = spec["train"]
    torch.manual_seed(recipe["seed"])
    model = build_model(spec["model"], spec["segments"])
    start = _start(spec, sources.start, model)
    pairs = _pairs(spec, sources)
    segments = _segments(spec, pairs)
    objective = _objective(spec, sources, model, pairs, segments)
    key = run_key(spec, sources)
    about = {
        **manifest_of(spec, TrainState()),
        "segments": segments.k,
        "edges": list(segments.edges),
        "time_factor": "exact",
        "start_sha256": files.sha256_file(sources.start) if sources.start else None,
        "pairs": pairs.manifest["origin"] if pairs else None,
    }
    snapshots = Snapshots(
        spec, out.parent, key, about, sources.reference, sources.extractor
    )
    tensors, state = train(
        objective,
        train_options(recipe, objective.per_epoch),
        work,
        key=key,
        device=pick_device(),
        label=f"train {spec['name']}",
        initial=start,
        on_snapshot=snapshots.take if recipe["snapshots"] else None,
    )
    if not leave_group():
        return
    write_curve(spec["name"], state, curve, snapshots.metric)
    snapshots.write_index()
    checkpoints.write_state_dict(out, tensors, {**about, **manifest_of(spec, state)})


def run_key(spec: dict[str, Any], sources: Sources) -> str:
    """Identity of a training run: what decides its weights and its scores."""
    recipe = {k: v for k, v in spec["train"].items() if k not in COSMETIC}
    read = {
        "dataset": sources.dataset and sources.dataset / "dataset.json",
        "pairs": sources.pairs,
        "start": sources.start,
        "reference": sources.reference,
        "extractor": sources.extractor,
    }
    return files.sha256_json(
        {
            "model": spec["model"],
            "segments": spec["segments"],
            "train": recipe,
            "code": spec.get("code", ""),
            **{k: spec[k] for k in ("scoring",) if k in spec},
            **{k: files.sha256_file(path) for k, path in read.items() if path},
        }
    )


def _pairs(spec: dict[str, Any], sources: Sources) -> PairData | None:
    """The reflow pairs, held against teacher and k."""
    if sources.pairs is None:
        return None
    assert sources.teacher is not None
    return open_pairs(
        sources.pairs,
        teacher_sha256=files.sha256_file(sources.teacher),
        segments=spec["segments"],
        limit=spec["train"]["pair_count"],
    )


def _segments(spec: dict[str, Any], pairs: PairData | None) -> Segments:
    edges = pairs.plan.edges if pairs else None
    return Segments.of(spec["segments"], edges)


def _objective(
    spec: dict[str, Any],
    sources: Sources,
    model: NCSNpp,
    pairs: PairData | None,
    segments: Segments,
) -> BaseFlowObjective | ReflowObjective:
    recipe = spec["train"]
    if pairs is not None:
        return ReflowObjective(
            model,
            pairs,
            batch=recipe["batch"],
            segments=segments,
            seed=recipe["seed"],
            kind=recipe["objective"],
            steps_per_segment=recipe["distill_steps"],
            validation=round(recipe["holdout"] * len(pairs)),
            reduction=recipe["loss"],
        )
    assert sources.dataset is not None
    data = open_dataset(sources.dataset)
    return BaseFlowObjective(
        model,
        data,
        batch=recipe["batch"],
        seed=recipe["seed"],
        flip=recipe["flip"],
        validation=round(recipe["holdout"] * len(data)),
        reduction=recipe["loss"],
    )


def _start(
    spec: dict[str, Any], path: Path | None, model: NCSNpp
) -> InitialState | None:
    """Load the weights to start from; one head becomes k."""
    if path is None:
        return None
    tensors = checkpoints.read_state_dict(path)
    if spec["train"]["optimizer"] == "fresh":
        check_fits(model, _with_heads(model, tensors), str(path))
        return None
    parts = _parts(tensors)
    missing = {"model", "ema", *MOMENTS} - set(parts)
    if missing:
        raise UserError(
            f"no {' and '.join(sorted(missing))} in it",
            where=str(path),
            expected="the state of a published training checkpoint",
            do="set train.optimizer to fresh",
        )
    wide = {name: _with_heads(model, part) for name, part in parts.items()}
    check_fits(model, wide["model"], str(path))
    return InitialState(wide["ema"], wide["exp_avg"], wide["exp_avg_sq"])


def _parts(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """`exp_avg/name` and so on, by their first part."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        parts.setdefault(part, {})[rest] = tensor
    return parts


def _with_heads(model: NCSNpp, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """One-headed tensors with the model's number of heads; others as they are."""
    own, k = model.state_dict(), model.segments
    # One that is missing is named later, when the weights are loaded.
    names = [name for name in model.time_names if name in tensors]
    if k == 1 or any(len(tensors[name]) * k != len(own[name]) for name in names):
        return tensors
    return split_heads(tensors, names, k)
