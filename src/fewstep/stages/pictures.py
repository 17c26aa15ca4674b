"""Stages: sample grids, the sampling trace, charts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.images import filmstrip, grid, save_png, to_uint8
from fewstep.results import BLOCKS, CONVERGENCE, TRAINING, TRAJECTORIES
from fewstep.results.store import read as read_table
from fewstep.samples import read_images
from fewstep.sampling import labels_for
from fewstep.tarflow.sampler import load_sampler

_TARGET_PIXELS = 64  # small images are enlarged to about this side


def sample_grid(samples: Path, out: Path, *, rows: int, columns: int) -> None:
    """The first rows x columns samples as a PNG; sample i is the same in every grid."""
    wanted, parts = rows * columns, []
    for images in read_images(samples):
        parts.append(np.asarray(images[:wanted]))
        if sum(map(len, parts)) >= wanted:
            break
    shown = np.concatenate(parts)[:wanted]
    save_png(grid(shown, columns, scale=_scale(shown.shape[-1])), out)


def _scale(size: int) -> int:
    return max(1, _TARGET_PIXELS // size)


def trace(spec: dict[str, Any], checkpoint: Path, plan: Path, out: Path) -> None:
    """The filmstrip noise, block by block, image, denoised, as a PNG.

    Args:
        spec: resolved `name`, `sampler`, `model`, `noise`, `sampling`, `trace`.
        checkpoint: `model.safetensors`.
        plan: `plan.json`.
        out: the picture.
    """
    sampler = load_sampler(spec, checkpoint, plan)
    seed, count = spec["trace"]["seed"], spec["trace"]["count"]
    indices = list(range(count))
    labels = labels_for(
        spec["sampling"]["labels"], spec["model"]["num_classes"], indices, seed
    )
    inputs = sampler.inputs(seed, indices, labels)
    inversion = sampler.invert(*inputs)
    stages = [sampler.model.unpatchify(latent) for latent in inversion.latents]
    last = len(sampler.model.blocks) - 1
    titles = ["noise", *(f"block {last - i}" for i in range(last)), "image"]
    if sampler.denoise:
        stages.append(sampler.finish(inversion.images, inputs))
        titles.append("denoised")
    # The image itself is shown as it is; only latents are scaled to be seen.
    done = len(inversion.latents) - 1
    pictures = [
        (_visible(stage) if i < done else to_uint8(stage, "truncate")).cpu().numpy()
        for i, stage in enumerate(stages)
    ]
    strips = [
        (_title(labels, i), [picture[i] for picture in pictures]) for i in indices
    ]
    save_png(filmstrip(strips, titles, scale=_scale(pictures[0].shape[-1])), out)


def _visible(latents: Tensor) -> Tensor:
    """Latents as bytes: noise spans about ±2 and images ±1; all are shown over ±1.

    A latent is divided by the 99th percentile of its absolute values where that is
    above 1.
    """
    peak = torch.quantile(latents.float().abs().flatten(1), 0.99, dim=1)
    scaled = latents / peak.clamp(min=1.0).view(-1, 1, 1, 1)
    return to_uint8(scaled, "round")


def _title(labels: Any, index: int) -> str:
    return f"sample {index}" if labels is None else f"class {labels[index]}"


def charts(
    outputs: dict[str, Path],
    *,
    blocks: Path | None = None,
    convergence: Path | None = None,
    training: Path | None = None,
    trajectories: Path | None = None,
) -> None:
    """Charts of a model's tables as PNG.

    Args:
        outputs: path of each chart that is wanted: "rank", "convergence", "training",
            "trajectories".
        blocks, convergence, training, trajectories: Parquet files of the tables.
    """
    # Altair is an extra: only this stage and the report need it.
    from fewstep import plots

    made: dict[str, Callable[[], Any]] = {
        "rank": lambda: plots.block_chart(read_table(_need(blocks), BLOCKS)),
        "convergence": lambda: plots.convergence_chart(
            read_table(_need(convergence), CONVERGENCE), tolerance=_tolerance(blocks)
        ),
        "training": lambda: plots.training_chart(read_table(_need(training), TRAINING)),
        "trajectories": lambda: plots.trajectory_chart(
            read_table(_need(trajectories), TRAJECTORIES)
        ),
    }
    for name, path in outputs.items():
        plots.save_png(made[name](), path)


def _tolerance(blocks: Path | None) -> float:
    """The error that the experiment's search allows, from its table of blocks."""
    return float(read_table(_need(blocks), BLOCKS)["profile_tolerance"].iloc[0])


def _need(path: Path | None) -> Path:
    assert path is not None
    return path
