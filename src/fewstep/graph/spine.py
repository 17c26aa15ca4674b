"""Specs of the spine: what each stage needs to know, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from fewstep.config.par import ParExperiment
from fewstep.config.tree import Experiment
from fewstep.files import sha256_file, sha256_json
from fewstep.graph.base import Cell, DataGraph, as_json, code

_SAMPLER = {
    "par": ("par.sampler",),
    "seqrf": ("seqrf.sampler",),
    "tarflow": ("tarflow.sampler",),
}
"""Modules of a limb behind the images: loaded by name, which no syntax shows."""


_FILES = ("shard_size", "nan_policy", "max_redraws")
"""Keys of `sampling` that matter to files of samples alone, not to a clock."""


def _step(own: Experiment, sampler: str) -> int:
    """The training step of a sampler's weights; 0: the last."""
    return getattr(own.samplers[sampler], "train_step", None) or 0


class SpineGraph(DataGraph):
    """Specs of sampling, timing, scores, evaluations and reports."""

    def of_system(self, system: str, *, trained: bool | None = None) -> list[str]:
        """Experiments of a system: all, those trained here, or the others."""
        return [
            name
            for name, own in self.experiments.items()
            if own.system == system and trained in (None, own.train is not None)
        ]

    # ---- weights ----

    def checkpoint_inputs(self, experiment: str) -> list[str]:
        """The record of the published checkpoint, or its path."""
        name = self.experiments[experiment].checkpoint
        assert name is not None
        return self.asset_inputs(name)

    def checkpoint_option(self, experiment: str) -> str:
        """`--source PATH`, and `--record FILE` for an asset."""
        name = self.experiments[experiment].checkpoint
        assert name is not None
        return self.source_option(name)

    def gpus(self, experiment: str) -> int:
        """GPUs that a training asks for, of all its nodes."""
        train = self.experiments[experiment].train
        return 1 if train is None else train.gpus

    def save_every(self, experiment: str) -> int:
        """Steps between two checkpoints of a training."""
        train = self.experiments[experiment].train
        return 0 if train is None else train.save_every

    def nodes(self, experiment: str) -> int:
        """Nodes that a training asks for."""
        train = self.experiments[experiment].train
        return 1 if train is None else train.nodes

    def weights(self, cell: Cell) -> str:
        """The file of weights that a cell samples from."""
        step = _step(self.experiments[cell[0]], cell[1])
        if not step:
            return f"results/{cell[0]}/model.safetensors"
        return f"results/{cell[0]}/snapshots/step-{step:08d}.safetensors"

    def weights_input(self, cell: Cell) -> str:
        """What the workflow makes for it: the file, or the index of the snapshots."""
        path = self.weights(cell)
        own = path.endswith("/model.safetensors")
        return path if own else f"results/{cell[0]}/snapshots.json"

    def plan(self, cell: Cell) -> str:
        """The plan file of a cell."""
        return f"results/{cell[0]}/{cell[1]}/plan.json"

    def tokenizer_file(self, name: str) -> str:
        """The weights of a tokenizer (PAR)."""
        return f"results/tokenizers/{name}.safetensors"

    def companions(self, cell: Cell) -> list[str]:
        """Further weights that a cell samples with: PAR's tokenizer."""
        own = self.experiments[cell[0]]
        if not isinstance(own, ParExperiment):
            return []
        return [self.tokenizer_file(own.tokenizer)]

    # ---- sampling and time ----

    def experiment(self, name: str, *keys: str, **more: Any) -> dict[str, Any]:
        """Resolved parts of an experiment with its name."""
        resolved = self.experiments[name].resolved()
        return {"name": name, **{key: resolved[key] for key in keys}, **more}

    def sampler(self, cell: Cell, *keys: str, **more: Any) -> dict[str, Any]:
        """What loads a sampler and deals its labels."""
        name, sampler = cell
        own = self.experiments[name]
        sampling = own.sampling_of(sampler).resolved()
        for key in ("jobs", *_FILES):
            del sampling[key]
        if not own.depends_on_batch(sampler):
            del sampling["batch"]
        return self.experiment(
            name,
            "system",
            *keys,
            sampler=sampler,
            sampling=sampling,
            num_classes=own.model.num_classes,
            labels=sampling.get("labels", "none"),
            **own.loader(sampler),
            **self._tokenizer_of(own),
            **more,
        )

    def _tokenizer_of(self, own: Experiment) -> dict[str, Any]:
        if not isinstance(own, ParExperiment):
            return {}
        model = self.config.tokenizers[own.tokenizer].model.resolved()
        path = self.tokenizer_file(own.tokenizer)
        return {"tokenizer": {"model": model, "path": path}}

    def sampling_jobs(self, experiment: str) -> int:
        """Jobs that share the samples of one seed: no more than there are shards."""
        own = self.experiments[experiment]
        sizes = [own.sampling_of(name).shard_size for name in own.samplers]
        return min(own.sampling.jobs, -(-own.evaluation.n // max(sizes)))

    def sampled_in_parts(self, yes: bool) -> list[str]:
        """Experiments whose samples are drawn by several jobs, or those by one."""
        return [
            name for name in self.experiments if (self.sampling_jobs(name) > 1) == yes
        ]

    def sample_parts(self, wildcards: Any) -> list[str]:
        """Input function: the records of the jobs that share a seed."""
        jobs = self.sampling_jobs(wildcards.experiment)
        cell = f"{wildcards.experiment}/{wildcards.sampler}"
        folder = f"results/{cell}/seed{wildcards.seed}/parts"
        return [f"{folder}/{part}-of-{jobs}.json" for part in range(jobs)]

    def sampling_batch(self, cell: Cell) -> int:
        """Samples drawn at once."""
        return self.experiments[cell[0]].sampling_of(cell[1]).batch

    def _code(self, cell: Cell, stage: str) -> str:
        return code(stage, *_SAMPLER[self.experiments[cell[0]].system])

    def sample(self, cell: Cell) -> dict[str, Any]:
        """What decides the images."""
        evaluation = self.experiments[cell[0]].evaluation
        spec = self.sampler(
            cell,
            n=evaluation.n,
            **evaluation.protocol.resolved(),
            code=self._code(cell, "stages.sample"),
        )
        sampling = self.experiments[cell[0]].sampling_of(cell[1]).resolved()
        spec["sampling"] |= {key: sampling[key] for key in _FILES}
        return spec

    def sample_text(self, cell: Cell) -> str:
        """`sample` as the stage's argument, made once: the cell's jobs all ask."""
        known: dict[Cell, str] = self.__dict__.setdefault("_sample_texts", {})
        if cell not in known:
            known[cell] = as_json(self.sample(cell))
        return known[cell]

    def timing(self, cell: Cell) -> dict[str, Any]:
        """What the clock needs: the sampler, and the one it is measured against."""
        baseline = self.baseline(cell[0])
        spec = self.sampler(
            cell,
            "timing",
            baseline=self.sampler(baseline),
            baseline_name=self.experiments[cell[0]].timing.baseline,
            exact_baseline=self._is_exact(baseline),
            code=self._code(cell, "stages.timing"),
        )
        own = self.experiments[cell[0]].samplers[cell[1]].batch
        batches = {*spec["timing"]["batches"], *([own] if own else [])}
        spec["timing"]["batches"] = sorted(batches)
        return spec

    def timed_together(self, experiment: str) -> dict[str, Any]:
        """The same for all samplers of an experiment in one job."""
        own = self.experiments[experiment]
        timed = self.timed(experiment)
        spec = self.timing((experiment, timed[0]))
        spec["samplers"] = {name: self.sampler((experiment, name)) for name in timed}
        batches = {b for name in timed if (b := own.samplers[name].batch)}
        spec["timing"]["batches"] = sorted({*own.timing.batches, *batches})
        return spec

    def timed_in_one_job(self) -> list[str]:
        """Experiments whose samplers one clock times."""
        return [n for n, own in self.experiments.items() if own.timed_together]

    def timed_apart(self) -> list[str]:
        """Experiments whose samplers have a clock each."""
        return [n for n, own in self.experiments.items() if not own.timed_together]

    def timed_companions(self, experiment: str) -> list[str]:
        """Further weights behind a common clock: its own, and the baseline's."""
        cells = ((experiment, ""), self.baseline(experiment))
        return list(dict.fromkeys(p for cell in cells for p in self.companions(cell)))

    def timed(self, experiment: str) -> list[str]:
        """Samplers that a common clock runs: weights of another step change no time."""
        own, found = self.experiments[experiment], dict[str, str]()
        # Those of the last weights come first.
        for name in sorted(own.samplers, key=lambda name: _step(own, name)):
            found.setdefault(self._clocked(own, name), name)
        return [name for name in own.samplers if name in found.values()]

    def timing_file(self, cell: Cell) -> str:
        """Where the times of a cell stand: of its own job, or of its experiment's."""
        together = self.experiments[cell[0]].timed_together
        return f"results/{cell[0]}/{'' if together else cell[1] + '/'}timing.json"

    def timed_as(self, cell: Cell) -> str:
        """The sampler whose times are a cell's: the one with the same solver."""
        own = self.experiments[cell[0]]
        if not own.timed_together:
            return cell[1]
        same = self._clocked(own, cell[1])
        return next(n for n in self.timed(cell[0]) if self._clocked(own, n) == same)

    @staticmethod
    def _clocked(own: Experiment, sampler: str) -> str:
        """All of a sampler that takes time, in words."""
        sampling = own.sampling_of(sampler).resolved()
        kept = {key: sampling.get(key) for key in ("precision", "compile")}
        return as_json([own.loader(sampler), kept])

    def _is_exact(self, cell: Cell) -> bool:
        """Whether a sampler is the exact inverse of an autoregressive flow."""
        sampler = self.experiments[cell[0]].samplers[cell[1]]
        return getattr(sampler, "strategy", None) == "for"

    def baseline(self, experiment: str) -> Cell:
        """The sampler that an experiment's speed-ups are relative to."""
        wanted = self.experiments[experiment].timing.baseline
        other, _, sampler = wanted.rpartition("/")
        return other or experiment, sampler

    # ---- scores, rows, reports ----

    def scoring_batch(self, experiment: str) -> int:
        """Images a call of the feature extractor."""
        return self.experiments[experiment].evaluation.batch

    def score(self, experiment: str) -> dict[str, Any]:
        """What the scores need."""
        reference = self.reference_of(experiment)
        return {
            # Of the batch no score depends; it is no param.
            "evaluation": self.experiments[experiment].evaluation.resolved({"batch"}),
            "extractor": self.extractor(reference),
            "real_levels": self.config.references[reference].real_levels,
        }

    def evaluation(self, cell: Cell) -> dict[str, Any]:
        """What the row says beyond the measurements."""
        name, sampler = cell
        own = self.experiments[name]
        reference = self.config.references[self.reference_of(name)]
        published = own.samplers[sampler].published
        note = published.other_protocol if published else ""
        # A published score is only met on the statistics behind it.
        wanted = published.statistics if published else "file"
        if not note and wanted == "file" and reference.dataset:
            note = "the real images' statistics are our own"
        return {
            "name": name,
            "system": own.system,
            "protocol_note": note,
            "sampler": sampler,
            "settings": own.row_settings(sampler),
            "timing_batch": own.samplers[sampler].batch
            or own.sampling_of(sampler).batch,
            "timed_as": self.timed_as(cell),
            "published": own.samplers[sampler].resolved()["published"],
            "code": self._code(cell, "stages.sample"),
        }

    def report_inputs(self, experiments: Iterable[str]) -> list[str]:
        """Evaluations, tables and pictures of a report."""
        experiments = list(experiments)
        found = []
        for name in experiments:
            own, folder = self.experiments[name], f"results/{name}"
            found += self.evaluations((name, sampler) for sampler in own.samplers)
            found += [f"{folder}/training.parquet"] if own.train else []
            found += [f"{folder}/{file}" for file in self._shown(name)]
        for tokenizer in self._judged_tokenizers(experiments):
            path = f"results/tokenizers/{tokenizer}-reconstruction"
            found += [f"{path}.json", f"{path}.png"]
        return found

    def _judged_tokenizers(self, experiments: Iterable[str]) -> list[str]:
        """Tokenizers of the experiments whose reconstructions are scored."""
        found = dict[str, None]()
        for name in experiments:
            own = self.experiments[name]
            if isinstance(own, ParExperiment):
                found.setdefault(own.tokenizer)
        known = self.config.tokenizers
        return [name for name in found if known[name].reconstruction is not None]

    def _shown(self, experiment: str) -> list[str]:
        """Further files that a report shows of an experiment."""
        own = self.experiments[experiment]
        if own.system == "seqrf":
            return ["straightness.parquet", "trajectories.parquet", "solvers.png"]
        if own.system == "par":
            drawn = ("grid", "order", "order-moving")
            return [f"{name}/{kind}.png" for name in own.samplers for kind in drawn]
        kinds = ("grid", "trace")
        cells = [f"{name}/{kind}.png" for name in own.samplers for kind in kinds]
        return ["rank.png", "convergence.png", "side-by-side.png", *cells]

    def report(self, experiments: Iterable[str], command: str) -> dict[str, Any]:
        """What a report says beyond what lies in its files."""
        templates = self.root / "workflow" / "report"
        experiments = list(experiments)
        return {
            "experiments": {
                name: list(self.experiments[name].samplers) for name in experiments
            },
            "tokenizers": self._judged_tokenizers(experiments),
            "command": command,
            "templates": os.path.relpath(templates),
            "look": sha256_json(
                {p.name: sha256_file(p) for p in sorted(templates.iterdir())}
            ),
            "code": code("stages.report"),
        }
