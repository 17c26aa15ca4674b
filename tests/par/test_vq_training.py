"""What a tokenizer sees in training, and how its codebook is kept in use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fewstep import noise
from fewstep.data import Dataset
from fewstep.par import vq_training
from fewstep.par.tokenizer import codebook_usage
from fewstep.par.vq_training import VQBatch, VQObjective, revive
from fewstep.training import TrainOptions, train
from tests.par.tiny import images, model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Forty images of two colours."""
    return images(tmp_path_factory.mktemp("data") / "halves")


def objective(data: Dataset, **changes: Any) -> VQObjective:
    """An objective with a fresh tokenizer."""
    return VQObjective(model(), data, **{"batch": 8, **changes})


def codebook(own: VQObjective) -> Tensor:
    return own.tokenizer.quantize.embedding.weight.detach().clone()


# Batches


def test_an_epoch_shows_every_image_once(data: Dataset) -> None:
    """The batches of an epoch are a permutation; the next epoch has another."""
    own = objective(data)
    epochs = [
        torch.cat([own.batch(step, 0, 8).images for step in range(a, a + 5)])
        for a in (0, 5)
    ]
    assert not torch.equal(*epochs)
    first, second = (epoch.flatten(1).unique(dim=0) for epoch in epochs)
    assert len(first) == 40
    assert torch.equal(first, second)


def test_parts_of_a_batch_are_the_batch(data: Dataset) -> None:
    """Processes that take a range each see together what one process sees."""
    own = objective(data, flip=True)
    parts = [own.batch(7, 0, 3).images, own.batch(7, 3, 8).images]
    assert torch.equal(torch.cat(parts), own.batch(7, 0, 8).images)


def test_about_half_of_the_images_are_mirrored(data: Dataset) -> None:
    """With `flip` an image is itself or its mirror, left to right."""
    plain, own = objective(data), objective(data, flip=True)
    mirrored = []
    for step in range(20):
        before, after = plain.batch(step, 0, 8).images, own.batch(step, 0, 8).images
        for one, other in zip(before, after, strict=True):
            turned = torch.equal(other, one.flip(2))
            assert turned != torch.equal(other, one)
            mirrored.append(turned)
    assert 55 <= sum(mirrored) <= 105


# The tokenizer's forward


def test_forward_is_encode_and_decode(data: Dataset) -> None:
    """Codes are `encode`'s, images are `decode`'s of them."""
    own, x = model().eval(), objective(data).batch(0, 0, 8).images
    with torch.no_grad():
        out = own(x)
        codes = own.encode(x)
        torch.testing.assert_close(out.images, own.decode(codes), atol=1e-4, rtol=1e-4)
    assert torch.equal(out.codes, codes)
    assert torch.equal(out.entries, out.rows[codes])


@pytest.mark.parametrize("ratio", [0.0, 0.1])
def test_every_parameter_learns(data: Dataset, ratio: float) -> None:
    """Each gets a gradient from a loss, as training in several processes needs."""
    own = objective(data, entropy_ratio=ratio)
    own.loss(own.model, own.batch(0, 0, 8), CPU).backward()  # type: ignore[no-untyped-call]
    lacking = [n for n, p in own.model.named_parameters() if p.grad is None]
    assert lacking == []


def test_under_autocast_the_codebook_stays_in_float32(data: Dataset) -> None:
    """Latents, entries and the loss are float32; codes are the nearest entries."""
    own = objective(data, entropy_ratio=0.1)
    batch = own.batch(0, 0, 8)
    with torch.autocast("cpu", torch.bfloat16):
        out, loss = own.model(batch.images), own.loss(own.model, batch, CPU)
    assert out.latents.dtype == out.entries.dtype == loss.dtype == torch.float32
    assert torch.equal(out.codes, (out.latents @ out.rows.T).argmax(-1))


# Revival


def test_unused_entries_move_onto_latents() -> None:
    """Used entries stay; every moved one is a latent, and then is used."""
    own = model()
    torch.manual_seed(1)
    latents = torch.randn(200, 4)
    before = own.quantize.rows().detach().clone()
    used = own.quantize.indices(latents).unique()
    own.quantize.embedding.weight.data[used] *= 3  # not of unit length: left alone
    kept = own.quantize.embedding.weight[used].detach().clone()
    moved = revive(own, latents, noise.stream(0, "t", 0))
    assert moved == 32 - len(used) > 0
    assert torch.equal(own.quantize.embedding.weight[used], kept)
    rows = own.quantize.rows().detach()
    new = [i for i in range(32) if i not in used.tolist()]
    nearest = (rows[new] @ nn.functional.normalize(latents, dim=-1).T).amax(-1)
    torch.testing.assert_close(nearest, torch.ones(len(new)))
    assert not torch.equal(rows, before)
    assert len(own.quantize.indices(latents).unique()) == 32


def test_fewer_latents_than_unused_entries_are_taken_again() -> None:
    """Two latents revive 30 entries; nothing is asked of the draw but a place."""
    own = model()
    assert revive(own, torch.eye(4)[:2], noise.stream(0, "t", 0)) >= 30
    assert (own.quantize.rows().detach() @ torch.eye(4)).isfinite().all()


def test_revival_is_decided_by_seed_and_step(data: Dataset) -> None:
    """Two objectives agree to the bit; another step or another seed differs."""

    def at(step: int, seed: int = 0) -> Tensor:
        own = objective(data, revive_every=2, seed=seed)
        own.loss(own.model, VQBatch(step, torch.zeros(1, 3, 8, 8)), CPU)
        return codebook(own)

    assert torch.equal(at(4), at(4))
    assert not torch.equal(at(4), at(6))
    assert not torch.equal(at(4), at(4, seed=1))
    assert torch.equal(at(5), codebook(objective(data)))  # not due


def test_revival_compares_in_float32(data: Dataset) -> None:
    """Under autocast the entries that are used are those that `forward` finds used."""
    own = objective(data, revive_every=1)
    seen = []
    nearest = own.tokenizer.quantize.indices

    def listen(z: Tensor) -> Tensor:
        seen.append((z.dtype, torch.is_autocast_enabled("cpu")))
        return nearest(z)

    own.tokenizer.quantize.indices = listen  # type: ignore[method-assign]
    with torch.autocast("cpu", torch.bfloat16):
        own.loss(own.model, own.batch(0, 0, 8), CPU)
    assert seen == [(torch.float32, False)] * 2  # the revival, and the forward


def test_a_step_revives_once(data: Dataset) -> None:
    """Before its first micro-batch; a step without revival in between is none."""
    own = objective(data, revive_every=2)
    batch = own.batch(2, 0, 4)
    own.loss(own.model, batch, CPU)
    moved = codebook(own)
    own.tokenizer.quantize.embedding.weight.data[:] = 1.0  # all but one unused
    own.loss(own.model, own.batch(2, 4, 8), CPU)
    assert torch.equal(codebook(own), torch.ones(32, 4))
    own.loss(own.model, own.batch(4, 0, 4), CPU)
    assert not torch.equal(codebook(own), torch.ones(32, 4))
    assert not torch.equal(moved, torch.ones(32, 4))


def test_revival_looks_at_training_images_without_dropout(data: Dataset) -> None:
    """Held-out images decide nothing, and the model stays in training."""
    own = VQObjective(model(dropout=0.5), data, batch=8, validation=10, revive_every=1)
    own.model.train()
    seen = []
    whole = own._images

    def listen(index: np.ndarray) -> Tensor:
        assert own.tokenizer.training is False
        seen.extend(index.tolist())
        return whole(index)

    batch = own.batch(0, 0, 8)
    own._images = listen  # type: ignore[method-assign]
    own.loss(own.model, batch, CPU)
    assert seen and set(seen) <= set(own.train_index.tolist())
    assert own.tokenizer.training
    assert own.tokenizer.encoder.mid[0].dropout.training  # type: ignore[union-attr]


def test_revival_keeps_the_codebook_in_use(data: Dataset, tmp_path: Path) -> None:
    """Trained alike, more than twice as many entries are used with it."""
    options = TrainOptions(steps=20, batch=8, lr=3e-3, grad_clip=1.0, log_every=20)
    found = []
    for every in (0, 5):
        own = objective(data, revive_every=every)
        train(own, options, tmp_path / str(every), key="k")
        whole = own._images(np.arange(40))
        with torch.no_grad():
            codes = own.tokenizer.eval().encode(whole)
        found.append(codebook_usage(codes, 32)["perplexity"])
    assert found[1] > 2 * found[0]


# Validation


def test_validation_is_the_mean_over_held_out_images(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the batch; it revives nothing, and the images are not trained on."""
    own = objective(data, validation=10, revive_every=1)
    before = codebook(own)
    own.model.eval()
    with torch.no_grad():
        whole = own.validate(own.model, CPU)
        monkeypatch.setattr(vq_training, "_VALIDATION_BATCH", 3)
        parts = own.validate(own.model, CPU)
        loss = own.loss(own.model, VQBatch(None, own._images(own.held_out)), CPU)
    assert whole == pytest.approx(parts, rel=1e-5)
    assert whole == pytest.approx(float(loss), rel=1e-5)
    assert torch.equal(codebook(own), before)
    assert len(own.held_out) == 10
    assert not set(own.held_out) & set(own.train_index)


def test_without_held_out_images_there_is_no_validation(data: Dataset) -> None:
    """None, not a number."""
    own = objective(data)
    assert own.validate(own.model, CPU) is None
