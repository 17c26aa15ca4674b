"""Tokenizers in the report: what is left of an image after codes and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewstep.errors import UserError
from fewstep.files import read_json
from fewstep.report.headline import NONE, number

_NUMBERS = ("n", "psnr", "score", "score_real", "used", "perplexity")


@dataclass(frozen=True)
class Reconstruction:
    """A tokenizer's line; every field is text ready to print.

    Args:
        name: the tokenizer's.
        images: how many were judged, and whether the training had seen them.
        psnr: dB.
        metric: proper name of the score.
        score: of the images after codes and back.
        floor: the same images' score before.
        used: share of the codebook's entries that occur.
        perplexity: of their use.
        picture: images above their reconstructions.
    """

    name: str
    images: str
    psnr: str
    metric: str
    score: str
    floor: str
    used: str
    perplexity: str
    picture: Path


def load_reconstruction(path: str | Path) -> Reconstruction:
    """The line of a file that the stage `reconstruct` wrote.

    Raises:
        UserError: for a missing or broken file.
    """
    content = read_json(path)
    if not isinstance(content, Mapping) or not _is_whole(content):
        raise UserError(
            "not the scores of a tokenizer's reconstructions",
            where=str(path),
            do="delete it and run again",
        )
    inception = content["metric"] == "rfid"
    extractor = content["extractor"]
    return Reconstruction(
        name=content["tokenizer"],
        images=f"{content['n']:,}{', held out' if content['held_out'] else ''}",
        psnr=f"{content['psnr']:.1f} dB",
        metric="rFID" if inception else f"Fréchet distance ({extractor})",
        score=number(content["score"]),
        floor=number(content["score_real"]),
        used=f"{100 * content['used']:.1f} %",
        perplexity=_whole(content["perplexity"]),
        picture=Path(path).with_suffix(".png"),
    )


def _is_whole(content: Mapping[str, Any]) -> bool:
    words = ("tokenizer", "metric", "extractor", "held_out")
    known = all(isinstance(content.get(k), int | float | None) for k in _NUMBERS)
    return known and all(key in content for key in (*words, *_NUMBERS))


def _whole(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}"
