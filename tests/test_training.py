"""The training loop: schedule, exact resume, preemption, several processes."""

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
from fewstep.training import TrainOptions, learning_rate, train

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


def weights(folder: Path, options: TrainOptions = OPTIONS, **kwargs: Any) -> Tensor:
    """Train and return all kept weights as one vector."""
    tensors, _ = train(Line(**kwargs), options, folder, key="k")
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def test_learning_rate_warms_up_and_cools_down() -> None:
    """Linear from start_lr to lr, then a cosine to min_lr."""
    options = replace(OPTIONS, steps=12, start_lr=0.0, min_lr=0.01)
    rates = [learning_rate(step, options) for step in range(13)]
    assert rates[0] == 0 and rates[1] == pytest.approx(0.05)
    assert rates[2] == pytest.approx(0.1) == max(rates)
    assert rates[7] == pytest.approx(0.055)
    assert rates[12] == pytest.approx(0.01)


def test_resume_is_exact(tmp_path: Path) -> None:
    """A run in two halves ends with the bits of a run in one."""
    expected = weights(tmp_path / "one")
    with pytest.raises(Exception, match="stopped at step 3"):
        weights(tmp_path / "two", stop_at=3)
    assert torch.equal(weights(tmp_path / "two"), expected)


def test_kill_9_loses_at_most_a_checkpoint(tmp_path: Path) -> None:
    """A killed run goes on from its last checkpoint to the same bits."""
    program = (
        "import os, signal; from pathlib import Path\n"
        "from tests.test_training import Line, OPTIONS, train\n"
        "class Killed(Line):\n"
        "    def batch(self, step, start, stop):\n"
        "        if step == 6: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return super().batch(step, start, stop)\n"
        f"train(Killed(), OPTIONS, Path({str(tmp_path)!r}) / 'run', key='k')\n"
    )
    root = str(Path(__file__).parents[1])
    child = subprocess.run([sys.executable, "-c", program], cwd=root, check=False)
    assert child.returncode == -signal.SIGKILL
    assert (tmp_path / "run" / "last.pt").exists()
    resumed = weights(tmp_path / "run")
    assert torch.equal(resumed, weights(tmp_path / "one"))


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
    """torchrun with two processes ends with one process's weights, to rounding."""
    two_processes(
        tmp_path,
        "tensors, _ = train(Line(), OPTIONS, folder, key='k')\n"
        "if torch.distributed.get_rank() == 0:\n"
        "    torch.save(tensors, folder / 'weights.pt')\n",
    )
    tensors = torch.load(tmp_path / "weights.pt", weights_only=True)
    both = torch.cat([tensor.flatten() for tensor in tensors.values()])
    torch.testing.assert_close(both, weights(tmp_path / "one"), rtol=1e-5, atol=1e-6)


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

    monkeypatch.setattr(training, "_join_group", lambda device: (0, 3))
    with pytest.raises(UserError, match="4 is not divisible by 3"):
        weights(tmp_path)
