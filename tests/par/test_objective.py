"""What a PAR model sees in training, and what its loss says."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fewstep.errors import UserError
from fewstep.par.model import Transformer
from fewstep.par.objective import CodesObjective
from fewstep.training import TrainOptions, train
from tests.par.toy import ToyCodes, numbered, patterned, transformer

CPU = torch.device("cpu")
OPTIONS = TrainOptions(
    steps=14,
    batch=8,
    lr=3e-3,
    weight_decay=0.05,
    decay="matrices",
    grad_clip=1.0,
    save_every=5,
    log_every=1,
)
WET: dict[str, Any] = {"dropout": 0.2, "token_dropout": 0.1, "attention_dropout": 0.1}


def on_numbers(**changes: Any) -> CodesObjective:
    """An objective on 40 images whose codes tell image and view."""
    model = transformer(grid=2, vocab=40)
    return CodesObjective(model, numbered(), **{"batch": 8, "seed": 3, **changes})


def on_stripes(**model: Any) -> CodesObjective:
    """An objective on stripes, eight images held out."""
    whole = transformer(ar_token_num=4, **model)
    return CodesObjective(whole, patterned(), batch=8, validation=8)


def examples(own: CodesObjective, steps: range) -> Tensor:
    """(image, view) of all examples of some steps."""
    codes = [own.batch(step, 0, own.size)[0] for step in steps]
    return torch.cat(codes)[:, :2]


def test_an_epoch_shows_every_image_once() -> None:
    """An epoch is a permutation; the next one is another, with other views."""
    own = on_numbers()
    first, second = examples(own, range(5)), examples(own, range(5, 10))
    for epoch in (first, second):
        assert sorted(epoch[:, 0].tolist()) == list(range(40))
    assert not torch.equal(first[:, 0], second[:, 0])
    views = [dict(epoch.tolist()) for epoch in (first, second)]
    assert views[0] != views[1]


def test_views_are_drawn_uniformly() -> None:
    """Each of two views is half of what is seen."""
    share = examples(on_numbers(), range(100))[:, 1].double().mean()
    assert float(share) == pytest.approx(0.5, abs=0.06)


def test_an_incomplete_batch_is_dropped() -> None:
    """40 images in batches of 12 are three steps an epoch, no image twice."""
    own = on_numbers(batch=12)
    assert own.per_epoch == 3
    assert len(examples(own, range(3))[:, 0].unique()) == 36


@settings(deadline=None, max_examples=20)
@given(step=st.integers(0, 30), cut=st.integers(1, 7), seed=st.integers(0, 3))
def test_parts_of_a_batch_are_the_batch(step: int, cut: int, seed: int) -> None:
    """Processes that take a range each see together what one process sees."""
    own = on_numbers(drop_label=0.5, seed=seed)
    for whole, *parts in zip(
        own.batch(step, 0, 8),
        own.batch(step, 0, cut),
        own.batch(step, cut, 8),
        strict=True,
    ):
        assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_labels_are_dropped_at_the_stated_rate(share: float) -> None:
    """A dropped label is `num_classes`; the others are the images' own."""
    own = on_numbers(drop_label=share)
    dropped = 0
    for step in range(60):
        codes, labels = own.batch(step, 0, 8)
        null = labels == 3
        dropped += int(null.sum())
        assert torch.equal(labels[~null], codes[~null, 0] % 3)
    assert dropped / 480 == pytest.approx(share, abs=0.06 * (0 < share < 1))


def test_held_out_images_are_never_trained_on() -> None:
    """No batch shows an image whose loss is the validation loss."""
    own = on_numbers(validation=8)
    seen = set(examples(own, range(20))[:, 0].tolist())
    assert seen == set(own.train_index.tolist()) and len(own.held_out) == 8
    assert not seen & set(own.held_out.tolist())


def test_the_first_loss_is_the_logarithm_of_the_vocabulary() -> None:
    """The head starts at zero: ln V nats a token, in training and validation."""
    own = on_stripes(**WET)
    loss = own.loss(own.model, own.batch(0, 0, 8), CPU)
    assert float(loss.detach()) == pytest.approx(math.log(11), abs=1e-6)
    assert own.validate(own.model, CPU) == pytest.approx(math.log(11), abs=1e-6)


def trained_a_little(**model: Any) -> CodesObjective:
    """The same weights whatever the dropouts, their head not zero."""
    own = on_stripes(**model)
    with torch.no_grad():
        torch.manual_seed(1)
        own.model.get_parameter("output.weight").normal_(std=0.5)
    return own


def test_validation_has_no_dropout() -> None:
    """It is the same with and without dropouts, and leaves the mode as it was."""
    wet, dry = trained_a_little(**WET, drop_path=0.5), trained_a_little()
    wet.model.train()
    values = {wet.validate(wet.model, CPU), wet.validate(wet.model, CPU)}
    assert values == {dry.validate(dry.model, CPU)} and wet.model.training
    losses = {
        float(wet.loss(wet.model, wet.batch(0, 0, 8), CPU).detach()) for _ in "ab"
    }
    assert len(losses) == 2


@pytest.mark.parametrize("chunk", [1, 3, 256])
def test_validation_is_the_mean_of_all_held_out_tokens(chunk: int) -> None:
    """In chunks of any size: first views, own labels, nats a token."""
    own = trained_a_little()
    own.chunk = chunk
    data, index = patterned(), own.held_out
    codes, labels = torch.from_numpy(data.codes[index, 0]), data.labels[index]
    with torch.no_grad():
        own.model.eval()
        expected = own.model(codes, torch.from_numpy(labels)).token_loss.mean()
    assert own.validate(own.model, CPU) == pytest.approx(float(expected), abs=1e-6)


def test_without_held_out_images_there_is_no_validation() -> None:
    """None, not a number."""
    own = on_numbers()
    assert own.validate(own.model, CPU) is None


@pytest.mark.parametrize("n", [1, 4])
def test_training_learns_the_stripes(tmp_path: Path, n: int) -> None:
    """Both losses fall far below those of a uniform guess."""
    own = CodesObjective(
        transformer(ar_token_num=n, dropout=0.1), patterned(), batch=16, validation=8
    )
    options = replace(OPTIONS, steps=120, batch=16, lr=1e-2, log_every=40)
    curve = train(own, options, tmp_path, key="k")[1].curve
    assert curve[-1]["loss"] < math.log(11) - 0.8
    assert curve[-1]["validation_loss"] < math.log(11) - 0.8


def test_recomputing_blocks_changes_no_bit(tmp_path: Path) -> None:
    """Dropouts draw the same again in the backward pass."""
    kept = [
        train(on_stripes(recompute=on, **WET), OPTIONS, tmp_path / str(on), key="k")[0]
        for on in (False, True)
    ]
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])


def test_kill_9_in_an_epoch_resumes_to_the_same_bits(tmp_path: Path) -> None:
    """A run with dropouts that is killed in its second epoch ends as an unkilled one.

    An epoch has 7 steps; it is killed in step 12, its last checkpoint is step 10.
    """
    text = (
        "import os, signal, sys; from pathlib import Path\n"
        "import torch; torch.set_num_threads(1)\n"
        "from tests.par.test_objective import *\n"
        "own = on_stripes(**WET); draw = own.batch\n"
        "def batch(step, start, stop):\n"
        "    if step == 12: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return draw(step, start, stop)\n"
        "own.batch = batch\n"
        "train(own, OPTIONS, Path(sys.argv[1]), key='k')\n"
    )
    root, folder = str(Path(__file__).parents[2]), tmp_path / "killed"
    command = [sys.executable, "-c", text, str(folder)]
    assert subprocess.run(command, cwd=root, check=False).returncode == -9
    assert torch.load(folder / "last.pt", weights_only=True)["step"] == 10
    assert on_stripes().per_epoch == 7
    rest, state = train(on_stripes(**WET), OPTIONS, folder, key="k")
    whole, expected = train(on_stripes(**WET), OPTIONS, tmp_path / "one", key="k")
    assert all(torch.equal(rest[name], whole[name]) for name in whole)
    for point, other in zip(state.curve, expected.curve, strict=True):
        assert {**point, "seconds": 0} == {**other, "seconds": 0}


def test_units_of_sharding_are_the_blocks() -> None:
    """`shard_units` names the transformer's blocks in order."""
    own = on_stripes()
    assert isinstance(own.model, Transformer)
    units: list[nn.Module] = own.shard_units(own.model)
    assert len(units) == 2
    assert all(a is b for a, b in zip(units, own.model.layers, strict=True))


@pytest.mark.parametrize(
    ("data", "changes", "message"),
    [
        (numbered(), {"batch": 41}, "batch 41 is larger than 40 training images"),
        (
            numbered(),
            {"batch": 8, "validation": 33},
            "batch 8 is larger than 7 training images",
        ),
        (
            ToyCodes(np.full((9, 1, 4), 40), np.zeros(9, np.int64), 3),
            {"batch": 8},
            "codes go up to 40; expected 0 to 39, the model's codebook of 40",
        ),
        (
            patterned(),
            {"batch": 8},
            "16 tokens an image; expected 4, the model's grid of 2x2",
        ),
        (
            ToyCodes(np.zeros((9, 1, 4), np.int64), np.arange(9) % 4, 4),
            {"batch": 8},
            "codes have 4 classes; expected at most 3, the model's",
        ),
    ],
)
def test_codes_that_do_not_fit_are_one_line(
    data: ToyCodes, changes: dict[str, int], message: str
) -> None:
    """Before anything is trained, one line names both numbers."""
    with pytest.raises(UserError, match=message):
        CodesObjective(transformer(grid=2, vocab=40), data, **changes)
