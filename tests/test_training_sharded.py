"""Sharded parameters: the same training, the same checkpoints, in two processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewstep.device.backends import cpu_has_bf16
from fewstep.initial import InitialState
from fewstep.par.objective import CodeBatch, CodesObjective
from fewstep.training import PreemptedError, TrainOptions, closing_group, train
from tests.par.toy import patterned, transformer

OPTIONS = TrainOptions(
    steps=6,
    batch=8,
    lr=1e-3,
    weight_decay=0.05,
    decay="matrices",
    grad_clip=0.5,
    ema=0.5,
    accumulate=2,
    save_every=2,
    log_every=2,
    sharded=True,
)
WET = {"dropout": 0.2, "token_dropout": 0.1, "drop_path": 0.1, "recompute": True}


class Stripes(CodesObjective):
    """Codes of stripes; says how its run shall end, and in which step."""

    def __init__(self, stop_at: int | None = None, **model: Any) -> None:
        data = patterned(80)
        super().__init__(
            transformer(ar_token_num=4, **model), data, batch=8, validation=8
        )
        self.stop_at, self.lost_at, self.calls = stop_at, -1, 0

    def batch(self, step: int, start: int, stop: int) -> CodeBatch:
        if step == self.lost_at:
            raise KeyboardInterrupt  # nothing is saved on the way out
        return super().batch(step, start, stop)

    def loss(self, model: nn.Module, batch: CodeBatch, device: torch.device) -> Tensor:
        self.calls += 1
        if self.calls == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().loss(model, batch, device)


def initial() -> InitialState:
    """An average and moments, all numbers different."""
    count, state = 0, {}
    for name, value in transformer(ar_token_num=4).state_dict().items():
        numbers = torch.arange(count, count + value.numel()) % 97 + 1
        state[name], count = numbers.view_as(value) * 1e-3, count + value.numel()
    return InitialState(ema=state, exp_avg=state, exp_avg_sq=state, adam_count=5)


def go(
    folder: Path, objective: Stripes | None = None, **changes: Any
) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Train in a folder; weights to keep and curve."""
    start = changes.pop("initial", None)
    tensors, state = train(
        objective or Stripes(),
        replace(OPTIONS, **changes),
        folder,
        key="k",
        initial=start,
        on_snapshot=changes.pop("on_snapshot", None),
    )
    return tensors, state.curve


def work(folder: Path) -> None:
    """What two processes do in one launch; the first writes `results.pt`."""
    rank = int(os.environ["RANK"])
    found: dict[str, Any] = {}
    found["sharded"] = go(folder / "sharded")
    found["parallel"] = go(folder / "parallel", sharded=False)
    found["initial"] = go(folder / "initial", initial=initial())
    half = Stripes()
    attention = half.model.get_submodule("layers.0.attention")
    types: set[tuple[str, ...]] = set()

    def listen(module: nn.Module, args: tuple[Any, ...]) -> None:
        tensors = module.get_parameter("wqkv.weight"), args[0], args[1]
        types.add(tuple(str(tensor.dtype) for tensor in tensors))

    attention.register_forward_pre_hook(listen)
    found["bf16"] = go(folder / "bf16", half, precision="bf16")
    found["types"] = [list(one) for one in types]
    found["bf16 parallel"] = go(folder / "bf16p", precision="bf16", sharded=False)
    found["wet"] = go(folder / "wet", Stripes(**WET))
    found["wet parallel"] = go(folder / "wet p", Stripes(**WET), sharded=False)
    for name, model in (("stopped", WET), ("begun by two", {})):
        with pytest.raises(PreemptedError, match="step 3"):
            # The second process alone is told.
            go(folder / name, Stripes(stop_at=5 if rank else None, **model))
    found["stopped"] = go(folder / "stopped", Stripes(**WET))
    lost = Stripes(**WET)
    lost.lost_at = 5
    with pytest.raises(KeyboardInterrupt):
        go(folder / "lost", lost)
    found["lost"] = go(folder / "lost", Stripes(**WET))
    found["begun alone"] = go(folder / "begun alone")
    seen: dict[int, dict[str, Tensor]] = {}
    options = replace(OPTIONS, snapshot_every=3)
    kept, _ = train(
        Stripes(), options, folder / "seen", key="k", on_snapshot=seen.__setitem__
    )
    assert (list(seen), bool(kept)) == (([], False) if rank else ([3, 6], True))
    found["seen"] = (seen, [])
    with closing_group() as first:
        if first:
            torch.save(found, folder / "results.pt")


def launch(folder: Path) -> None:
    """Let two processes under torchrun do their work."""
    script = folder / "run.py"
    script.write_text(
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "import torch; torch.set_num_threads(1)\n"
        "from tests.test_training_sharded import work\n"
        "work(Path(sys.argv[2]))\n"
    )
    root = str(Path(__file__).parents[1])
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [sys.executable, *run, str(script), root, str(folder)]
    child = subprocess.run(command, check=False, capture_output=True, text=True)
    assert child.returncode == 0 and "Warning" not in child.stderr, child.stderr


@dataclass
class Runs:
    """What two processes found, and the folder of their runs."""

    folder: Path
    found: dict[str, Any]

    def weights(self, name: str) -> Tensor:
        return vector(self.found[name][0])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """All runs of two processes, in one launch."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.raises(PreemptedError):
        go(folder / "begun alone", Stripes(stop_at=5))
    launch(folder)
    return Runs(folder, torch.load(folder / "results.pt", weights_only=True))


def vector(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def close(one: Tensor, other: Tensor, atol: float = 1e-6) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=atol)


def same_curve(
    one: list[dict[str, float]], other: list[dict[str, float]], rel: float = 1e-5
) -> None:
    for point, expected in zip(one, other, strict=True):
        for name in ("step", "loss", "validation_loss", "grad_norm"):
            assert point[name] == pytest.approx(expected[name], rel=rel), name


@pytest.mark.slow
def test_sharded_is_parallel_is_alone(runs: Runs, tmp_path: Path) -> None:
    """Weights and curves of all three ways to train are equal, to rounding."""
    alone, curve = go(tmp_path)
    for name in ("sharded", "parallel"):
        close(runs.weights(name), vector(alone))
        same_curve(runs.found[name][1], curve)
    before = vector(transformer(ar_token_num=4).state_dict())
    assert float((vector(alone) - before).abs().max()) > 1e-3  # it did train


@pytest.mark.slow
def test_sharded_starts_from_given_averages_and_moments(
    runs: Runs, tmp_path: Path
) -> None:
    """Every process takes its share of what a run starts from."""
    alone, _ = go(tmp_path, initial=initial())
    close(runs.weights("initial"), vector(alone))
    assert not torch.allclose(runs.weights("initial"), runs.weights("sharded"))


@pytest.mark.slow
def test_dropouts_are_those_of_parallel_training(runs: Runs) -> None:
    """With dropouts and recomputed blocks sharded is parallel, to rounding."""
    close(runs.weights("wet"), runs.weights("wet parallel"))
    same_curve(runs.found["wet"][1], runs.found["wet parallel"][1])
    assert not torch.allclose(runs.weights("wet"), runs.weights("sharded"))


@pytest.mark.slow
def test_bf16_is_that_of_parallel_training(runs: Runs) -> None:
    """Blocks gathered in bf16 train like autocast ones, to bf16's rounding.

    A block's weights are bf16, where the processor has it; its input and the table of
    angles are not.
    """
    half = "torch.bfloat16" if cpu_has_bf16() else "torch.float32"
    assert runs.found["types"] == [[half, "torch.float32", "torch.float32"]]
    one, other = runs.found["bf16"][1], runs.found["bf16 parallel"][1]
    for point, expected in zip(one, other, strict=True):
        for name in ("loss", "validation_loss"):
            assert point[name] == pytest.approx(expected[name], abs=1e-4)
    assert {tensor.dtype for tensor in runs.found["bf16"][0].values()} == {
        torch.float32
    }


@pytest.mark.slow
def test_a_sharded_run_resumes_to_the_same_bits(runs: Runs) -> None:
    """A sharded run that is stopped, or lost, ends as if it never had been."""
    for name in ("stopped", "lost"):
        assert torch.equal(runs.weights(name), runs.weights("wet")), name
        for point, other in zip(runs.found[name][1], runs.found["wet"][1], strict=True):
            assert {**point, "seconds": 0} == {**other, "seconds": 0}


@pytest.mark.slow
def test_a_sharded_checkpoint_is_an_ordinary_one(runs: Runs, tmp_path: Path) -> None:
    """Names, shapes and types in the file are those of a run that is not sharded."""
    go(tmp_path)

    def outline(value: Any) -> Any:
        if isinstance(value, Tensor):
            assert value.untyped_storage().nbytes() == value.nbytes
            return type(value), tuple(value.shape), value.dtype, value.device
        if isinstance(value, dict):
            items = {k: v for k, v in value.items() if k not in ("foreach", "curve")}
            return {name: outline(one) for name, one in items.items()}
        if isinstance(value, list):
            return [outline(one) for one in value]
        return value if isinstance(value, str) else type(value)

    files = (tmp_path / "last.pt", runs.folder / "sharded" / "last.pt")
    one, other = (torch.load(file, weights_only=True) for file in files)
    assert outline(one) == outline(other)


@pytest.mark.slow
def test_a_run_changes_between_sharded_and_not(runs: Runs) -> None:
    """One process ends what two began sharded; two end sharded what one began."""
    close(runs.weights("begun alone"), runs.weights("sharded"))
    tensors, curve = go(runs.folder / "begun by two")
    close(vector(tensors), runs.weights("sharded"))
    same_curve(curve, runs.found["sharded"][1])


@pytest.mark.slow
def test_snapshots_of_a_sharded_run_are_whole(runs: Runs) -> None:
    """`on_snapshot` gets whole weights, the last ones those that are kept."""
    seen, _ = runs.found["seen"]
    assert torch.equal(vector(seen[6]), runs.weights("sharded"))
    assert not torch.equal(vector(seen[3]), vector(seen[6]))


def test_one_process_has_nothing_to_share(tmp_path: Path) -> None:
    """`sharded` changes nothing, to the bit, in a run of one process."""
    one, other = go(tmp_path / "a"), go(tmp_path / "b", sharded=False)
    assert torch.equal(vector(one[0]), vector(other[0]))
