"""What a TarFlow sees in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewstep.data import Dataset
from fewstep.errors import UserError
from fewstep.images import to_model_range
from fewstep.stages.train_tarflow import run_key
from fewstep.stages.training import train_options
from fewstep.tarflow import TarFlow
from fewstep.tarflow.training import NoiseOptions, TarFlowObjective, dequantise
from fewstep.training import TrainOptions, train

CPU = torch.device("cpu")


def dataset(count: int = 40) -> Dataset:
    """Images of one grey level each, so that an image tells its number."""
    levels = np.arange(count, dtype=np.uint8)[:, None, None, None] * 5
    images = np.broadcast_to(levels, (count, 3, 8, 8)).copy()
    labels = np.arange(count, dtype=np.int64) % 3
    return Dataset(images, labels, {"name": "grey", "sha256": "0" * 64})


def objective(**changes: Any) -> TarFlowObjective:
    """An objective on the grey images."""
    torch.manual_seed(0)
    model = TarFlow(3, 8, 2, 64, 2, 1, changes.pop("num_classes", 3))
    options = changes.pop("noise", NoiseOptions(std=0.0))
    return TarFlowObjective(model, dataset(), options, **{"batch": 8, **changes})


def test_an_epoch_shows_every_image_once() -> None:
    """The batches of an epoch are a permutation; the next epoch has another."""
    own = objective()
    epochs = [
        torch.cat([own.batch(step, 0, 8)[0][:, 0, 0, 0] for step in range(a, a + 5)])
        for a in (0, 5)
    ]
    assert all(len(epoch.unique()) == 40 for epoch in epochs)
    assert not torch.equal(*epochs)


@pytest.mark.parametrize("kind", ["gaussian", "uniform"])
def test_parts_of_a_batch_are_the_batch(kind: str) -> None:
    """Processes that take a range each see together what one process sees."""
    own = objective(noise=NoiseOptions(kind, 0.1), drop_label=0.5, flip=True)
    whole, labels = own.batch(7, 0, 8)
    parts = [own.batch(7, 0, 3), own.batch(7, 3, 8)]
    assert torch.equal(torch.cat([x for x, _ in parts]), whole)
    assert labels is not None
    assert torch.equal(torch.cat([y for _, y in parts]), labels)  # type: ignore[misc]


def test_gaussian_noise_has_the_stated_deviation() -> None:
    """The noise on the images is N(0, std²), another one at every step."""
    own, clean = objective(noise=NoiseOptions("gaussian", 0.2)), objective()
    noise = torch.cat(
        [own.batch(s, 0, 8)[0] - clean.batch(s, 0, 8)[0] for s in range(20)]
    )
    assert float(noise.std()) == pytest.approx(0.2, rel=0.02)
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert not torch.equal(noise[:8], noise[8:16])


def test_dequantised_levels_stay_apart() -> None:
    """Uniform noise fills each of 256 bins of [-1, 1) and no other."""
    levels = np.arange(256, dtype=np.uint8)
    x = to_model_range(torch.from_numpy(levels))
    low, high = dequantise(x, torch.zeros(256)), dequantise(x, torch.ones(256))
    torch.testing.assert_close(low, torch.arange(256) / 128 - 1, atol=1e-6, rtol=0)
    torch.testing.assert_close(high[:-1], low[1:], atol=1e-6, rtol=0)


def test_labels_are_dropped_at_the_stated_rate() -> None:
    """A dropped label is -1; without classes there are no labels."""
    own = objective(drop_label=0.25)
    labels = torch.cat([own.batch(step, 0, 8)[1] for step in range(100)])  # type: ignore[misc]
    assert float((labels == -1).float().mean()) == pytest.approx(0.25, abs=0.05)
    assert objective(num_classes=0).batch(0, 0, 8)[1] is None


def test_held_out_images_are_never_trained_on() -> None:
    """Validation images do not occur in any batch, and their loss is repeatable."""
    own = objective(validation=8)
    seen = torch.cat([own.batch(step, 0, 8)[0][:, 0, 0, 0] for step in range(4)])
    held = to_model_range(torch.from_numpy(dataset().images[own.held_out]))[:, 0, 0, 0]
    assert not set(seen.tolist()) & set(held.tolist())
    own.model.eval()
    with torch.no_grad():
        assert own.validate(own.model, CPU) == own.validate(own.model, CPU)


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    """Twenty steps on flat images beat the untrained model by far."""
    own = objective(noise=NoiseOptions("gaussian", 0.1), validation=8)
    options = TrainOptions(steps=20, batch=8, lr=3e-3, log_every=1)
    _, state = train(own, options, tmp_path, key="k")
    assert state.curve[-1]["loss"] < state.curve[0]["loss"] - 0.3


def test_bf16_training_works_where_the_device_has_it(tmp_path: Path) -> None:
    """Under bf16 autocast the loss stays near that of fp32."""
    losses = []
    for precision in ("fp32", "bf16"):
        own = objective(noise=NoiseOptions("gaussian", 0.1))
        options = TrainOptions(
            steps=5, batch=8, lr=1e-3, log_every=5, precision=precision
        )
        _, state = train(own, options, tmp_path / precision, key="k")
        losses.append(state.curve[-1]["loss"])
    assert losses[0] == pytest.approx(losses[1], abs=0.02)


def test_recipes_in_epochs_become_steps() -> None:
    """Epochs and warm-up epochs are multiplied with the steps of an epoch."""
    spec = {
        "steps": None,
        "epochs": 4000,
        "warmup_steps": None,
        "warmup_epochs": 1.0,
        "batch": 256,
        "lr": 1e-4,
        "start_lr": 1e-6,
        "min_lr": 1e-6,
        "weight_decay": 1e-4,
        "betas": [0.9, 0.95],
        "clip": 0.0,
        "ema": 0.0,
        "precision": "bf16",
        "seed": 0,
        "save_every": 1000,
        "log_every": 50,
    }
    options = train_options(spec, per_epoch=57)
    assert (options.steps, options.warmup_steps) == (228000, 57)


def test_run_identity_ignores_how_often_it_is_saved() -> None:
    """Another recipe is another run; another saving interval is the same run."""
    spec = {"model": {}, "noise": {}, "train": {"lr": 1.0, "save_every": 5, "gpus": 1}}
    same = {**spec, "train": {"lr": 1.0, "save_every": 9, "gpus": 8}}
    other = {**spec, "train": {"lr": 2.0, "save_every": 5, "gpus": 1}}
    assert run_key(spec, dataset()) == run_key(same, dataset())
    assert run_key(spec, dataset()) != run_key(other, dataset())
    edited = {**spec, "code": "another digest"}
    assert run_key(spec, dataset()) != run_key(edited, dataset())


def test_a_batch_larger_than_the_data_is_one_line(tmp_path: Path) -> None:
    """More images a step than there are is a UserError that names the key."""
    from fewstep.stages import train_tarflow as stage

    spec = {
        "name": "x",
        "model": {"img_size": 8, "patch_size": 2, "channels": 64},
        "noise": {"kind": "gaussian", "std": 0.1},
        "train": {"seed": 0, "batch": 99, "drop_label": 0, "flip": False, "holdout": 0},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "open_dataset", lambda _: dataset())
        with pytest.raises(UserError, match=r"experiments\.x\.train\.batch: batch 99"):
            stage.train_tarflow(spec, tmp_path, tmp_path, tmp_path, tmp_path)
