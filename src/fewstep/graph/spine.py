"""Specs of the spine: what each stage needs to know, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from fewstep.files import sha256_file, sha256_json
from fewstep.graph.base import Cell, DataGraph, code

_SAMPLE = ("stages.sample", "tarflow.sampler")
"""Modules behind the images: the limb's is loaded by name, which no syntax shows."""


class SpineGraph(DataGraph):
    """Specs of sampling, timing, scores, evaluations and reports."""

    def experiment(self, name: str, *keys: str, **more: Any) -> dict[str, Any]:
        """Resolved parts of an experiment with its name."""
        resolved = self.experiments[name].resolved()
        return {"name": name, **{key: resolved[key] for key in keys}, **more}

    def sampler(self, cell: Cell, *keys: str, **more: Any) -> dict[str, Any]:
        """Architecture, noise, sampling and the sampler's mode: what loads it."""
        name, sampler = cell
        own = self.experiments[name]
        return self.experiment(
            name,
            "system",
            "model",
            "noise",
            *keys,
            sampler=sampler,
            sampling=own.sampling_of(sampler).resolved(),
            mode=own.samplers[sampler].mode,
            tol=own.samplers[sampler].tol,
            **more,
        )

    def sample(self, cell: Cell) -> dict[str, Any]:
        """What decides the images."""
        evaluation = self.experiments[cell[0]].evaluation
        return self.sampler(
            cell,
            n=evaluation.n,
            rounding=evaluation.protocol.rounding,
            code=code(*_SAMPLE),
        )

    def timing(self, cell: Cell) -> dict[str, Any]:
        """What the clock needs: the sampler, and the one it is measured against."""
        spec = self.sampler(
            cell,
            "timing",
            baseline=self.sampler((cell[0], self.baseline(cell[0]))),
            exact_baseline=self._is_exact(cell[0], self.baseline(cell[0])),
            code=code("stages.timing", "tarflow.sampler"),
        )
        own = self.experiments[cell[0]].samplers[cell[1]].batch
        batches = {*spec["timing"]["batches"], *([own] if own else [])}
        spec["timing"]["batches"] = sorted(batches)
        return spec

    def _is_exact(self, experiment: str, sampler: str) -> bool:
        """Whether a sampler is the exact inverse."""
        return self.experiments[experiment].samplers[sampler].strategy == "for"

    def baseline(self, experiment: str) -> str:
        """The sampler that an experiment's speed-ups are relative to."""
        return self.experiments[experiment].timing.baseline

    def score(self, experiment: str) -> dict[str, Any]:
        """What the scores need."""
        reference = self.reference_of(experiment)
        return {
            "evaluation": self.experiments[experiment].evaluation.resolved(),
            "extractor": self.extractor(reference),
            "real_levels": self.config.references[reference].real_levels,
        }

    def evaluation(self, cell: Cell) -> dict[str, Any]:
        """What the row says beyond the measurements."""
        name, sampler = cell
        own = self.experiments[name]
        reference = self.config.references[self.reference_of(name)]
        # A published score is only met on the statistics that were published with it.
        note = "" if reference.file else "the real images' statistics are our own"
        return {
            "name": name,
            "system": own.system,
            "protocol_note": note,
            "sampler": sampler,
            "sampling": own.sampling_of(sampler).resolved(),
            "timing_batch": own.samplers[sampler].batch
            or own.sampling_of(sampler).batch,
            "mode": own.samplers[sampler].mode,
            "tol": own.samplers[sampler].tol,
            "published": own.samplers[sampler].resolved()["published"],
            "code": code(*_SAMPLE),
        }

    def report_inputs(self, experiments: Iterable[str]) -> list[str]:
        """Evaluations, tables and pictures of a report."""
        found = []
        for name in experiments:
            own, folder = self.experiments[name], f"results/{name}"
            cells = [(name, sampler) for sampler in own.samplers]
            found += self.evaluations(cells)
            found += [f"{folder}/{chart}.png" for chart in ("rank", "convergence")]
            found += [f"{folder}/training.png"] if own.train else []
            for _, sampler in cells:
                found += [f"{folder}/{sampler}/{p}.png" for p in ("grid", "trace")]
        return found

    def report(self, experiments: Iterable[str], command: str) -> dict[str, Any]:
        """What a report says beyond what lies in its files."""
        templates = self.root / "workflow" / "report"
        return {
            "experiments": {
                name: list(self.experiments[name].samplers) for name in experiments
            },
            "command": command,
            "templates": os.path.relpath(templates),
            "look": sha256_json(
                {p.name: sha256_file(p) for p in sorted(templates.iterdir())}
            ),
            "code": code("stages.report"),
        }
