"""Shards: whole or not at all, the same whatever happens on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fewstep import files, noise, samples, sampling
from fewstep.codedigest import closure
from fewstep.errors import UserError
from fewstep.estimate import sampling_memory
from fewstep.images import resize_bicubic, to_uint8
from fewstep.processes import PreemptedError
from fewstep.samples import draw_samples, read_images
from fewstep.sampling import Draw, SampleOptions
from fewstep.stages import fitting
from fewstep.tarflow.strategy import Strategy

OPTIONS = SampleOptions(seed=3, start=0, stop=10, batch=4, shard=3, num_classes=5)


class Painter:
    """A sampler whose image is its own noise; chosen samples are NaN at first."""

    device = torch.device("cpu")

    def __init__(self, bad: dict[int, int] | None = None, limit: int = 99) -> None:
        self.bad, self.limit, self.drawn = bad or {}, limit, 0
        self.refused = 0

    def inputs(
        self,
        seed: int,
        indices: list[int],
        labels: Any,
        attempt: int = 0,
        purpose: str = "noise",
    ) -> tuple[list[int], Tensor, int]:
        x = torch.from_numpy(noise.normal(seed, purpose, indices, (3, 4, 4), attempt))
        return indices, x / 4 + torch.from_numpy(labels).view(-1, 1, 1, 1) / 10, attempt

    def draw(self, inputs: tuple[list[int], Tensor, int]) -> Draw:
        indices, x, attempt = inputs
        if len(indices) > self.limit:
            self.refused += 1
            raise torch.OutOfMemoryError
        self.drawn += len(indices)
        for row, index in enumerate(indices):
            if attempt < self.bad.get(index, 0):
                x[row, 0, 0, 0] = float("nan")
        return Draw(x, steps=7, iterations=2.0)

    def finish(self, images: Tensor, inputs: Any) -> Tensor:
        return images


def drawn(path: Path) -> np.ndarray:
    """All samples behind a manifest."""
    return np.concatenate(list(read_images(path)))


def draw(path: Path, options: SampleOptions = OPTIONS, **kwargs: Any) -> np.ndarray:
    """Draw and read back."""
    draw_samples(
        kwargs.pop("sampler", Painter()), options, path, key="k" * 64, **kwargs
    )
    return drawn(path)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(batch=st.integers(1, 12), shard=st.integers(1, 12))
def test_batch_and_shard_size_do_not_change_samples(
    tmp_path_factory: pytest.TempPathFactory, batch: int, shard: int
) -> None:
    """Any batch and shard size give the same bytes."""
    expected = draw(tmp_path_factory.mktemp("a") / "samples.json")
    options = replace(OPTIONS, batch=batch, shard=shard)
    found = draw(tmp_path_factory.mktemp("b") / "samples.json", options)
    assert np.array_equal(found, expected)


def test_parts_of_a_run_are_the_run(tmp_path: Path) -> None:
    """Jobs that draw a range each give together what one job gives."""
    whole = draw(tmp_path / "whole.json")
    first = draw(tmp_path / "first.json", replace(OPTIONS, stop=6))
    second = draw(tmp_path / "second.json", replace(OPTIONS, start=6))
    assert np.array_equal(np.concatenate([first, second]), whole)


def test_a_whole_shard_is_not_drawn_again(tmp_path: Path) -> None:
    """A resumed job draws only what is missing, and ends with the same bytes."""
    path = tmp_path / "samples.json"
    expected = draw(path)
    manifest = samples.read_manifest(path)
    path.unlink()
    for shard in manifest.shards[2:]:
        (tmp_path / shard["file"]).with_suffix(".json").unlink()
    sampler = Painter()
    assert np.array_equal(draw(path, sampler=sampler), expected)
    assert sampler.drawn == 4  # shards of 3 and 1


def test_another_key_draws_anew_and_removes_the_old(tmp_path: Path) -> None:
    """Shards of a changed checkpoint or plan are never mixed with new ones."""
    path = tmp_path / "samples.json"
    draw(path)
    sampler = Painter()
    draw_samples(sampler, OPTIONS, path, key="n" * 64)
    assert sampler.drawn == 10
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == [
        "samples-nnnnnnnnnnnn"
    ]


def test_kill_9_and_again_gives_the_same_bytes(tmp_path: Path) -> None:
    """A job killed between two shards resumes to the same bits."""
    program = (
        "import sys, time; from pathlib import Path\n"
        "from fewstep.samples import draw_samples\n"
        "from tests.test_sampling import OPTIONS, Painter\n"
        "class Slow(Painter):\n"
        "    def draw(self, inputs):\n"
        "        if self.drawn >= 6: print('ready', flush=True); time.sleep(60)\n"
        "        return super().draw(inputs)\n"
        f"draw_samples(Slow(), OPTIONS, Path({str(tmp_path)!r}) / 'samples.json',"
        " key='k' * 64)\n"
    )
    root = str(Path(__file__).parents[1])
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=root
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not (tmp_path / "samples.json").exists()
    sampler = Painter()
    resumed = draw(tmp_path / "samples.json", sampler=sampler)
    assert sampler.drawn == 4
    assert np.array_equal(resumed, draw(tmp_path / "other" / "samples.json"))


class Told(Painter):
    """A sampler whose process gets a signal while it draws the sample `when`."""

    def __init__(self, when: int, number: int = signal.SIGUSR2) -> None:
        super().__init__()
        self.when, self.number = when, number

    def draw(self, inputs: tuple[list[int], Tensor, int]) -> Draw:
        if self.when in inputs[0]:
            os.kill(os.getpid(), self.number)
        return super().draw(inputs)


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_stop_finishes_the_shard_in_flight(tmp_path: Path, number: int) -> None:
    """What is drawn is kept, and the resumed job draws the rest to the same bytes."""
    path = tmp_path / "samples.json"
    with pytest.raises(PreemptedError, match=r"^stopped after shard 2 of 4$"):
        draw(path, sampler=Told(4, number))
    assert not path.exists()
    assert sorted(p.name for p in tmp_path.glob("*/*.json")) == [
        "0000000.json",
        "0000003.json",
    ]
    sampler = Painter()
    resumed = draw(path, sampler=sampler)
    assert sampler.drawn == 4
    assert np.array_equal(resumed, draw(tmp_path / "other" / "samples.json"))


def test_a_stop_with_nothing_left_to_draw_is_the_end(tmp_path: Path) -> None:
    """In the last shard that is missing, the job finishes as if it had not come."""
    path = tmp_path / "samples.json"
    expected = draw(path, sampler=Told(9))
    path.unlink()
    second = next(tmp_path.glob("*/0000003.json"))
    second.unlink()
    assert np.array_equal(draw(path, sampler=Told(3)), expected)


STOPPED = """
import sys, time
from pathlib import Path
from fewstep import cli
from fewstep.samples import draw_samples
from tests.test_sampling import OPTIONS, Painter

class Slow(Painter):
    def draw(self, inputs):
        if self.drawn == 3:
            print("ready", flush=True)
            time.sleep(0.5)
        return super().draw(inputs)

def sample(**_):
    draw_samples(Slow(), OPTIONS, Path(sys.argv[1]) / "samples.json", key="k" * 64)

cli.app = sample
cli.main()
"""


def test_a_process_that_is_told_to_stop_asks_to_be_run_again(tmp_path: Path) -> None:
    """Exit status 75 and one line; run again, the shards have the undisturbed bits."""
    child = subprocess.Popen(
        [sys.executable, "-c", STOPPED, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=str(Path(__file__).parents[1]),
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGUSR2)
    _, printed = child.communicate()
    assert child.returncode == 75, printed
    assert printed.splitlines()[-1] == (
        "fewstep: stopped after shard 2 of 4; the same command goes on"
    )
    assert len(list(tmp_path.glob("*/*.npy"))) == 2
    resumed = draw(tmp_path / "samples.json")
    assert np.array_equal(resumed, draw(tmp_path / "other" / "samples.json"))


def test_nan_fails_by_default_and_says_which(tmp_path: Path) -> None:
    """Under `fail` a NaN ends the job with the samples' numbers, nothing is written."""
    with pytest.raises(UserError, match=r"samples 4.*redraw"):
        draw(tmp_path / "samples.json", sampler=Painter({4: 1}))
    assert not (tmp_path / "samples.json").exists()


def test_redraw_replaces_and_counts(tmp_path: Path) -> None:
    """Under `redraw` only the bad samples change, and every event is counted."""
    expected = draw(tmp_path / "a.json")
    options = replace(OPTIONS, nan_policy="redraw")
    found = draw(tmp_path / "b.json", options, sampler=Painter({4: 1, 7: 2}))
    same = [i for i in range(10) if i not in (4, 7)]
    assert np.array_equal(found[same], expected[same])
    assert not np.array_equal(found[4], expected[4])
    shards = samples.read_manifest(tmp_path / "b.json").shards
    assert sum(shard["nan_events"] for shard in shards) == 3
    assert sum(shard["redrawn"] for shard in shards) == 2


def test_redraws_are_limited(tmp_path: Path) -> None:
    """A sample that is always NaN ends the job after max_redraws."""
    options = replace(OPTIONS, nan_policy="redraw", max_redraws=2)
    with pytest.raises(UserError, match="not finite"):
        draw(tmp_path / "a.json", options, sampler=Painter({4: 99}))


def test_out_of_memory_halves_the_batch(tmp_path: Path) -> None:
    """A batch that does not fit is halved, recorded, and changes no sample."""
    expected = draw(tmp_path / "a.json")
    found = draw(
        tmp_path / "b.json",
        replace(OPTIONS, shard=10, batch=8),
        sampler=Painter(limit=3),
    )
    assert np.array_equal(found, expected)
    assert samples.read_manifest(tmp_path / "b.json").shards[0]["batch"] == 2


class FullInRedraw(Painter):
    """A sampler whose first redraw finds no memory."""

    def draw(self, inputs: tuple[list[int], Tensor, int]) -> Draw:
        if inputs[2] == 1 and not self.refused:
            self.refused += 1
            raise torch.OutOfMemoryError
        return super().draw(inputs)


def test_a_batch_that_is_drawn_once_more_is_counted_once(tmp_path: Path) -> None:
    """Full memory in a redraw halves the batch; the NaN before it is one event."""
    options = replace(OPTIONS, shard=10, batch=8, nan_policy="redraw")
    draw(tmp_path / "a.json", options, sampler=FullInRedraw({4: 1}))
    (shard,) = samples.read_manifest(tmp_path / "a.json").shards
    assert (shard["nan_events"], shard["redrawn"], shard["batch"]) == (1, 1, 4)


def test_the_batch_that_fitted_is_kept(tmp_path: Path) -> None:
    """Later shards start with the halved batch instead of failing anew."""
    sampler = Painter(limit=2)
    draw(tmp_path / "a.json", replace(OPTIONS, shard=4), sampler=sampler)
    assert sampler.refused == 1


def test_one_sample_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    """Out of memory at batch 1 is a UserError."""
    with pytest.raises(UserError, match="one sample does not fit"):
        draw(tmp_path / "a.json", sampler=Painter(limit=0))


def test_a_batch_that_decides_the_samples_is_never_halved(tmp_path: Path) -> None:
    """Where other batches would draw other samples, full memory ends the job."""
    options = replace(OPTIONS, shard=10, batch_decides=True)
    with pytest.raises(UserError, match="4 samples do not fit, and other batches draw"):
        draw(tmp_path / "a.json", options, sampler=Painter(limit=3))
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize(("mode", "batch"), [("exact", 4), ("released", 16)])
def test_the_batch_is_what_the_device_has_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, batch: int
) -> None:
    """Estimated before anything is drawn, and never where the batch decides samples."""
    size = {"img_size": 8, "patch_size": 2, "channels": 64, "num_classes": 0}
    model = {**size, "num_blocks": 2, "layers_per_block": 1}
    drawing = {"precision": "fp32", "guidance": 0.0, "self_denoise": 0.0}
    drawing |= {"batch": 16} if mode == "released" else {}
    spec = {"system": "tarflow", "model": model, "sampling": drawing}
    plan = {"strategy": Strategy.sequential(2, 16).to_dict(), "notation": "For"}
    files.write_json(tmp_path / "plan.json", plan)
    needed = sampling_memory("tarflow", model, {**spec, **plan}, 4, "fp32")
    monkeypatch.setattr(fitting, "free_memory", lambda device: int(1.2 * needed))
    assert fitting.fit_batch(spec, tmp_path / "plan.json", 16) == batch
    monkeypatch.setattr(fitting, "free_memory", lambda device: None)
    assert fitting.fit_batch(spec, tmp_path / "plan.json", 16) == 16


def test_an_estimate_is_no_part_of_what_decides_samples() -> None:
    """An edited estimate draws nothing anew: it is outside the stage's digest."""
    found = closure("fewstep.stages.sample", "fewstep.tarflow.sampler")
    assert not any(name.startswith("fewstep.estimate") for name in found)


@pytest.mark.parametrize("how", ["removed", "changed"])
def test_a_damaged_shard_is_noticed_and_drawn_again(tmp_path: Path, how: str) -> None:
    """A shard that is gone or altered is never scored; the advice given mends it."""
    path = tmp_path / "samples.json"
    expected = draw(path)
    shard = tmp_path / samples.read_manifest(path).shards[1]["file"]
    if how == "removed":
        shard.unlink()
    else:
        data = bytearray(shard.read_bytes())
        data[-1] ^= 1
        shard.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"not found|has changed") as caught:
        drawn(path)
    assert f"delete {path} and run again" in str(caught.value)
    path.unlink()
    assert np.array_equal(draw(path), expected)


def test_samples_are_resized_before_they_become_bytes(tmp_path: Path) -> None:
    """Bicubic on what was drawn, not on bytes; `clipped` counts what is written."""
    options = replace(OPTIONS, resize=2, rounding="half_up")
    found = draw(tmp_path / "a.json", options)
    painter = Painter()
    labels = sampling.sample_labels(OPTIONS, list(range(10)))
    whole = sampling.complete(painter, 3, list(range(10)), labels).images
    small = resize_bicubic(whole, 2)
    assert np.array_equal(found, to_uint8(small, "half_up").numpy())
    shards = samples.read_manifest(tmp_path / "a.json").shards
    clipped = sum(shard["clipped"] * shard["count"] for shard in shards) / 10
    assert clipped == pytest.approx(float((small.abs() > 1).float().mean()))
    assert samples.read_manifest(tmp_path / "a.json").options["resize"] == 2


def test_resized_samples_do_not_depend_on_batch_and_shard(tmp_path: Path) -> None:
    """Resizing is of each image by itself; NaN is found before it would spread."""
    options = replace(OPTIONS, resize=3, nan_policy="redraw")
    expected = draw(tmp_path / "a.json", options, sampler=Painter({4: 1}))
    other = replace(options, batch=1, shard=7)
    found = draw(tmp_path / "b.json", other, sampler=Painter({4: 1}))
    assert np.array_equal(found, expected)
    shards = samples.read_manifest(tmp_path / "b.json").shards
    assert sum(shard["nan_events"] for shard in shards) == 1


def test_a_foreign_manifest_is_refused(tmp_path: Path) -> None:
    """JSON of another kind is not taken for a manifest."""
    files.write_json(tmp_path / "samples.json", {"key": "x", "answer": 42})
    with pytest.raises(UserError, match="not a sample manifest"):
        samples.read_manifest(tmp_path / "samples.json")


def test_counts_are_means_over_samples(tmp_path: Path) -> None:
    """Steps, iterations and clipped share of a shard are per sample."""
    draw(tmp_path / "a.json")
    shard = samples.read_manifest(tmp_path / "a.json").shards[0]
    assert shard["steps"] == pytest.approx(7)
    assert shard["iterations"] == pytest.approx(2)
    assert 0 <= shard["clipped"] < 0.1
