"""Weights kept on the way of a training, and their score from few samples."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep import checkpoints, files
from fewstep.device import pick_device
from fewstep.extractors import load_extractor
from fewstep.fidelity import ScoreOptions
from fewstep.references import load_reference
from fewstep.sampling import SampleOptions, draw_samples
from fewstep.seqrf.checkpoint import check_fits
from fewstep.seqrf.sampler import Flow, build_model, make_sampler
from fewstep.seqrf.segments import Segments
from fewstep.stages.score import score_samples


class Snapshots:
    """What a training calls every so many steps.

    Args:
        spec: of the training; `scoring` holds what the scores need.
        folder: the experiment's; files go to `snapshots/step-{step}.safetensors`.
        key: of the run.
        about: manifest of the weights.
        reference: statistics of real images, None: nothing is scored.
        extractor: weights of the feature extractor, None: its own download.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        folder: Path,
        key: str,
        about: dict[str, Any],
        reference: Path | None,
        extractor: Path | None,
    ) -> None:
        self.spec, self.folder, self.key, self.about = spec, folder, key, about
        self.reference, self.extractor = reference, extractor

    @property
    def metric(self) -> str | None:
        """Proper name of the score."""
        if "scoring" not in self.spec:
            return None
        inception = "inception" in self.spec["scoring"]["extractor"]["kind"]
        return "fid" if inception else "frechet"

    def take(self, step: int, tensors: dict[str, Tensor]) -> dict[str, float] | None:
        """Write the weights and score them where asked; twice does no harm."""
        path = self.folder / "snapshots" / f"step-{step:08d}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {**self.about, "steps": step, "run": self.key}
        checkpoints.write_state_dict(path, tensors, about)
        if "scoring" not in self.spec:
            return None
        # Sampling draws nothing from torch's generator, but a scorer might.
        with torch.random.fork_rng():
            return self._score(path, step, tensors)

    def _score(
        self, path: Path, step: int, tensors: dict[str, Tensor]
    ) -> dict[str, float]:
        """Fréchet distance of `snapshots.n` samples of these weights."""
        scoring = self.spec["scoring"]
        n, wanted = self.spec["train"]["snapshots"]["n"], scoring["sampler"]
        model = build_model(self.spec["model"], self.spec["segments"])
        check_fits(model, tensors, str(path))
        segments = Segments(tuple(self.about["edges"]))
        flow = Flow(model.to(pick_device()).eval(), segments, "exact")
        samples = path.parent / f"step-{step:08d}-samples.json"
        options = SampleOptions(
            seed=scoring["seed"],
            start=0,
            stop=n,
            batch=wanted["sampling"]["batch"],
            shard=wanted["sampling"]["shard_size"],
            rounding=scoring["rounding"],
            nan_policy=wanted["sampling"]["nan_policy"],
            max_redraws=wanted["sampling"]["max_redraws"],
        )
        draw_samples(
            make_sampler(flow, wanted, wanted["sampling"]["precision"]),
            options,
            samples,
            key=files.sha256_json({"run": self.key, "step": step, **scoring}),
            label=f"sample {self.spec['name']} at step {step}",
        )
        extractor = load_extractor(
            scoring["extractor"]["kind"],
            weights=self.extractor,
            name=scoring["extractor"]["name"],
            device=pick_device(),
        )
        assert self.reference is not None
        found = score_samples(
            {**scoring, "evaluation": {"n": n, "batch": scoring["batch"]}},
            samples,
            load_reference(self.reference, extractor.dim),
            extractor,
            ScoreOptions(isc_splits=None),
        )
        return {"score": found["row"][self.metric], "score_n": n}

    def write_index(self) -> None:
        """`snapshots.json`: the files of this run; those of others are removed."""
        listed, folder = [], self.folder / "snapshots"
        for path in sorted(folder.glob("step-*.safetensors")):
            about = checkpoints.read_manifest(path)
            if about.get("run") == self.key:
                sha256 = files.sha256_file(path)
                listed.append({"step": about["steps"], "sha256": sha256})
            else:
                path.unlink()
                path.with_suffix(".json").unlink(missing_ok=True)
                for samples in folder.glob(f"{path.stem}-samples*"):
                    if samples.is_dir():
                        shutil.rmtree(samples)
                    else:
                        samples.unlink()
        files.write_json(self.folder / "snapshots.json", {"snapshots": listed})
