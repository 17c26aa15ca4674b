"""Stage: one published architecture at full width, with random weights, end to end.

A stand-in of the published file is written, converted by the same stage as the real
one, loaded, and two images are drawn by a plan cut short: every part of the network
runs at its full size, only less often. Nothing is scored. What is too large for the
main memory of a small machine goes through the same code on torch's meta device, where
tensors have shapes and no values.
"""

from __future__ import annotations

import ctypes
import logging
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep import estimate, files, standins
from fewstep.device import pick_device, synchronise
from fewstep.errors import UserError
from fewstep.images import resize_bicubic, to_uint8
from fewstep.provenance import peak_memory_mb, reset_peak_memory, row_fields
from fewstep.stages.systems import load_sampler

logger = logging.getLogger(__name__)

IMAGES = 2


class Course:
    """What was done one after the other: seconds, and memory on device and host."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.rows = device, list[dict[str, Any]]()
        self._base = 0.0

    def rest(self) -> None:
        """Memory of the device from here on counts as used by what follows.

        On a CPU: beyond Python and the libraries.
        """
        if self.device.type != "cpu":
            return
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:  # glibc keeps what was freed
            trim(0)
        reset_peak_memory()
        self._base = peak_memory_mb()

    @contextmanager
    def phase(self, name: str, estimated: int | None = None) -> Iterator[None]:
        """Time a phase; with `estimated` bytes of the device its peak there too."""
        reset_peak_memory(self.device)
        reset_peak_memory()
        started = time.perf_counter()
        yield
        synchronise(self.device)
        row = {
            "phase": name,
            "seconds": round(time.perf_counter() - started, 2),
            "host_peak_mb": round(peak_memory_mb()),
        }
        if estimated is not None:
            row["estimated_mb"] = round(estimated / 1e6)
            row["measured_mb"] = round(peak_memory_mb(self.device) - self._base)
        logger.info("%s: %s", name, row)
        self.rows.append(row)


def smoke(spec: dict[str, Any], out: Path) -> None:
    """Run one architecture and write what was found.

    Args:
        spec: what loads the sampler (as of stage `sample`), `checkpoint` (the asset),
            `tokenizer.checkpoint` (PAR), `side` of the images, `resize`, `rounding`,
            `meta` (whether weights are never allocated); `scale` (missing: full), as
            arguments of `standins.Scale`.
        out: the record; stand-ins lie in a temporary folder beside it.

    Raises:
        UserError: for images of another shape, or with values that are not numbers.
    """
    started = time.perf_counter()
    system = import_module(f"fewstep.stages.smoke_{spec['system']}")
    scale = standins.Scale(**spec.get("scale", {}))
    device = torch.device("meta") if spec["meta"] else pick_device()
    course = Course(device)
    if spec["meta"]:
        with course.phase("shapes"):
            images = system.shapes(spec, scale, IMAGES)
        found = {"drawn": list(images.shape), "strategy": system.strategy(spec)}
    else:
        with _scratch(out.with_name(f".{out.stem}.tmp")) as folder:
            found = _run(spec, system, scale, course, folder)
    record = {
        "experiment": spec["name"],
        "system": spec["system"],
        "checkpoint": spec["checkpoint"],
        "weights": "never allocated" if spec["meta"] else "random",
        "parameters": estimate.parameters(
            spec["system"], spec["model"], spec.get("segments", 1)
        ),
        "checkpoint_bytes": _bytes(spec["checkpoint"], scale),
        "precision": spec["sampling"]["precision"],
        "estimated_mb": round(_estimate(spec, found["strategy"]) / 1e6),
        **found,
        "phases": course.rows,
        "seconds": round(time.perf_counter() - started, 1),
        "provenance": row_fields("cpu" if spec["meta"] else device),
    }
    files.write_json(out, record)


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder that is empty, and gone afterwards; a killed job's is taken over."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _bytes(kind: str, scale: standins.Scale) -> int:
    """Bytes of the weights in a published file."""
    return sum(
        math.prod(entry.shape) * (8 if entry.kind == "sigmas" else 4)
        for entry in standins.entries(kind, scale)
    )


def _estimate(
    spec: dict[str, Any], strategy: dict[str, Any], batch: int = IMAGES
) -> int:
    settings = {**spec, "strategy": strategy, "solver": strategy.get("solver")}
    precision = spec["sampling"]["precision"]
    return estimate.sampling_memory(
        spec["system"], spec["model"], settings, batch, precision
    )


def _run(
    spec: dict[str, Any],
    system: Any,
    scale: standins.Scale,
    course: Course,
    folder: Path,
) -> dict[str, Any]:
    """Write, convert, load, draw, finish."""
    source, model = folder / "published.pth", folder / "model.safetensors"
    with course.phase("write"):
        standins.write(spec["checkpoint"], source, scale=scale)
    with course.phase("prepare"):
        system.prepare(spec, source, model)
    source.unlink()
    spec = system.companions(spec, scale, folder, course)
    strategy = system.strategy(spec)
    files.write_json(folder / "plan.json", {"strategy": strategy})
    course.rest()
    with course.phase("load"):
        sampler = system.shortened(load_sampler(spec, model, folder / "plan.json"))
    classes = spec["num_classes"]
    labels = np.arange(IMAGES) % classes if classes else None
    inputs = sampler.inputs(0, list(range(IMAGES)), labels)
    with course.phase("draw", _drawing(spec, strategy, IMAGES)):
        images = sampler.draw(inputs).images
    images = _finished(spec, strategy, sampler, images, inputs, course)
    return {**_checked(spec, images), "strategy": strategy}


def _drawing(spec: dict[str, Any], strategy: dict[str, Any], batch: int) -> int:
    """The estimate of drawing alone."""
    drawn = {**spec, "sampling": {**spec["sampling"], "self_denoise": 0}}
    return _estimate(drawn, strategy, batch)


def _finished(
    spec: dict[str, Any],
    strategy: dict[str, Any],
    sampler: Any,
    images: Tensor,
    inputs: Any,
    course: Course,
) -> Tensor:
    """What comes after drawing: self-denoising of one image, where there is any."""
    if not spec["sampling"].get("self_denoise"):
        return sampler.finish(images, inputs)  # type: ignore[no-any-return]
    z, y = inputs
    first = (z[:1], None if y is None else y[:1])
    with course.phase("denoise", _estimate(spec, strategy, 1)):
        denoised = sampler.finish(images[:1], first)
    return torch.cat([denoised, images[1:]])


def _checked(spec: dict[str, Any], images: Tensor) -> dict[str, Any]:
    """Shapes and values of the images, as they are scored.

    Raises:
        UserError: for another shape, NaN or infinity, or images without content.
    """
    wanted = (IMAGES, 3, spec["side"], spec["side"])
    if tuple(images.shape) != wanted:
        raise _wrong(spec, f"images of shape {tuple(images.shape)}", str(wanted))
    broken = int((~images.isfinite()).sum())
    if broken:
        raise _wrong(spec, f"{broken} values are NaN or infinite", "finite images")
    deviation = float(images.std())
    if deviation < 1e-3:
        raise _wrong(spec, f"the images are flat ({deviation:.2g})", "some content")
    drawn = list(images.shape)
    if spec.get("resize"):
        images = resize_bicubic(images, spec["resize"])
    scored = to_uint8(images, spec["rounding"])
    return {
        "drawn": drawn,
        "scored": list(scored.shape),
        "finite": True,
        "least": round(float(images.min()), 3),
        "most": round(float(images.max()), 3),
        "deviation": round(deviation, 3),
        "levels": len(torch.unique(scored)),
    }


def _wrong(spec: dict[str, Any], what: str, expected: str) -> UserError:
    return UserError(what, where=f"smoke of {spec['name']}", expected=expected)
