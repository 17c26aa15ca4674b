"""Stage: codes of a dataset's images, shard by shard, and their manifest."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from fewstep import files
from fewstep.checkpoints import load_weights, read_state_dict
from fewstep.device import autocast, pick_device
from fewstep.errors import UserError
from fewstep.par import codes as store
from fewstep.par.code_plan import CodePlan
from fewstep.par.code_sources import open_source, read_ahead
from fewstep.par.code_store import write_codes, write_shard
from fewstep.par.released_codes import CODEBOOK_SIZE, open_released
from fewstep.par.tokenizer import VQModel
from fewstep.progress import Progress

_AHEAD = 64
_ANY_CLASS = 2**31


def shard(
    spec: dict[str, Any],
    number: int,
    tokenizer: Path,
    dataset: Path,
    out: Path,
    batch: int = 64,
) -> None:
    """Take the codes of one shard of images.

    Args:
        spec: resolved codes: name, dataset {name}, views, crop_ranges, shard_size,
            count (the first images of the dataset), size, tokenizer {name, model},
            precision, code.
        number: of the shard.
        tokenizer: its weights.
        dataset: folder of a built dataset, or `index.json` of a folder of images.
        out: `….arrow`; its record goes beside it.
        batch: views at a time; changes no code.

    Raises:
        UserError: for a size that the tokenizer does not divide, and as `open_source`
            and `write_shard`.
    """
    device = pick_device()
    vq = _tokenizer(spec, tokenizer)
    crop_ranges = spec["crop_ranges"] if spec["views"] == "ten-crop" else ()
    source = open_source(dataset, spec["views"], spec["size"], crop_ranges)
    plan = CodePlan(
        count=spec["count"],
        shard=spec["shard_size"],
        views=source.views,
        grid=spec["size"] // vq.downsample,
        codebook_size=vq.codebook_size,
        num_classes=source.num_classes,
    )
    origin = {
        "tokenizer": spec["tokenizer"]["name"],
        "tokenizer_sha256": files.sha256_file(tokenizer),
        "dataset": spec["dataset"]["name"],
        "dataset_sha256": source.sha256,
        **{key: spec[key] for key in ("views", "size", "precision", "code")},
        "crop_ranges": list(crop_ranges),
    }
    label = f"codes {spec['name']} {number}"
    with autocast(device, spec["precision"]):
        write_shard(
            vq.to(device).eval(),
            source,
            plan,
            number,
            out,
            origin=origin,
            batch=batch,
            device=device,
            progress=Progress(label, len(plan.indices(number))),
        )


def _tokenizer(spec: dict[str, Any], weights: Path) -> VQModel:
    """The tokenizer with its weights, when it divides the views."""
    vq = VQModel(**spec["tokenizer"]["model"])
    load_weights(vq, read_state_dict(weights), str(weights))
    if spec["size"] % vq.downsample:
        raise UserError(
            f"views of {spec['size']} pixels",
            where=f"codes {spec['name']!r}",
            expected=f"a multiple of {vq.downsample}, the tokenizer's downsampling",
        )
    return vq


def collect(spec: dict[str, Any], records: list[Path], out: Path) -> None:
    """Write `codes.json` of all shards; every file is held against its hash.

    Args:
        spec: resolved codes: count.
        records: of all shards.
        out: the manifest.

    Raises:
        UserError: as `fewstep.par.codes.collect`.
    """
    store.collect(records, out, spec["count"])


def import_released(
    spec: dict[str, Any], folder: Path, out: Path, tokenizer: Path | None = None
) -> None:
    """Pack a released folder of `.npy` files into shards and a manifest.

    Shards that are there already are kept, so a killed import goes on.

    Args:
        spec: resolved codes: name, shard_size, count (None: all that there are),
            tokenizer {name, model}; dataset {num_classes} where it is known, else the
            labels tell.
        folder: holds `<name>_codes` and `<name>_labels`.
        out: `codes.json`; the shards `shard-00000.arrow` … go beside it.
        tokenizer: its weights, whose hash the manifest then names.

    Raises:
        UserError: for files that are missing, damaged, or with codes or labels out of
            range.
    """
    size = spec["tokenizer"]["model"].get("codebook_size", CODEBOOK_SIZE)
    known = spec.get("dataset", {}).get("num_classes")
    data = open_released(folder, spec.get("count"), size, known or _ANY_CLASS)
    with closing(read_ahead(data.label, range(len(data)), _AHEAD)) as labels:
        classes = known or 1 + max(labels)
    plan = CodePlan(len(data), spec["shard_size"], data.views, data.grid, size, classes)
    origin = {
        **data.manifest["origin"],
        "tokenizer": spec["tokenizer"]["name"],
        "tokenizer_sha256": files.sha256_file(tokenizer) if tokenizer else None,
    }
    paths = [out.parent / f"shard-{n:05d}.arrow" for n in range(plan.shards)]
    progress = Progress(f"import {spec['name']}", len(data))
    for number, path in enumerate(paths):
        indices = plan.indices(number)
        if not _is_made(path, plan, number, origin):
            with closing(read_ahead(data.image, indices, _AHEAD)) as images:
                codes, classed = zip(*images, strict=True)
            write_codes(plan, number, path, np.stack(codes), classed, origin=origin)
        progress.advance(len(indices))
    store.collect([path.with_suffix(".json") for path in paths], out, len(data))


def _is_made(path: Path, plan: CodePlan, number: int, origin: dict[str, Any]) -> bool:
    """Whether the shard is there as it would be made."""
    record = path.with_suffix(".json")
    if not (record.is_file() and path.is_file()):
        return False
    there, indices = files.read_json(record), plan.indices(number)
    wanted = {
        "plan": plan.identity(),
        "origin": origin,
        "first": indices.start,
        "count": len(indices),
        "bytes": path.stat().st_size,
    }
    return {key: there.get(key) for key in wanted} == wanted
