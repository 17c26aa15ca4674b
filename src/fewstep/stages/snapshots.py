"""Weights kept on the way of a training, and their score from few samples."""

from __future__ import annotations

import logging
import os
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep import checkpoints, files
from fewstep.device import fork_rng, pick_device
from fewstep.errors import UserError
from fewstep.extractors import load_extractor
from fewstep.fidelity import ScoreOptions
from fewstep.references import load_reference
from fewstep.samples import draw_samples
from fewstep.sampling import SampleOptions
from fewstep.seqrf.flow import load_flow
from fewstep.seqrf.sampler import make_sampler
from fewstep.stages.score import score_samples
from fewstep.stages.snapshot_files import file_name
from fewstep.training import TrainState

logger = logging.getLogger(__name__)

# Neither has an influence on a score.
_SHARD = 1000
_SCORED = 64


class Snapshots:
    """What a training calls every so many steps.

    They are kept beside the run's checkpoint, so that whoever deletes the results finds
    them again, and are put into the results when the training is done.

    Args:
        spec: of the training; `scoring` holds what the scores need.
        work: folder beside the run's checkpoint.
        key: of the run.
        about: manifest of the weights.
        scorer: files "reference" and, unless it is a download, "extractor".
        batch: samples drawn at once.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        work: Path,
        key: str,
        about: dict[str, Any],
        scorer: dict[str, Path],
        batch: int,
    ) -> None:
        self.spec, self.work, self.key, self.about = spec, work, key, about
        self.scorer, self.batch = scorer, batch

    @property
    def metric(self) -> str | None:
        """Proper name of the score."""
        if "scoring" not in self.spec:
            return None
        inception = "inception" in self.spec["scoring"]["extractor"]["kind"]
        return "fid" if inception else "frechet"

    @cached_property
    def _scorer_hashes(self) -> dict[str, str]:
        """Hashes of the scorer's files, which are read once for all snapshots."""
        return {name: files.sha256_file(path) for name, path in self.scorer.items()}

    def take(self, step: int, tensors: dict[str, Tensor]) -> None:
        """Write the weights and score them where asked; twice does no harm."""
        self.work.mkdir(parents=True, exist_ok=True)
        about = {**self.about, "steps": step, "run": self.key}
        checkpoints.write_state_dict(self.work / file_name(step), tensors, about)
        self._score(step)

    def publish(self, folder: Path, state: TrainState) -> None:
        """Put the run's snapshots into the results, and their scores into the curve.

        Args:
            folder: the experiment's; the files go to `snapshots/`, with their list in
                `snapshots.json`.
            state: of the finished training.

        Raises:
            UserError: for a snapshot that is due and was not kept.
        """
        every = (self.spec["train"]["snapshots"] or {}).get("every")
        due = list(range(every, state.step + 1, every)) if every else []
        target, listed = folder / "snapshots", []
        shutil.rmtree(target, ignore_errors=True)
        for step in due:
            self._check(step)
            target.mkdir(parents=True, exist_ok=True)
            path = target / file_name(step)
            _link(self.work / path.name, path)
            listed.append({"step": step, "sha256": files.sha256_file(path)})
            numbers = self._score(step)
            for point in state.curve:
                if point["step"] == step:
                    point.update(numbers)
        files.write_json(folder / "snapshots.json", {"snapshots": listed})

    def _check(self, step: int) -> None:
        path = self.work / file_name(step)
        if not path.exists() or checkpoints.read_manifest(path)["run"] != self.key:
            raise UserError(
                f"the weights of step {step} were not kept by this run",
                where=str(path),
                do=f"delete {self.work.parent} to train again, or set train.snapshots "
                "as it was",
            )

    def _score(self, step: int) -> dict[str, float]:
        """Fréchet distance of a snapshot, measured once; empty where none is asked."""
        if "scoring" not in self.spec:
            return {}
        n = self.spec["train"]["snapshots"]["n"]
        asked = {"run": self.key, "step": step, "n": n, **self.spec["scoring"]}
        key = files.sha256_json({**asked, **self._scorer_hashes})
        record = self.work / f"step-{step:08d}-score.json"
        if record.exists() and files.read_json(record)["key"] == key:
            value = files.read_json(record)["score"]
        else:
            device = pick_device()
            # Sampling draws nothing from torch's generator, but a scorer might.
            with fork_rng(device):
                value = self._measure(step, n, key, device)
            files.write_json(record, {"key": key, "score": value, "score_n": n})
            logger.info("step %d: %s of %d samples %.4g", step, self.metric, n, value)
        return {"score": value, "score_n": n}

    def _measure(self, step: int, n: int, key: str, device: torch.device) -> float:
        """Draw, score, and remove the samples."""
        scoring = self.spec["scoring"]
        samples = self.work / f"step-{step:08d}-samples.json"
        sampling, spec = scoring["sampler"]["sampling"], self.spec
        weights = self.work / file_name(step)
        flow = load_flow(spec["model"], spec["segments"], weights, device)
        options = SampleOptions(
            seed=scoring["seed"],
            start=0,
            stop=n,
            batch=self.batch,
            shard=_SHARD,
            rounding=scoring["rounding"],
        )
        draw_samples(
            make_sampler(flow, scoring["sampler"], sampling["precision"]),
            options,
            samples,
            key=key,
            label=f"sample {spec['name']} at step {step}",
        )
        extractor = load_extractor(
            scoring["extractor"]["kind"],
            weights=self.scorer.get("extractor"),
            name=scoring["extractor"]["name"],
            device=device,
        )
        found = score_samples(
            {**scoring, "evaluation": {"n": n, "batch": _SCORED}},
            samples,
            load_reference(self.scorer["reference"], extractor.dim),
            extractor,
            ScoreOptions(isc_splits=None),
        )
        for path in self.work.glob(f"{samples.stem}-*"):
            shutil.rmtree(path)
        samples.unlink()
        return float(found["row"][self.metric])


def snapshots_agree(work: Path, key: str, wanted: dict[str, Any] | None) -> None:
    """Refuse snapshots that a run on its way did not keep from its beginning.

    Args:
        work: folder of the run's checkpoint.
        key: of the run.
        wanted: resolved `train.snapshots`.

    Raises:
        UserError: before any step is trained, not after all of them.
    """
    record, every = work / "snapshots.json", (wanted or {}).get("every")
    if record.exists() and (work / "last.pt").exists():
        before = files.read_json(record)
        if before["key"] == key:
            kept = before["every"]
            if every and (not kept or every % kept):
                raise UserError(
                    f"snapshots every {every} steps, but this run keeps "
                    + (f"every {kept}" if kept else "none"),
                    where="train.snapshots.every",
                    do=f"set it as it was, or delete {work} to train anew",
                )
            return
    files.write_json(record, {"key": key, "every": every})


def _link(source: Path, target: Path) -> None:
    """The same file at another place, a copy where the disk is another one."""
    try:
        os.link(source, target)
    except OSError:
        with files.atomic_path(target) as part:
            shutil.copy2(source, part)
