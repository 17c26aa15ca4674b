"""The training loop: exact resume, preemption, snapshots, several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewstep import noise
from fewstep.errors import UserError
from fewstep.initial import InitialState
from fewstep.training import PreemptedError, TrainOptions, train

OPTIONS = TrainOptions(
    steps=8, batch=4, lr=0.1, warmup_steps=2, save_every=2, log_every=2, ema=0.9
)


class Line:
    """Fits y = 2x with one weight; batches are keyed by (step, position)."""

    def __init__(self, stop_at: int | None = None, broken: bool = False) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = nn.Linear(1, 1)
        self.stop_at, self.broken = stop_at, broken

    def batch(self, step: int, start: int, stop: int) -> Tensor:
        draws = range(step * 4 + start, step * 4 + stop)
        return torch.from_numpy(noise.normal(0, "x", draws, (1,)))

    def loss(self, model: nn.Module, batch: Any, device: torch.device) -> Tensor:
        if self.stop_at is not None:
            self.stop_at -= 1
            if self.stop_at == 0:
                os.kill(os.getpid(), signal.SIGTERM)
        loss: Tensor = (model(batch) - 2 * batch).square().mean()
        return loss * float("nan") if self.broken else loss

    def validate(self, model: nn.Module, device: torch.device) -> float | None:
        return float((model(torch.ones(1, 1)) - 2).abs())


class Wet(Line):
    """The same with a hidden layer and dropout."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        layers = nn.Linear(1, 8), nn.Dropout(0.5), nn.Linear(8, 1)
        self.model = nn.Sequential(*layers)


WET = replace(OPTIONS, ema_warmup=True, count_offset=1, accumulate=2, grad_clip=1.0)


def vector(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def weights(folder: Path, options: TrainOptions = OPTIONS, **kwargs: Any) -> Tensor:
    """Train and return all kept weights as one vector."""
    return vector(train(Line(**kwargs), options, folder, key="k")[0])


def test_resume_is_exact(tmp_path: Path) -> None:
    """A run in two halves ends with the bits of a run in one."""
    expected = weights(tmp_path / "one")
    with pytest.raises(Exception, match="stopped at step 3"):
        weights(tmp_path / "two", stop_at=3)
    assert torch.equal(weights(tmp_path / "two"), expected)


def killed(folder: Path, program: str) -> None:
    """Run a program that kills itself; it finds what this module imports, `folder`."""
    text = (
        "import os, signal; from pathlib import Path\n"
        "from tests.test_training import *\n"
        f"folder = Path({str(folder)!r})\n{program}"
    )
    root = str(Path(__file__).parents[1])
    child = subprocess.run([sys.executable, "-c", text], cwd=root, check=False)
    assert child.returncode == -signal.SIGKILL
    assert (folder / "last.pt").exists()


def test_kill_9_loses_at_most_a_checkpoint(tmp_path: Path) -> None:
    """A killed run goes on from its last checkpoint to the same bits.

    The recipe has dropout, a warm-up of the average, micro-batches and clipping.
    """
    killed(
        tmp_path / "run",
        "class Killed(Wet):\n"
        "    def batch(self, step, start, stop):\n"
        "        if step == 6: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return super().batch(step, start, stop)\n"
        "train(Killed(), WET, folder, key='k')\n",
    )
    step = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["step"]
    assert 0 < step < 6
    resumed, state = train(Wet(), WET, tmp_path / "run", key="k")
    whole, expected = train(Wet(), WET, tmp_path / "one", key="k")
    assert torch.equal(vector(resumed), vector(whole))
    for point, other in zip(state.curve, expected.curve, strict=True):
        assert {**point, "seconds": 0} == {**other, "seconds": 0}


def test_dropout_draws_anew_in_every_step_and_micro_batch(tmp_path: Path) -> None:
    """Masks differ between steps and micro-batches; the caller's draws stay his."""

    class Listening(Line):
        def __init__(self) -> None:
            super().__init__()
            self.drawn: list[float] = []

        def loss(self, model: nn.Module, batch: Any, device: torch.device) -> Tensor:
            assert len(batch) == 2
            self.drawn.append(float(torch.rand(1)))
            return super().loss(model, batch, device)

    objective = Listening()
    before = torch.get_rng_state()
    train(objective, replace(OPTIONS, accumulate=2), tmp_path, key="k")
    assert len(set(objective.drawn)) == len(objective.drawn) == 16
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches_train_the_same_model(tmp_path: Path, parts: int) -> None:
    """A batch in several parts gives its weights and curve, to rounding."""
    options = replace(OPTIONS, grad_clip=0.5)
    whole, state = train(Line(), options, tmp_path / "one", key="k")
    options = replace(options, accumulate=parts)
    cut, other = train(Line(), options, tmp_path / "cut", key="k")
    torch.testing.assert_close(vector(cut), vector(whole), rtol=1e-5, atol=1e-6)
    for point, expected in zip(other.curve, state.curve, strict=True):
        for name in ("loss", "grad_norm", "validation_loss"):
            assert point[name] == pytest.approx(expected[name], rel=1e-4)


def test_micro_batches_that_do_not_divide_are_one_line(tmp_path: Path) -> None:
    """A share of the batch that cannot be cut names both keys."""
    with pytest.raises(UserError, match=r"4 examples.*3 micro.*train\.accumulate"):
        weights(tmp_path, replace(OPTIONS, accumulate=3))


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    """Training again with everything done gives the same weights and curve."""
    first, state = train(Line(), OPTIONS, tmp_path, key="k")
    again, same = train(Line(broken=True), OPTIONS, tmp_path, key="k")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert same.curve == state.curve and same.step == 8


def test_another_run_s_checkpoint_is_not_used(tmp_path: Path) -> None:
    """A checkpoint of another key is ignored."""
    train(Line(), replace(OPTIONS, lr=0.5), tmp_path, key="other")
    assert torch.equal(weights(tmp_path), weights(tmp_path / "fresh"))


def test_a_broken_checkpoint_is_one_line(tmp_path: Path) -> None:
    """A checkpoint that cannot be read names the file."""
    (tmp_path / "last.pt").write_bytes(b"no")
    with pytest.raises(UserError, match=r"last\.pt.*cannot be read"):
        weights(tmp_path)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    """NaN in the loss stops with one line instead of training on."""
    with pytest.raises(UserError, match="the loss is nan at step 2"):
        weights(tmp_path, broken=True)


def test_averaged_weights_are_kept(tmp_path: Path) -> None:
    """With EMA the kept weights are the average, not the last ones."""
    averaged = weights(tmp_path / "a")
    last = weights(tmp_path / "b", replace(OPTIONS, ema=0.0))
    assert not torch.equal(averaged, last)


def test_curve_has_loss_rate_and_held_out_loss(tmp_path: Path) -> None:
    """A point every log_every steps; training lowers the loss."""
    _, state = train(Line(), replace(OPTIONS, steps=40), tmp_path, key="k")
    assert [point["step"] for point in state.curve] == list(range(2, 41, 2))
    assert state.curve[-1]["validation_loss"] < state.curve[0]["validation_loss"]


def test_curve_counts_images_and_shows_the_norm_before_clipping(tmp_path: Path) -> None:
    """`images` is steps times batch; `grad_norm` is above the clip, and not without."""
    options = replace(OPTIONS, grad_clip=1e-3)
    curve = train(Line(), options, tmp_path / "a", key="k")[1].curve
    assert [point["images"] for point in curve] == [8, 16, 24, 32]
    line = Line()  # the first step's gradient by hand
    line.loss(line.model, line.batch(0, 0, 4), torch.device("cpu")).backward()
    first = train(Line(), replace(options, log_every=1), tmp_path / "b", key="k")[1]
    grads = [parameter.grad for parameter in line.model.parameters()]
    norm = float(
        torch.cat([grad.flatten() for grad in grads if grad is not None]).norm()
    )
    assert first.curve[0]["grad_norm"] == pytest.approx(norm) and norm > 1e-3
    assert (
        "grad_norm" not in train(Line(), OPTIONS, tmp_path / "c", key="k")[1].curve[0]
    )


def test_a_run_starts_from_a_given_average(tmp_path: Path) -> None:
    """One step moves a given average by 1 - ema of its way to the weights."""
    options = replace(OPTIONS, steps=1)
    given = {name: v.detach() + 1 for name, v in Line().model.state_dict().items()}
    initial = InitialState(ema=given)
    kept, _ = train(Line(), options, tmp_path / "a", key="k", initial=initial)
    last = train(Line(), replace(options, ema=0.0), tmp_path / "b", key="k")[0]
    expected = 0.9 * vector(given) + 0.1 * vector(last)
    torch.testing.assert_close(vector(kept), expected)


def test_a_resume_wins_over_an_initial_state(tmp_path: Path) -> None:
    """The rest of a stopped run ignores where it once started from."""
    given = {name: torch.ones_like(v) for name, v in Line().model.state_dict().items()}
    initial = InitialState(ema=given, exp_avg=given, exp_avg_sq=given)
    whole, _ = train(Line(), OPTIONS, tmp_path / "one", key="k", initial=initial)
    with pytest.raises(PreemptedError):
        train(Line(stop_at=3), OPTIONS, tmp_path / "two", key="k", initial=initial)
    rest, _ = train(Line(), OPTIONS, tmp_path / "two", key="k", initial=InitialState())
    assert torch.equal(vector(rest), vector(whole))


class Scores:
    """An `on_snapshot` that notes its calls."""

    def __init__(self) -> None:
        self.seen: dict[int, Tensor] = {}

    def __call__(self, step: int, tensors: dict[str, Tensor]) -> dict[str, float]:
        assert step not in self.seen
        self.seen[step] = vector(tensors)
        for tensor in tensors.values():
            tensor.zero_()  # a copy: what happens to it is nobody's business
        return {"fid": 100.0 - step}


SNAPSHOTS = replace(OPTIONS, snapshot_every=3, log_every=4)


def test_snapshots_are_scored_on_the_way(tmp_path: Path) -> None:
    """Every snapshot_every steps the weights to keep are scored into the curve."""
    scores = Scores()
    train(Line(), SNAPSHOTS, tmp_path / "a", key="k", on_snapshot=scores)
    _, state = train(Line(), SNAPSHOTS, tmp_path / "a", key="k", on_snapshot=Scores())
    points = [(point["step"], point.get("fid")) for point in state.curve]
    assert points == [(3, 97.0), (4, None), (6, 94.0), (8, None)]
    short = replace(OPTIONS, steps=3, min_lr=OPTIONS.lr)
    constant = replace(SNAPSHOTS, min_lr=OPTIONS.lr)
    again = Scores()
    train(Line(), constant, tmp_path / "b", key="k", on_snapshot=again)
    assert torch.equal(again.seen[3], weights(tmp_path / "c", short))
    plain = weights(tmp_path / "d", replace(SNAPSHOTS, snapshot_every=0))
    kept, _ = train(Line(), SNAPSHOTS, tmp_path / "a", key="k")
    assert torch.equal(vector(kept), plain)


def test_snapshots_are_neither_repeated_nor_forgotten(tmp_path: Path) -> None:
    """A stop at a snapshot's step puts it off; a resume calls what was not called."""
    early, late = Scores(), Scores()
    with pytest.raises(PreemptedError, match="step 6"):
        train(Line(stop_at=6), SNAPSHOTS, tmp_path, key="k", on_snapshot=early)
    _, state = train(Line(), SNAPSHOTS, tmp_path, key="k", on_snapshot=late)
    assert (set(early.seen), set(late.seen)) == ({3}, {6})
    assert [point.get("fid") for point in state.curve] == [97.0, None, 94.0, None]


def test_the_snapshot_of_the_last_step_is_not_repeated(tmp_path: Path) -> None:
    """A run that ends with a snapshot has saved that it was taken."""
    options, scores = replace(SNAPSHOTS, steps=6), Scores()
    for _ in range(2):
        train(Line(), options, tmp_path, key="k", on_snapshot=scores)
    assert list(scores.seen) == [3, 6]


@pytest.mark.parametrize("step", [3, 6])
def test_kill_9_in_a_snapshot_repeats_it(tmp_path: Path, step: int) -> None:
    """What a killed snapshot did is done again, in a run that ends with the same bits.

    Step 6 is one of a checkpoint; step 3 is saved for the snapshot alone.
    """
    killed(
        tmp_path / "run",
        "def score(step, tensors):\n"
        f"    if step == {step}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "train(Line(), SNAPSHOTS, folder, key='k', on_snapshot=score)\n",
    )
    scores = Scores()
    kept, _ = train(Line(), SNAPSHOTS, tmp_path / "run", key="k", on_snapshot=scores)
    assert list(scores.seen) == [3, 6][step // 6 :]
    assert torch.equal(vector(kept), weights(tmp_path / "one", SNAPSHOTS))


def test_snapshots_asked_for_later_leave_other_points_alone(tmp_path: Path) -> None:
    """A run saved before snapshots were wanted gets none for the steps behind it."""
    options = replace(SNAPSHOTS, snapshot_every=0)
    with pytest.raises(PreemptedError, match="step 6"):
        train(Line(stop_at=6), options, tmp_path, key="k")
    options = replace(SNAPSHOTS, snapshot_every=2)
    _, state = train(Line(), options, tmp_path, key="k", on_snapshot=Scores())
    points = [(point["step"], point.get("fid")) for point in state.curve]
    assert points == [(4, None), (8, 92.0)]


def test_snapshots_do_not_count_as_training_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that moves in snapshots alone, training takes no time."""
    from fewstep import training

    clock = [5.0]
    monkeypatch.setattr(training.time, "monotonic", lambda: clock[0])

    def slow(step: int, tensors: dict[str, Tensor]) -> None:
        clock[0] += 1000

    _, state = train(Line(), SNAPSHOTS, tmp_path, key="k", on_snapshot=slow)
    assert clock[0] == 2005 and state.seconds == 0


def two_processes(folder: Path, program: str) -> str:
    """Run a program under torchrun in two processes; what they printed.

    The program finds `Line`, `OPTIONS`, `train`, `torch`, `os` and `folder`.
    """
    script = folder / "run.py"
    script.write_text(
        "import os, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "import torch; torch.set_num_threads(1); folder = Path(sys.argv[2])\n"
        "from tests.test_training import Line, OPTIONS, train\n"
        + program
        + "torch.distributed.destroy_process_group()\n"
    )
    root = str(Path(__file__).parents[1])
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [sys.executable, *launch, str(script), root, str(folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_two_processes_train_the_same_model(tmp_path: Path) -> None:
    """torchrun with two processes ends with one process's weights, to rounding.

    Also with micro-batches and clipping; the first process alone takes snapshots.
    """
    two_processes(
        tmp_path,
        "from dataclasses import replace\n"
        "from tests.test_training import SNAPSHOTS, Scores\n"
        "scores = Scores()\n"
        "cut = replace(SNAPSHOTS, accumulate=2, grad_clip=0.5)\n"
        "all = train(Line(), OPTIONS, folder / 'a', key='k')[0]\n"
        "parts = train(Line(), cut, folder / 'b', key='k', on_snapshot=scores)[0]\n"
        "assert list(scores.seen) == ([] if torch.distributed.get_rank() else [3, 6])\n"
        "if torch.distributed.get_rank() == 0:\n"
        "    torch.save([all, parts], folder / 'weights.pt')\n",
    )
    both = torch.load(tmp_path / "weights.pt", weights_only=True)
    clipped = replace(OPTIONS, grad_clip=0.5)
    for number, (tensors, options) in enumerate(
        zip(both, (OPTIONS, clipped), strict=True)
    ):
        one = weights(tmp_path / f"one{number}", options)
        torch.testing.assert_close(vector(tensors), one, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_and_saves(tmp_path: Path) -> None:
    """When one of two processes is told to stop, both leave after the same step."""
    printed = two_processes(
        tmp_path,
        "from fewstep.training import PreemptedError\n"
        "line = Line(stop_at=3 if os.environ['RANK'] == '1' else None)\n"
        "try:\n"
        "    train(line, OPTIONS, folder, key='k')\n"
        "except PreemptedError as error:\n"
        "    print(error, flush=True)\n",
    )
    assert printed.count("stopped at step 3") == 2
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    assert content["step"] == 3


def test_a_batch_that_does_not_divide_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch must be a multiple of the number of processes."""
    from fewstep import training

    monkeypatch.setattr(training, "join_group", lambda device: (0, 3))
    with pytest.raises(UserError, match="4 is not divisible by 3"):
        weights(tmp_path)
