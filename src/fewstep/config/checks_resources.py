"""What the types cannot say about resources: jobs that an experiment does not have."""

from __future__ import annotations

from collections.abc import Iterator

from fewstep.config.problems import Problem, unknown
from fewstep.config.tree import Experiment
from fewstep.yamlpos import KeyPath

_SHARED = {"prepare", "train", "sample", "timing", "score"}
_OWN = {"tarflow": {"rank", "search", "trace"}, "seqrf": {"pairs", "trajectories"}}


def check_resources(experiment: Experiment, path: KeyPath) -> Iterator[Problem]:
    """Problems of an experiment's `resources`; `path` is its own."""
    system = experiment.system
    known = _SHARED | _OWN.get(system, set())
    for job, said in experiment.resources.items():
        key = (*path, "resources", job)
        if job not in known:
            yield unknown(key, "job", job, known, f" ({system})")
        if job == "train" and said.gpu is not None:
            what = "the GPUs of a training are those of its recipe"
            yield Problem((*key, "gpu"), what, "train.gpus instead")
        if said.gpu_model is not None and (said.gpu == 0 or job == "prepare"):
            what = "a type of GPU for a job without one"
            yield Problem((*key, "gpu_model"), what, "no gpu_model")
