"""Specs of SeqRF: pairs, trainings, solvers and their pictures."""

from __future__ import annotations

from typing import Any

from fewstep.config.seqrf import FlowTrainSpec, PairsSpec, SeqRFExperiment
from fewstep.graph.base import NO_PARAMS, code
from fewstep.graph.spine import SpineGraph

_EDGES = ("name", "segments", "adaptive", "precision", "mode")


class SeqRFGraph(SpineGraph):
    """What rules/seqrf.smk asks for."""

    def seqrf(self, experiment: str) -> SeqRFExperiment:
        """An experiment of this system."""
        own = self.experiments[experiment]
        assert isinstance(own, SeqRFExperiment)
        return own

    def _train(self, experiment: str) -> FlowTrainSpec:
        train = self.seqrf(experiment).train
        assert train is not None
        return train

    # ---- reflow pairs ----

    def _pairs(self, name: str) -> PairsSpec:
        return self.config.pairs[name]

    def pair_dataset(self, name: str) -> str:
        """Folder of the images behind pairs: the teacher's dataset."""
        return self.dataset_folder(self._pairs(name).teacher)

    def pair_teacher(self, name: str) -> str:
        """The teacher's weights."""
        return f"results/{self._pairs(name).teacher}/model.safetensors"

    def pair_shards(self, name: str) -> list[int]:
        """Numbers of the shards."""
        spec = self._pairs(name)
        return list(range(-(-spec.count // spec.shard_size)))

    def pair_records(self, name: str) -> list[str]:
        """The records of all shards."""
        folder = f"results/pairs/{name}"
        return [f"{folder}/shard-{i:05d}.json" for i in self.pair_shards(name)]

    def pair_files(self, name: str) -> list[str]:
        """The shards themselves."""
        return [path.replace(".json", ".arrow") for path in self.pair_records(name)]

    def edges_input(self, name: str) -> list[str]:
        """The file of adaptive edges, where the segments are not equal."""
        adaptive = self._pairs(name).adaptive is not None
        return [f"results/pairs/{name}/edges.json"] if adaptive else []

    def edges_option(self, name: str) -> str:
        """`--edges FILE`, or nothing for equal segments."""
        return " ".join(f"--edges {path}" for path in self.edges_input(name))

    def edges(self, name: str) -> dict[str, Any]:
        """What SeqRF-Ada's edges depend on."""
        spec = self._pairs(name).resolved()
        return {
            **{key: spec[key] for key in _EDGES},
            **self._teacher_model(name),
            "code": code("stages.edges"),
        }

    def _teacher_model(self, name: str) -> dict[str, Any]:
        teacher = self.seqrf(self._pairs(name).teacher)
        return {"model": teacher.model.resolved(), "heads": teacher.segments}

    def pair_shard(self, name: str, number: int) -> dict[str, Any]:
        """What decides the pairs of a shard."""
        own = self._pairs(name)
        spec = own.resolved(without=("adaptive", "teacher"))
        # Every pair stands alone: more of them leave a whole shard as it is, and so
        # does the number of pairs that are made at once.
        spec["count"] = min(own.count, (number + 1) * own.shard_size)
        if own.error_norm == "sample":
            del spec["batch"]
        return {**spec, **self._teacher_model(name), "code": code("stages.pairs")}

    def pair_batch(self, name: str) -> int:
        """Pairs that are made at once."""
        return self._pairs(name).batch

    def pair_count(self, name: str) -> int:
        """Pairs in all."""
        return self._pairs(name).count

    # ---- trainings ----

    def train_inputs(self, wildcards: Any) -> dict[str, list[str]]:
        """Named inputs of a training: dataset, pairs, start, reference."""
        name = wildcards.experiment
        train, found = self._train(name), {}
        if train.pairs is None:
            found["dataset"] = self.dataset_files(wildcards)
        else:
            # With the shards: one that is deleted is made anew.
            manifest = f"results/pairs/{train.pairs}/pairs.json"
            found["pairs"] = [manifest, *self.pair_files(train.pairs)]
            found["teacher"] = [self.pair_teacher(train.pairs)]
        if train.start is not None:
            found["start"] = [self._start(train)]
        if train.snapshots and train.snapshots.sampler:
            reference = self.reference_of(name)
            found["reference"] = [f"results/references/{reference}.npz"]
            found["extractor"] = self.extractor_inputs(reference)
        return found

    def _start(self, train: FlowTrainSpec) -> str:
        file = "state" if train.optimizer == "imported" else "model"
        return f"results/{train.start}/{file}.safetensors"

    def train_options(self, wildcards: Any) -> str:
        """The same as options of the command."""
        name = wildcards.experiment
        train, options = self._train(name), []
        if train.pairs is None:
            options.append(f"--dataset {self.dataset_folder(name)}")
        else:
            options.append(f"--pairs results/pairs/{train.pairs}/pairs.json")
            options.append(f"--teacher {self.pair_teacher(train.pairs)}")
        if train.start is not None:
            options.append(f"--start {self._start(train)}")
        if train.snapshots and train.snapshots.sampler:
            reference = self.reference_of(name)
            options.append(f"--reference results/references/{reference}.npz")
            options.append(self.extractor_option(reference))
        return " ".join(options)

    def flow_train(self, experiment: str) -> dict[str, Any]:
        """What decides the weights of a training."""
        spec = self.experiment(
            experiment,
            "model",
            "segments",
            "train",
            code=code("stages.train_flow"),
            weights_code=code("stages.flow_recipe", "training"),
        )
        for key in NO_PARAMS:
            del spec["train"][key]
        snapshots = self._train(experiment).snapshots
        if snapshots and snapshots.sampler:
            spec["scoring"] = self._scoring(experiment, snapshots.sampler)
        return spec

    def snapshot_batch(self, experiment: str) -> int:
        """Samples drawn at once for the score of a snapshot."""
        return self.seqrf(experiment).sampling.batch

    def _scoring(self, experiment: str, sampler: str) -> dict[str, Any]:
        """What the score of a snapshot needs, and no more: a training waits for it."""
        own, whole = self.seqrf(experiment).evaluation, self.score(experiment)
        return {
            "seed": own.seeds[0],
            "rounding": own.protocol.rounding,
            **{key: whole[key] for key in ("extractor", "real_levels")},
            "sampler": self.sampler((experiment, sampler)),
        }

    # ---- solvers ----

    def solver_plan(self, cell: str) -> dict[str, Any]:
        """The plan of a cell: its solver."""
        name, sampler = cell.split("/")
        own = self.seqrf(name).loader(sampler)
        keys = ("solver", "steps", "tol", "error_norm", "mode", "segments")
        return {key: own[key] for key in keys}

    def solver_plans(self) -> list[str]:
        """`experiment/sampler` of this system."""
        return ["/".join(cell) for cell in self.cells("seqrf")]

    def trajectories(self, experiment: str) -> dict[str, Any]:
        """What straightness and paths depend on."""
        own = self.seqrf(experiment)
        spec = self.experiment(
            experiment,
            "model",
            "segments",
            "trajectory",
            solvers={
                name: self.solver_plan(f"{experiment}/{name}")
                for name, sampler in own.samplers.items()
                if sampler.train_step is None
            },
            precision=own.sampling.precision,
            code=code("stages.trajectories"),
        )
        distilled = own.train is not None and "distill" in own.train.objective
        # Between the times that it was trained on, a distilled flow means nothing.
        spec["trajectory"]["fine"] = not distilled
        return spec

    def solver_samples(self, wildcards: Any) -> list[str]:
        """Samples of the first seed of every solver of an experiment."""
        own = self.seqrf(wildcards.experiment)
        folder, seed = f"results/{wildcards.experiment}", own.evaluation.seeds[0]
        return [f"{folder}/{name}/seed{seed}/samples.json" for name in own.samplers]
