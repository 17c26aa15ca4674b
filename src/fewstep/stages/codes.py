"""Stage: codes of a dataset's images, shard by shard, and their manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewstep import files
from fewstep.checkpoints import load_weights, read_state_dict
from fewstep.device import autocast, pick_device
from fewstep.errors import UserError
from fewstep.par import codes as store
from fewstep.par.code_plan import CodePlan
from fewstep.par.code_sources import open_source
from fewstep.par.code_store import write_shard
from fewstep.par.tokenizer import VQModel
from fewstep.progress import Progress


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
        **{key: spec[key] for key in ("views", "size", "precision")},
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
            # Not of the origin, which is in the file: equal codes are an equal file.
            about={"code": spec["code"]},
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
