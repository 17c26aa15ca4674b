"""Specs of PAR: tokenizers, codes, trainings, plans."""

from __future__ import annotations

from typing import Any

from fewstep.config.par import ParExperiment, ParTrainSpec
from fewstep.config.tokenizers import CodesSpec, TokenizerSpec
from fewstep.graph.base import NO_PARAMS, Cell, code
from fewstep.graph.spine import SpineGraph

_SAID = ("notes", "licence", "attribution")
"""Of a dataset: what is said about its images, not what they are."""


class ParGraph(SpineGraph):
    """What rules/par.smk asks for."""

    def par(self, experiment: str) -> ParExperiment:
        """An experiment of this system."""
        own = self.experiments[experiment]
        assert isinstance(own, ParExperiment)
        return own

    # ---- tokenizers ----

    def tokenizers(self, *, trained: bool) -> list[str]:
        """Tokenizers that are trained here, or the others."""
        named = self.config.tokenizers.items()
        return [name for name, own in named if (own.train is not None) == trained]

    def _tokenizer(self, name: str) -> TokenizerSpec:
        return self.config.tokenizers[name]

    def tokenizer_source(self, name: str) -> list[str]:
        """The record of a tokenizer's checkpoint, or its path."""
        wanted = self._tokenizer(name).checkpoint
        assert wanted is not None
        return self.asset_inputs(wanted)

    def tokenizer_option(self, name: str) -> str:
        """`--source PATH`, and `--record FILE` for an asset."""
        wanted = self._tokenizer(name).checkpoint
        assert wanted is not None
        return self.source_option(wanted)

    def tokenizer_dataset(self, name: str) -> str:
        """Folder of a tokenizer's images."""
        return f"results/data/{self._tokenizer(name).dataset}"

    def tokenizer_gpus(self, name: str) -> int:
        """GPUs that its training asks for."""
        train = self._tokenizer(name).train
        return 1 if train is None else train.gpus

    def tokenizer_save_every(self, name: str) -> int:
        """Steps between two checkpoints of its training."""
        train = self._tokenizer(name).train
        return 0 if train is None else train.save_every

    def tokenizer_nodes(self, name: str) -> int:
        """Nodes that its training asks for."""
        train = self._tokenizer(name).train
        return 1 if train is None else train.nodes

    def tokenizer_model(self, name: str) -> dict[str, Any]:
        """What checking a published tokenizer needs."""
        own = self._tokenizer(name)
        return {"name": name, "model": own.model.resolved()}

    def tokenizer_train(self, name: str) -> dict[str, Any]:
        """What decides the weights of a tokenizer's training."""
        own = self._tokenizer(name)
        assert own.train is not None
        train = own.train.resolved()
        for key in NO_PARAMS:
            del train[key]
        loss = ("beta", "entropy_ratio", "reconstruction", "revive_every")
        return {
            **self.tokenizer_model(name),
            "loss": {key: train.pop(key) for key in loss},
            "train": train,
            "code": code("stages.train_tokenizer"),
            "weights_code": code("par.vq_training", "training"),
        }

    def reconstruction_reference(self, name: str) -> str:
        """The reference that reconstructions are scored against."""
        own = self._tokenizer(name).reconstruction
        assert own is not None
        return own.reference

    def reconstructed(self) -> list[str]:
        """Tokenizers whose reconstructions are scored."""
        named = self.config.tokenizers.items()
        return [name for name, own in named if own.reconstruction is not None]

    def reconstruction(self, name: str) -> dict[str, Any]:
        """What the scores of reconstructions need."""
        own = self._tokenizer(name)
        assert own.reconstruction is not None
        reference = own.reconstruction.reference
        train = own.train
        return {
            **self.tokenizer_model(name),
            "n": own.reconstruction.n,
            "held_out": {"seed": train.seed, "share": train.holdout} if train else None,
            "extractor": self.extractor(reference),
            "evaluation": {"batch": own.reconstruction.batch},
            "rounding": "round",
            "code": code("stages.reconstruct"),
        }

    # ---- codes ----

    def codes_spec(self, name: str) -> CodesSpec:
        """A set of codes."""
        return self.config.codes[name]

    def codes_path(self, name: str) -> str:
        """The manifest of all shards."""
        return f"results/codes/{name}/codes.json"

    def codes_of(self, *, released: bool) -> list[str]:
        """Sets of codes that were published, or that are made here."""
        return [
            n for n, own in self.config.codes.items() if own.is_released == released
        ]

    def code_shards(self, name: str) -> list[int]:
        """Numbers of the shards."""
        own = self.codes_spec(name)
        return list(range(-(-self._code_count(own) // own.shard_size)))

    def _code_count(self, own: CodesSpec) -> int:
        count = self.config.datasets[own.dataset].count if own.dataset else own.count
        assert count is not None
        return count

    def code_records(self, name: str) -> list[str]:
        """The records of all shards."""
        folder = f"results/codes/{name}"
        return [f"{folder}/shard-{i:05d}.json" for i in self.code_shards(name)]

    def code_files(self, name: str) -> list[str]:
        """The shards themselves."""
        return [path.replace(".json", ".arrow") for path in self.code_records(name)]

    def released_codes(self, name: str) -> str:
        """The folder of published codes."""
        folder = self.codes_spec(name).released
        assert folder is not None
        return folder

    def code_tokenizer(self, name: str) -> str:
        """The weights of the tokenizer that makes them."""
        return self.tokenizer_file(self.codes_spec(name).tokenizer)

    def code_source(self, name: str) -> list[str]:
        """Images behind codes: an index of files, or a built dataset."""
        own = self.codes_spec(name)
        assert own.dataset is not None
        if self.config.datasets[own.dataset].source == "folder":
            return [f"results/codes/{name}/index.json"]
        folder = f"results/data/{own.dataset}"
        return [f"{folder}/dataset.json", f"{folder}/images.npy"]

    def code_source_option(self, name: str) -> str:
        """`--dataset` of the command: the index, or the folder of a built dataset."""
        first = self.code_source(name)[0]
        return f"--dataset {first.removesuffix('/dataset.json')}"

    def code_spec(self, name: str) -> dict[str, Any]:
        """What decides codes."""
        return {**self._codes(name), "code": code("stages.codes")}

    def import_spec(self, name: str) -> dict[str, Any]:
        """What decides the shards of published codes."""
        return {**self._codes(name), "code": code("stages.import_codes")}

    def _codes(self, name: str) -> dict[str, Any]:
        own = self.codes_spec(name)
        spec = own.resolved(without=("batch", "tokenizer", "dataset", "released"))
        tokenizer = self._tokenizer(own.tokenizer)
        spec["tokenizer"] = self.tokenizer_model(own.tokenizer)
        spec["count"] = self._code_count(own)
        if own.dataset is not None:
            dataset = self.config.datasets[own.dataset]
            spec["dataset"] = dataset.resolved(without=_SAID)
            spec["size"] = dataset.size
            spec["grid"] = dataset.size // tokenizer.model.downsample
        return spec

    def code_index(self, name: str) -> dict[str, Any]:
        """What the list of a folder's images depends on."""
        spec = self._codes(name)
        kept = {key: spec[key] for key in ("name", "dataset")}
        return {**kept, "code": code("stages.code_index")}

    def code_threads(self, name: str) -> int:
        """Cores of a shard's job: JPEG files are decoded by several."""
        return 8 if self.code_source(name)[0].endswith("index.json") else 1

    def code_batch(self, name: str) -> int:
        """Views encoded at once."""
        return self.codes_spec(name).batch

    # ---- trainings ----

    def _par_train(self, experiment: str) -> ParTrainSpec:
        train = self.par(experiment).train
        assert train is not None
        return train

    def par_train_inputs(self, wildcards: Any) -> dict[str, list[str]]:
        """Named inputs of a training: codes, and the weights it starts from."""
        train = self._par_train(wildcards.experiment)
        found = {"codes": [self.codes_path(train.codes)]}
        if not self.codes_spec(train.codes).is_released:
            # With the shards: one that is deleted is made anew.
            found["shards"] = self.code_files(train.codes)
        if train.start is not None:
            found["start"] = [f"results/{train.start}/model.safetensors"]
        return found

    def par_train_options(self, wildcards: Any) -> str:
        """The same as options of the command."""
        train = self._par_train(wildcards.experiment)
        option = f"--codes {self.codes_path(train.codes)}"
        if train.start is None:
            return option
        return f"{option} --start results/{train.start}/model.safetensors"

    def par_train(self, experiment: str) -> dict[str, Any]:
        """What decides the weights of a training: how many GPUs does not."""
        spec = self.experiment(
            experiment,
            "model",
            "train",
            code=code("stages.train_par"),
            weights_code=code("par.objective", "training"),
        )
        for key in NO_PARAMS:
            del spec["train"][key]
        return spec

    def train_memory(self, experiment: str) -> int:
        """Main memory that a training asks for on each node, in MB.

        Every process builds the whole model in float32; the first one gathers what it
        saves: weights, two moments, and the average where there is one.
        """
        train = self._par_train(experiment)
        saved = 16 if train.ema else 12
        count = self.par(experiment).model.parameters
        here = train.gpus // train.nodes
        return 16_000 + count * (4 * here + saved) // 10**6

    # ---- plans ----

    def token_plans(self) -> list[str]:
        """`experiment/sampler` of this system."""
        return ["/".join(cell) for cell in self.cells("par")]

    def token_plan(self, cell: str) -> dict[str, Any]:
        """The plan of a cell: order and draws."""
        name, sampler = cell.split("/")
        own = self.par(name)
        return {
            "grid": own.model.grid,
            "group": own.model.ar_token_num,
            "draw": own.loader(sampler)["draw"],
        }

    def token_order(self, cell: Cell) -> dict[str, Any]:
        """What the pictures of the order of drawing need: images of the samples."""
        evaluation = self.par(cell[0]).evaluation
        found = code("stages.token_order")
        return self.sampler(cell, seed=evaluation.seeds[0], count=2, code=found)

    def plan_tokenizer(self, cell: str) -> str:
        """The tokenizer that decodes a cell's tokens."""
        return self.companions((cell.split("/", maxsplit=1)[0], ""))[0]
