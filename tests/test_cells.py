"""The papers' cells in config.yaml, against tables transcribed from the papers.

The numbers here were copied from notes on the papers and on the released code, not from
config.yaml; where both have one, they must agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from fewstep.config import Config, load_config
from fewstep.config.par import ParExperiment
from fewstep.config.seqrf import SeqRFExperiment
from fewstep.config.spine import PublishedSpec
from fewstep.config.tarflow import TarFlowExperiment
from fewstep.graph import Graph
from fewstep.tarflow.strategy import Strategy

ROOT = Path(__file__).parents[1]


@cache
def config() -> Config:
    """The repository's own."""
    return load_config(ROOT / "config.yaml", assets=ROOT / "workflow/assets.yaml")


def published(experiment: str, sampler: str) -> PublishedSpec:
    """What a cell says was published for it."""
    found = config().experiments[experiment].samplers[sampler].published
    assert found is not None, (experiment, sampler)
    return found


def cells() -> Iterator[tuple[str, str, PublishedSpec]]:
    """Every published cell of the configuration."""
    for name, own in config().experiments.items():
        for sampler, spec in own.samplers.items():
            if spec.published is not None:
                yield name, sampler, spec.published


# TarFlow


class Flow(NamedTuple):
    """A model of GS-Jacobi's README: printed times, scores, its scripts' settings."""

    for_time: float
    for_fid: float
    strategy: str
    time: float
    fid: float
    segments: list[int]
    jacobi: list[int]
    guess: list[int]
    cfg: float
    attn_temp: float
    denoise: float
    noise: float
    patch: int
    width: int
    tokens: int
    classes: int
    file: str
    stats: str


FLOWS = {
    "afhq": Flow(
        *(109.24, 13.60, "[7-8-32-10]", 20.54, 13.73),
        [8, 1, 1, 1, 1, 1, 1, 1],
        [32, 10, 10, 10, 10, 10, 10, 10],
        [0, 0, 0, 0, 0, 1, 1, 0],
        *(3.4, 1.0, 1.4, 0.07, 8, 768, 1024, 3),
        "afhq_model_8_768_8_8_0.07.pth",
        "afhq_256_fid_stats.pth",
    ),
    "img128": Flow(
        *(133.19, 5.06, "[6-8-32-10]", 29.41, 5.09),
        [1, 8, 1, 1, 1, 1, 1, 1],
        [10, 32, 10, 10, 10, 10, 10, 10],
        [0, 1, 0, 0, 0, 0, 1, 0],
        *(1.5, 1.0, 0.97, 0.15, 4, 1024, 1024, 1000),
        "imagenet_model_4_1024_8_8_0.15.pth",
        "imagenet_128_fid_stats.pth",
    ),
    "img64uncond": Flow(
        *(109.05, 14.67, "[0/6-8-32-20]", 36.84, 14.80),
        [1, 8, 1, 1, 1, 1, 1, 8],
        [20, 32, 20, 20, 20, 20, 20, 32],
        [0, 1, 0, 0, 1, 0, 1, 1],
        *(0.2, 0.3, 0.9, 0.05, 2, 768, 1024, 0),
        "imagenet64_model_2_768_8_8_0.05.pth",
        "imagenet64_64_fid_stats.pth",
    ),
    "img64cond": Flow(
        *(12.16, 4.42, "[0/7-256/8-1/13-6]", 4.97, 4.42),
        [8, 1, 1, 1, 1, 1, 1, 0],
        [13, 6, 6, 6, 6, 6, 6, 1],
        [1, 0, 0, 0, 0, 1, 1, 1],
        *(2.0, 1.0, 1.0, 0.05, 4, 1024, 256, 1000),
        "imagenet_model_4_1024_8_8_0.05.pth",
        "imagenet_64_fid_stats.pth",
    ),
}
UNPUBLISHED_STRATEGY = {"img64cond-patch2": 6.27}


def flow(name: str) -> TarFlowExperiment:
    """An experiment with TarFlow."""
    own = config().experiments[name]
    assert isinstance(own, TarFlowExperiment)
    return own


@pytest.mark.parametrize("name", FLOWS)
def test_scores_and_times_of_gs_jacobi(name: str) -> None:
    """Both rows of a model: score, and the time, which is printed in minutes."""
    row = FLOWS[name]
    for sampler, value, minutes in (
        ("for", row.for_fid, row.for_time),
        ("gsj", row.fid, row.time),
    ):
        cell = published(name, sampler)
        assert cell.value == value
        assert cell.seconds == pytest.approx(60 * minutes)
        assert f"{minutes:.2f}" in cell.unit
        assert (cell.n, cell.hardware) == (50000, "8 x A800")


@pytest.mark.parametrize("name", FLOWS)
def test_settings_of_gs_jacobi(name: str) -> None:
    """Guidance, temperature, denoising, noise and architecture are the scripts'."""
    row, own = FLOWS[name], flow(name)
    how, model = own.sampling, own.model
    assert (how.guidance, how.attn_temp) == (row.cfg, row.attn_temp)
    assert (how.self_denoise, own.noise.std) == (row.denoise, row.noise)
    assert (how.annealed, how.labels, how.precision) == (True, "iid", "bf16")
    assert (model.patch_size, model.channels) == (row.patch, row.width)
    assert (model.tokens, model.num_classes) == (row.tokens, row.classes)
    assert (model.num_blocks, model.layers_per_block) == (8, 8)


@pytest.mark.parametrize("name", FLOWS)
def test_strategies_are_the_released_lists(name: str) -> None:
    """The notation means the lists of the README, the initial guesses included."""
    row, sampler = FLOWS[name], flow(name).samplers["gsj"]
    assert sampler.strategy == row.strategy
    assert sampler.guess is not None
    ours = Strategy.parse(row.strategy, num_blocks=8, tokens=row.tokens)
    theirs = Strategy.from_lists(row.segments, row.jacobi, row.guess)
    assert list(sampler.guess) == row.guess
    for mine, other in zip(ours.blocks, theirs.blocks, strict=True):
        single = {0, row.tokens}  # For, in either spelling
        if mine.segments in single:
            assert other.segments in single
        else:
            assert (mine.segments, mine.max_jacobi) == (
                other.segments,
                other.max_jacobi,
            )


@pytest.mark.parametrize("name", FLOWS)
def test_files_of_gs_jacobi(name: str) -> None:
    """Weights and statistics are those of the model card, not of the README's links."""
    own, assets = flow(name), config().assets
    assert own.checkpoint is not None
    assert assets[own.checkpoint].file == FLOWS[name].file
    file = config().references[own.evaluation.reference].file
    assert file is not None
    assert assets[file].file == FLOWS[name].stats


def test_defects_of_the_released_sampler_stand_at_their_cells() -> None:
    """Tokens left at their guess (Img64uncond), the clamp, the unit of the times."""
    assert "127" in published("img64uncond", "gsj").note
    for name in FLOWS:
        assert any("clamp" in line for line in published(name, "gsj").assumed)
        assert any("minutes" in line for line in published(name, "gsj").assumed)


def test_the_fifth_model() -> None:
    """Patch 2 has a score of a user's, no strategy, and says what is assumed."""
    own = flow("img64cond-patch2")
    assert (own.model.patch_size, own.model.channels) == (2, 768)
    assert (own.model.tokens, own.model.num_classes) == (1024, 1000)
    assert (own.sampling.guidance, own.noise.std) == (2.3, 0.05)
    assert own.checkpoint is not None
    asset = config().assets[own.checkpoint]
    assert asset.file == "imagenet_model_2_768_8_8_0.05.pth"
    assert "gsj" not in own.samplers
    assert len(published("img64cond-patch2", "for").assumed) == 2


# TarFlow's recipe: epochs, batch, dropped labels, GPUs
FLOW_TRAININGS = {
    "afhq-scratch": (4000, 256, 0.1, 8),
    "img128-scratch": (320, 768, 0.1, 32),
    "img64uncond-scratch": (200, 256, 0.0, 8),
    "img64cond-scratch": (300, 256, 0.1, 8),
    "img64cond-patch2-scratch": (200, 256, 0.1, 8),
    "img64uncond-density": (100, 256, 0.0, 16),
}


@pytest.mark.parametrize("name", FLOW_TRAININGS)
def test_recipes_of_tarflow(name: str) -> None:
    """AdamW, warm-up of one epoch and a cosine; epochs, batch and GPUs of the table."""
    own = flow(name)
    recipe = own.train
    assert recipe is not None
    found = (recipe.epochs, recipe.batch, recipe.drop_label, recipe.gpus)
    assert found == FLOW_TRAININGS[name]
    assert (recipe.lr, recipe.start_lr, recipe.min_lr) == (1e-4, 1e-6, 1e-6)
    assert (recipe.betas, recipe.weight_decay) == ((0.9, 0.95), 1e-4)
    assert (recipe.warmup_epochs, recipe.ema, recipe.clip) == (1, 0.0, 0.0)
    assert recipe.flip
    density = own.noise.kind == "uniform"
    assert recipe.precision == ("fp32" if density else "bf16")


# SeqRF and RectifiedFlow

# FID of RectifiedFlow's README: RK45, and distilled to one step.
ROUNDS = {
    ("cifar10-1rf", "rk45"): 2.58,
    ("cifar10-1rf-distill-1", "euler-1"): 6.18,
    ("cifar10-1seqrf", "rk45"): 3.36,
    ("cifar10-2rf-distill-1", "euler-1"): 4.85,
    ("cifar10-3rf", "rk45"): 3.96,
    ("cifar10-3rf-distill-1", "euler-1"): 5.21,
}
TRAINED = {1: "cifar10-1seqrf", **{k: f"cifar10-{k}seqrf" for k in (2, 4, 6, 8, 12)}}


def straightened(name: str) -> SeqRFExperiment:
    """An experiment with SeqRF."""
    own = config().experiments[name]
    assert isinstance(own, SeqRFExperiment)
    return own


@pytest.mark.parametrize("cell", ROUNDS)
def test_scores_of_rectified_flow(cell: tuple[str, str]) -> None:
    """Three rounds, by RK45 and distilled to a step."""
    assert published(*cell).value == ROUNDS[cell]
    assert published(*cell).statistics == "dataset"


def test_tables_of_seqrf_are_known_and_empty() -> None:
    """No number of SeqRF could be verified: each cell names its table and says why."""
    rows = [(n, s, p) for n, s, p in cells() if p.value is None]
    assert {config().experiments[name].system for name, _, _ in rows} == {"seqrf"}
    for name, sampler, row in rows:
        assert row.note, (name, sampler)
        assert "LSUN-Church" in row.table or "CIFAR-10" in row.table
    assert "3.97" in published("cifar10-4seqrf", "euler-8").note


@pytest.mark.parametrize("k", TRAINED)
def test_commands_of_seqrf(k: int) -> None:
    """k, a million pairs at tolerance 1e-4, RK45 at 1e-3, and the README's recipe."""
    own = straightened(TRAINED[k])
    assert own.train is not None
    assert own.train.pairs is not None
    pairs = config().pairs[own.train.pairs]
    assert (own.segments, pairs.segments) == (k, k)
    assert (pairs.count, pairs.tol, pairs.teacher) == (1_000_000, 1e-4, "cifar10-1rf")
    assert own.samplers["rk45"].tol == 1e-3
    recipe = own.train
    assert (recipe.steps, recipe.batch, recipe.lr) == (100_000, 512, 2e-4)
    assert (recipe.clip, recipe.ema, recipe.warmup_steps) == (1.0, 0.9999, 5000)
    assert (recipe.betas, recipe.weight_decay) == ((0.9, 0.999), 0)
    assert recipe.count_offset == 800001
    assert recipe.snapshots is not None
    assert (recipe.snapshots.every, recipe.snapshots.n) == (10000, 10000)


def test_distilled_and_church_cells_of_seqrf() -> None:
    """Distilled to k steps for k = 2, 4, 6, 8; LSUN-Church for k = 1, 2, 4."""
    for k in (2, 4, 6, 8):
        own = straightened(f"cifar10-{k}seqrf-distill")
        assert own.train is not None
        assert (own.segments, own.train.objective) == (k, "distill")
        assert own.samplers[f"euler-{k}"].steps == k
    for k in (1, 2, 4):
        own = straightened(f"church-{k}seqrf")
        assert own.train is not None
        assert own.segments == k
        assert (own.train.batch, own.train.ema) == (64, 0.999)
        assert own.train.count_offset == 600001
        assert published(f"church-{k}seqrf", "rk45").other_protocol


def test_architectures_of_seqrf() -> None:
    """CIFAR-10 is DDPM++, LSUN-Church NCSN++ on images in [0, 1]."""
    cifar, church = straightened("cifar10-1rf").model, straightened("church-1rf").model
    assert (cifar.nf, cifar.ch_mult, cifar.num_res_blocks) == (128, (1, 2, 2, 2), 4)
    assert (cifar.dropout, cifar.centered, cifar.fir) == (0.15, True, False)
    assert (church.nf, church.ch_mult) == (128, (1, 1, 2, 2, 2, 2, 2))
    assert (church.num_res_blocks, church.centered, church.fir) == (2, False, True)
    assert (church.scale_by_sigma, church.sigma_max) == (True, 380)
    assert (church.progressive, church.progressive_input) == (
        "output_skip",
        "input_skip",
    )


def test_recommended_batches_of_seqrf() -> None:
    """(training, sampling) of its README for both machines."""
    presets = config().batch_presets
    assert presets["tpu-v3-8"]["cifar10"].resolved() == {"train": 512, "sample": 2048}
    assert presets["tpu-v2-8"]["cifar10"].resolved() == {"train": 512, "sample": 1024}
    for preset in presets.values():
        assert preset["lsun-church"].resolved() == {"train": 64, "sample": 256}


# PAR and LlamaGen


class Tokens(NamedTuple):
    """A row of PAR's Table 2, with the guidance scale of its text or commands."""

    parameters: str
    fid: float
    isc: float
    precision: float
    recall: float
    steps: int
    seconds: float
    cfg: float


TOKENS = {
    "llamagen-l": Tokens("343M", 3.07, 256.1, 0.83, 0.52, 576, 12.58, 2.0),
    "llamagen-xl": Tokens("775M", 2.62, 244.1, 0.80, 0.57, 576, 18.66, 1.75),
    "llamagen-xxl": Tokens("1411M", 2.34, 253.9, 0.80, 0.59, 576, 24.91, 1.75),
    "llamagen-3b": Tokens("3097M", 2.18, 263.3, 0.81, 0.58, 576, 12.41, 1.65),
    "par-l-4x": Tokens("343M", 3.76, 218.9, 0.84, 0.50, 147, 3.38, 1.60),
    "par-xl-4x": Tokens("775M", 2.61, 259.2, 0.82, 0.56, 147, 4.94, 1.50),
    "par-xxl-4x": Tokens("1411M", 2.35, 263.2, 0.82, 0.57, 147, 6.84, 1.435),
    "par-3b-4x": Tokens("3097M", 2.29, 255.5, 0.82, 0.58, 147, 3.46, 1.345),
    "par-xxl-16x": Tokens("1411M", 3.02, 270.6, 0.81, 0.56, 51, 2.28, 1.5),
    "par-3b-16x": Tokens("3097M", 2.88, 262.5, 0.82, 0.56, 51, 1.31, 1.5),
}
# LlamaGen's README: score, codes a side, file.
README = {
    "llamagen-b": (6.09, 24, "c2i_B_384.pt"),
    "llamagen-b-256": (5.46, 16, "c2i_B_256.pt"),
    "llamagen-l-256": (3.80, 16, "c2i_L_256.pt"),
    "llamagen-l": (3.07, 24, "c2i_L_384.pt"),
    "llamagen-xl": (2.62, 24, "c2i_XL_384.pt"),
    "llamagen-xxl": (2.34, 24, "c2i_XXL_384.pt"),
    "llamagen-3b": (2.18, 24, "c2i_3B_384.pt"),
}
COMPILED = {"par-3b-4x": 1.15, "par-3b-16x": 0.43}
UNRELEASED = {"par-l-4x", "par-xxl-16x"}


def drawn(name: str) -> ParExperiment:
    """An experiment with PAR."""
    own = config().experiments[name]
    assert isinstance(own, ParExperiment)
    return own


@pytest.mark.parametrize("name", TOKENS)
def test_rows_of_par(name: str) -> None:
    """Score, time of one image, passes, size and guidance of Table 2."""
    row, own, cell = TOKENS[name], drawn(name), published(name, "cfg")
    assert (cell.value, cell.seconds_batch1) == (row.fid, row.seconds)
    assert cell.others is not None
    others = (cell.others.isc, cell.others.precision, cell.others.recall)
    assert others == (row.isc, row.precision, row.recall)
    assert own.evaluation.precision_recall
    assert (cell.table, cell.n, cell.hardware) == (
        "Table 2",
        50000,
        "one A100, batch 1",
    )
    assert own.model.steps == row.steps
    # The transition tokens are no part of the printed sizes.
    transition = (own.model.ar_token_num - 1) * own.model.resolved()["dim"]
    without = own.model.parameters - transition
    assert f"{without / 1e6:.0f}M" == row.parameters
    how = own.samplers["cfg"]
    assert how.cfg_scale == row.cfg
    assert (how.temperature, how.top_k, how.top_p) == (1.0, 0, 1.0)
    assert (own.sampling.precision, own.sampling.labels) == ("bf16", "iid")
    protocol = own.evaluation.protocol
    assert (protocol.resize, protocol.rounding) == (256, "half_up")
    assert (own.checkpoint is None) == (name in UNRELEASED)


@pytest.mark.parametrize("name", README)
def test_rows_of_llamagen(name: str) -> None:
    """Score, grid and file of the table of released models; 256 px are not scaled."""
    value, grid, file = README[name]
    own = drawn(name)
    assert (published(name, "cfg").value, own.model.grid) == (value, grid)
    assert own.model.ar_token_num == 1
    assert own.checkpoint is not None
    assert config().assets[own.checkpoint].file == file
    assert own.evaluation.protocol.resize == (256 if grid == 24 else None)
    assert own.evaluation.reference == "imagenet-256"


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_times_of_par(name: str) -> None:
    """Table 7's seconds, at the score that Table 2 has for the same model."""
    cell = published(name, "compiled")
    assert cell.others == published(name, "cfg").others
    assert (cell.seconds_batch1, cell.value) == (COMPILED[name], TOKENS[name].fid)
    own = drawn(name)
    assert own.sampling_of("compiled").compile
    assert own.samplers["compiled"].cfg_scale == own.samplers["cfg"].cfg_scale
    assert 1 in own.timing.batches


# Table 5, and LlamaGen's GPUs: batch, rate, end of the cosine, warm-up epochs, GPUs
PAR_TRAININGS = {
    "par-l-4x": (256, 1e-4, 0.0, 15, 8),
    "par-xl-4x-scratch": (256, 1e-4, 0.0, 15, 16),
    "par-xl-4x-scratch-released": (256, 1e-4, 1e-4, 0, 16),
    "par-xxl-16x": (512, 2e-4, 0.0, 15, 32),
    "par-3b-4x-scratch": (512, 2e-4, 0.0, 15, 32),
    "llamagen-b-scratch": (256, 1e-4, 1e-4, 0, 8),
}


@pytest.mark.parametrize("name", PAR_TRAININGS)
def test_recipes_of_par(name: str) -> None:
    """300 epochs of AdamW with Table 5's batch, rate, schedule and regularisation."""
    recipe = drawn(name).train
    assert recipe is not None
    found = (recipe.batch, recipe.lr, recipe.min_lr, recipe.warmup_epochs, recipe.gpus)
    assert found == PAR_TRAININGS[name]
    assert (recipe.epochs, recipe.betas, recipe.weight_decay) == (
        300,
        (0.9, 0.95),
        0.05,
    )
    assert (recipe.clip, recipe.dropout, recipe.token_dropout) == (1.0, 0.1, 0.1)
    assert (recipe.drop_label, recipe.precision) == (0.1, "bf16")


# All


def test_no_published_number_is_missing_or_of_our_own() -> None:
    """The cells with a number are just those of the tables above."""
    wanted = {(name, sampler) for name in FLOWS for sampler in ("for", "gsj")}
    wanted |= {(name, "for") for name in UNPUBLISHED_STRATEGY} | set(ROUNDS)
    wanted |= {(name, "cfg") for name in TOKENS.keys() | README.keys()}
    wanted |= {(name, "compiled") for name in COMPILED}
    assert {(n, s) for n, s, row in cells() if row.value is not None} == wanted
    for name, value in UNPUBLISHED_STRATEGY.items():
        assert published(name, "for").value == value


def test_every_cell_says_where_it_comes_from() -> None:
    """Source, table and n; hardware with a time; how a time without unit was read."""
    for name, sampler, row in cells():
        assert row.source, (name, sampler)
        assert row.table, (name, sampler)
        assert row.n == 50000, (name, sampler)
        assert row.assumed, (name, sampler)
        if row.seconds or row.seconds_batch1:
            assert row.hardware, (name, sampler)
        if row.seconds:
            assert row.unit, (name, sampler)
        assert config().experiments[name].evaluation.n == row.n


def test_headline_cells_have_three_seeds() -> None:
    """The spread of each published cell's score is known."""
    for name, sampler, _ in cells():
        assert len(config().experiments[name].evaluation.seeds) >= 3, (name, sampler)


def test_every_cell_is_in_all() -> None:
    """`snakemake all` has the evaluation of each published cell."""
    targets = set(Graph(ROOT).published())
    assert {(name, sampler) for name, sampler, _ in cells()} <= targets


def test_large_trainings_are_spread_over_nodes_of_eight() -> None:
    """More than 8 GPUs are as many nodes of 8."""
    for name, own in config().experiments.items():
        if own.train is not None and own.train.gpus > 8:
            assert own.train.gpus == 8 * own.train.nodes, name


def test_tokenizer_is_judged_by_images_it_has_not_seen() -> None:
    """VQ-16 at 16 x 16 codes is scored on the validation part, against itself."""
    own = config().tokenizers["vq-16-256"]
    assert own.reconstruction is not None
    assert own.checkpoint == config().tokenizers["vq-16"].checkpoint
    reference = config().references[own.reconstruction.reference]
    assert reference.dataset == own.dataset == "imagenet-val-256"
    dataset = config().datasets[own.dataset]
    assert dataset.size // own.model.downsample == 16
    assert dataset.path != config().datasets["imagenet-256"].path
