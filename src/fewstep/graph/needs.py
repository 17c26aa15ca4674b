"""What jobs of every system are estimated to need: seconds, memory, disk."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from fewstep import estimate
from fewstep.config.data import InceptionSpec
from fewstep.config.par import ParExperiment
from fewstep.config.seqrf import SeqRFExperiment
from fewstep.config.spine import TrainSpec
from fewstep.config.tarflow import TarFlowExperiment
from fewstep.config.tree import Experiment
from fewstep.estimate import tarflow as tarflow_estimate
from fewstep.estimate.strategies import planned
from fewstep.estimate.time import seconds
from fewstep.estimate.training import (
    fitting_accumulation,
    micro_batch,
    training_memory,
    training_work,
)
from fewstep.estimate.work import Work
from fewstep.graph.base import Cell
from fewstep.graph.par import ParGraph
from fewstep.graph.seqrf import SeqRFGraph
from fewstep.graph.tarflow import TarFlowGraph

START = 60.0  # seconds until a stage has imported torch and found its device
READ = 0.3e9  # bytes a second from the file system
HOST = 8_000  # MB of a process that uses a GPU
INCEPTION = Work(11.4e9, 0.2e9, 2.0, "tf32")  # of one image, at 299 pixels
IMAGE = 4e-3  # seconds of the host for one image: bytes, hash, file
_UNKNOWN_IMAGES = 1_300_000  # of a folder whose number of images nobody gave


@dataclass(frozen=True)
class Need:
    """What one job is estimated to need.

    Attributes:
        seconds: of the whole job.
        gpus: GPUs that it uses all that time.
        memory: bytes on each of them, with the batch that is configured.
        host_mb: main memory of a node, MB.
        batch: samples, or examples a GPU, that fit the configured hardware; None: not
            even one; 0: nothing is drawn or trained.
        disk: bytes of what it writes.
    """

    seconds: float
    gpus: int = 0
    memory: int = 0
    host_mb: int = 4_000
    batch: int | None = 0
    disk: int = 0

    @property
    def gpu_hours(self) -> float:
        """Hours of one GPU."""
        return self.gpus * self.seconds / 3600


class NeedsGraph(TarFlowGraph, SeqRFGraph, ParGraph):
    """Estimates for the jobs that the systems share."""

    @property
    def free(self) -> int:
        """Bytes of the configured device."""
        return int(self.config.hardware.memory_gb * 1e9)

    def _time(self, works: list[Work]) -> float:
        return seconds(works, self.config.hardware)

    # ---- extractors ----

    def fetched_extractors(self) -> list[str]:
        """Extractors whose weights torch-fidelity fetches."""
        named = self.config.extractors.items()
        return [
            name
            for name, own in named
            if isinstance(own, InceptionSpec) and own.weights is None
        ]

    def extractor_files(self, reference: str) -> list[str]:
        """What makes sure that the extractor of a reference is there."""
        name = self.config.references[reference].extractor
        if name in self.fetched_extractors():
            return [f"results/extractors/{name}.json"]
        return self.extractor_inputs(reference)

    def reference_gpus(self, reference: str) -> int:
        """One, or none where statistics are only read; an .npz may hold images."""
        own = self.config.references[reference]
        if own.file is None or self.asset_path(own.file).endswith(".npz"):
            return 1
        return 0

    # ---- what the estimates are asked with ----

    def drawing(self, cell: Cell) -> dict[str, Any]:
        """Settings of `estimate.sampling_memory` and `sampling_work` for a cell."""
        own = self.experiments[cell[0]]
        found = {
            **own.loader(cell[1]),
            "sampling": own.sampling_of(cell[1]).resolved(),
        }
        if isinstance(own, TarFlowExperiment):
            chosen = own.samplers[cell[1]].resolved()
            found["strategy"] = planned(
                chosen["strategy"], chosen["guess"], found["model"]
            )
        if isinstance(own, ParExperiment):
            model = self.config.tokenizers[own.tokenizer].model.resolved()
            found["tokenizer"] = {"model": model}
        return found

    def drawn(self, cell: Cell, batch: int) -> tuple[int, float]:
        """Device bytes and seconds of one batch of a cell."""
        own, settings = self.experiments[cell[0]], self.drawing(cell)
        precision = settings["sampling"]["precision"]
        asked = (own.system, settings["model"], settings, batch, precision)
        memory = estimate.sampling_memory(*asked)
        return memory, self._time(estimate.sampling_work(*asked))

    def fitting(self, cell: Cell) -> int:
        """The batch that a cell is drawn with on the configured device."""
        own, settings = self.experiments[cell[0]], self.drawing(cell)
        precision = settings["sampling"]["precision"]
        batch, model = settings["sampling"]["batch"], settings["model"]
        asked = (own.system, model, settings, batch, precision, self.free)
        return estimate.fitting_batch(*asked)

    def _fits(self, memory: int) -> bool:
        return estimate.MARGIN * memory <= self.free

    def weights_bytes(self, experiment: str) -> int:
        """Bytes of model.safetensors: float32, with the buffers of a TarFlow."""
        own = self.experiments[experiment]
        model = own.model.resolved()
        if own.system == "tarflow":
            return tarflow_estimate.weights_memory(model)
        heads = own.segments if isinstance(own, SeqRFExperiment) else 1
        return 4 * estimate.parameters(own.system, model, heads)

    def _loading(self, experiment: str) -> tuple[float, int]:
        """Seconds until a model is on its device, and MB of the host for that."""
        size = self.weights_bytes(experiment)
        return START + size / READ, HOST + 2 * size // 10**6

    def _side(self, own: Experiment) -> int:
        """Pixels of a drawn image."""
        if isinstance(own, ParExperiment):
            tokenizer = self.config.tokenizers[own.tokenizer].model
            return int(own.model.grid * tokenizer.downsample)
        return int(own.model.img_size)

    # ---- samples, times, scores ----

    def sample_need(self, cell: Cell) -> Need:
        """All samples of one seed."""
        own, batch = self.experiments[cell[0]], self.fitting(cell)
        evaluation, draw = own.evaluation, own.sampling_of(cell[1])
        began, host = self._loading(cell[0])
        fitting_memory, a_batch = self.drawn(cell, batch)
        memory, _ = self.drawn(cell, draw.batch)
        side = evaluation.protocol.resize or self._side(own)
        image = 3 * side**2
        return Need(
            began + evaluation.n * (a_batch / batch + IMAGE),
            1,
            memory,
            host + 6 * image * min(draw.shard_size, evaluation.n) // 10**6,
            batch if self._fits(fitting_memory) else None,
            evaluation.n * image,
        )

    def score_need(self, cell: Cell) -> Need:
        """Features and scores of all seeds."""
        evaluation = self.experiments[cell[0]].evaluation
        images = evaluation.n * len(evaluation.seeds)
        taken = images * (IMAGE + self._time([INCEPTION]))
        # Neighbours of features, and the root of a matrix of 2,048 rows.
        taken += 600 * images / 50_000
        return Need(START + taken, 1, 4 * 10**9, HOST + 24_000 * images // 150_000)

    def timing_need(self, cell: Cell) -> Need:
        """A clock for one sampler beside its baseline."""
        return self._clock(cell[0], [cell[1]])

    def timing_together_need(self, experiment: str) -> Need:
        """One clock for all samplers of an experiment."""
        return self._clock(experiment, self.timed(experiment))

    def _clock(self, experiment: str, samplers: list[str]) -> Need:
        own, baseline = self.experiments[experiment], self.baseline(experiment)
        batches = {*own.timing.batches}
        batches |= {b for name in samplers if (b := own.samplers[name].batch)}
        # As stages/timing.py draws: each sampler once for its memory and error, then
        # by the clock, and twice as a whole; the baseline once for the others' errors,
        # and by the clock too where it is none of them.
        timed = own.timing.warmup + own.timing.repeats
        draws = {(experiment, name): 1 + timed + 2 for name in samplers}
        draws[baseline] = 1 + draws.get(baseline, timed)
        began, host = self._loading(experiment)
        taken = sum(
            count * self.drawn(cell, batch)[1]
            for cell, count in draws.items()
            for batch in batches
        )
        memory = max(self.drawn(cell, max(batches))[0] for cell in draws)
        if baseline[0] != experiment:
            memory += self.weights_bytes(baseline[0])
            host += 2 * self.weights_bytes(baseline[0]) // 10**6
        return Need(2 * began + taken, 1, memory, host)

    # ---- weights ----

    def prepare_need(self, experiment: str) -> Need:
        """A foreign checkpoint, checked and written as ours."""
        size = self.weights_bytes(experiment)
        # The file that is read may hold moments and averages beside the weights.
        taken = START + 8 * size / READ
        return Need(taken, host_mb=4_000 + 3 * size // 10**6, disk=size)

    def train_need(self, experiment: str) -> Need:
        """A whole training, of as many jobs as it takes."""
        own = self.experiments[experiment]
        assert own.train is not None
        heads = own.segments if isinstance(own, SeqRFExperiment) else 1
        model, size = own.model.resolved(), self.weights_bytes(experiment)
        asked = (own.system, model, own.train, heads, self._side(own))
        steps = self._steps(own.train, own.dataset)
        # With the checkpoint of the unfinished run.
        disk = 5 * size
        extra, kept = self._snapshots(experiment, steps)
        found = self._training(asked, steps, extra, disk + kept)
        if own.system != "par":
            return found
        return replace(found, host_mb=self.train_memory(experiment))

    def _training(
        self,
        asked: tuple[str, Any, TrainSpec, int, int],
        steps: int,
        extra: float,
        disk: int,
    ) -> Need:
        system, model, recipe, heads, side = asked
        train = recipe.resolved()
        step = self._time(training_work(system, model, train, side))
        memory = training_memory(system, model, train, heads, side)
        room = int(self.free / estimate.MARGIN)
        parts = fitting_accumulation(system, model, train, room, heads, side)
        return Need(
            START + steps * max(step, 0.01) + extra,
            recipe.gpus,
            memory,
            # Every process holds the whole model once before it is on its GPU.
            24_000 + 8_000 * (recipe.gpus // recipe.nodes),
            None if parts is None else micro_batch({**train, "accumulate": parts}),
            disk,
        )

    def _steps(self, train: TrainSpec, dataset: str) -> int:
        """Optimiser steps; of a folder of unknown size as many as ImageNet's."""
        if train.steps is not None:
            return train.steps
        count = self.config.datasets[dataset].count or _UNKNOWN_IMAGES
        kept = count - round(count * train.holdout)
        return (train.epochs or 1) * max(1, kept // train.batch)

    def _snapshots(self, experiment: str, steps: int) -> tuple[float, int]:
        """Seconds of scores on the way, and bytes of the weights that are kept."""
        own = self.experiments[experiment]
        if not isinstance(own, SeqRFExperiment) or own.train is None:
            return 0.0, 0
        snapshots = own.train.snapshots
        if snapshots is None:
            return 0.0, 0
        count = steps // snapshots.every
        kept = count * self.weights_bytes(experiment)
        if snapshots.sampler is None:
            return 0.0, kept
        cell = (experiment, snapshots.sampler)
        batch = self.fitting(cell)
        a_sample = self.drawn(cell, batch)[1] / batch + self._time([INCEPTION])
        return count * snapshots.n * (a_sample + IMAGE), kept

    def tokenizer_train_need(self, name: str) -> Need:
        """Training of a tokenizer."""
        own = self.config.tokenizers[name]
        assert own.train is not None
        model, side = own.model.resolved(), self.config.datasets[own.dataset].size
        steps = self._steps(own.train, own.dataset)
        size = 4 * estimate.parameters("tokenizer", model)
        asked = ("tokenizer", model, own.train, 1, side)
        return self._training(asked, steps, 0.0, 5 * size)

    def tokenizer_prepare_need(self, name: str) -> Need:
        """A published tokenizer, checked and written as ours."""
        model = self.config.tokenizers[name].model.resolved()
        size = 4 * estimate.parameters("tokenizer", model)
        taken = START + 8 * size / READ
        return Need(taken, host_mb=4_000 + 3 * size // 10**6, disk=size)

    # ---- data ----

    def dataset_need(self, name: str) -> Need:
        """Images of a folder, decoded and scaled one by one."""
        own = self.config.datasets[name]
        count = own.count or (_UNKNOWN_IMAGES if own.source == "folder" else 10_000)
        disk = 3 * count * own.size**2
        return Need(START + 0.02 * count, host_mb=8_000, disk=disk)

    def reference_need(self, name: str) -> Need:
        """Statistics of real images: computed, or read from a file."""
        own = self.config.references[name]
        images = 10_000 if own.keep_features else 0
        if own.dataset is not None:
            images = self.config.datasets[own.dataset].count or _UNKNOWN_IMAGES
        images *= 2 if own.flips == "both" else 1
        taken = images * (IMAGE + self._time([INCEPTION])) + 120
        gpus = self.reference_gpus(name)
        return Need(START + taken, gpus, 4 * 10**9 if gpus else 0, 16_000)
