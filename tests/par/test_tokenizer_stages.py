"""Stages of tokenizers and transformers: training, preparing, reconstructing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep import checkpoints, files
from fewstep.data import holdout_split, open_dataset
from fewstep.extractors import Features, check_images
from fewstep.images import to_model_range, to_uint8
from fewstep.par.model import Transformer
from fewstep.par.tokenizer import codebook_usage
from fewstep.par.vq_training import VQObjective
from fewstep.references import save_reference
from fewstep.results import TRAINING
from fewstep.results.parquet import read_rows
from fewstep.stages import (
    export,
    prepare_par,
    prepare_tokenizer,
    reconstruct,
)
from fewstep.stages.train_tokenizer import run_key, train_tokenizer
from fewstep.statistics import Reference
from tests.par.tiny import (
    MODEL,
    SIZES,
    assert_equal,
    complaint,
    ddp,
    model,
    saved,
    train_spec,
    weights_of,
    write_images,
)

DIM = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images of two colours in four classes."""
    return write_images(tmp_path_factory.mktemp("data") / "halves")


# Training


def run(folder: Path, data: Path, **changes: Any) -> dict[str, torch.Tensor]:
    """Train in a folder; gives the weights that were kept."""
    out = folder / "tried.safetensors"
    curve = folder / "tried.parquet"
    train_tokenizer(train_spec(**changes), data, folder / "work", out, curve)
    return checkpoints.read_state_dict(out)


def test_a_tokenizer_is_trained(data: Path, tmp_path: Path) -> None:
    """Weights fit the model; manifest and curve say how they came about."""
    kept = run(tmp_path, data)
    checkpoints.load_weights(model(), kept, "file")
    about = checkpoints.read_manifest(tmp_path / "tried.safetensors")
    assert about["tokenizer"] == "tried"
    assert (about["model"], about["dataset"]) == (MODEL, "halves")
    assert about["loss"] == train_spec()["loss"]
    assert about["dataset_sha256"] == open_dataset(data).sha256
    assert files.read_json(tmp_path / "tried.json")["steps"] == 6
    rows = read_rows(tmp_path / "tried.parquet", TRAINING)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(row["validation_loss"] > 0 for row in rows)


def test_the_loss_is_what_the_spec_says(data: Path, tmp_path: Path) -> None:
    """Every key of `loss` leads to other weights, and is part of the run's identity."""
    opened = open_dataset(data)
    base, changed = run(tmp_path / "base", data, steps=2), []
    for key, value in (
        ("beta", 2.0),
        ("entropy_ratio", 0.5),
        ("reconstruction", "l1"),
        ("revive_every", 0),
    ):
        one = run(tmp_path / key, data, steps=2, **{key: value})
        changed.append(any(not torch.equal(one[name], base[name]) for name in base))
        spec = train_spec(**{key: value})
        assert run_key(spec, opened) != run_key(train_spec(), opened)
    assert changed == [True] * 4
    assert run_key(train_spec(save_every=9), opened) == run_key(train_spec(), opened)


def test_run_identity_holds_the_code_of_the_weights(data: Path) -> None:
    """What the stage itself does to files may change; how weights come about not."""
    opened, spec = open_dataset(data), train_spec()
    key = run_key(spec, opened)
    assert run_key({**spec, "code": "other"}, opened) == key
    assert run_key({**spec, "weights_code": "other"}, opened) != key


def test_kill_9_and_again_gives_the_same_bits(data: Path, tmp_path: Path) -> None:
    """A killed training goes on from its checkpoint, revivals and average included."""
    changes = {"ema": 0.9, "save_every": 2, "steps": 4}
    program = (
        "import os, signal, torch; from pathlib import Path\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "from tests.par.test_tokenizer_stages import *\n"
        "whole = VQObjective.batch\n"
        "def batch(self, step, start, stop):\n"
        "    if step == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return whole(self, step, start, stop)\n"
        "VQObjective.batch = batch\n"
        f"run(Path({str(tmp_path / 'two')!r}), Path({str(data)!r}), **{changes!r})\n"
    )
    root = str(Path(__file__).parents[2])
    child = subprocess.run([sys.executable, "-c", program], cwd=root, check=False)
    assert child.returncode == -signal.SIGKILL
    last = torch.load(tmp_path / "two" / "work" / "last.pt", weights_only=True)
    assert last["step"] == 2
    expected = run(tmp_path / "one", data, **changes)
    assert_equal(run(tmp_path / "two", data, **changes), expected)


def test_unfit_data_is_a_line(data: Path, tmp_path: Path) -> None:
    """A batch larger than the dataset, and images that cannot be halved so often."""
    line = complaint(lambda: run(tmp_path, data, batch=64))
    assert "tokenizers.tried.train.batch" in line
    assert "32 training images" in line
    deep = {**MODEL, "ch_mult": [1, 1, 1, 1, 1]}
    line = complaint(lambda: run(tmp_path, data, model=deep))
    assert "images of 8 pixels and a tokenizer of 1/16" in line


# Preparing


def test_a_published_transformer_becomes_ours(tmp_path: Path) -> None:
    """Weights in float32, with where they came from beside them; `ema` on request."""
    state, spec = weights_of(), {"name": "par", "model": {**SIZES, "ar_token_num": 4}}
    source, out = saved(ddp(state), tmp_path), tmp_path / "out" / "model.safetensors"
    prepare_par.prepare(spec, source, None, out)
    assert_equal(checkpoints.read_state_dict(out), state)
    about = checkpoints.read_manifest(out)
    assert about["source_sha256"] == files.sha256_file(source)
    assert (about["experiment"], about["model"]) == ("par", spec["model"])
    assert files.read_json(out.with_suffix(".json"))["source"] == str(source)
    prepare_par.prepare({**spec, "ema": True}, source, None, out)
    found = checkpoints.read_state_dict(out)
    assert_equal(found, {name: value + 1 for name, value in state.items()})


def test_a_transformer_of_another_n_or_size_is_a_line(tmp_path: Path) -> None:
    """n before all shapes, then the first tensor that does not fit."""
    source, out = saved({"model": weights_of()}, tmp_path), tmp_path / "x.safetensors"

    def prepare(**changes: Any) -> None:
        spec = {"name": "par", "model": {**SIZES, "ar_token_num": 4, **changes}}
        prepare_par.prepare(spec, source, None, out)

    line = complaint(lambda: prepare(ar_token_num=1, dim=32))
    assert "4 tokens a step, ar_token_num says 1" in line
    line = complaint(lambda: prepare(dim=32))
    assert "tensor cls_embedding.embedding_table.weight: shape (4, 16)" in line
    assert not out.exists()


def test_a_shipped_tokenizer_is_prepared_again(data: Path, tmp_path: Path) -> None:
    """Trained, exported in half precision, prepared: the halves in float32."""
    kept = run(tmp_path, data)
    small, out = tmp_path / "small.safetensors", tmp_path / "again.safetensors"
    export.export(tmp_path / "tried.safetensors", small, "make")
    prepare_tokenizer.prepare({"name": "t", "model": MODEL}, small, None, out)
    wanted = {name: value.half().float() for name, value in kept.items()}
    assert_equal(checkpoints.read_state_dict(out), wanted)
    record = files.read_json(out.with_suffix(".json"))
    assert record["tokenizer"] == "t"
    assert record["origin"]["tokenizer"] == "tried"


def test_a_shipped_transformer_is_prepared_again(tmp_path: Path) -> None:
    """Our own file with another number of heads is refused: no shape would tell."""
    about = {**SIZES, "ar_token_num": 4}
    source, out = tmp_path / "small.safetensors", tmp_path / "again.safetensors"
    halves = {name: value.half() for name, value in weights_of().items()}
    checkpoints.write_state_dict(source, halves, {"model": about})
    prepare_par.prepare({"name": "par", "model": about}, source, None, out)
    wanted = {name: value.float() for name, value in halves.items()}
    assert_equal(checkpoints.read_state_dict(out), wanted)
    Transformer(**about).load_state_dict(wanted)
    other = {"name": "par", "model": {**about, "n_head": 4}}
    line = complaint(lambda: prepare_par.prepare(other, source, None, out))
    assert "n_head 2, the model says 4" in line


def test_a_tokenizer_takes_no_transformer(tmp_path: Path) -> None:
    """One line says what the file holds."""
    source, out = saved(ddp(weights_of()), tmp_path), tmp_path / "x.safetensors"
    spec = {"name": "t", "model": MODEL}
    line = complaint(lambda: prepare_tokenizer.prepare(spec, source, None, out))
    assert "holds a PAR or LlamaGen transformer; expected a VQ tokenizer" in line


# Reconstructing


@dataclass(frozen=True)
class Fake:
    """Means of channels."""

    name: str = "fake"
    weights_sha256: str = "fa" * 32
    is_inception: bool = False
    dim: int = DIM
    resize: str = "none"

    def __call__(self, images: torch.Tensor) -> Features:
        check_images(images)
        means = images.float().mean((2, 3))
        return Features(means, means)


def judge(
    folder: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    inception: bool = False,
    broken: bool = False,
    **changes: Any,
) -> dict[str, Any]:
    """What the stage writes of an untrained tokenizer."""
    fake = Fake(is_inception=inception)
    monkeypatch.setattr(reconstruct, "load_extractor", lambda *_, **__: fake)
    state = model().state_dict()
    if broken:
        state["post_quant_conv.bias"] = torch.full_like(
            state["post_quant_conv.bias"], torch.nan
        )
    checkpoints.write_state_dict(folder / "t.safetensors", state, {})
    real = Reference(np.full(DIM, 100.0), 50 * np.eye(DIM), 40)
    save_reference(folder / "real.npz", real)
    spec = {
        "name": "tried",
        "model": MODEL,
        "n": 1000,
        "held_out": {"seed": 0, "share": 0.25},
        "extractor": {"kind": "classifier", "name": "fake"},
        "evaluation": {"batch": 4},
        "rounding": "round",
        **changes,
    }
    out, picture = folder / "out.json", folder / "out.png"
    paths = (folder / "t.safetensors", data, folder / "real.npz")
    reconstruct.reconstruct(spec, *paths, None, out, picture)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_errors_are_those_of_the_held_out_images(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Error, PSNR and use of the codebook, counted again by hand."""
    found = judge(tmp_path, data, monkeypatch)
    opened = open_dataset(data)
    _, held = holdout_split(40, 0, 0.25)
    raw, x = opened.batch(held)[0], to_model_range(opened.batch(held)[0])
    own = model().eval()
    with torch.no_grad():
        codes = own.encode(x)
        y = own.decode(codes)
    assert (found["n"], found["held_out"]) == (10, True)
    assert found["mse"] == pytest.approx(float((y - x).square().mean()), rel=1e-4)
    gap = to_uint8(y, "round").double() - torch.from_numpy(raw)
    ratios = 10 * torch.log10(255**2 / gap.square().mean((1, 2, 3)))
    assert found["psnr"] == pytest.approx(float(ratios.mean()), abs=0.01)
    assert found["used"] == codebook_usage(codes, 32)["used"]
    assert found["perplexity"] == pytest.approx(codebook_usage(codes, 32)["perplexity"])


def test_the_score_stands_beside_that_of_the_images(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are distances to the reference; only Inception's is called rFID."""
    found = judge(tmp_path, data, monkeypatch)
    assert found["metric"] == "rfrechet"
    _, held = holdout_split(40, 0, 0.25)
    means = open_dataset(data).images[held].mean((2, 3), dtype=np.float64)
    sigma = np.cov(means, rowvar=False)
    gap = np.square(means.mean(0) - 100).sum() + np.trace(sigma) + 50 * DIM
    roots = np.sqrt(np.clip(np.linalg.eigvalsh(sigma) * 50, 0, None)).sum()
    assert found["score_real"] == pytest.approx(gap - 2 * roots, rel=1e-4)
    assert found["score"] != found["score_real"]
    assert judge(tmp_path, data, monkeypatch, inception=True)["metric"] == "rfid"


def test_the_batch_changes_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images at once leave every number as it is, to rounding."""
    one = judge(tmp_path, data, monkeypatch)
    other = judge(tmp_path, data, monkeypatch, evaluation={"batch": 7})
    for key, value in one.items():
        close = pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
        assert other[key] == close


def test_the_picture_shows_pairs(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rows of ten images, each at least 96 pixels high."""
    judge(tmp_path, data, monkeypatch)
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.width > 10 * 96
        assert 2 * 96 < picture.height < 3 * 96
        colours = picture.getcolors(maxcolors=100_000)
    assert colours is not None
    assert len(colours) > 20


def test_which_images_are_judged() -> None:
    """Held out of the training, or all; thinned out by a draw where they are many."""
    _, held = holdout_split(40, 3, 0.25)
    given = {"seed": 3, "share": 0.25}
    assert np.array_equal(reconstruct.judged(40, given, 99), held)
    few = reconstruct.judged(40, given, 6)
    assert len(few) == 6
    assert set(few) < set(held)
    assert np.array_equal(few, np.sort(few))
    for everything in (None, {"seed": 3, "share": 0.0}):
        found = reconstruct.judged(40, everything, 99)
        assert np.array_equal(found, np.arange(40))
    line = complaint(lambda: reconstruct.judged(40, {"seed": 0, "share": 0.02}, 9))
    assert "1 images to reconstruct" in line


def test_the_images_judged_are_those_the_training_left_out(data: Path) -> None:
    """For any share, also one that does not give a whole number of images."""
    opened = open_dataset(data)
    for share in (0.1, 0.13, 0.26):
        count = round(share * len(opened))
        trained = VQObjective(model(), opened, batch=4, seed=5, validation=count)
        found = reconstruct.judged(len(opened), {"seed": 5, "share": share}, 99)
        assert np.array_equal(found, trained.held_out)


def test_psnr_of_known_errors() -> None:
    """One level off everywhere: 48.13 dB; a perfect image counts as nearly so."""
    images = np.full((2, 3, 4, 4), 7, dtype=np.uint8)
    off = images.copy()
    off[0] += 1
    errors = reconstruct.squared_errors(images, off)
    assert errors.tolist() == [1.0, 0.0]
    assert reconstruct.psnr(errors[:1], 48) == pytest.approx(48.1308, abs=1e-4)
    wanted = 48.1308 + 10 * np.log10(48)
    assert reconstruct.psnr(errors[1:], 48) == pytest.approx(wanted, abs=1e-4)


def test_what_cannot_be_reconstructed_is_a_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tokenizer that decodes to NaN; images that it cannot halve; other weights."""
    line = complaint(lambda: judge(tmp_path, data, monkeypatch, broken=True))
    assert "not finite" in line
    assert "t.safetensors" in line
    odd = write_images(tmp_path / "odd", count=8, size=9)
    line = complaint(lambda: judge(tmp_path, odd, monkeypatch))
    assert "images of 9 pixels; expected a multiple of 2" in line
    larger = {**MODEL, "codebook_size": 64}
    line = complaint(lambda: judge(tmp_path, data, monkeypatch, model=larger))
    assert "tensor quantize.embedding.weight" in line
