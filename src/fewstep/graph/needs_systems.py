"""What jobs of one system are estimated to need, and the estimates by kind of job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fewstep import estimate
from fewstep.config.tarflow import TarFlowExperiment
from fewstep.estimate import par as par_estimate
from fewstep.estimate import tarflow as tarflow_estimate
from fewstep.graph.base import Cell
from fewstep.graph.needs import HOST, IMAGE, INCEPTION, READ, START, Need, NeedsGraph

PROFILED = 32
"""Images of the profile of convergence (`stages.rank._PROFILE_IMAGES`)."""
_EASY = 64
"""Iterations of a block that is not tough, at most, until float32 moves no further."""


class SystemNeedsGraph(NeedsGraph):
    """Estimates for the jobs of TarFlow, SeqRF and PAR."""

    # ---- TarFlow ----

    def rank_need(self, experiment: str) -> Need:
        """IGM, CRM and the profile of convergence."""
        own = self.tarflow(experiment)
        began, host = self._loading(experiment)
        model = own.model.resolved()
        forward = tarflow_estimate.forward_work
        # Of every batch the pass itself, and a step from each of the two guesses.
        metrics = forward(model, own.rank.batch, "fp32") * (
            3 * -(-own.rank.num_mc // own.rank.batch)
        )
        profile = forward(model, PROFILED, "fp32") * self._profile_passes(own)
        memory = tarflow_estimate.weights_memory(model) + (
            tarflow_estimate.backward_memory(model, own.rank.batch, "fp32") // 8
        )
        return Need(began + self._time([metrics, profile]), 1, memory, host)

    @staticmethod
    def _profile_passes(own: TarFlowExperiment) -> float:
        """Passes through all blocks: the exact pairs, and an inversion from each guess.

        How many iterations a block needs until nothing moves is only known afterwards.
        Never more than it has tokens; the demo's tough block took 51 of its 64, the
        others 10 to 17. So one block is assumed to need all of them, which is more than
        the published tough ones should: a job that is stopped half-way begins anew.
        """
        tokens, blocks = own.model.tokens, own.model.num_blocks
        iterations = tokens + (blocks - 1) * min(tokens, _EASY)
        return 1 + 2 * iterations / blocks

    def search_need(self, cell: Cell) -> Need:
        """Candidates of every block, each timed, and the strategy verified."""
        own = self.tarflow(cell[0])
        began, host = self._loading(cell[0])
        batch = own.samplers[cell[1]].batch or own.search.batch
        memory, once = self.drawn(cell, batch)
        tried = (len(own.search_segments()) + 2) * (own.search.repeats + 1)
        checked = 4 * -(-own.search.calibration // batch)
        return Need(began + once * (tried + checked), 1, memory, host)

    def trace_need(self, cell: Cell) -> Need:
        """A few samples with all that happens on their way."""
        began, host = self._loading(cell[0])
        memory, once = self.drawn(cell, self.experiments[cell[0]].trace.count)
        return Need(began + 2 * once, 1, memory, host)

    # ---- SeqRF ----

    def pairs_need(self, name: str) -> Need:
        """One shard of reflow pairs."""
        own = self.config.pairs[name]
        teacher = self.seqrf(own.teacher)
        began, host = self._loading(own.teacher)
        model = teacher.model.resolved()
        settings = {"segments": 1, "solver": "rk45", "tol": own.tol}
        asked = ("seqrf", model, settings, own.batch, own.precision)
        batch = estimate.fitting_batch(*asked, self.free)
        whole = estimate.sampling_work("seqrf", model, settings, batch, own.precision)
        # A k-th of the way, but never less than two steps.
        share = max(1 / own.segments, 0.15)
        count = min(own.count, own.shard_size)
        image = 3 * teacher.model.img_size**2
        size = image * 2 * (2 if own.dtype == "float16" else 4)
        taken = count * (self._time(whole) * share / batch + IMAGE)
        return Need(
            began + taken + count * size / READ,
            1,
            estimate.sampling_memory(*asked),
            host + 3 * count * size // 10**6,
            batch,
            count * size,
        )

    def edges_need(self, name: str) -> Need:
        """Trajectories of the teacher that say where its paths are straightest."""
        own = self.config.pairs[name]
        assert own.adaptive is not None
        return self._paths(own.teacher, own.adaptive.samples, own.adaptive.steps)

    def trajectories_need(self, experiment: str) -> Need:
        """Straightness and paths."""
        own = self.seqrf(experiment)
        steps = own.trajectory.steps * (2 + len(own.trajectory.compare))
        return self._paths(experiment, own.trajectory.count, steps)

    def _paths(self, experiment: str, count: int, steps: int) -> Need:
        began, host = self._loading(experiment)
        own = self.seqrf(experiment)
        model, values = own.model.resolved(), 3 * own.model.img_size**2
        # The stage takes as many at once as half a GB of paths holds.
        batch = min(count, max(1, int(0.5e9 / (4 * max(steps, 64) * values))))
        settings = {"segments": own.segments, "solver": "euler", "steps": steps}
        asked = ("seqrf", model, settings, batch, "fp32")
        taken = self._time(estimate.sampling_work(*asked)) * -(-count // batch)
        memory = estimate.sampling_memory(*asked) + 10**9
        return Need(began + taken, 1, memory, host + 2_000)

    # ---- PAR ----

    def codes_need(self, name: str) -> Need:
        """One shard of codes."""
        own = self.codes_spec(name)
        tokenizer = self.config.tokenizers[own.tokenizer]
        model = tokenizer.model.resolved()
        crops = {"plain": 1, "flip": 2, "ten-crop": 10 * len(own.crop_ranges)}
        views, count = crops[own.views], min(own.shard_size, self._code_count(own))
        assert own.dataset is not None
        side = self.config.datasets[own.dataset].size
        once = par_estimate.tokenizer_work(model, side, own.batch, "encode")
        taken = self._time([once]) * count * views / own.batch
        # JPEG files are decoded meanwhile, by eight threads.
        taken = max(taken, count * (0.02 + 0.004 * views) / 8)
        memory = par_estimate.tokenizer_memory(model, side, own.batch, "encode")
        grid = (side // tokenizer.model.downsample) ** 2
        disk = 2 * count * views * grid
        return Need(START + taken, 1, memory, HOST + 8_000, 0, disk)

    def reconstruct_need(self, name: str) -> Need:
        """Scores of a tokenizer's reconstructions."""
        own = self.config.tokenizers[name]
        assert own.reconstruction is not None
        model, batch = own.model.resolved(), own.reconstruction.batch
        side = self.config.datasets[own.dataset].size
        both = [
            par_estimate.tokenizer_work(model, side, batch, part)
            for part in ("encode", "decode")
        ]
        count = own.reconstruction.n
        taken = count * (self._time(both) / batch + IMAGE + self._time([INCEPTION]))
        memory = par_estimate.tokenizer_memory(model, side, batch, "decode")
        return Need(START + taken, 1, memory, HOST + 8_000)


def jobs(graph: SystemNeedsGraph) -> dict[str, Callable[[Any], Need]]:
    """The estimate behind each kind of job, by its name in graph/resources.py."""
    return {
        "prepare": graph.prepare_need,
        "train": graph.train_need,
        "pairs": graph.pairs_need,
        "edges": graph.edges_need,
        "rank": graph.rank_need,
        "search": graph.search_need,
        "trace": graph.trace_need,
        "trajectories": graph.trajectories_need,
        "sample": graph.sample_need,
        "timing": graph.timing_need,
        "timing_together": graph.timing_together_need,
        "score": graph.score_need,
        "codes": graph.codes_need,
        "reconstruct": graph.reconstruct_need,
        "train_tokenizer": graph.tokenizer_train_need,
        "prepare_tokenizer": graph.tokenizer_prepare_need,
        "dataset": graph.dataset_need,
        "reference": graph.reference_need,
    }
