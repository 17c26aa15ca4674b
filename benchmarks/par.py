"""Drawing PAR's tokens beside the original program: the same weights and tokens.

    python benchmarks/par.py --original PATH        # GPT-B; half an hour, mostly n = 1
    python benchmarks/par.py --original PATH gpu    # PAR-XL in bf16, for a GPU

The original: https://github.com/YuqingWang1029/PAR. What is timed makes tokens, no
images. Weights are random, from a seed. Both programs take the likeliest token under
guidance 1.5, so that the tokens can be compared: `error` is the share that differs. In
bf16 neither is exact, and one other token changes all behind it: there both are
compared with tokens of float32. n = 1 is LlamaGen, which the original's `generate`
cannot draw; there the functions that it consists of are called.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from benchmarks.common import Clock, Job, Part, Row, main, versus
from torch import Tensor, nn

from fewstep.device.packed import can_pack
from fewstep.par.decoding import Guidance, greedy
from fewstep.par.generation import Cache, generate_tokens
from fewstep.par.model import Transformer
from fewstep.par.packed import pack
from fewstep.par.sampler import compile_step, halve
from fewstep.par.sizes import SIZES

SCALE = 1.5
TRANSITION = "spe_tok_embeddings.special_embeddings.weight"
OURS, ORIGINAL, COMPILED = "fewstep", "original", "fewstep, compiled"

Draw = Callable[[], Tensor]
"""Tokens (B, N) in generation order."""


@dataclass(frozen=True)
class Case:
    """What is drawn.

    Attributes:
        n: tokens a step.
        batch: images; guidance makes twice as many sequences of them.
        size: of the model, by LlamaGen's name.
        half: weights, keys and values in bfloat16.
        grid: tokens a side.
        vocabulary, classes: of the model.
    """

    n: int
    batch: int = 4
    size: str = "B"
    half: bool = False
    grid: int = 24
    vocabulary: int = 16384
    classes: int = 1000

    def __str__(self) -> str:
        precision = "bf16" if self.half else "fp32"
        return (
            f"GPT-{self.size}, {self.grid}x{self.grid} tokens, n = {self.n}, "
            f"batch {self.batch}, guidance {SCALE}, {precision}"
        )

    def labels(self, device: torch.device) -> Tensor:
        """Classes (B,), spread over all."""
        return torch.arange(self.batch, device=device) * 387 % self.classes


def transformer(case: Case, device: torch.device) -> Transformer:
    """A model with random weights; a fresh one has a head of zeros."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {**SIZES[case.size]}
    gpt = Transformer(
        **sizes,
        vocab_size=case.vocabulary,
        grid=case.grid,
        num_classes=case.classes,
        ar_token_num=case.n,
    )
    nn.init.normal_(gpt.output.weight, std=0.02)
    gpt = gpt.to(device).eval()
    return halve(gpt) if case.half else gpt


def ours(case: Case, device: torch.device, *, compiled: bool = False) -> Draw:
    """fewstep, as its sampler sets it up: its cache stays, and the first call makes it.

    What a call takes in memory is that of the first.
    """
    gpt, labels = transformer(case, device), case.labels(device)
    if compiled:
        compile_step(gpt)
    elif can_pack(gpt.output.weight):
        pack(gpt)
    guidance = Guidance(SCALE)
    the_cache = functools.cache(lambda: Cache(gpt, 2 * case.batch))
    return lambda: (
        generate_tokens(
            gpt, labels, greedy, guidance=guidance, cache=the_cache()
        ).tokens
    )


def theirs(case: Case, job: Job) -> Draw:
    """The original program with the same weights, by the names it saves them under."""
    models = job.original("autoregressive.models.gpt")
    functions = job.original("autoregressive.models.generate")
    state = transformer(case, job.device).state_dict()
    kind = next(iter(state.values())).dtype
    arguments = models.ModelArgs(
        **SIZES[case.size],
        vocab_size=case.vocabulary,
        block_size=case.grid**2,
        num_classes=case.classes,
        ar_token_num=case.n,
        spe_token_num=case.n - 1,
    )
    model = models.Transformer(arguments).to(job.device, kind).eval()
    if case.n == 1:  # it has an empty table
        state[TRANSITION] = model.state_dict()[TRANSITION]
    model.load_state_dict(state)
    labels, options = case.labels(job.device), {"sample_logits": False}

    def draw() -> Tensor:
        with warnings.catch_warnings():  # of torch, of its way to choose kernels
            warnings.simplefilter("ignore")
            if case.n == 1:
                return singly(functions, model, labels, **options)
            groups = {"ar_token_num": case.n, "spe_token_num": case.n - 1}
            drawn: Tensor = functions.generate(
                model, labels, case.grid**2, cfg_scale=SCALE, **groups, **options
            )
            return drawn.long()

    return draw


@torch.no_grad()
def singly(functions: Any, model: Any, labels: Tensor, **options: Any) -> Tensor:
    """n = 1 by the original's functions: the class first, then one token a step."""
    count, device = model.block_size, labels.device
    both = torch.cat([labels, torch.full_like(labels, model.num_classes)])
    kind = model.tok_embeddings.weight.dtype
    with torch.device(device):
        model.setup_caches(len(both), count + 1, kind)
    start = torch.zeros(1, dtype=torch.int64, device=device)
    first = functions.prefill(model, both, start, SCALE, **options)
    rest, _ = functions.decode_n_tokens(
        model, first, start + 1, count - 1, SCALE, -1, **options
    )
    return torch.cat([first, *rest], dim=1).long()


def kept(draws: Mapping[str, Draw], found: dict[str, Tensor]) -> dict[str, Draw]:
    """The same draws, whose tokens can be looked at afterwards."""

    def keep(name: str, draw: Draw) -> Draw:
        def call() -> Tensor:
            found[name] = draw()
            return found[name]

        return call

    return {name: keep(name, draw) for name, draw in draws.items()}


def race(
    job: Job, draws: Mapping[str, Draw], repeats: int | None
) -> tuple[dict[str, Clock], dict[str, Tensor]]:
    """Clocks and tokens of rivals that draw in turn."""
    found: dict[str, Tensor] = {}
    return job.race(kept(draws, found), repeats), found


def errors(
    found: Mapping[str, Tensor], mine: str, case: Case, device: torch.device
) -> dict[str, float]:
    """Share of tokens that differ: ours from the original's, in bf16 from float32's."""
    if not case.half:
        return {"error": differing(found[mine], found[ORIGINAL])}
    exact = ours(replace(case, half=False), device)()
    return {
        "error": differing(found[mine], exact),
        "partner_error": differing(found[ORIGINAL], exact),
    }


def differing(found: Tensor, wanted: Tensor) -> float:
    """Share of tokens that differ."""
    return float((found != wanted).float().mean())


def beside_original(name: str, case: Case, repeats: int | None = None) -> Part:
    """A part: one row, ours and the original's time for the same tokens."""

    def part(job: Job) -> list[Row]:
        draws = {OURS: ours(case, job.device), ORIGINAL: theirs(case, job)}
        clocks, found = race(job, draws, repeats)
        more = errors(found, OURS, case, job.device)
        return [versus(name, clocks, OURS, ORIGINAL, **more, what=str(case))]

    return part


def beside_single(name: str, case: Case) -> Part:
    """A part: one row, ours with n tokens a step and with one; other models."""

    def part(job: Job) -> list[Row]:
        names = (f"n = {case.n}", "n = 1")
        draws = {
            f"{OURS}, {each}": ours(replace(case, n=n), job.device)
            for each, n in zip(names, (case.n, 1), strict=True)
        }
        clocks, _ = race(job, draws, None)
        return [versus(name, clocks, *draws, what=str(case))]

    return part


def beside_original_on_gpu(cases: Mapping[str, Case]) -> Part:
    """A part: for each case two rows, plain and compiled, beside the original."""

    def part(job: Job) -> list[Row]:
        rows = []
        for name, case in cases.items():
            draws = {
                OURS: ours(case, job.device),
                COMPILED: ours(case, job.device, compiled=True),
                ORIGINAL: theirs(case, job),
            }
            clocks, found = race(job, draws, None)
            for mine, row in ((OURS, name), (COMPILED, f"{name}_compiled")):
                more = errors(found, mine, case, job.device)
                what = f"{mine}: {case}"
                rows.append(versus(row, clocks, mine, ORIGINAL, **more, what=what))
        return rows

    return part


PARTS: dict[str, Part] = {
    "n4": beside_original("par_n4", Case(4)),
    "n16": beside_original("par_n16", Case(16)),
    "n16_vs_n1": beside_single("par_n16_vs_n1", Case(16, batch=1)),
    "n16_vs_n1_b4": beside_single("par_n16_vs_n1_b4", Case(16)),
    "n1": beside_original("par_n1", Case(1), repeats=1),
    "bf16": beside_original("par_n16_bf16", Case(16, half=True)),
    "gpu": beside_original_on_gpu(
        {
            f"par_xl_n{n}_b{batch}": Case(n, batch, "XL", half=True)
            for n in (4, 16)
            for batch in (1, 16)
        }
    ),
}

if __name__ == "__main__":
    main(
        "par",
        __doc__,
        PARTS,
        marker="autoregressive/models/generate.py",
        default=[name for name in PARTS if name != "gpu"],
    )
