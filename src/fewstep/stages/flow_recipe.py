"""What a flow is trained from: all that decides its weights, and nothing else.

Apart from the stage, so that an edit of what a stage writes or scores keeps a training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep import checkpoints, files
from fewstep.data import open_dataset
from fewstep.errors import UserError
from fewstep.initial import InitialState
from fewstep.seqrf.checkpoint import check_fits, split_heads
from fewstep.seqrf.flow import build_model
from fewstep.seqrf.model import NCSNpp
from fewstep.seqrf.objectives import BaseFlowObjective, ReflowObjective
from fewstep.seqrf.pairs import PairData, open_pairs
from fewstep.seqrf.segments import Segments

MOMENTS = ("exp_avg", "exp_avg_sq")
NO_INFLUENCE = ("save_every", "log_every", "gpus", "nodes", "snapshots")
"""Keys of a recipe that decide nothing about the weights."""


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

    @property
    def scorer(self) -> dict[str, Path]:
        """The files behind the scores of snapshots."""
        given = {"reference": self.reference, "extractor": self.extractor}
        return {name: path for name, path in given.items() if path is not None}


@dataclass(frozen=True)
class Recipe:
    """A training that is ready to run.

    Attributes:
        objective: model, batches and loss; the model holds the weights to start from.
        initial: average and moments to start from, if any.
        key: identity of the run: equal keys give equal weights.
        about: what the weights are, for their manifest.
    """

    objective: BaseFlowObjective | ReflowObjective
    initial: InitialState | None
    key: str
    about: dict[str, Any]


def build(spec: dict[str, Any], sources: Sources) -> Recipe:
    """Everything that a resolved training needs.

    Args:
        spec: resolved `name`, `model`, `segments`, `train` of the experiment, and
            `weights_code`, the digest of the code that decides the weights.
        sources: the files.

    Raises:
        UserError: for files that do not fit the experiment or each other.
    """
    torch.manual_seed(spec["train"]["seed"])
    model = build_model(spec["model"], spec["segments"])
    initial = _start(spec, sources.start, model)
    pairs = _pairs(spec, sources)
    segments = _segments(spec, pairs)
    decisive = _decisive(spec, sources, pairs)
    return Recipe(
        _objective(spec, sources, model, pairs, segments),
        initial,
        files.sha256_json({**decisive, "code": spec.get("weights_code", "")}),
        {
            "experiment": spec["name"],
            **{key: spec[key] for key in ("model", "segments")},
            "edges": list(segments.edges),
            "time_factor": "exact",
            **{key: decisive[key] for key in ("train", "sources")},
        },
    )


def _decisive(
    spec: dict[str, Any], sources: Sources, pairs: PairData | None
) -> dict[str, Any]:
    """What decides the weights, the code apart."""
    read: dict[str, str] = {}
    if sources.dataset is not None:
        read["dataset"] = open_dataset(sources.dataset).sha256
    if pairs is not None:
        read["pairs"] = pairs.identity
    if sources.start is not None:
        read["start"] = files.sha256_file(sources.start)
    recipe = {k: v for k, v in spec["train"].items() if k not in NO_INFLUENCE}
    shape = {key: spec[key] for key in ("model", "segments")}
    return {**shape, "train": recipe, "sources": read}


def _pairs(spec: dict[str, Any], sources: Sources) -> PairData | None:
    """The reflow pairs, held against teacher and k."""
    if sources.pairs is None:
        return None
    if sources.teacher is None:
        raise UserError(
            "pairs without the teacher that made them",
            where="--pairs",
            expected="--teacher FILE",
        )
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
    if sources.dataset is None:
        raise UserError("nothing to learn from", expected="--dataset or --pairs")
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
