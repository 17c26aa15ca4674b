"""What the smoke of a PAR or LlamaGen transformer does in its own way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep import files, standins
from fewstep.checkpoints import fitted
from fewstep.par.decoding import Guidance
from fewstep.par.generation import Tokens, generate_tokens
from fewstep.par.model import Transformer
from fewstep.par.order import to_raster
from fewstep.par.sampler import ParSampler
from fewstep.par.schedule import Pass, Schedule
from fewstep.par.tokenizer import VQModel
from fewstep.stages.prepare_par import prepare as convert
from fewstep.stages.prepare_tokenizer import prepare as convert_tokenizer
from fewstep.standins import Scale

_GROUPS = 3
"""Groups of n tokens that are drawn after the first n."""


def prepare(spec: dict[str, Any], source: Path, out: Path) -> None:
    """The published file as safetensors."""
    convert(spec, source, None, out)


def companions(
    spec: dict[str, Any], scale: Scale, folder: Path, course: Any
) -> dict[str, Any]:
    """The tokenizer, by the same way: its path in the specification."""
    tokenizer = spec["tokenizer"]
    source, out = folder / "tokenizer.pth", folder / "tokenizer.safetensors"
    with course.phase("tokenizer"):
        kept = Scale(layers=scale.layers)
        standins.write(tokenizer["checkpoint"], source, scale=kept)
        named = {"name": tokenizer["checkpoint"], "model": tokenizer["model"]}
        convert_tokenizer(named, source, None, out)
    source.unlink()
    return {**spec, "tokenizer": {**tokenizer, "path": str(out)}}


def strategy(spec: dict[str, Any]) -> dict[str, Any]:
    """The plan: whose codes are drawn."""
    path = Path(spec["tokenizer"]["path"])
    known = not spec["meta"]
    return {
        "draw": spec["draw"],
        "passes": len(_Start(spec["model"]["grid"], _group(spec)).passes()),
        "tokenizer_sha256": files.sha256_file(path) if known else None,
    }


def _group(spec: dict[str, Any]) -> int:
    return int(spec["model"].get("ar_token_num", 1))


@dataclass(frozen=True)
class _Start(Schedule):
    """The first passes of an order: the first n tokens one by one, and few groups."""

    def passes(self) -> list[Pass]:
        return super().passes()[: self.group + _GROUPS]


@dataclass
class _Shortened(ParSampler):
    """Draws the first tokens, and takes the rest from its noise."""

    def tokens(self, uniform: Tensor, labels: Tensor) -> Tokens:
        """Tokens (B, N) in generation order."""
        found = super().tokens(uniform, labels)
        drawn = self.gpt.schedule.passes()[-1].stop
        rest = (uniform[:, drawn:] * self.gpt.vocab_size).long()
        return Tokens(torch.cat([found.tokens[:, :drawn], rest], dim=1), found.broken)


def shortened(sampler: ParSampler) -> ParSampler:
    """A sampler whose transformer runs few passes."""
    own = sampler.gpt.schedule
    sampler.gpt.schedule = _Start(own.grid, own.group)
    return _Shortened(sampler.gpt, sampler.vq, sampler.guidance, sampler.options)


def shapes(spec: dict[str, Any], scale: Scale, count: int) -> Tensor:
    """All passes of the start and the decoder, on tensors without values."""
    with torch.device("meta"):
        gpt = Transformer(**spec["model"]).eval()
        found = {
            entry.name: torch.empty(entry.shape)
            for entry in standins.entries(spec["checkpoint"], scale)
        }
        fitted(gpt, found, spec["checkpoint"])
        gpt.schedule = _Start(gpt.schedule.grid, gpt.schedule.group)
        drawn = generate_tokens(
            gpt,
            torch.empty(count, dtype=torch.long),
            lambda logits, _: torch.empty(logits.shape[:2], dtype=torch.long),
            guidance=Guidance(spec["draw"]["cfg_scale"]),
        )
        vq = VQModel(**spec["tokenizer"]["model"])
        codes = to_raster(drawn.tokens, gpt.schedule)
        return vq.decode_latent(vq.quantize.lookup(codes).movedim(-1, 1))
