"""Stage: how well a tokenizer gives images back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewstep import files
from fewstep.checkpoints import load_weights, read_state_dict
from fewstep.data import Dataset, holdout_split, open_dataset, subset
from fewstep.device import pick_device
from fewstep.errors import UserError
from fewstep.extractors import Extractor, Features, load_extractor
from fewstep.fidelity import ScoreOptions, Scores, metric_name, score
from fewstep.images import Rounding, filmstrip, save_png, to_model_range, to_uint8
from fewstep.par.tokenizer import VQModel, codebook_usage
from fewstep.progress import Progress
from fewstep.references import load_reference
from fewstep.stages.sources import check

_PAIRS = 10
_SHOWN = 96
"""Pixels that an image in the picture has at least."""


def reconstruct(
    spec: dict[str, Any],
    tokenizer: Path,
    dataset: Path,
    reference: Path,
    weights: Path | None,
    out: Path,
    picture: Path,
    record: Path | None = None,
) -> None:
    """Write errors, score and codebook use of a tokenizer, and a picture of pairs.

    Args:
        spec: resolved `name`, `model`, `n` (most images), `held_out` (`seed` and
            `share` of the training; null or a share of 0: all images are judged),
            `extractor`, `evaluation` (`batch`), `rounding`.
        tokenizer: its weights, `.safetensors`.
        dataset: folder of the dataset.
        reference: canonical `.npz`.
        weights: the extractor's weights; None = its own download.
        out: JSON. `mse`: of the decoded images, not clipped, in [-1, 1]; `psnr`: dB of
            bytes, mean over images; `score`: Fréchet distance of the reconstructions
            to the reference (`metric`: "rfid" with Inception's features, else
            "rfrechet"); `score_real`: of the same images before, its floor; `used`,
            `perplexity`: of the codebook.
        picture: PNG: images above their reconstructions.
        record: what is known of the extractor's weights, where they are an asset.

    Raises:
        UserError: for images that the tokenizer cannot halve, a broken tokenizer, a
            reference of another extractor, or weights that changed.
    """
    check(weights, record)
    data, device = open_dataset(dataset), pick_device()
    model = _load(spec, tokenizer, data.size)
    extractor = load_extractor(
        spec["extractor"]["kind"],
        weights=weights,
        name=spec["extractor"]["name"],
        device=device,
    )
    real = load_reference(reference, extractor.dim)
    chosen = judged(len(data), spec["held_out"], spec["n"])
    run = _Run(model.to(device).eval(), data, chosen, spec, extractor, str(tokenizer))
    options = ScoreOptions(isc_splits=None)
    ours = score(run.reconstructions(), real, extractor, options)
    floor = score(run.originals(), real, extractor, options)
    facts = {
        "tokenizer_sha256": files.sha256_file(tokenizer),
        "dataset": data.name,
        "dataset_sha256": data.sha256,
        "reference_sha256": real.sha256,
        "held_out": _share(spec["held_out"]) > 0,
    }
    row = {"tokenizer": spec["name"], **run.row(ours, floor), **facts}
    files.write_json(out, row)
    save_png(run.pairs(), picture)


def _load(spec: dict[str, Any], tokenizer: Path, size: int) -> VQModel:
    """The tokenizer, for images of `size` pixels."""
    model = VQModel(**spec["model"])
    load_weights(model, read_state_dict(tokenizer), str(tokenizer))
    if size % model.downsample:
        raise UserError(
            f"images of {size} pixels",
            where=f"tokenizers.{spec['name']}.dataset",
            expected=f"a multiple of {model.downsample}, the tokenizer's downsampling",
        )
    return model


def judged(count: int, held_out: dict[str, Any] | None, n: int) -> NDArray[np.int64]:
    """Ascending numbers of the images that are judged.

    Args:
        count: images of the dataset.
        held_out: `seed` and `share` of the training, whose other images are left out;
            None, or a share of 0: all are taken.
        n: more than so many are thinned out by a draw.

    Raises:
        UserError: for fewer than 2.
    """
    index = np.arange(count)
    share = _share(held_out)
    if held_out is not None and share:
        # Rounded as the training does.
        _, index = holdout_split(count, held_out["seed"], round(share * count) / count)
    if len(index) > n:
        index = np.sort(index[subset(len(index), n, 0)])
    if len(index) < 2:
        raise UserError(f"{len(index)} images to reconstruct", expected="at least 2")
    return index


def squared_errors(
    images: NDArray[np.uint8], others: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """Mean squared error (B,) of bytes (B, C, H, W), image by image."""
    difference = images.astype(np.float64) - others
    errors: NDArray[np.float64] = np.square(difference).mean(axis=(1, 2, 3))
    return errors


def psnr(errors: NDArray[np.float64], values: int) -> float:
    """Mean over images of 10 log10(255² / error), in dB.

    Args:
        errors: (N,) mean squared errors of bytes.
        values: numbers an image has; one without any error counts as if one of them
            were one level off, as its own ratio would be infinite.
    """
    ratios = 255**2 / np.maximum(errors, 1 / values)
    return float(10 * np.log10(ratios).mean())


@dataclass
class _Run:
    """What one pass over the images gathers."""

    model: VQModel
    data: Dataset
    chosen: NDArray[np.int64]
    spec: dict[str, Any]
    extractor: Extractor
    where: str
    squares: list[Tensor] = field(default_factory=list)
    errors: list[NDArray[np.float64]] = field(default_factory=list)
    codes: list[Tensor] = field(default_factory=list)

    def batches(self) -> Iterator[NDArray[np.uint8]]:
        size = self.spec["evaluation"]["batch"]
        for start in range(0, len(self.chosen), size):
            yield self.data.batch(self.chosen[start : start + size])[0]

    def originals(self) -> Iterator[Features]:
        """Features of the images as they are."""
        for raw in self.batches():
            yield self.extractor(torch.from_numpy(raw))

    def reconstructions(self) -> Iterator[Features]:
        """Features of the decoded images; errors and codes are noted on the way."""
        progress = Progress(f"reconstruct {self.spec['name']}", len(self.chosen))
        for raw in self.batches():
            decoded, codes, square = self.through(raw)
            self.squares.append(square)
            self.codes.append(codes)
            self.errors.append(squared_errors(raw, decoded.numpy()))
            yield self.extractor(decoded)
            progress.advance(len(raw))

    @torch.inference_mode()
    def through(self, raw: NDArray[np.uint8]) -> tuple[Tensor, Tensor, Tensor]:
        """Bytes, codes and mean squared errors (B,) of images, on the CPU."""
        images = to_model_range(torch.from_numpy(raw))
        images = images.to(self.model.quantize.embedding.weight.device)
        codes = self.model.encode(images)
        decoded = self.model.decode(codes)
        if not decoded.isfinite().all():
            raise UserError(
                "decodes to numbers that are not finite",
                where=self.where,
                do="train the tokenizer again, at a lower train.lr",
            )
        square = (decoded - images).double().square().mean(dim=(1, 2, 3))
        rounding: Rounding = self.spec["rounding"]
        shown = to_uint8(decoded, rounding).cpu()
        return shown, codes.cpu().to(torch.int32), square.cpu()

    def row(self, ours: Scores, floor: Scores) -> dict[str, Any]:
        """The numbers, once all images have passed."""
        codes = torch.cat([part.flatten() for part in self.codes])
        return {
            "n": ours.n,
            "mse": float(torch.cat(self.squares).mean()),
            "psnr": psnr(np.concatenate(self.errors), 3 * self.data.size**2),
            "metric": "rfid" if metric_name(self.extractor) == "fid" else "rfrechet",
            "score": ours.frechet,
            "score_real": floor.frechet,
            "notes": {k: v for k, v in ours.notes.items() if k == "frechet"},
            **codebook_usage(codes, self.model.codebook_size),
            "extractor": ours.extractor,
            "extractor_sha256": ours.weights_sha256,
            "rounding": self.spec["rounding"],
        }

    def pairs(self) -> Any:
        """Images above their reconstructions, from all over the dataset."""
        count = min(_PAIRS, len(self.chosen))
        places = np.linspace(0, len(self.chosen) - 1, count).round().astype(int)
        raw, labels = self.data.batch(self.chosen[places])
        titles = [self.data.classes[label] for label in labels]
        shorter = [title if len(title) < 12 else "" for title in titles]
        rows = [("images", list(raw)), ("decoded", list(self.through(raw)[0]))]
        return filmstrip(rows, shorter, scale=math.ceil(_SHOWN / self.data.size))


def _share(held_out: dict[str, Any] | None) -> float:
    return float(held_out["share"]) if held_out else 0.0
