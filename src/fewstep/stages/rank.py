"""Stage: IGM, CRM and the empirical profile of every block on real images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep import files, noise
from fewstep.data import Dataset, open_dataset, subset
from fewstep.device import pick_device
from fewstep.images import to_model_range
from fewstep.provenance import utc_now
from fewstep.results import BLOCKS, CONVERGENCE
from fewstep.results.parquet import write_rows
from fewstep.stages.curves import convergence_rows
from fewstep.tarflow.metrics import (
    GUESSES,
    BlockMetrics,
    block_metrics,
    convergence,
    iterations_to,
)
from fewstep.tarflow.model import TarFlow
from fewstep.tarflow.sampler import load_model

_PROFILE_IMAGES = 32
_PROFILE_TOL = 1e-6  # float32 moves no further


def rank(
    spec: dict[str, Any],
    checkpoint: Path,
    dataset: Path,
    out: Path,
    blocks: Path,
    profile: Path,
) -> None:
    """Write `rank.json` and the rows of the tables blocks and convergence.

    Args:
        spec: resolved `name`, `model`, `noise`, `rank`, `search` of the experiment.
        checkpoint: `model.safetensors`.
        dataset: folder of the dataset.
        out: JSON that strategy and search read.
        blocks: Parquet, table blocks.
        profile: Parquet, table convergence (source "data").
    """
    options, device = spec["rank"], pick_device()
    model = load_model(spec["model"], checkpoint, device)
    data = open_dataset(dataset)
    index = subset(len(data), min(options["num_mc"], len(data)), options["seed"])
    x, y = _images(data, index, model, device)
    metrics = block_metrics(model, x, None, options["norm"], batch=options["batch"])
    tolerance = spec["search"]["tolerance"]
    curves = _profile(model, spec, x[:_PROFILE_IMAGES], y)
    origin = {
        "checkpoint_sha256": files.sha256_file(checkpoint),
        "code_digest": spec.get("code"),
        "created_utc": utc_now(),
    }
    shared = {"experiment": spec["name"], **origin}
    needed = _iterations(curves, metrics, tolerance)
    tough = _tough(metrics, spec["search"]["tough_factor"])
    write_rows(
        blocks,
        BLOCKS,
        _block_rows(shared, options, len(index), metrics, needed, tough, tolerance),
    )
    found = ((block, guess, curve) for (block, guess), curve in curves.items())
    rows = convergence_rows(shared, "data", found, min(_PROFILE_IMAGES, len(x)))
    write_rows(profile, CONVERGENCE, rows)
    files.write_json(
        out,
        {
            "norm": options["norm"],
            "num_mc": len(index),
            "igm": metrics.igm.tolist(),
            "crm": metrics.crm.tolist(),
            "crm_percent": metrics.share.tolist(),
            "guess": metrics.best_guess,
            "tough": tough,
            "profile_tolerance": tolerance,
            "profile_iterations": needed,
        },
    )


def _images(
    data: Dataset, index: Any, model: TarFlow, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    raw, labels = data.batch(index)
    x = to_model_range(torch.from_numpy(raw)).to(device)
    y = torch.from_numpy(labels).to(device) if model.num_classes else None
    return x, y


def _tough(metrics: BlockMetrics, factor: float) -> list[int]:
    """Blocks whose share of the CRM is `factor` times the mean; at least the first."""
    share = metrics.share
    limit = factor * 100 / len(share)
    chosen = [k for k, value in enumerate(share.tolist()) if value > limit]
    return chosen or [int(share.argmax())]


def _profile(
    model: TarFlow, spec: dict[str, Any], x: Tensor, y: Tensor | None
) -> dict[tuple[int, int], Any]:
    """(block, guess) to the error by iteration on exact pairs of noisy real images."""
    std = spec["noise"]["std"]
    drawn = noise.normal(spec["rank"]["seed"], "profile", range(len(x)), x.shape[1:])
    noisy = x + std * torch.from_numpy(drawn).to(x.device)
    labels = None if y is None else y[: len(x)]
    with torch.inference_mode():
        outputs = model(noisy, labels).outputs
        inputs = [model.patchify(noisy), *outputs[:-1]]
    return {
        (number, guess): convergence(
            block,
            inputs[number],
            outputs[number],
            labels,
            guess=guess,
            tol=_PROFILE_TOL,
        )[0]
        for number, block in enumerate(model.flows)
        for guess in (0, 1)
    }


def _iterations(
    curves: dict[tuple[int, int], Any], metrics: BlockMetrics, tolerance: float
) -> list[int | None]:
    """Jacobi iterations to the tolerance from each block's better guess."""
    return [
        iterations_to(curves[number, guess].largest, tolerance)
        for number, guess in enumerate(metrics.best_guess)
    ]


def _block_rows(
    shared: dict[str, Any],
    options: dict[str, Any],
    num_mc: int,
    metrics: BlockMetrics,
    needed: list[int | None],
    tough: list[int],
    tolerance: float,
) -> list[dict[str, Any]]:
    """Both variants of every block's metrics."""
    rows = []
    count = len(metrics.igm)
    for variant, crm in (
        ("released", metrics.crm),
        ("derivation", metrics.crm_derived),
    ):
        percent = 100 * crm[:, 3] / crm[:, 3].sum()
        for number in range(count):
            data, scale, shift, total = crm[number].tolist()
            rows.append(
                BLOCKS.new_row(
                    **shared,
                    block=number,
                    position=count - 1 - number,
                    variant=variant,
                    norm=str(options["norm"]),
                    num_mc=num_mc,
                    seed=options["seed"],
                    igm_z=float(metrics.igm[number, 0]),
                    igm_zeros=float(metrics.igm[number, 1]),
                    guess=GUESSES[metrics.best_guess[number]],
                    crm_data=data,
                    crm_scale=scale,
                    crm_shift=shift,
                    crm=total,
                    crm_percent=float(percent[number]),
                    profile_iterations=needed[number],
                    profile_tolerance=tolerance,
                    tough=number in tough,
                )
            )
    return rows
